"""The Python in a document, and a program that runs it: ``python -m tests.api.code_blocks docs/quick-start.md``.

The blocks of a document are run in order, in one namespace, as the cells of a notebook are; ``await`` may stand
outside of functions. A block that cannot be run has the reason behind its fence: ``python not run: asks Kraken``.

With ``--with-history``, ``history`` is an open provider of ``DATABASE_URL``, and ``start`` and ``end`` are a day apart,
which the quick start says of the other pages.
"""

import ast
import asyncio
import inspect
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent

from msgspec import Struct

from kraken_history import HistoricalDataProvider

_BLOCK = re.compile(
    r"^(?P<indent> *)```python(?P<rest>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_REASON = re.compile(r" not run: (?P<reason>\S.+)")


class Block(Struct, frozen=True):
    """One block.

    Attributes:
        line: Number of its fence's line.
        not_run: Why it is not run; empty if it is.
    """

    line: int
    code: str
    not_run: str


def read_blocks(text: str) -> list[Block]:
    """The blocks of a document, in order.

    Raises:
        ValueError: Something else than a reason stands behind a fence.
    """
    blocks = []
    for found in _BLOCK.finditer(text):
        line, rest = text.count("\n", 0, found.start()) + 1, found["rest"].rstrip()
        reason = _REASON.fullmatch(rest)
        if rest and reason is None:
            raise ValueError(f"line {line}: after ```python only ` not run: why` may stand, not {rest!r}")
        blocks.append(Block(line, dedent(found["code"]), reason["reason"] if reason else ""))
    return blocks


def run_blocks(path: Path, *, with_history: bool = False) -> None:
    """Run a document; what a block raises shows the document's line."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    with asyncio.Runner() as runner:
        if with_history:
            end = datetime.now(UTC)
            history = HistoricalDataProvider(os.environ["DATABASE_URL"])
            runner.run(history.connect())
            namespace |= {"history": history, "start": end - timedelta(days=1), "end": end}
        for block in read_blocks(path.read_text()):
            if not block.not_run:
                _run(block, path, namespace, runner)
        if with_history:
            runner.run(history.close())


def _run(block: Block, path: Path, namespace: dict[str, object], runner: asyncio.Runner) -> None:
    source = "\n" * block.line + block.code
    code = compile(source, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        runner.run(eval(code, namespace))
    else:
        exec(code, namespace)


if __name__ == "__main__":
    run_blocks(Path(sys.argv[1]), with_history="--with-history" in sys.argv)
