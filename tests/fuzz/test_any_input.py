"""Whatever comes from the network, a file or the command line, is read or refused in a documented way, and soon.

``corpus/TARGET/`` has inputs to begin with, and every input that has once failed. To search longer::

    HYPOTHESIS_PROFILE=explore pytest tests/fuzz
"""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
SOON_S = 5.0
LONGEST_MESSAGE = 10_000
PIECES = [
    b"", b"\x00", b"\xff", b"\xed\xa0\x80", b"\n", b"\r\n", b",", b'"', b"\\", b"{", b"}", b"[", b"]", b"[" * 5_000,
    b"null", b"NaN", b"Infinity", b"-1", b"0", b"-0", b"1e500", b"1e-500", b"9" * 5_000, b"4611686018427387904",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"0001-01-01T00:00:00Z",
    b"9999-12-31T23:59:60Z", b"\\ud800", b"'; DROP TABLE trades; --", b"\r\nFLUSHALL\r\n", b"%s%n", b"../../etc/passwd",
]  # fmt: skip


def corpus_of(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


@st.composite
def damaged(draw: st.DrawFn, target: str) -> bytes:
    """An input of the corpus in which pieces were put in, replaced, repeated or left out."""
    content = draw(st.sampled_from(corpus_of(target)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        end = min(at + draw(st.integers(0, 12)), len(content))
        piece = draw(st.sampled_from([*PIECES, content[at : at + 40]]) | st.binary(max_size=6))
        content = content[:at] + piece + content[end:]
    return content


def check(target: str, data: bytes) -> None:
    began, said = time.process_time(), ""
    try:
        TARGETS[target].read(data)
    except TARGETS[target].refusals as error:
        said = str(error)
    assert len(said) < LONGEST_MESSAGE
    assert time.process_time() - began < SOON_S


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_read_or_refused(target: str) -> None:
    for data in corpus_of(target):
        check(target, data)


@pytest.mark.parametrize("target", TARGETS)
def test_at_least_one_input_of_the_corpus_is_read(target: str) -> None:
    def is_read(data: bytes) -> bool:
        try:
            TARGETS[target].read(data)
        except TARGETS[target].refusals:
            return False
        return True

    assert any(is_read(data) for data in corpus_of(target))


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_damaged_is_read_or_refused(target: str) -> None:
    @settings(max_examples=max(settings().max_examples, 200))
    @given(data=damaged(target) | st.binary(max_size=100))
    def read(data: bytes) -> None:
        check(target, data)

    read()


def test_each_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
