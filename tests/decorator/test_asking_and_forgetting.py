"""``f.is_cached(...)`` and ``f.forget(...)``: asking of one call, and forgetting it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from inner_runs import line_of, run
from projects import Project

from pytest_taskcache import Cache, cached, transaction


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """An open cache outside of pytest."""
    with Cache(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture
def calls() -> list[int]:
    return []


@pytest.fixture
def double(calls: list[int]) -> Callable[..., int]:
    @cached(key_fn=lambda context, arguments: f"double-{arguments['x']}")
    def double(x: int) -> int:
        calls.append(x)
        return 2 * x

    return double


def test_asking_runs_nothing(cache: Cache, calls: list[int], double: Callable[..., int]) -> None:
    """It tells of each call by its arguments, however they are written."""
    assert not double.is_cached(1)
    double(1)
    assert double.is_cached(1)
    assert double.is_cached(x=1)
    assert not double.is_cached(2)
    assert calls == [1]
    with pytest.raises(TypeError):
        double.is_cached()


def test_what_is_forgotten_is_computed_anew(
    cache: Cache, calls: list[int], double: Callable[..., int]
) -> None:
    """The call that is named, and no other; a second time there is nothing to forget."""
    assert [double(x) for x in (1, 2, 1, 2)] == [2, 4, 2, 4]
    assert double.forget(1) == 1
    assert double.forget(1) == 0
    assert not double.is_cached(1)
    assert double.is_cached(2)
    assert [double(x) for x in (1, 2)] == [2, 4]
    assert calls == [1, 2, 1]


def test_what_is_staged_is_forgotten_too(
    cache: Cache, calls: list[int], double: Callable[..., int]
) -> None:
    """It is not committed with the transaction that it was computed in."""
    with transaction():
        double(1)
        assert double.is_cached(1)
        assert double.forget(1) == 1
        assert not double.is_cached(1)
    assert not double.is_cached(1)


def test_a_target_file_goes_too(cache: Cache, calls: list[int]) -> None:
    """A file that stood for the value would be a hit by itself."""

    @cached(target="double-{x}.pkl")
    def double(x: int) -> int:
        calls.append(x)
        return 2 * x

    double(1)
    assert double.is_cached(1)
    double.forget(1)
    assert not double.is_cached(1)
    double(1)
    assert calls == [1, 1]


def test_without_a_cache_nothing_is_cached(double: Callable[..., int]) -> None:
    """Outside of an active cache there is nothing to ask, and nothing to forget."""
    assert not double.is_cached(1)
    assert double.forget(1) == 0


def test_methods_are_asked_bound_and_of_their_class(cache: Cache) -> None:
    """Of an instance, or of its class with the instance as the first argument."""

    class Scale:
        def __taskcache_key__(self) -> object:
            return "scale"

        @cached
        def of(self, x: int) -> int:
            return x

    Scale().of(1)
    assert Scale.of.is_cached(Scale(), 1)
    assert Scale().of.is_cached(1)
    assert not Scale().of.is_cached(2)
    assert Scale().of.forget(1) == 1
    assert not Scale.of.is_cached(Scale(), 1)
    assert Scale.of.forget(Scale(), 1) == 0


def test_a_test_that_asks_is_not_replayed(project: Project) -> None:
    """Its outcome depends on the state of the cache, which no trace holds."""
    project.write(
        "test_suite.py",
        """
        import pytest
        from counter import count
        from pytest_taskcache import cached

        @cached
        def f():
            return 1

        @pytest.mark.cached
        def test_asks():
            count("asks")
            f.is_cached()

        @pytest.mark.cached
        def test_forgets():
            count("forgets")
            f()
            f.forget()
        """,
    )
    run(project).assert_outcomes(passed=2)
    result = run(project)
    result.assert_outcomes(passed=2)
    assert (project.counted("asks"), project.counted("forgets")) == (2, 2)
    assert "2 depends on something uncached" in line_of(result)
