"""REDIS_URL and JOBS_REDIS_URL: what fits together, and what is refused in one line at the start."""

from pathlib import Path

import pytest

from kraken_history.errors import UsageError
from kraken_history.settings import load_settings
from tests.support.command import Run
from tests.support.services import CONSUMER, PRODUCER, WORKER, Service

CLUSTER = "redis+cluster://:secret@h1:1,h2:2"


@pytest.mark.parametrize(
    ("redis", "jobs", "expected"),
    [
        ("redis://h", "", "redis://h"),
        ("redis+sentinel://h/m", "", "redis+sentinel://h/m"),
        ("redis://h", "redis://other", "redis://other"),
        (CLUSTER, "redis+sentinel://h/m", "redis+sentinel://h/m"),
    ],
)
def test_jobs_are_in_their_own_redis_if_one_is_set(
    monkeypatch: pytest.MonkeyPatch, redis: str, jobs: str, expected: str
) -> None:
    monkeypatch.setenv("REDIS_URL", redis)
    monkeypatch.setenv("JOBS_REDIS_URL", jobs)

    assert load_settings().require_redis_url() == redis
    assert load_settings().require_jobs_redis_url() == expected


@pytest.mark.parametrize(("jobs", "named"), [("", "set JOBS_REDIS_URL too"), (CLUSTER, "expected JOBS_REDIS_URL")])
def test_jobs_are_never_in_a_cluster(monkeypatch: pytest.MonkeyPatch, jobs: str, named: str) -> None:
    monkeypatch.setenv("REDIS_URL", CLUSTER)
    monkeypatch.setenv("JOBS_REDIS_URL", jobs)

    with pytest.raises(UsageError, match=named):
        load_settings().require_jobs_redis_url()


@pytest.mark.parametrize("arguments", [PRODUCER, CONSUMER, WORKER], ids=["producer", "consumer", "worker"])
def test_a_service_refuses_a_cluster_without_another_redis(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    # It waited for ever, or died of CROSSSLOT.
    environment = {"DATABASE_URL": "postgresql://127.0.0.1:9/x", "REDIS_URL": CLUSTER}
    with Service(arguments, tmp_path / "log", environment) as service:
        code = service.wait()

    assert (code, service.output.count("\n")) == (2, 1), service.output
    assert "set JOBS_REDIS_URL" in service.output
    assert "secret" not in service.output


def test_a_command_refuses_it_too(command: Run) -> None:
    outcome = command("health", "worker", REDIS_URL=CLUSTER)

    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "set JOBS_REDIS_URL" in outcome.err
