"""What other plugins and conftests ask for through the hooks of `hookspecs`."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_taskcache.dataclass import replace
from pytest_taskcache.engine.computation import Options
from pytest_taskcache.model.decision import Uncacheable
from pytest_taskcache.policies import CachePolicy
from pytest_taskcache.ports import Observer, Storage


def observers(config: pytest.Config) -> list[Observer]:
    """The observers that plugins give."""
    hooks: Any = config.hook
    return [each for each in hooks.pytest_taskcache_observer(config=config) if each]


def plugged_storage(config: pytest.Config, url: str) -> Storage | None:
    """The storage of a plugin for a URL. Raises pytest.UsageError for what is none."""
    hooks: Any = config.hook
    found: Storage | None = hooks.pytest_taskcache_storage(config=config, url=url)
    if found is not None:
        _check("pytest_taskcache_storage", found, Storage, "a storage (pytest_taskcache.ports)")
    return found


def adjusted(item: pytest.Item, options: Options) -> Options | Uncacheable:
    """What a test asks for, with what plugins add to it; or the reason why it runs. Raises
    pytest.UsageError for an answer of the wrong type."""
    known: Any = item.config.hook
    hooks: Any = item.ihook
    if known.pytest_taskcache_do_not_replay.get_hookimpls():
        reason = hooks.pytest_taskcache_do_not_replay(item=item)
        if reason is not None:
            _check("pytest_taskcache_do_not_replay", reason, str, "a text: the reason")
            return Uncacheable("a plugin objects", f"a plugin objects: {reason}")
    if known.pytest_taskcache_policy.get_hookimpls():
        policy = hooks.pytest_taskcache_policy(item=item)
        if policy is not None:
            _check("pytest_taskcache_policy", policy, CachePolicy, "a policy, e.g. ENV('TZ')")
            return replace(options, policy=options.policy + policy)
    return options


def _check(hook: str, answer: object, wanted: type, remedy: str) -> None:
    if not isinstance(answer, wanted):
        raise pytest.UsageError(f"{hook} returned {answer!r}; return {remedy}, or None")
