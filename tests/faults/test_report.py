"""The table: one line per scenario and flavour, with the worst of its seeds."""

import json
from pathlib import Path

import msgspec
import pytest

from tests.faults import report
from tests.faults.all_scenarios import SCENARIOS

ROW = report.Row(
    "redis-killed", "postgresql", 1, lost=0, doubled=0, wrong=0, heal_s=1.5, pages=2, allowed_s=5.5, complaints=(),
    date="2026-01-05",
)  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(report, "_RUNS", tmp_path / ".faults/runs.json")
    monkeypatch.setattr(report, "_DOCS", tmp_path / "docs")
    return tmp_path


def test_a_run_takes_the_place_of_an_earlier_one_of_the_same_seed(repository: Path) -> None:
    for row in (ROW, msgspec.structs.replace(ROW, seed=2), msgspec.structs.replace(ROW, heal_s=4.0)):
        report.add_to_report(row)

    assert json.loads((repository / "docs/faults.json").read_text()) == [
        {"scenario": "redis-killed", "flavour": "postgresql", "seed": seed, "lost": 0, "doubled": 0, "wrong": 0,
         "heal_s": heal_s}
        for seed, heal_s in ((1, 4.0), (2, 1.5))
    ]  # fmt: skip
    page = (repository / "docs/faults.md").read_text()
    assert "| `redis-killed` | postgresql | 1, 2 | 0 | 0 | 0 | 4 | 2 | 5.5 | yes |" in page
    assert "2 of 2 runs of 1 scenarios ended well" in page


@pytest.mark.parametrize("changes", [{"lost": 3}, {"heal_s": 6.0}, {"complaints": ("the streams are not drained",)}])
def test_what_did_not_end_well_is_told(repository: Path, changes: dict[str, object]) -> None:
    row = msgspec.structs.replace(ROW, **changes)
    report.add_to_report(row)
    page = (repository / "docs/faults.md").read_text()

    assert f"- {row.line}" in page
    assert "| **no** |" in page


def test_every_scenario_is_described_and_each_bound_of_its_own_has_a_reason() -> None:
    assert len(SCENARIOS) >= 40
    for each in SCENARIOS.values():
        assert each.says.endswith(".")
        assert bool(each.why) == (each.bound_s is not None)
