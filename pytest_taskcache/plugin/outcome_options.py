"""What a test's marks ask of the cache, and whether its outcome can be cached at all."""

from __future__ import annotations

import functools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from _pytest.doctest import DoctestItem

from pytest_taskcache.config.settings import Settings, Tests
from pytest_taskcache.engine.computation import Options
from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.model.decision import Uncacheable
from pytest_taskcache.plugin.facts import Facts, is_hypothesis_test
from pytest_taskcache.plugin.outcome_key import SERIALIZER
from pytest_taskcache.policies import DEFAULT, CachePolicy

_KNOWN = frozenset({"expiration", "allow", "validator", "refresh", "persist", "key", "key_fn"})

_NOT_REPLAYABLE = frozenset({"record_xml_attribute", "record_testsuite_property"})
"""Fixtures whose effect lies outside of a test's reports."""


def outcome_options(facts: Facts, settings: Settings) -> Options | Uncacheable | None:
    """What the test asks for; why it cannot be cached; or None if its outcome is not to be.

    Raises pytest.UsageError for a mark that cannot work, on whatever test it stands.
    """
    item = facts.item
    for mark in facts.marks:
        if mark.name == "cached":
            _check_mark(mark, item)
    own = own_mark(facts)
    if settings.tests is Tests.NONE or (own is None and settings.tests is not Tests.ALL):
        return None
    if own is not None and own.args and own.args[0] is False:
        return None
    if facts.function is None and not isinstance(item, DoctestItem):
        return Uncacheable("not a function", f"{type(item).__name__} has no function to key on")
    if is_hypothesis_test(item) and not _marked_itself(item):
        return Uncacheable("hypothesis test", "mark the test itself to cache its outcome")
    unreplayable = _NOT_REPLAYABLE.intersection(getattr(item, "fixturenames", ()))
    if unreplayable:
        return Uncacheable(f"uses {min(unreplayable)}", "its effect is not part of a report")
    if own is None:
        return _unmarked(settings.tests_max_age)
    return _options_of(own, item, settings.tests_max_age)


def own_mark(facts: Facts) -> pytest.Mark | None:
    """The closest mark that is about the outcome of the test, not only about its fixtures."""
    return next((m for m in facts.marks if m.name == "cached" and not _only_fixtures(m)), None)


def _check_mark(mark: pytest.Mark, item: pytest.Item) -> None:
    """Raises pytest.UsageError, naming the test and what to write instead."""
    where = f"{item.nodeid}: cached"
    for name in mark.kwargs.keys() - _KNOWN - {"policy", "fixtures"}:
        known = ", ".join(sorted(_KNOWN | {"policy", "fixtures"}))
        raise pytest.UsageError(f"{where}({name}=...) does nothing on a test; use one of {known}")
    if len(mark.args) > 1:
        raise pytest.UsageError(f"{where} takes one policy, got {mark.args!r}; add them with +")
    policy = mark.kwargs.get("policy")
    if mark.args and "policy" in mark.kwargs:
        raise pytest.UsageError(f"{where} is given a policy twice; leave policy=... out")
    given = mark.args[0] if mark.args else policy
    switch = bool(mark.args) and isinstance(given, bool)
    if not (given is None or switch or isinstance(given, CachePolicy)):
        raise pytest.UsageError(
            f"{where}({given!r}): this is no policy; write e.g. ENV('TZ') or FILES('data/*.csv'), "
            "or False to leave the test out"
        )
    if switch and given is False and mark.kwargs.keys() - {"fixtures"}:
        raise pytest.UsageError(f"{where}(False) leaves the test out; give it nothing else")
    fixtures = mark.kwargs.get("fixtures", ())
    if isinstance(fixtures, str) or not all(isinstance(name, str) for name in fixtures):
        raise pytest.UsageError(
            f"{where}(fixtures={fixtures!r}): give a list of names, e.g. fixtures=['data']"
        )


@functools.lru_cache(4)
def _unmarked(max_age: timedelta | None) -> Options:
    """What the tests ask for that are cached without a mark; one object for all."""
    return Options(policy=_policy(None), serializer=SERIALIZER, expiration=max_age)


def _policy(more: CachePolicy | None) -> CachePolicy:
    whole = DEFAULT + more if more is not None else DEFAULT
    # The source of a test is a part that `outcome_key` adds, in a way that is kept.
    return replace(whole, components=tuple(c for c in whole.components if c.label != "TASK_SOURCE"))


def _options_of(mark: pytest.Mark, item: pytest.Item, max_age: timedelta | None) -> Options:
    given: dict[str, Any] = dict(mark.kwargs)
    given.pop("fixtures", None)
    policy = given.pop("policy", None)
    if mark.args and mark.args[0] is not True:
        policy = mark.args[0]
    if isinstance(given.get("allow"), str):
        given["allow"] = {given["allow"]}
    given.setdefault("expiration", max_age)
    try:
        return Options(policy=_policy(policy), serializer=SERIALIZER, **given)
    except TaskCacheError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error


def _only_fixtures(mark: pytest.Mark) -> bool:
    return not mark.args and set(mark.kwargs) == {"fixtures"}


def _marked_itself(item: pytest.Item) -> bool:
    return any(mark.name == "cached" and not _only_fixtures(mark) for mark in item.own_markers)
