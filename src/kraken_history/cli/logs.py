"""Prints the services' logs, each line prefixed with the name of its program."""

import asyncio
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

_POLL_S = 0.1
_ALARMS = ("WARNING:", "ERROR:", "FATAL:", "PANIC:", "FATAL", "BUG REPORT")
_COLOURS = (36, 33, 32, 35, 34, 31)


class LogTail:
    """Reads whole lines that are appended to rotating files from now on.

    Args:
        files: Name → file, which need not exist yet.
        quiet: Names of files whose warnings and errors alone are returned.
    """

    def __init__(self, files: Mapping[str, Path], *, quiet: Collection[str] = ()) -> None:
        self._files = dict(files)
        self._quiet = frozenset(quiet)
        self._open: dict[str, BinaryIO] = {}
        self._rest: dict[str, bytes] = {}
        for name in files:
            self._reopen(name)
            if name in self._open:
                self._open[name].seek(0, 2)

    @property
    def names(self) -> tuple[str, ...]:
        """The programs' names."""
        return tuple(self._files)

    def new_lines(self) -> Iterator[tuple[str, str]]:
        """Name and text of each line added since the last call."""
        for name in self._files:
            yield from self._read(name)
            if self._was_rotated(name):
                self._reopen(name)
                yield from self._read(name)

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _read(self, name: str) -> Iterator[tuple[str, str]]:
        if name not in self._open:
            return
        *lines, rest = (self._rest.get(name, b"") + self._open[name].read()).split(b"\n")
        self._rest[name] = rest
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            if name not in self._quiet or any(alarm in text for alarm in _ALARMS):
                yield name, text

    def _was_rotated(self, name: str) -> bool:
        try:
            inode = self._files[name].stat().st_ino
        except FileNotFoundError:
            return False
        return name not in self._open or inode != os.fstat(self._open[name].fileno()).st_ino

    def _reopen(self, name: str) -> None:
        if name in self._open:
            self._open.pop(name).close()
        try:
            self._open[name] = self._files[name].open("rb")
        except FileNotFoundError:
            return


async def print_logs(tail: LogTail) -> None:
    """Print added lines until cancelled."""
    while True:
        print_new_lines(tail)
        await asyncio.sleep(_POLL_S)


def print_new_lines(tail: LogTail) -> None:
    """Print the added lines: formatted for people on a terminal, otherwise as they were written."""
    is_terminal = sys.stderr.isatty()
    width = max(map(len, tail.names))
    for name, line in tail.new_lines():
        if is_terminal:
            colour = _COLOURS[tail.names.index(name) % len(_COLOURS)]
            sys.stderr.write(f"\x1b[{colour}m{name:{width}} |\x1b[0m {readable(line)}\n")
        else:
            sys.stderr.write(f"{name:{width}} | {line}\n")
    sys.stderr.flush()


def readable(line: str) -> str:
    """A JSON log event formatted for people; any other line unchanged."""
    try:
        event = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.MsgspecError:
        return line
    time = str(event.pop("timestamp", ""))[11:19]
    level, name = event.pop("level", ""), event.pop("event", "")
    event.pop("component", None)
    fields = " ".join(f"{field}={value}" for field, value in event.items())
    return f"{time} {level:<7} {name} {fields}".strip()
