"""What a test's marks ask of the cache, and whether its outcome can be cached at all."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import pytest

from pytest_taskcache.config.settings import Settings, Tests
from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.engine.computation import Options
from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.model.decision import Uncacheable
from pytest_taskcache.plugin.hookspecs import adjusted
from pytest_taskcache.plugin.outcomes.bundles import SERIALIZER
from pytest_taskcache.plugin.outcomes.outcome_keys import is_stand_in
from pytest_taskcache.plugin.pytest_private import DoctestItem, is_fixture
from pytest_taskcache.policies.algebra import CachePolicy
from pytest_taskcache.policies.parts import DEFAULT

_KNOWN = frozenset({"expiration", "allow", "validator", "refresh", "persist", "key", "key_fn"})

_KEYED_APART = frozenset({"policy", "expiration", "validator", "key", "key_fn"})
"""What cannot be said in the key that the outcomes of a file share."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a test asks for. ``marked``: in so many words; ``apart``: with a key of its own."""

    options: Options
    marked: bool = False
    apart: bool = False


def asked_of(item: pytest.Item, settings: Settings) -> Asked | Uncacheable | None:
    """What a test asks for, with what other plugins say of it; why it cannot be cached; or None
    if its outcome is not to be.

    Raises pytest.UsageError for a mark that cannot work, on whatever test it stands.
    """
    marks = list(item.iter_markers("cached"))
    for mark in marks:
        _check_mark(mark, item)
    own = next((mark for mark in marks if not _only_fixtures(mark)), None)
    if settings.tests is Tests.NONE or (own is None and settings.tests is not Tests.ALL):
        return None
    if own is not None and own.args and own.args[0] is False:
        return None
    if not isinstance(item, pytest.Function | DoctestItem):
        return Uncacheable("not a function", f"{type(item).__name__} has no function to key on")
    age = settings.tests_max_age
    asked = unmarked(age) if own is None else _marked(own, item, age)
    options = adjusted(item, asked.options)
    if isinstance(options, Uncacheable):
        return options
    return asked if options is asked.options else replace(asked, options=options, apart=True)


def is_marked_itself(item: pytest.Item) -> bool:
    """Whether the mark stands on the test, not on its class or module."""
    return any(mark.name == "cached" and not _only_fixtures(mark) for mark in item.own_markers)


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
    for name in fixtures:
        if not is_stand_in(item) and not is_fixture(name, item):
            raise pytest.UsageError(
                f"{where}(fixtures={fixtures!r}): it can see no fixture named {name!r}"
            )


@functools.lru_cache(4)
def unmarked(max_age: timedelta | None) -> Asked:
    """What the tests ask for that are cached without a mark; one object for all."""
    return Asked(Options(policy=_policy(None), serializer=SERIALIZER, expiration=max_age))


def _policy(more: CachePolicy | None) -> CachePolicy:
    whole = DEFAULT + more if more is not None else DEFAULT
    # The source of a test is in its trace, since it ran.
    return replace(whole, components=tuple(c for c in whole.components if c.label != "TASK_SOURCE"))


def _marked(mark: pytest.Mark, item: pytest.Item, max_age: timedelta | None) -> Asked:
    given: dict[str, Any] = dict(mark.kwargs)
    given.pop("fixtures", None)
    policy = given.pop("policy", None)
    if mark.args and mark.args[0] is not True:
        policy = mark.args[0]
    apart = policy is not None or not _KEYED_APART.isdisjoint(given)
    given.setdefault("expiration", max_age)
    try:
        options = Options(policy=_policy(policy), serializer=SERIALIZER, **given)
    except TaskCacheError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from error
    return Asked(options, marked=True, apart=apart)


def _only_fixtures(mark: pytest.Mark) -> bool:
    return not mark.args and set(mark.kwargs) == {"fixtures"}
