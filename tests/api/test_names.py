"""What can be imported, and that both providers are the same."""

import ast
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from textwrap import dedent
from typing import get_args, get_origin, get_overloads

import kraken_history
from kraken_history import errors
from kraken_history.blocking import BlockingHistoricalDataProvider
from kraken_history.provider import HistoricalDataProvider


def public(kind: type) -> dict[str, Callable[..., object]]:
    return {name: method for name, method in vars(kind).items() if not name.startswith("_")}


def shape(method: Callable[..., object]) -> tuple[object, ...]:
    """The parameters and the result, an iterator of either kind as what it gives."""
    result = inspect.signature(method).return_annotation
    if get_origin(result) in (AsyncIterator, AsyncGenerator, Generator):
        result = ("iterator", get_args(result)[0])
    return (*inspect.signature(method).parameters.values(), result)


def test_it_has_the_methods_of_the_provider_with_the_same_arguments_and_results() -> None:
    asynchronous, blocking = public(HistoricalDataProvider), public(BlockingHistoricalDataProvider)

    assert blocking.keys() == asynchronous.keys()
    for name, method in blocking.items():
        assert shape(method) == shape(asynchronous[name]), name
        assert list(map(shape, get_overloads(method))) == list(map(shape, get_overloads(asynchronous[name]))), name
        assert not inspect.iscoroutinefunction(method), name
        assert method.__doc__, name
    assert shape(BlockingHistoricalDataProvider.__init__) == shape(HistoricalDataProvider.__init__)


def test_it_passes_on_what_it_is_given() -> None:
    for name, method in public(BlockingHistoricalDataProvider).items():
        calls = [
            each
            for each in ast.walk(ast.parse(dedent(inspect.getsource(method))))
            if isinstance(each, ast.Call) and ast.unparse(each.func) == f"self._provider.{name}"
        ]
        wanted = inspect.signature(getattr(HistoricalDataProvider, name)).parameters.values()
        positional = [each.name for each in wanted if each.kind is each.POSITIONAL_OR_KEYWORD and each.name != "self"]
        keywords = {each.name: each.name for each in wanted if each.kind is each.KEYWORD_ONLY}

        for call in calls:
            assert [ast.unparse(argument) for argument in call.args] == positional, name
            assert {str(each.arg): ast.unparse(each.value) for each in call.keywords} == keywords, name
        assert calls or name == "close"


def test_every_error_is_public() -> None:
    ours = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}

    assert ours - set(kraken_history.__all__) == set()


def test_all_names_are_offered_for_completion() -> None:
    assert set(kraken_history.__all__) <= set(dir(kraken_history))
