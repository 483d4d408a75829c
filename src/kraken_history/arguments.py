"""Arguments as callers have them: numbers out of frames and arrays, lists of any kind."""

import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from kraken_history.errors import InvalidNumber

Value = TypeVar("Value", str, int)


def whole_number(value: object) -> int | None:
    """The value as a plain int if it is an integer, for example a NumPy integer; else None. A bool gives None."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def checked_list(
    name: str, values: Iterable[Value], checked: Callable[[Any], Value], *, may_be_empty: bool = False
) -> list[Value]:
    """Each value once, checked, in order.

    Raises:
        InvalidNumber: The list is empty, or the value is not a list.
    """
    try:
        given = None if isinstance(values, str | bytes) else list(values)
    except TypeError:
        given = None
    if given is None or not (given or may_be_empty):
        raise InvalidNumber(name, values, "a list" if may_be_empty else "a list of at least one item")
    return list(dict.fromkeys(map(checked, given)))
