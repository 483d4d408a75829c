"""``docs/api.md`` says what the code does."""

import kraken_history
from kraken_history.provider import HistoricalDataProvider
from tests.api.reference import PAGE, markdown, methods, public_page


def test_the_page_is_that_of_the_code() -> None:
    assert PAGE.read_text() == public_page(), "docs/api.md is out of date: run `python -m tests.api.reference`"


def test_every_public_name_and_method_is_on_it() -> None:
    page = PAGE.read_text()

    for name in kraken_history.__all__:
        assert f"# {name}\n" in page or f"\n| `{name}` |" in page, name
    for name in methods(HistoricalDataProvider):
        assert f"\n### {name}\n" in page, name


def test_nothing_of_the_markup_of_docstrings_is_left() -> None:
    page = PAGE.read_text()

    assert [mark for mark in (":class:", ":meth:", ":func:", ":mod:", ":data:", "``datetime") if mark in page] == []


def test_a_docstring_becomes_markdown() -> None:
    docstring = """Reads ``x``, as :meth:`get_candles`.

    Two lines
    are one.

    Args:
        one, two: Of which
            there is more.

    Raises:
        UsageError: No.
    """

    assert markdown(docstring) == (
        "Reads `x`, as [`get_candles`](#get_candles).\n\nTwo lines are one.\n\n"
        "Args:\n\n- `one`, `two`: Of which there is more.\n\nRaises:\n\n- `UsageError`: No."
    )
