"""Watches files that are collected really, and keeps the records of their collections: in the local
index, as ordinary variants, so that what their traces share with others lives as long as they do.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from inspect import CO_OPTIMIZED
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_taskcache.checksum import checksum, checksum_bytes
from pytest_taskcache.code.byte_code import nested, use_of
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.lookup import with_more
from pytest_taskcache.engine.routes import bytes_of
from pytest_taskcache.model.dependency import Dependency, Kind, Observed, Trace
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.model.key import SCHEMA, Identity
from pytest_taskcache.model.modes import Mode
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.originals import originals
from pytest_taskcache.plugin.collection.pytest_nodes import (
    FORMAT,
    CollectionRecord,
    DamagedRecordError,
    Description,
    Json,
    UnrecordableError,
    describe_marks,
    import_root,
    is_skipped_by_mark,
    loaded_type,
    prepare_import,
    sources_of,
)
from pytest_taskcache.plugin.fixture_effects import global_state
from pytest_taskcache.plugin.items import node_id
from pytest_taskcache.plugin.outcomes.replays import can_warn, warning_from_json, warning_to_json
from pytest_taskcache.plugin.pytest_private import written_ini
from pytest_taskcache.plugin.surroundings import plugin_distributions

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

_RECORD = "collection/json"
_SELECTION = "selection/json"

_SKIPPED = "Skipped: "
"""Begins what a report says of who called `pytest.skip`."""

_COLLECTING = ("python_files", "python_classes", "python_functions", "markers")
"""Ini settings that no outcome depends on, but which tests there are."""

_SELECTING = (
    "keyword", "markexpr", "deselect", "ignore", "ignore_glob", "pyargs", "doctestmodules",
    "doctestglob", "keepduplicates", "collect_in_virtualenv", "noconftest",
)  # fmt: skip
_BY_HISTORY = ("lf", "stepwise", "newfirst", "looponfail", "collectonly", "rsyncdir")


class Recording:
    """One file whose collection is watched, from the start of its import to the next file's."""

    def __init__(self, module: pytest.Module, session: Session) -> None:
        self.module, observation = module, session.observatory
        self.refusal = ""
        self.lasting = False
        """Whether the refusal will be the same as long as the file is."""
        self.observed = Observed()
        self.found: list[Dependency] = []
        """Where an import of this name leads: another file that it leads to hides this one."""
        self.items: list[pytest.Item] = []
        self.record = CollectionRecord("", [], [])
        self._observation = observation
        self._digest = session.fingerprints.digest
        self._description = Description()
        self._item_of: dict[int, pytest.Item] = {}
        self._open: dict[pytest.Collector, list[Json]] = {module: self.record.children}
        self._warned = len(_warnings() or ())
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
        entries = self._open.pop(collector, [])
        if report.skipped and collector is self.module and isinstance(report.longrepr, tuple):
            path, line, text = report.longrepr
            self.record.skip = [line, text.removeprefix(_SKIPPED)]
            if path != str(self.module.path) or not text.startswith(_SKIPPED):
                self.refuse("it is skipped by code of another file")
            return
        if not report.passed:
            self.refuse(f"collecting it {report.outcome}", lasting=False)
            return
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
        before, after = self._before, global_state()
        root = str(import_root(module.config, module.path))
        for state in (before, after):  # pytest adds the directory that it imports from
            state["sys.path"] = [entry for entry in state["sys.path"] if entry != root]
        changed = next((what for what, value in before.items() if after[what] != value), "")
        body = self._window.body_of(str(module.path))
        if len(record.tests) != len(self.items):
            self.refuse("two of its tests have one name")
        elif not record.skip and hasattr(module.obj, "pytest_plugins"):
            self.refuse("it names pytest_plugins")
        elif changed:
            self.refuse(f"importing it changes {changed}")
        elif body is None:
            self.refuse("its import was not seen, as of a file imported before", lasting=False)
        elif _reads(body) & _NAMES and asks_the_clock(module.path.read_bytes()):
            self.refuse("it asks for the time or for chance when it is imported")
        record.module = module.nodeid if record.skip else str(module.obj.__name__)
        if not record.skip:
            place = self._digest(Kind.IMPORT, record.module)
            self.found.append(Dependency(Kind.IMPORT, record.module, place))
        record.marks = describe_marks(module.own_markers)
        made = (_warnings() or ())[self._warned :]
        record.warnings = [warning_to_json(one, "collect", None) for one in made]


