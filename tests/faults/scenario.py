"""What a scenario is, and how one is run."""

import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.faults.outcome import Outcome, count_pages, examine
from tests.faults.servers import Fleet, NotHereError
from tests.faults.starting import running
from tests.faults.system import Layout, System
from tests.support.servers import Flavour

Driver = Callable[[System], Awaitable[None]]

BOTH: tuple[Flavour, ...] = ("postgresql", "timescaledb")
_GIVE_UP_S = 60.0


class Scenario(Struct, frozen=True):
    """One fault.

    Attributes:
        name: Names it on the command line and in the table.
        says: What happens, in a sentence.
        driver: Acts on the running system, and returns once the fault is over.
        flavours: The kinds of server on which it is run.
        is_short: It is quick and steady enough for every run of the tests.
        bound_s: Bound of the contract, where it is not pages × spacing + 5 s.
        why: The reason for that bound.
        needs: Raises :class:`NotHereError` if this machine or version lacks something.
    """

    name: str
    says: str
    driver: Driver
    layout: Layout
    flavours: tuple[Flavour, ...]
    is_short: bool
    bound_s: float | None
    why: str
    needs: Callable[[], None] | None


SCENARIOS: dict[str, Scenario] = {}
"""All scenarios, by name, in the order of the table."""


def scenario(
    name: str, says: str, *, flavours: tuple[Flavour, ...] = ("postgresql",), short: bool = False,
    bound_s: float | None = None, why: str = "", needs: Callable[[], None] | None = None, **layout: Any,
) -> Callable[[Driver], Driver]:  # fmt: skip
    """Register a driver as a scenario; the other keywords are those of :class:`Layout`."""

    def register(driver: Driver) -> Driver:
        assert name not in SCENARIOS, name
        assert bool(why) == (bound_s is not None), f"{name}: a bound of its own needs a reason"
        SCENARIOS[name] = Scenario(name, says, driver, Layout(**layout), flavours, short, bound_s, why, needs)
        return driver

    return register


def runs(names: Sequence[str] = (), flavours: Sequence[str] = BOTH) -> list[tuple[Scenario, Flavour]]:
    """Each scenario on each of its flavours; with names, only those whose name contains one of them."""
    return [
        (each, flavour)
        for each in SCENARIOS.values()
        for flavour in each.flavours
        if flavour in flavours and (not names or any(name in each.name for name in names))
    ]


async def run(fleet: Fleet, what: Scenario, flavour: Flavour, seed: int, logs: Path | None = None) -> Outcome:
    """Run a scenario once.

    Raises:
        NotHereError: This machine or version lacks something that it needs.
    """
    if what.needs is not None:
        what.needs()
    with _folder(what, logs) as folder:
        async with running(fleet, what.layout, flavour, folder, f"{what.name}/{seed}") as system:
            pages = count_pages(system)
            try:
                await what.driver(system)
            except NotHereError:
                raise
            except Exception as error:  # the data are compared all the same
                system.complaints.append(" ".join(f"{type(error).__name__}: {error}".split())[:300])
                (folder / "driver.log").write_text(traceback.format_exc())
            finally:
                await _all_is_well_again(system)
            try:
                return await examine(
                    system, pages, bound_s=what.bound_s, give_up_s=max(_GIVE_UP_S, (what.bound_s or 0) + 15)
                )
            finally:
                await system.database.drop_database(system.database_name)


async def _all_is_well_again(system: System) -> None:
    """End whatever fault is left, so that the check is about healing."""
    for line in system.lines.values():
        await line.restore()
    system.redis.thaw()
    system.database.thaw()


@contextmanager
def _folder(what: Scenario, logs: Path | None) -> Iterator[Path]:
    """A temporary folder, or one below ``logs`` that stays."""
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        yield Path(tempfile.mkdtemp(prefix=f"{what.name}-", dir=logs))
    else:
        with tempfile.TemporaryDirectory(prefix=f"{what.name}-", ignore_cleanup_errors=True) as name:
            yield Path(name)
