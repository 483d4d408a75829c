"""The words for a wrong value of an option or an argument.

Newer versions of Typer validate values with pydantic, and repeat its message, which is written for
programmers. Here the same facts become "expected X, got Y". Without pydantic's facts, Typer's message is kept.
"""

import re
from collections.abc import Mapping
from typing import Any

_CHOICES = re.compile(r"is not one of (.+?)\.?$")
_KINDS = {"int_parsing": "a whole number", "int_from_float": "a whole number", "float_parsing": "a number"}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def words_of(error: Any) -> str | None:
    """``--limit: expected a number of at least 1, got '0'``; None if the facts are not known.

    Args:
        error: An error of Typer's command line.
    """
    name = _name_of(error)
    facts = _facts_of(error)
    if name is None or facts is None:
        return None
    expected = _expected(facts)
    return None if expected is None else f"{name}: expected {expected}, got {facts['input']!r}"


def _name_of(error: Any) -> str | None:
    parameter = getattr(error, "param", None)
    names = getattr(parameter, "opts", None)
    return max(names, key=len) if names else None


def _facts_of(error: Any) -> Mapping[str, Any] | None:
    errors = getattr(error.__cause__, "errors", None)
    found = errors() if callable(errors) else None
    return found[0] if found else None


def _expected(facts: Mapping[str, Any]) -> str | None:
    kind = facts.get("type", "")
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"a number of {words} {facts['ctx'][key]:,}"
    choices = _CHOICES.search(facts.get("msg", ""))
    return None if choices is None else f"one of {choices[1].replace(chr(39), '')}"