def _warnings() -> list[warnings.WarningMessage] | None:
    """The warnings that pytest caught while it collects; None where it catches nothing."""
    log = getattr(getattr(warnings, "_showwarnmsg_impl", None), "__self__", None)
    return log if isinstance(log, list) else None


def warn_again(record: CollectionRecord) -> list[warnings.WarningMessage] | None:
    """Has pytest show the warnings of a record, which it returns; None, and shows none, where one
    cannot be made."""
    if not record.warnings:
        return []
    log = _warnings()
    if log is None or not can_warn(record.warnings):
        return None
    made = [warning_from_json(entry) for entry in record.warnings]
    log += made
    return made


def take_back(warned: Sequence[warnings.WarningMessage]) -> None:
    """Has pytest not show these, if it has not yet."""
    log = _warnings() if warned else None
    if log is not None:
        log[:] = [one for one in log if not any(one is each for each in warned)]


_CLOCKS = re.compile(
    rb"\b(?:today|now|utcnow|localtime|gmtime|time_ns|monotonic|perf_counter|time|uuid1|uuid4|"
    rb"urandom|token_hex|token_bytes|token_urlsafe|random|randint|randrange|choice|choices|sample|"
    rb"shuffle|uniform|getpid|gethostname|getnode)\s*\("
)
_NAMES = frozenset(re.findall(r"[a-z_0-9]{3,}", _CLOCKS.pattern.decode()))


def _reads(body: CodeType) -> set[str]:
    """The names that a module's body reads, those of its functions left out."""
    own = [one for one in nested(body) if not one.co_flags & CO_OPTIMIZED or one.co_name[0] == "<"]
    return {name for one in own for name in use_of.__wrapped__(one).mentions()}


def asks_the_clock(source: bytes) -> bool:
    """Whether a test file calls, outside of its functions, something that looks like a clock or
    chance: nobody sees such a call, and its tests may be others tomorrow."""
    if not _CLOCKS.search(source):
        return False
    import ast  # most files get no further

    from pytest_taskcache.code.syntax import parsed

    try:
        pending: list[ast.AST] = [parsed(source)]
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


class Kept(NamedTuple):
    """A record that is valid, and the variant that holds it."""

    variant: Variant
    record: CollectionRecord


