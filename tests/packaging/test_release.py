"""What must agree when a version is released."""

import re
import tomllib

import yaml

from tests.support.compose_file import REPOSITORY

UNRELEASED = "Unreleased"


def sections() -> list[tuple[str, str]]:
    """The changelog's headings, from the top: version and date."""
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    return re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", text, re.MULTILINE)


def project_version() -> str:
    version: str = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    return version


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_every_heading_of_the_changelog_is_one_of_a_version() -> None:
    headings = re.findall(r"^## .*$", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert len(sections()) == len(headings) > 0


def test_the_newest_section_is_of_this_version_or_of_what_comes_after_it() -> None:
    newest, _ = sections()[0]

    assert newest in (project_version(), UNRELEASED)


def test_no_section_is_of_a_version_after_this_one() -> None:
    released = [numbers(version) for version, _ in sections() if version != UNRELEASED]

    assert released == sorted(set(released), reverse=True)
    assert not released or released[0] <= numbers(project_version())


def test_a_released_version_has_a_date_and_the_rest_has_none() -> None:
    for version, date in sections():
        assert bool(re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)) == (version != UNRELEASED), version


def test_the_lock_file_is_of_this_version() -> None:
    packages = tomllib.loads((REPOSITORY / "uv.lock").read_text())["package"]

    assert [p["version"] for p in packages if p["name"] == "kraken-history"] == [project_version()]


def test_the_image_has_this_version() -> None:
    """Somebody who builds the image of a new version would otherwise replace the one of the old version."""
    image = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]["producer"]["image"]

    assert image == f"kraken-history:{project_version()}"
