"""Whatever dies, the same rows result: each scenario, as a test."""

from pathlib import Path
from typing import Any

import pytest

import tests.faults.all_scenarios  # noqa: F401 — registers them
from tests.faults.scenario import Scenario, run, runs
from tests.faults.servers import Fleet, NotHereError
from tests.support.servers import Flavour

SEED = 1


def _parameters() -> list[Any]:
    marks = {True: (), False: (pytest.mark.long_fault,)}
    return [
        pytest.param(
            what, flavour, id=f"{what.name}-{flavour}", marks=marks[what.is_short and flavour == what.flavours[0]]
        )
        for what, flavour in runs()
    ]


@pytest.mark.faults
@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("what", "flavour"), _parameters())
async def test_in_the_end_the_database_is_the_truth(
    what: Scenario, flavour: Flavour, fleet: Fleet, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    try:
        outcome = await run(fleet, what, flavour, SEED, tmp_path)
    except NotHereError as error:
        pytest.skip(str(error))

    assert outcome.is_equal, outcome
    assert not outcome.complaints, outcome
    if "faults" in request.config.getoption("markexpr"):  # elsewhere the machine may be too busy for it to mean much
        assert outcome.is_in_time, outcome
