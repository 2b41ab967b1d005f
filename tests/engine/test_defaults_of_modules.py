"""Defaults that stand in a module or a class, for all that it caches."""

from __future__ import annotations

from datetime import timedelta

import pytest
from bodies import ran, times

from pytest_taskcache import DEFAULT, Cache, ConfigurationError, Defaults, MemoryStorage, cached
from pytest_taskcache.model.event import Computed

taskcache_defaults = Defaults(serializer="json", expiration=timedelta(hours=1))


@cached
def plain(n):
    ran("plain")
    return [n]


class Reports:
    taskcache_defaults = Defaults(expiration=timedelta(days=1))

    @cached
    def of_the_class(self):
        return [1]


class Daily(Reports):
    @cached(serializer="pickle", expiration=timedelta(days=7))
    def of_itself(self):
        return [1]

    @cached
    def items(self):
        yield (1, 2)
        yield [3]


def test_the_defaults_of_a_module_and_of_a_class(tmp_path):
    """The nearest wins: the function's own, then its class's (and its bases'), its module's, the
    run's."""

    def kept(call):
        variant = call().decision.variant or call().decision.variant
        return variant.result.serializer.partition("/")[0], variant.expires - variant.created

    hour, day = 3600, 86400
    with Cache(tmp_path, expiration=timedelta(days=30), serializer="compressed"):
        plain(1), Reports().of_the_class(), Daily().of_itself()
        assert kept(lambda: plain.call(1)) == ("json", hour)
        assert kept(Reports().of_the_class.call) == ("json", day)
        assert kept(Daily().of_itself.call) == ("pickle", 7 * day)
    assert times("plain") == 1


def test_a_default_serializer_holds_for_items_too(tmp_path, events):
    """Tuples would come back from JSON as lists: not kept."""
    with Cache(tmp_path, observers=[events]):
        list(Daily().items())
    (computed,) = events.of(Computed)
    assert not computed.staged
    assert "a tuple" in computed.detail


def test_a_default_place_for_results(tmp_path, load):
    """A directory, say, for all that a module computes."""
    module = load(
        "heavy",
        f"""
        from bodies import ran
        from pytest_taskcache import Defaults, cached

        taskcache_defaults = Defaults(result_storage={str(tmp_path / "large")!r})

        @cached
        def made():
            ran("made")
            return b"x" * 20_000
        """,
    )
    for _ in range(2):
        with Cache(tmp_path / "cache"):
            module.made()
    assert times("made") == 1
    assert list((tmp_path / "large" / "results").rglob("*/*"))


@pytest.mark.parametrize("wrong", [{"serializer": "json"}, "json"])
def test_defaults_of_a_module_that_are_none(tmp_path, load, wrong):
    """Are told with what to write."""
    module = load(
        "odd",
        f"""
        from pytest_taskcache import cached

        taskcache_defaults = {wrong!r}

        @cached
        def made():
            return 1
        """,
    )
    with (
        Cache(tmp_path),
        pytest.raises(ConfigurationError, match=r"taskcache_defaults: .*write e.g. Defaults\("),
    ):
        module.made()


@pytest.mark.parametrize("options", [{"serializer": "pickel"}, {"commit": 5}, {"expiration": 3}])
def test_defaults_that_cannot_work_are_refused_where_they_are_written(options):
    """As on a function."""
    with pytest.raises(ConfigurationError):
        Defaults(**options)


def test_results_in_memory_for_a_session(tmp_path):
    """A storage in memory keeps records and results as long as the process lives."""
    memory = MemoryStorage()
    policy = DEFAULT.configure(key_storage=memory, result_storage=memory)
    f = plain.with_options(policy=policy)
    for _ in range(2):
        with Cache(tmp_path):
            f(1).append(2)
            assert f(1) == [1]
    assert times("plain") == 1
    with Cache(tmp_path):
        assert plain(1) == [1]  # the disk knows nothing of it
    assert times("plain") == 2


def test_one_decorator_in_two_modules(cache, load):
    """Each function has the defaults of its own module, though they share the options."""
    load("decorators", "from pytest_taskcache import *\nmemoized = cached(policy=DEFAULT)\n")
    body = "from decorators import memoized\n{}\n@memoized\ndef f(n):\n    return [n]\n"
    told = "from pytest_taskcache import Defaults\ntaskcache_defaults = Defaults(serializer='json')"
    modules = load("told", body.format(told)), load("untold", body.format(""))
    serializers = []
    for module in (*modules, *modules[::-1]):
        module.f(1)
        variant = module.f.call(1).decision.variant
        serializers.append(variant.result.serializer.partition("/")[0])
    assert serializers == ["json", "pickle", "pickle", "json"]
