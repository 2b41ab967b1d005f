"""What other plugins must be handed with a replay, or what keeps a test from being replayed.

Each plugin is met by name, only where it is loaded; nothing here imports one. docs/plugins.md lists
what was seen of them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Generator, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_taskcache.model.decision import Uncacheable
from pytest_taskcache.plugin.items import Instance
from pytest_taskcache.plugin.outcomes.outcome_keys import is_marked_itself

_EFFECT_ELSEWHERE = {
    "record_xml_attribute": "its effect is not part of a report",
    "record_testsuite_property": "its effect is not part of a report",
    "benchmark": "a replay measures nothing; --benchmark-disable lets it be cached",
    "benchmark_weave": "a replay measures nothing; --benchmark-disable lets it be cached",
    "________step_name_": "a step of pytest-steps goes on where the one before it stopped",
    "steps_data": "the steps that come after it read what it leaves",
    "results_bag": "others read what it leaves",
}
"""Fixtures whose effect lies outside of a test's reports."""

_RUN_UNDER = {
    "allure_report_dir": "allure_pytest",
    "codspeed": "pytest_codspeed",
    "force_regen": "pytest_regressions",
    "forked": "pytest_forked",
    "memray": "pytest_memray",
    "profile": "pytest_profiling",
    "profile_svg": "pytest_profiling",
    "regen_all": "pytest_regressions",
    "update_new_snapshots_only": "snapshot",
    "update_snapshots": "snapshot",
}
"""Options under which tests run: all where the plugin of this module is loaded, or those that use
this fixture. It writes what they compare with, measures them, or tells of more than reports do."""

_EDITING = frozenset({"create", "fix", "trim", "update", "review"})
"""What ``--inline-snapshot`` takes that may change sources."""

_LOGS = (".approval_tests_temp", ".approved_files.log")
"""What approvaltests notes each use of an approved file in, to find those that nobody uses."""


def refusal_of(item: pytest.Item) -> Uncacheable | None:
    """Why a test may neither be replayed nor stored in this run, or None."""
    option, names = item.config.option, getattr(item, "fixturenames", ())
    for name in names:
        idle = name.startswith("benchmark") and getattr(option, "benchmark_disable", False)
        if name in _EFFECT_ELSEWHERE and not idle:
            return Uncacheable(f"uses {name}", _EFFECT_ELSEWHERE[name])
    for asked, who in _RUN_UNDER.items():
        if getattr(option, asked, None) and (who in sys.modules or who in names):
            return Uncacheable(f"{who.replace('_', '-')} wants it to run", f"by option {asked}")
    given = str(getattr(option, "inline_snapshot", "") or "")
    if "inline_snapshot" in sys.modules and not _EDITING.isdisjoint(given.split(",")):
        return Uncacheable("inline snapshots are being updated", f"--inline-snapshot={given}")
    if "hypothesis" in item.keywords and not is_marked_itself(item) and not _is_derandomized(item):
        return Uncacheable(
            "hypothesis test",
            "its examples are drawn anew; derandomize=True in its settings or profile makes it "
            "cacheable (as Hypothesis does by itself where CI is set), or a mark on the test",
        )
    return None


def keeps_books(written: Iterable[str]) -> str:
    """The plugin whose books, which a replay would lack, are among the files; "" if none is."""
    return "approvaltests" if any(log in path for path in written for log in _LOGS) else ""


def may_run(item: pytest.Item) -> bool:
    """Whether the plugins that decide on a test by how others ended would let it run."""
    mark = item.get_closest_marker("dependency")
    if mark is None or not mark.kwargs.get("depends"):
        return True
    plugins = item.config.pluginmanager
    plugin: Any = plugins.get_plugin("dependency") or plugins.get_plugin("pytest_dependency")
    try:
        if plugin is not None:
            plugin.pytest_runtest_setup(item)
    except BaseException as outcome:  # pytest's own outcomes are no Exceptions
        if isinstance(outcome, KeyboardInterrupt | pytest.exit.Exception):
            raise
        return False
    return True


