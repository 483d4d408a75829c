"""Makes ``docs/api.md`` from signatures and docstrings: ``python -m tests.api.reference`` writes it anew."""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import get_args

import kraken_history
from kraken_history.intervals import VIEWS
from kraken_history.provider import TIMEFRAMES, HistoricalDataProvider
from kraken_history.reading import coverage, kinds
from kraken_history.reading.gaps import GapsChoice, TradeGapsChoice
from kraken_history.reading.kinds import CoverageKind
from kraken_history.records import Side

PAGE = Path(__file__).resolve().parents[2] / "docs/api.md"

PROVIDERS = ["HistoricalDataProvider", "BlockingHistoricalDataProvider"]

_HEAD = (
    "# API reference",
    "Everything here is imported from `kraken_history`. [Quick start](quick-start.md) shows it in use.",
    "Intervals are whole minutes. Times are aware; what comes back is in UTC. Ranges are half-open, `[start, end)`. "
    "Prices and volumes are `Decimal`: a price is in the quote asset of its symbol, a volume in the base asset "
    "(for `BTC/USDT`: USDT and BTC). Records are frozen.",
    "This page is made from the code: `python -m tests.api.reference` writes it.",
)

# Modules that methods refer to for more, with the headings under which the page has it.
_MORE = {
    "kraken_history.reading.settling": "When a candle is closed",
    "kraken_history.reading.live_edge": "Where history ends at the present",
    "kraken_history.reading.follow_gaps": "Gaps while following",
    "kraken_history.reading.as_of": "What was known earlier",
}

# Names that are not imported from `kraken_history`, as what they are to whoever reads them.
_PLAIN = {
    "AwareDatetime": "datetime",
    "TradeId": "int",
    "Count": "int",
    "Json": "Mapping[str, Any]",
    "TIMEFRAMES": str(TIMEFRAMES),
    **{
        name: f"Literal[{', '.join(json.dumps(choice) for choice in get_args(choices))}]"
        for name, choices in {
            "GapsChoice": GapsChoice,
            "TradeGapsChoice": TradeGapsChoice,
            "CoverageKind": CoverageKind,
            "Side": Side,
        }.items()
    },
}

_SECTION = re.compile(r"^(Args|Raises|Attributes|Returns):$")
_ENTRY = re.compile(r"(?P<names>[\w, .]+):(?: (?P<text>.*))?")
_LONGEST_LINE = 100


