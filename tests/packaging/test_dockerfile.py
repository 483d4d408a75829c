"""The image's recipe, read without a container engine."""

import re
import shlex
import tomllib
from pathlib import Path

from tests.support.compose_file import REPOSITORY

IN_THE_IMAGE = ["services", "arrow", "plot"]
# Frames are for programs, and the image brings no servers.
NOT_IN_THE_IMAGE = ["embedded", "frames", "web"]
INSTRUCTIONS = [
    shlex.split(line, comments=True)
    for line in (REPOSITORY / "Dockerfile").read_text().splitlines()
    if line and not line.startswith("#")
]


def instructions(name: str) -> list[list[str]]:
    return [words[1:] for words in INSTRUCTIONS if words[0] == name]


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    sent = re.findall(r"^!(\S+)", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    copied = {Path(source) for words in instructions("COPY") if "--from" not in words[0] for source in words[:-1]}

    assert {str(path) for path in copied} == set(sent)
    assert [path for path in copied if not (REPOSITORY / path).exists()] == []


def test_nothing_secret_is_sent_to_the_builder() -> None:
    assert (REPOSITORY / ".dockerignore").read_text().splitlines()[1] == "*"


def test_both_stages_start_from_the_same_pinned_python() -> None:
    bases = {words[0] for words in instructions("FROM")}

    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.13\.\d+-slim-\w+", bases.pop())


def test_the_command_has_all_that_it_offers_and_dependencies_come_from_the_lock_without_servers_and_tools() -> None:
    """Parquet and plots needed extras that the image did not have."""
    syncs = [words for words in instructions("RUN") if words[:2] == ["uv", "sync"]]

    assert len(syncs) == 2
    for words in syncs:
        assert "--locked" in words
        assert "--no-dev" in words
        assert [words[at + 1] for at, word in enumerate(words) if word == "--extra"] == IN_THE_IMAGE


def test_every_extra_is_in_the_image_or_left_out_on_purpose() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

    assert sorted([*IN_THE_IMAGE, *NOT_IN_THE_IMAGE]) == sorted(project["optional-dependencies"])


def test_plots_can_be_drawn_by_a_user_without_a_home() -> None:
    settings = [word for words in instructions("ENV") for word in words]

    assert "MPLCONFIGDIR=/tmp/matplotlib" in settings


def test_the_container_does_not_run_as_root() -> None:
    (user,) = instructions("USER")

    assert user == ["kraken"]
    assert any(words[0] == "useradd" and words[-1] == "kraken" for words in instructions("RUN"))