class CollectionRecords:
    """The records of one run, to be asked for where there is an engine. A fault of the storage is
    notified, and there is no record."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._around: dict[Path, list[str]] = {}
        self._number = itertools.count(1)

    @functools.cached_property
    def _engine(self) -> Engine:
        engine = self._session.engine
        assert engine is not None
        return engine

    def find(self, file: Path) -> Kept | None:
        """The newest record of a file that is valid. One that is damaged is dropped."""
        for variant in self.read(self.key(file)):
            if not self._session.observatory.verify(variant.trace):
                record = self._decoded(variant)
                if record is not None:
                    return Kept(variant, record)
                self.drop([variant])
        return None

    def keep(self, recordings: Sequence[Recording]) -> None:
        """Writes records of what was watched, and of files that they will always be refused."""
        variants = []
        for each in recordings:
            record, file = each.record, each.module.path
            if not each.refusal:
                variants.append(self.variant_of(file, record, self._with_sources(each)))
            elif each.lasting:
                refused = CollectionRecord("", [], [], reason=each.refusal)
                variants.append(self.variant_of(file, refused, self._text_of([str(file)])))
        self.write(variants)

    def variant_of(self, file: Path, record: CollectionRecord, trace: Trace) -> Variant:
        """A record of a file; nothing is written."""
        identity = Identity(self._session.fingerprints.name_of(file), "<collection>")
        return self.variant(self.key(file), identity, _RECORD, record.encode(), trace)

    def variant(
        self, key: str, identity: Identity, serializer: str, data: bytes, trace: Trace
    ) -> Variant:
        """A record of this room; nothing is written."""
        engine, age = self._engine, self._session.settings.tests_max_age
        now = engine.parts.clock()
        return Variant(
            id=f"{originals.now():016x}-{engine.run.id}-{engine.process}-c{next(self._number)}",
            key=key,
            identity=identity,
            parts=(),
            trace=trace,
            result=Result(checksum_bytes(data), len(data), serializer, data),
            created=now,
            expires=None if age is None else now + age.total_seconds(),
            duration=0.0,
            producer=str(identity),
            versions=engine.parts.versions,
        )

    def read(self, key: str) -> list[Variant]:
        """The records under a key that have not expired, newest first."""
        found: Sequence[Variant] = ()
        with self._session.counting_faults():
            found = self._engine.parts.local.read_records([key]).get(key, ())
        now = self._engine.parts.clock()
        return [each for each in found if each.expires is None or each.expires > now]

    def write(self, variants: Sequence[Variant]) -> None:
        """Writes records."""
        if not variants:
            return
        with self._session.counting_faults():
            for variant in variants:
                self._engine.recorder.write_parts(variant)
            self._engine.parts.local.write_records(variants)

    def drop(self, variants: Sequence[Variant]) -> None:
        """Forgets records."""
        if not variants or self._engine.parts.mode is not Mode.READ_WRITE:
            return
        with self._session.counting_faults():
            self._engine.parts.local.remove_records([variant.id for variant in variants])

    def _decoded(self, variant: Variant) -> CollectionRecord | None:
        with self._session.counting_faults():
            try:
                data = bytes(bytes_of(variant.result, self._engine.parts.local) or b"")
                if checksum_bytes(data) != variant.result.digest:
                    raise DamagedRecordError("damaged")
                record = CollectionRecord.decode(data)
                if all(loaded_type(one["T"]) for one in record.entries() if "T" in one):
                    return record
            except DamagedRecordError as error:
                self._session.notify(Faulted("record of a collection is damaged", str(error)))
        return None

    def _with_sources(self, recording: Recording) -> Trace:
        """The trace, and the text of the files that the tests come from: where their lines are,
        and which tests a class or module has, is no matter of its code's meaning."""
        trace = recording.observed.trace
        paths = sources_of(recording.module, recording.items)
        known = {(one.kind, one.name) for one in trace.dependencies}
        more = (*self._text_of(paths).dependencies, *recording.found)
        return with_more(trace, (one for one in more if (one.kind, one.name) not in known))

    def _text_of(self, paths: Iterable[str]) -> Trace:
        world = self._session.fingerprints
        names = {world.name_of(path) for path in paths if world.is_project_file(path)}
        texts = (Dependency(Kind.FILE, n, world.digest(Kind.FILE, n)) for n in names)
        return with_more(Trace(), texts)

    def key(self, file: Path) -> str:
        """The key of a file's records: what surrounds its collection, the same in every process
        of a run. Options, plugins, interpreter, and the sources of the conftests that act on it,
        loaded or not."""
        world, directory = self._session.fingerprints, file.parent
        around = self._around.get(directory)
        if around is None:
            root = self._session.config.rootpath
            above = [one for one in (directory, *directory.parents) if one.is_relative_to(root)]
            names = [world.name_of(one / "conftest.py") for one in above]
            conftests = [world.digest(Kind.SOURCE, name) for name in names]
            around = self._around[directory] = [self._digest_of_run, *conftests]
        return checksum([*around, world.name_of(file)])

    @functools.cached_property
    def _digest_of_run(self) -> str:
        session, keys = self._session, self._session.outcomes.keys
        config, world = session.config, session.fingerprints
        written = written_ini(config)
        root = config.rootpath  # conftests below it count file by file, loaded or not
        plugins = keys.project_plugins()
        others = [one for one in plugins if one.name != "conftest.py" or root not in one.parents]
        parts: list[tuple[str, str]] = [
            *keys.run_wide,
            *((f"ini {name}", repr(_value(written.get(name)))) for name in _COLLECTING),
            # Those included that no outcome depends on: their hooks may act on collection.
            *((f"distribution {name}", version) for name, version in plugin_distributions(config)),
            *((name, world.digest(Kind.SOURCE, name)) for name in map(world.name_of, others)),
            ("pytest", pytest.__version__),
            ("record", f"{SCHEMA}.{FORMAT}"),
            ("tests", session.settings.tests.value),
        ]
        return checksum(itertools.chain.from_iterable(sorted(parts)))


