"""Defaults for what was not told otherwise, and what a whole run computes anew."""

from __future__ import annotations

from datetime import timedelta

import pytest
from bodies import ran, times

from pytest_taskcache import Cache, ConfigurationError, Hit, cached
from pytest_taskcache.model.event import Noted
from pytest_taskcache.model.modes import Refresh


@cached
def plain(n):
    ran("plain")
    return [n]


@cached(refresh=False)
def kept(n):
    ran("kept")
    return n


def test_a_default_serializer(tmp_path):
    """It is part of the key, as where it is chosen on the function; those that chose keep it."""

    @cached(serializer="pickle")
    def chosen():
        return (1,)

    with Cache(tmp_path, serializer="json"):
        for function, name in ((plain, "json"), (chosen, "pickle")):
            arguments = (1,) if function is plain else ()
            function(*arguments)
            variant = function.call(*arguments).decision.variant
            assert variant.result.serializer.startswith(name)
    with Cache(tmp_path):
        assert plain(1) == [1]
    assert times("plain") == 2


def test_a_default_expiration(tmp_path):
    """Asked like one that stands on the function."""
    with Cache(tmp_path, expiration=timedelta(hours=1)) as cache:
        plain(1), plain(1)
        assert times("plain") == 1
        now = cache.engine.clock()
        cache.engine.clock = lambda: now + 3601
        plain(1)
        assert times("plain") == 2


def test_a_default_commit_mode(tmp_path):
    """With OFF nothing is ever visible to others."""
    with Cache(tmp_path, commit="OFF"):
        plain(1), plain(1)
    assert times("plain") == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"serializer": "pickel"}, "unknown serializer 'pickel'"),
        ({"expiration": timedelta(0)}, "expiration: .* has passed already"),
        ({"commit": "NEVER"}, "commit: 'NEVER' is no mode"),
    ],
)
def test_defaults_that_cannot_work(options, told):
    """Refused where they are written; so they are on a function."""
    with pytest.raises(ConfigurationError, match=told):
        Cache(**options)
    with pytest.raises(ConfigurationError, match=told):
        cached(**options)(lambda: 1)


def test_refresh_false_opts_out(tmp_path):
    """Of what a whole run is told to compute anew."""
    with Cache(tmp_path):
        plain(1), kept(1)
    with Cache(tmp_path, refresh=True):
        plain(1), kept(1)
        assert isinstance(kept.call(1).decision, Hit)
    assert times("plain") == 2
    assert times("kept") == 1


IDENTITY = "tests/data/test_rates.py::TestRates.test_of[a,b-1]"


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("rates", True),
        (IDENTITY, True),
        ("tests/data/*", True),
        ("*/test_rates.py", True),
        ("TestRates.*", True),
        ("TestRates", True),
        ("other, TestRates.*", True),
        ("other\nTestRates.*", True),
        ("Rates.*", False),
        ("test_of[a", True),
        ("other", False),
        ("", False),
    ],
)
def test_patterns_of_what_is_refreshed(pattern, covered):
    """A part of the whole name, or a glob of the whole, the file or the name; one of several."""
    refresh = Refresh(pattern=pattern)
    assert refresh.covers(IDENTITY) is covered
    assert bool(refresh.unmatched) is (pattern not in ("",) and (not covered or "other" in pattern))


def test_a_pattern_that_names_nothing_is_told(tmp_path, events):
    """It is a slip of the pen, mostly."""
    with Cache(tmp_path, refresh="*plain*, plian", observers=[events]):
        plain(1)
    assert [note.text for note in events.of(Noted)] == [
        "--cache-refresh-only=plian named nothing that was looked up"
    ]
