"""README and docs say what is so."""

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from pydantic_core import PydanticUndefined

import kraken_history.runtime.telemetry  # noqa: F401 — registers the metrics
from kraken_history.settings import Settings
from tests.support.compose_file import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
DOCUMENTS = [
    *sorted(path.relative_to(REPOSITORY) for path in REPOSITORY.glob("docs/**/*.md")),
    Path("README.md"),
    Path("CHANGELOG.md"),
    Path("CONTRIBUTING.md"),
    Path("SECURITY.md"),
]
FOLDERS = (
    "src/kraken_history",
    "producers",
    "consumers",
    "jobs",
    "schema",
    "simulator",
    "replaying",
    "benchmarks",
    "docs",
    "tests",
)

# Where the field itself says nothing, being clear from its name, or has a default that only its maker knows.
_MEANINGS = {
    "kraken_ws_url": "Kraken's WebSocket v2",
    "kraken_rest_url": "Kraken's REST API",
    "log_level": "`debug`, `info`, `warning` or `error`",
}
_COMPUTED_DEFAULTS = {
    "kraken_history_data_dir": "the platform's user data directory",
    "consumer_name": "the host's name",
    "log_json": "by the output",
}


def settings_table() -> str:
    """The rows that README must have."""
    rows = []
    for name, field in Settings.model_fields.items():
        meaning = field.description or _MEANINGS[name]
        rows.append(f"| `{name.upper()}` | {_shown(name, field.default)} | {meaning} |")
    return "\n".join(rows)


def _shown(name: str, default: object) -> str:
    if name in _COMPUTED_DEFAULTS:
        return _COMPUTED_DEFAULTS[name]
    if default is None or default is PydanticUndefined:
        return ""
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_the_settings_are_listed_as_they_are() -> None:
    assert settings_table() in README, f"README's table must be:\n{settings_table()}"


def test_the_metrics_are_listed_as_they_are() -> None:
    families = [family for family in REGISTRY.collect() if family.name.startswith("kraken_")]
    metrics = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    listed = re.findall(r"^\| `(kraken_\w+)`", (REPOSITORY / "docs/operations.md").read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(metrics)


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    commands = re.findall(r"^python3 -m pip .+$", README, re.MULTILINE)
    (command,) = [command for command in commands if command.endswith("pytest")]

    assert command in (REPOSITORY / ".ci/run").read_text().splitlines()


def test_the_page_for_contributors_has_the_command_of_the_readme() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    commands = re.findall(r"^python3 -m pip .+$", text, re.MULTILINE)

    assert len(commands) == 1
    assert commands[0] in README


def test_every_room_and_folder_is_on_the_map() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    package = REPOSITORY / "src/kraken_history"
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    rooms |= {path.stem for path in package.glob("*.py") if not path.stem.startswith("_")}

    assert {room for room in rooms if f"`{room}`" not in text} == set()
    assert {folder for folder in FOLDERS if f"| `{folder}/` |" not in text} == set()


def test_ci_can_be_executed() -> None:
    assert (REPOSITORY / ".ci/run").stat().st_mode & 0o111 == 0o111


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    text = (REPOSITORY / document).read_text()
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]

    for target in targets:
        path, _, anchor = target.partition("#")
        found = (REPOSITORY / document.parent / path).resolve() if path else REPOSITORY / document
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], target


def test_decisions_are_numbered_and_listed() -> None:
    folder = REPOSITORY / "docs/decisions"
    pages = sorted(path.name for path in folder.glob("0*.md"))
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (folder / "README.md").read_text())

    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))
    assert listed == pages


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_folders_are_explained(folder: str) -> None:
    assert (REPOSITORY / folder).is_dir()
    assert f"| `{folder}/` |" in README
