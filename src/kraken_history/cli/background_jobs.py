"""TimescaleDB's background jobs on our tables that failed when they last ran, as ``status`` shows them."""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct

from kraken_history.database.connections import Connection

_MEANING = {
    "policy_compression": "its chunks stay uncompressed",
    "policy_retention": "its old chunks are not dropped",
    "policy_refresh_continuous_aggregate": "its new candles wait for our own refresh",
}
_LONGEST_ERROR = 200  # characters


class FailingJob(Struct, frozen=True):
    """A background job whose last run failed.

    Attributes:
        job: Its number in ``timescaledb_information.jobs``.
        procedure: What it runs, such as ``policy_compression``.
        table: The table or view that it works on.
        last_success: When it last succeeded; None if never.
        failures: How many runs have failed.
        error: The error of its last run, if the user may read it.
    """

    job: int
    procedure: str
    table: str
    last_success: datetime | None
    failures: int
    error: str

    @property
    def sentence(self) -> str:
        """What fails, its consequence and the remedy."""
        meaning = _MEANING.get(self.procedure, "its work is not done")
        since = (
            "never succeeded" if self.last_success is None else f"last succeeded {self.last_success:%Y-%m-%d %H:%M}Z"
        )
        reason = f" ({self.error})" if self.error else ""
        return (
            f"background job {self.job} of TimescaleDB, {self.procedure} of {self.table}, fails: {meaning};"
            f" {since}, {self.failures:,} failed runs{reason}. See timescaledb_information.job_errors and the server's"
            " log"
        )


async def fetch_failing_jobs(connection: Connection) -> Sequence[FailingJob]:
    """The jobs on tables of this schema, and on TimescaleDB's own below them; none without TimescaleDB."""
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')"):
        return ()
    rows = await connection.fetch(_FAILING)
    return [
        FailingJob(
            row["job_id"], row["proc_name"], row["hypertable_name"], row["last_success"], row["total_failures"],
            " ".join((row["error"] or "").split())[:_LONGEST_ERROR],
        )
        for row in rows
    ]  # fmt: skip


# TimescaleDB writes minus infinity for a job that never succeeded.
_FAILING = """
    SELECT j.job_id, j.proc_name, j.hypertable_name, s.total_failures,
           CASE WHEN isfinite(s.last_successful_finish) THEN s.last_successful_finish END AS last_success,
           (SELECT e.err_message FROM timescaledb_information.job_errors e
            WHERE e.job_id = j.job_id ORDER BY e.start_time DESC LIMIT 1) AS error
    FROM timescaledb_information.jobs j JOIN timescaledb_information.job_stats s USING (job_id)
    WHERE j.hypertable_schema IN (current_schema(), '_timescaledb_internal') AND s.last_run_status = 'Failed'
    ORDER BY j.job_id
"""