def public_page() -> str:
    """The whole page."""
    kinds = {name: getattr(kraken_history, name) for name in kraken_history.__all__}
    errors = {name: kind for name, kind in kinds.items() if issubclass(kind, Exception)}
    records = {name: kind for name, kind in kinds.items() if name not in errors and name not in PROVIDERS}
    parts = [
        *_HEAD,
        *_provider(HistoricalDataProvider),
        *_blocking(),
        *(part for module, title in _MORE.items() for part in _more(module, title)),
        "## Records",
        *(part for name in sorted(records) for part in _record(records[name])),
        "## Errors",
        "All are kinds of `HistoryError`. The message of each says what to do.",
        _error_table(errors),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _provider(kind: type) -> Iterator[str]:
    yield f"## {kind.__name__}"
    yield _fenced(_signature(vars(kind)["__init__"], "class", kind.__name__), "a signature")
    yield markdown(kind.__doc__)
    yield f"The intervals of `VIEWS` are {', '.join(map(str, VIEWS))}."
    for name, method in methods(kind).items():
        yield f"### {name}"
        word = "async def" if inspect.iscoroutinefunction(method) else "def"
        yield _fenced(_signature(method, word, name), "a signature")
        yield markdown(method.__doc__)


def _blocking() -> Iterator[str]:
    kind = kraken_history.BlockingHistoricalDataProvider
    yield f"## {kind.__name__}"
    yield _fenced(_signature(vars(kind)["__init__"], "class", kind.__name__), "a signature")
    yield markdown(kind.__doc__)
    others = [
        name for name, method in methods(HistoricalDataProvider).items() if not inspect.iscoroutinefunction(method)
    ]
    names = ", ".join(f"[`{name}`](#{name})" for name in others)
    yield f"All methods are those above, called without `await`; {names} are ordinary generators."


def _more(module: str, title: str) -> Iterator[str]:
    yield f"## {title}"
    text = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    yield markdown(text)


def _record(kind: type) -> Iterator[str]:
    yield f"### {kind.__name__}"
    yield _fenced(_fields(kind), "fields")
    yield markdown(kind.__doc__)
    if kind is coverage.CoveredSpan:
        yield markdown(_meaning_of_kinds())
    rows = [
        f"| `{_called(name, member)}` | {_first_paragraph(member)} |"
        for name, member in vars(kind).items()
        if name[0] != "_" and (isinstance(member, property | classmethod) or inspect.isfunction(member))
    ]
    if rows:
        yield "\n".join(["| | |", "|---|---|", *rows])


def _meaning_of_kinds() -> str:
    """The text that stands below ``CoverageKind``."""
    body = ast.parse(inspect.getsource(kinds)).body
    [place] = [
        place
        for place, node in enumerate(body)
        if isinstance(node, ast.AnnAssign | ast.Assign) and ast.unparse(node).startswith("CoverageKind")
    ]
    return str(ast.literal_eval(ast.unparse(body[place + 1])))


def _called(name: str, member: object) -> str:
    node = _definition(_function(member))
    result = _annotation(node.returns)
    if isinstance(member, property):
        return f"{name}: {result}".replace("|", "\\|")
    return f"{name}({', '.join(_parameters(node))}) -> {result}".replace("|", "\\|")


def _first_paragraph(member: object) -> str:
    return markdown((_function(member).__doc__ or "").split("\n\n")[0], inline=True)


def _function(member: object) -> Callable[..., object]:
    for name in ("fget", "__func__"):
        member = getattr(member, name, member)
    assert callable(member)
    return member


def _error_table(errors: dict[str, type]) -> str:
    rows = ["| error | is a | | carries |", "|---|---|---|---|"]
    for kind in sorted(errors.values(), key=lambda each: [base.__name__ for base in reversed(each.__mro__)]):
        meaning = markdown((kind.__doc__ or "").split("\n\n")[0], inline=True)
        carried = ", ".join(f"`{name}`" for name in _carried(kind))
        base = kind.__mro__[1].__name__
        rows.append(f"| `{kind.__name__}` | `{base}` | {meaning} | {carried} |")
    return "\n".join(rows)


def _carried(kind: type) -> list[str]:
    """What an error's own ``__init__`` keeps."""
    if "__init__" not in vars(kind):
        return []
    assigned = [node for node in ast.walk(_definition(vars(kind)["__init__"])) if isinstance(node, ast.Assign)]
    targets = [target for node in assigned for target in ast.walk(node.targets[0])]
    return sorted(target.attr for target in targets if isinstance(target, ast.Attribute))


def methods(kind: type) -> dict[str, Callable[..., object]]:
    """The public methods of a provider, in the order of the code."""
    return {name: member for name, member in vars(kind).items() if inspect.isfunction(member) and name[0] != "_"}


def _signature(function: Callable[..., object], word: str, name: str) -> str:
    node = _definition(function)
    parameters = _parameters(node)
    result = "" if word == "class" else f" -> {_annotation(node.returns)}"
    line = f"{word} {name}({', '.join(parameters)}){result}"
    if len(line) <= _LONGEST_LINE:
        return line
    return "\n".join([f"{word} {name}(", *(f"    {parameter}," for parameter in parameters), f"){result}"])


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments, defaults = node.args.args, node.args.defaults
    missing: list[ast.expr | None] = [None] * (len(arguments) - len(defaults))
    found = [
        _parameter(argument, default)
        for argument, default in zip(arguments, [*missing, *defaults], strict=True)
        if argument.arg not in ("self", "cls")
    ]
    if node.args.kwonlyargs:
        pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        found += ["*", *(_parameter(argument, default) for argument, default in pairs)]
    return found


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    annotated = f"{argument.arg}: {_annotation(argument.annotation)}"
    return annotated if default is None else f"{annotated} = {_text(default)}"


def _annotation(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _text(ast.parse(node.value, mode="eval").body)
    return _text(node)


def _text(node: ast.expr | None) -> str:
    text = "None" if node is None else ast.unparse(node).replace("'", '"')
    return re.sub(r"\w+", lambda word: _PLAIN.get(word[0], word[0]), text)


def _definition(function: Callable[..., object]) -> ast.FunctionDef | ast.AsyncFunctionDef:
    [node] = ast.parse(dedent(inspect.getsource(function))).body
    assert isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    return node


def _fields(kind: type) -> str:
    [node] = ast.parse(dedent(inspect.getsource(kind))).body
    assert isinstance(node, ast.ClassDef)
    bases = [name for base in node.bases if (name := ast.unparse(base)) not in ("Struct", "object")]
    lines = [f"class {kind.__name__}({', '.join(bases)}):" if bases else f"class {kind.__name__}:"]
    for field in node.body:
        if isinstance(field, ast.AnnAssign):
            default = "" if field.value is None else f" = {_text(field.value)}"
            lines.append(f"    {ast.unparse(field.target)}: {_annotation(field.annotation)}{default}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "    ..."])


def _fenced(code: str, what: str) -> str:
    return f"```python not run: {what}\n{code}\n```"


def markdown(docstring: str | None, *, inline: bool = False) -> str:
    """A docstring as Markdown; its sections as lists."""
    text = _without_roles(inspect.cleandoc(docstring or ""))
    if inline:
        return " ".join(text.split()).replace("|", "\\|")
    found: list[str] = []
    section = False
    for block in re.split(r"\n\n+(?=\S)", text):
        head, _, rest = block.partition("\n")
        section = _SECTION.match(head) is not None
        if section:
            found.append(f"{head[:-1]}:\n\n{_entries(dedent(rest))}")
        else:
            found.append(_unwrapped(block))
    return "\n\n".join(found)


def _entries(text: str) -> str:
    """``name: what it is`` and indented lines that go on, as a list."""
    joined = re.sub(r"\n +", " ", text.replace("\n\n", "\n"))
    lines = []
    for line in joined.splitlines():
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            lines.append(f"- {line}")
            continue
        names = ", ".join(name if "`" in name else f"`{name.strip()}`" for name in entry["names"].split(","))
        lines.append(f"- {names}: {entry['text'] or ''}".rstrip())
    return "\n".join(lines)


def _unwrapped(block: str) -> str:
    """A paragraph as one line, and the entries of a list as one line each."""
    lines: list[str] = []
    for line in block.splitlines():
        if line.startswith(("* ", "- ")):
            lines.append("- " + line[2:].strip())
        elif lines and (not lines[-1].startswith("- ") or line.startswith(" ")):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line.strip())
    return "\n".join(lines)


def _without_roles(text: str) -> str:
    text = re.sub(r":\w+:`~?([\w.]+)`", lambda found: _reference(found[1]), text)
    return re.sub(r"``(.+?)``", r"`\1`", text)


def _reference(target: str) -> str:
    if target in _MORE:
        return f"[below](#{_MORE[target].lower().replace(' ', '-')})"
    name = target.rsplit(".", 1)[-1]
    if name in methods(HistoricalDataProvider):
        return f"[`{name}`](#{name})"
    return f"`{name}`"


if __name__ == "__main__":
    PAGE.write_text(public_page())