def _is_derandomized(item: pytest.Item) -> bool:
    found: Any = getattr(item, "obj", None)
    found = getattr(found, "__func__", found)
    while found is not None and not hasattr(found, "_hypothesis_internal_use_settings"):
        found = getattr(found, "__wrapped__", None)
    settings = getattr(found, "_hypothesis_internal_use_settings", None)
    return bool(getattr(settings, "derandomize", False))


class Snapshots:
    """The snapshots that tests used of syrupy's, which must count as used when they are
    replayed: what nobody used is called unused, and deleted by an update."""

    NAME = "syrupy"

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen = 0

    @property
    def _session(self) -> Any:
        return getattr(self._config, "_syrupy", None)

    def begin(self) -> None:
        """A test begins."""
        session = self._session
        self._seen = len(session._assertions) if session is not None else 0

    def used(self) -> list[object]:
        """What the test used that began last, as JSON values."""
        session = self._session
        found: list[object] = []
        for assertion in session._assertions[self._seen :] if session is not None else ():
            kind = type(assertion.extension)
            for result in assertion.executions.values():
                path = str(result.snapshot_location).removeprefix(f"{self._config.rootpath}/")
                found.append([kind.__module__, kind.__qualname__, path, result.snapshot_name])
        return found

    def hand(self, item: pytest.Item, used: Iterable[Any]) -> None:
        """Tells syrupy of what a replayed test used. Raises LookupError where it cannot be."""
        session = self._session
        if session is None:
            raise LookupError("syrupy is not active")
        location = sys.modules["syrupy.location"].PyTestLocation(item)
        base = sys.modules["syrupy.extensions.base"].AbstractSyrupyExtension
        requests = []
        for module, name, path, snapshot in used:
            kind = getattr(sys.modules.get(module), name, None)
            if not (isinstance(kind, type) and issubclass(kind, base)):
                raise LookupError(f"syrupy's extension {name} is not loaded")
            result = SimpleNamespace(
                snapshot_location=str(self._config.rootpath / path),
                snapshot_name=snapshot,
                final_data=None,
                created=False,
                updated=False,
                success=True,
                exception=None,
                test_location=location,
            )
            request = SimpleNamespace(
                extension=kind(), test_location=location, session=session, executions={0: result}
            )
            requests.append(request)
        for request in requests:
            session.register_request(request)


_END = 624
"""Words of the state of MT19937; where the position is right after seeding."""


class Randomness:
    """Whether a test drew from the generators that pytest-randomly seeds, or a fixture did that it
    shares. They are seeded anew before each phase of a test (unless told not to), and a Mersenne
    Twister that was just seeded stands at the end of its state: one that stands elsewhere was
    drawn from."""

    def __init__(self, config: pytest.Config) -> None:
        self._reseeds = bool(getattr(config.option, "randomly_reset_seed", True))
        self._before: object = None
        self._drawn = False

    def begin(self) -> None:
        """A test begins."""
        self._drawn = False
        self._before = random_state()

    def has_drawn(self, instances: Iterable[Instance]) -> bool:
        """Whether the test that began last drew, or a fixture that it uses, as it was set up."""
        if not self._reseeds:
            self._drawn |= random_state() != self._before
        return self._drawn or any(instance.drew for instance in instances)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(self) -> Generator[None, object, object]:
        """Looks after each phase of a test."""
        try:
            return (yield)
        finally:
            if self._reseeds and any(each != _END for each in _positions()):
                self._drawn = True

    pytest_runtest_setup = pytest_runtest_teardown = pytest_runtest_call


def _positions() -> list[int]:
    positions = [random.getstate()[1][-1]]
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None and numpy.get_state()[0] == "MT19937":
        positions.append(int(numpy.get_state()[2]))
    return positions


def random_state() -> object:
    """Another one once somebody draws from, or seeds, the generators of `random` and numpy."""
    drawn, numpy = random.getstate(), sys.modules.get("numpy.random")
    if numpy is None:
        return hash(drawn)
    name, words, *rest = numpy.get_state()
    return hash((drawn, name, words.tobytes(), *rest))
