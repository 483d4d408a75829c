"""The image's recipe, read without a container engine."""

import re
import shlex
from pathlib import Path

from tests.support.compose_file import REPOSITORY

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


def test_dependencies_come_from_the_lock_without_servers_and_without_tools() -> None:
    syncs = [words for words in instructions("RUN") if words[:2] == ["uv", "sync"]]

    assert len(syncs) == 2
    for words in syncs:
        assert "--locked" in words
        assert "--no-dev" in words
        assert [words[at + 1] for at, word in enumerate(words) if word == "--extra"] == ["services"]


def test_the_container_does_not_run_as_root() -> None:
    (user,) = instructions("USER")

    assert user == ["kraken"]
    assert any(words[0] == "useradd" and words[-1] == "kraken" for words in instructions("RUN"))
