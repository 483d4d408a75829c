"""Which value a setting expects, in words, for a value that does not fit."""

from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
_PATTERNS = {
    "^wss?://": "an address such as wss://ws.kraken.com/v2",
    "^https?://": "an address such as https://api.kraken.com",
    "(?i)^(debug|info|warning|error)$": "one of debug, info, warning, error",
}
_LONGEST = 60  # characters of a wrong value that are shown


def complaint_about(field: FieldInfo, value: Any, *, is_shown: bool) -> str:
    """``expected a whole number from 0 to 65535, got 'many'``.

    Args:
        is_shown: False if the value may hold a password.
    """
    got = f", got {str(value)[:_LONGEST]!r}" if is_shown and not isinstance(value, SecretStr) else ""
    return f"expected {_expected(field)}{got}"


def _expected(field: FieldInfo) -> str:
    metadata = [one for each in (field.metadata, *_metadata_within(field.annotation)) for one in each]
    for each in metadata:
        if (pattern := getattr(each, "pattern", None)) is not None:
            return _PATTERNS.get(pattern, "letters, digits, and - _ . or : between them")
    kinds = {field.annotation, *get_args(field.annotation), *_bare(field.annotation)}
    kind = next((words for type_, words in _KINDS.items() if type_ in kinds), "text")
    return f"{kind}{_bounds(metadata)}"


def _bounds(metadata: list[Any]) -> str:
    above, least, most = (_first(metadata, name) for name in ("gt", "ge", "le"))
    if least is not None and most is not None:
        return f" from {least} to {most}"
    words = [f"greater than {above}"] if above is not None else []
    words += [f"of at least {least}"] if least is not None else []
    words += [f"of at most {most}"] if most is not None else []
    return f" {' and '.join(words)}" if words else ""


def _first(metadata: list[Any], name: str) -> Any:
    return next((bound for each in metadata if (bound := getattr(each, name, None)) is not None), None)


def _metadata_within(annotation: Any) -> list[tuple[Any, ...]]:
    """The bounds inside ``PositiveInt | None``."""
    return [each.__metadata__ for each in get_args(annotation) if hasattr(each, "__metadata__")]


def _bare(annotation: Any) -> set[Any]:
    return {each.__origin__ for each in get_args(annotation) if hasattr(each, "__metadata__")}