class Selection:
    """Remembers which tests of which files a run of these arguments selects, so that the next one
    knows before it collects whether anything is left to run: if not, pytest-xdist need not start
    its workers. It is a guess: where it is wrong, the tests that are left run in this process."""

    def __init__(self, session: Session, records: CollectionRecords) -> None:
        self._session = session
        self._records = records
        option = session.config.option
        self._by_history = any(getattr(option, name, None) for name in _BY_HISTORY)

    def keep(self, items: Sequence[pytest.Item]) -> None:
        """Remembers what was selected, if all of it are tests that can be stood in for, and which
        files their directories hold, and those above them."""
        if self._by_history or not all(isinstance(item, pytest.Function) for item in items):
            return
        name_of = self._session.fingerprints.name_of
        files: dict[str, list[str]] = {}
        for item in items:
            file, _, name = node_id(item).partition("::")
            selected = files.setdefault(f"{name_of(item.path)}\n{file}", [])
            if not is_skipped_by_mark(item):
                selected.append(name)
        root, within = self._session.config.rootpath, {item.path.parent for item in items}
        above = {each for path in within for each in path.parents if each.is_relative_to(root)}
        named = {name_of(path): path for path in within | above}
        # A run's own temporary directory may lie where tests are looked for.
        directories = {n: _names_in(path) for n, path in named.items() if not n.startswith("<tmp>")}
        data = json.dumps({"directories": directories, "files": files}).encode()
        key = self._key()
        known = self._records.read(key)
        if not known or known[0].result.inline != data:
            identity = Identity("<selection>", "")
            self._records.write([self._records.variant(key, identity, _SELECTION, data, Trace())])
            self._records.drop(known)

    @functools.cached_property
    def _known(self) -> Json | None:
        """What the last run of these arguments selected; None where that is not known."""
        known = [] if self._by_history else self._records.read(self._key())
        if not known or known[0].result.inline is None:
            return None
        try:
            found: Json = json.loads(known[0].result.inline)
        except ValueError:
            return None
        return found

    def selected_in(self, module: pytest.Module) -> set[str]:
        """The tests of a file that will be selected, as far as can be told."""
        name = f"{self._session.fingerprints.name_of(module.path)}\n{module.nodeid}"
        return set(self._known["files"].get(name, ()) if self._known else ())

    def is_replayed_whole(self) -> bool:
        """Whether every test that this run selects will be replayed, as far as can be told."""
        if self._known is None:
            return False
        path_of, before = self._session.fingerprints.path_of, list(sys.path)
        whole = all(
            _names_in(path_of(name)) == names for name, names in self._known["directories"].items()
        ) and all(self._replays(name, selected) for name, selected in self._known["files"].items())
        if not whole:
            sys.path[:] = before  # which workers are given as it is
        return whole

    def _replays(self, name: str, selected: Sequence[str]) -> bool:
        file, _, nodeid = name.partition("\n")
        path = self._session.fingerprints.path_of(file)
        prepare_import(self._session.config, path)
        found = self._records.find(path)
        if found is None or found.record.reason:
            return False
        forecast = self._session.outcomes.forecast(path, nodeid)
        return all(found.record.tests.get(each) and each in forecast for each in selected)

    def _key(self) -> str:
        config = self._session.config
        return checksum(
            [
                *(repr(getattr(config.option, name, None)) for name in _SELECTING),
                repr([str(arg) for arg in config.args]),
                str(config.invocation_params.dir),
                repr(_value(written_ini(config).get("norecursedirs"))),
                self._records.key(config.rootpath / "."),
            ]
        )


def _names_in(directory: Path) -> str:
    """A digest of the files in a directory. A new directory is missed: its tests run here."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(one.name for one in entries if one.is_file() and one.name[0] != ".")
    except OSError:
        return ""
    return checksum(found)


def _value(written: Any) -> object:
    """What was written for an ini setting: in an object of pytest's since 9.1."""
    return getattr(written, "value", written)
