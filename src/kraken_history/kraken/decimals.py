"""What a price, a volume and a symbol must look like to be stored."""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

SYMBOL = re.compile(r"[A-Z0-9.]{1,16}/[A-Z0-9.]{1,16}", re.IGNORECASE)

# Wider than any market, and far inside what PostgreSQL's numeric holds; keeps 1e999999999 out.
_SMALLEST = Decimal("1e-30")
_LARGEST = Decimal("1e30")


def all_positive(values: Iterable[Decimal]) -> bool:
    """True if every value is a finite positive number of sane size."""
    return all(_is_positive(value) for value in values)


def all_positive_or_zero(values: Iterable[Decimal]) -> bool:
    """As :func:`all_positive`, but zero may occur, as in the volume of an empty minute."""
    return all(value.is_zero() or _is_positive(value) for value in values)


def _is_positive(value: Decimal) -> bool:
    try:
        return _SMALLEST < value < _LARGEST
    except InvalidOperation:  # NaN has no order
        return False
