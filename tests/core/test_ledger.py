"""The algebra of the ledger, against plain sets."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kraken_history.ledger import IdRange, IdRanges

ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def as_set(pairs: list[IdRange]) -> set[int]:
    return {id_ for start, stop in pairs for id_ in range(start, stop)}


@given(ranges)
def test_ranges_hold_what_a_set_would_hold(pairs: list[IdRange]) -> None:
    held = IdRanges(pairs)

    assert {id_ for start, stop in held for id_ in range(start, stop)} == as_set(pairs)
    assert len(held) == len(as_set(pairs))
    assert bool(held) == bool(as_set(pairs))


@given(ranges)
def test_an_id_is_held_exactly_when_the_set_has_it(pairs: list[IdRange]) -> None:
    held = IdRanges(pairs)

    assert {id_ for id_ in range(-2, 63) if id_ in held} == as_set(pairs)


@given(ranges)
def test_ranges_are_kept_sorted_disjoint_and_joined(pairs: list[IdRange]) -> None:
    edges = [edge for held in IdRanges(pairs) for edge in held]

    assert all(a < b for a, b in pairwise(edges))


@given(ranges, ranges)
def test_union_difference_and_intersection_are_those_of_sets(a: list[IdRange], b: list[IdRange]) -> None:
    left, right = IdRanges(a), IdRanges(b)

    assert left | right == IdRanges.of(as_set(a) | as_set(b))
    assert left - right == IdRanges.of(as_set(a) - as_set(b))
    assert left & right == IdRanges.of(as_set(a) & as_set(b))


@given(ranges)
def test_holes_are_the_ids_missing_between_the_lowest_and_the_highest(pairs: list[IdRange]) -> None:
    ids = as_set(pairs)

    expected = set(range(min(ids), max(ids))) - ids if ids else set()

    assert IdRanges(pairs).holes == IdRanges.of(expected)


@given(ranges, ranges)
def test_two_ledgers_are_equal_exactly_when_they_hold_the_same_ids(a: list[IdRange], b: list[IdRange]) -> None:
    same = as_set(a) == as_set(b)

    assert (IdRanges(a) == IdRanges(b)) == same
    assert not same or hash(IdRanges(a)) == hash(IdRanges(b))


@given(st.sets(st.integers(0, 60)))
def test_ranges_made_of_single_ids_hold_exactly_these(ids: set[int]) -> None:
    assert {id_ for id_ in range(62) if id_ in IdRanges.of(ids)} == ids


@given(ranges, ranges)
def test_filling_the_holes_leaves_none(a: list[IdRange], b: list[IdRange]) -> None:
    held = IdRanges(a) | IdRanges(b)

    assert not (held | held.holes).holes


def test_an_empty_ledger_is_empty_in_every_way() -> None:
    nothing, some = IdRanges(), IdRanges([(5, 8)])

    assert list(nothing) == []
    assert len(nothing) == 0
    assert not nothing
    assert 0 not in nothing
    assert not nothing.holes
    assert nothing | some == some
    assert some - nothing == some
    assert nothing - some == nothing & some == nothing
    assert some - some == nothing


def test_empty_and_reversed_ranges_hold_nothing() -> None:
    assert IdRanges([(5, 5), (9, 2)]) == IdRanges()


def test_adjacent_ranges_become_one() -> None:
    assert list(IdRanges([(10, 12), (12, 20), (1, 10)])) == [(1, 20)]


def test_the_largest_ids_of_a_bigint_are_no_trouble() -> None:
    top = 2**63 - 1

    assert list(IdRanges([(top - 2, top)]).holes | IdRanges.of([1])) == [(1, 2)]
    assert top - 1 in IdRanges([(1, top)])
    assert len(IdRanges([(1, top)])) == top - 1


def test_a_ledger_equals_nothing_but_a_ledger() -> None:
    assert IdRanges([(1, 2)]) != [(1, 2)]


@pytest.mark.parametrize("pairs", [[], [(3, 4)], [(1, 4), (8, 9)]])
def test_the_repr_says_what_is_held(pairs: list[IdRange]) -> None:
    assert repr(IdRanges(pairs)) == f"IdRanges({pairs})"


def test_a_set_is_written_as_postgresql_writes_a_multirange() -> None:
    assert IdRanges.of([1, 2, 3, 9]).as_multirange() == "{[1,4),[9,10)}"
    assert IdRanges().as_multirange() == "{}"
