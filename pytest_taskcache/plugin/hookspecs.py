"""Hooks that other plugins and conftests may implement, and how they are asked.

Declared under ``pytest_taskcache_``; a conftest's implementation counts for the tests beneath
it. Where nobody implements one, it costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # pytest reads this file at each start
    from collections.abc import Iterable

    from pytest_taskcache.engine.computation import Options
    from pytest_taskcache.model.decision import Uncacheable
    from pytest_taskcache.policies.algebra import CachePolicy
    from pytest_taskcache.ports import Observer, Storage


@pytest.hookspec(firstresult=True)
def pytest_taskcache_policy(item: pytest.Item) -> CachePolicy | None:
    """A policy to be added to that of a test whose outcome may be cached, e.g. ``ENV("DB_URL")``
    for all tests that use a database. The first answer that is not None counts."""


@pytest.hookspec(firstresult=True)
def pytest_taskcache_do_not_replay(item: pytest.Item) -> str | None:
    """Why a test is to run though its outcome may be known, e.g. "updates its snapshots"; the
    reason is counted and shown. The first answer that is not None counts."""


@pytest.hookspec(firstresult=True)
def pytest_taskcache_storage(config: pytest.Config, url: str) -> Storage | None:
    """The storage that a URL names in this run's settings or policies, e.g. ``vault://team``: an
    object with the methods of `pytest_taskcache.ports.Storage`. What it returns is trusted only as
    far as its records are signed. The first answer that is not None counts; asked for each URL
    once, before the schemes that are built in. The command ``taskcache`` runs no plugins: it knows
    the storages of the entry points ``pytest_taskcache.storages``."""


@pytest.hookspec
def pytest_taskcache_observer(config: pytest.Config) -> Observer | None:
    """An object with ``notify(event)``, told of every decision, computation, commit and fault
    of this process (see `pytest_taskcache.model.event`). One that raises is told no more."""


@pytest.hookspec
def pytest_taskcache_neutral_options(config: pytest.Config) -> Iterable[str] | None:
    """Names of options and ini settings that no outcome depends on, besides those that are known
    and the project's own (``taskcache_neutral_options``)."""


def plugged_storage(config: pytest.Config, url: str) -> Storage | None:
    """The storage of a plugin for a URL. Raises pytest.UsageError for what is none."""
    hooks: Any = config.hook
    found: Storage | None = hooks.pytest_taskcache_storage(config=config, url=url)
    if found is not None:
        from pytest_taskcache.ports import Storage

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
            from pytest_taskcache.model.decision import Uncacheable

            _check("pytest_taskcache_do_not_replay", reason, str, "a text: the reason")
            return Uncacheable("a plugin objects", f"a plugin objects: {reason}")
    if known.pytest_taskcache_policy.get_hookimpls():
        policy = hooks.pytest_taskcache_policy(item=item)
        if policy is not None:
            from pytest_taskcache.dataclass import replace
            from pytest_taskcache.policies.algebra import CachePolicy

            _check("pytest_taskcache_policy", policy, CachePolicy, "a policy, e.g. ENV('TZ')")
            return replace(options, policy=options.policy + policy)
    return options


def _check(hook: str, answer: object, wanted: type, remedy: str) -> None:
    if not isinstance(answer, wanted):
        raise pytest.UsageError(f"{hook} returned {answer!r}; return {remedy}, or None")
