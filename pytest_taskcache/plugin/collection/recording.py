"""Watches files that are collected really."""

from __future__ import annotations

import re
import warnings

import pytest

from pytest_taskcache.code.asleep import loaded_namespaces
from pytest_taskcache.model.dependency import Observed
from pytest_taskcache.observation.observatory import Observatory
from pytest_taskcache.plugin.collection.collection_record import (
    CollectionRecord,
    Json,
    UnrecordableError,
)
from pytest_taskcache.plugin.collection.pytest_nodes import Description, import_root
from pytest_taskcache.plugin.fixture_effects import global_state
from pytest_taskcache.plugin.outcomes.replays import can_warn, warning_from_json, warning_to_json


class Recording:
    """One file whose collection is watched, from the start of its import to the next file's."""

    def __init__(self, module: pytest.Module, observation: Observatory) -> None:
        self.module = module
        self.refusal = ""
        self.lasting = False
        """Whether the refusal will be the same as long as the file is."""
        self.observed = Observed()
        self.items: list[pytest.Item] = []
        self.record = CollectionRecord("", [], [], 0)
        self._observation = observation
        self._description = Description(self.record.table)
        self._item_of: dict[int, pytest.Item] = {}
        self._open: dict[pytest.Collector, list[Json]] = {module: self.record.children}
        self._warned = len(_warnings() or ())
        path = str(module.path)
        if any(names.get("__file__") == path for _, names in loaded_namespaces()):
            self.refusal = "it was imported before it was collected"
        with observation.muted():
            self._before = global_state()
        self._window = observation.open_window(None)

    def owns(self, collector: pytest.Collector) -> bool:
        """Whether a collector is a part of this file."""
        return collector.getparent(pytest.Module) is self.module

    def collected(self, collector: pytest.Collector, report: pytest.CollectReport) -> None:
        """Takes what one of its collectors gave, before any hook sees it."""
        if self.refusal:
            return
        if not report.passed:
            self.refuse(f"collecting it {report.outcome}", lasting=False)
            return
        entries = self._open.pop(collector, [])
        try:
            for node in report.result:
                entry = self._description.node(node)
                entries.append(entry)
                if isinstance(node, pytest.Item):
                    self._item_of[id(entry)] = node
                else:
                    self._open[node] = entry["c"]
        except UnrecordableError as error:
            self.refuse(str(error))
        except Exception as error:  # a plugin's item may be as odd as it likes
            self.refuse(f"it cannot be described ({type(error).__name__})")

    def refuse(self, reason: str, *, lasting: bool = True) -> None:
        """Notes why there will be no record; the first reason counts."""
        if not self.refusal:
            self.refusal, self.lasting = reason, lasting

    def finish(self, acting: Observed) -> None:
        """Ends the watch; ``acting`` is what the project's plugins rest on."""
        if self._open:
            self.refuse("it was collected in part", lasting=False)
        if not self.refusal:
            with self._observation.muted():
                self._complete()
        if self.refusal:
            self._window.discard()
            return
        self._window.absorb(acting.trace)
        self.observed = self._window.close()
        doubts = (*self.observed.untrusted, *acting.untrusted)
        if doubts:
            self.refuse(doubts[0], lasting=False)
        elif self.observed.opaque:
            self.refuse(f"importing it used {self.observed.opaque[0]}")
        elif self.observed.written:
            self.refuse(f"importing it wrote {self.observed.written[0]}")

    def _complete(self) -> None:
        module, record = self.module, self.record
        # In the order of the tree: a class's tests were met after all that stands beside it.
        self.items = [self._item_of[id(one)] for one in record.entries() if "c" not in one]
        record.tests = {item.nodeid.partition("::")[2]: "" for item in self.items}
        changed = self._left_behind()
        if len(record.tests) != len(self.items):
            self.refuse("two of its tests have one name")
        elif hasattr(module.obj, "pytest_plugins"):
            self.refuse("it names pytest_plugins")
        elif changed:
            self.refuse(f"importing it changes {changed}")
        elif asks_the_clock(module.path.read_bytes()):
            self.refuse("it asks for the time or for chance when it is imported")
        record.module = str(module.obj.__name__)
        record.marks = self._description.marks(module.own_markers)
        made = (_warnings() or ())[self._warned :]
        record.warnings = [warning_to_json(one, "collect", None) for one in made]

    def _left_behind(self) -> str:
        """What is not as it was before the import, but for the directory in ``sys.path`` that
        pytest imports from; "" if all is."""
        before, after = self._before, global_state()
        root = str(import_root(self.module.config, self.module.path))
        for state in (before, after):
            state["sys.path"] = [entry for entry in state["sys.path"] if entry != root]
        return next((what for what, value in before.items() if after[what] != value), "")


def _warnings() -> list[warnings.WarningMessage] | None:
    """The warnings that pytest caught while it collects; None where it catches nothing."""
    log = getattr(getattr(warnings, "_showwarnmsg_impl", None), "__self__", None)
    return log if isinstance(log, list) else None


def warn_again(record: CollectionRecord) -> bool:
    """Has pytest show the warnings of a record; False, and shows none, where one cannot be made."""
    if not record.warnings:
        return True
    log = _warnings()
    if log is None or not can_warn(record.warnings):
        return False
    log.extend(warning_from_json(entry) for entry in record.warnings)
    return True


_CLOCKS = re.compile(
    rb"\b(?:today|now|utcnow|localtime|gmtime|time_ns|monotonic|perf_counter|time|uuid1|uuid4|"
    rb"urandom|token_hex|token_bytes|token_urlsafe|random|randint|randrange|choice|choices|sample|"
    rb"shuffle|uniform|getpid|gethostname|getnode)\s*\("
)
_NAMES = frozenset(re.findall(r"[a-z_0-9]{3,}", _CLOCKS.pattern.decode()))


def asks_the_clock(source: bytes) -> bool:
    """Whether a test file calls, outside of its functions, something that looks like a clock or
    chance: nobody sees such a call, and its tests may be others tomorrow."""
    if not _CLOCKS.search(source):
        return False
    import ast

    try:
        pending: list[ast.AST] = [ast.parse(source)]
    except (SyntaxError, ValueError):
        return True
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call):
            called = node.func
            name = getattr(called, "attr", getattr(called, "id", ""))
            made = name == "time" and (node.args or node.keywords)  # a time of day
            if name in _NAMES and not made:
                return True
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending.extend((*node.decorator_list, *node.args.defaults))
        elif not isinstance(node, ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))
    return False
