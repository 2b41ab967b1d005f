"""The trace of a window that closes: names from what it saw, digests from the present.

A trace is what the window itself touched, one CODE dependency for the functions that ran in it, and
what the values it reused rest on. Nothing is parsed and no graph is walked, but where something was
done outside of windows that cannot be observed.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice

import xxhash

from pytest_taskcache.code.asleep import namespace_of
from pytest_taskcache.code.definitions import PART, Analysis, DefinitionKind
from pytest_taskcache.code.distributions import normalized
from pytest_taskcache.code.import_graph import Graph, closure, import_graph
from pytest_taskcache.code.reach import FILE, MODULE, Reached, affected
from pytest_taskcache.model.dependency import (
    ABSENT,
    INTERPRETER,
    Dependency,
    Kind,
    Observed,
    Opaque,
    Trace,
)
from pytest_taskcache.observation.code_log import CodeLog, SourceFile, code_dependency
from pytest_taskcache.observation.code_verdicts import log_of
from pytest_taskcache.observation.hooks import environ
from pytest_taskcache.observation.hooks.environ import EVERYTHING, at_start, same
from pytest_taskcache.observation.hooks.import_hooks import source_of
from pytest_taskcache.observation.scratch import Scratch
from pytest_taskcache.observation.verify import Verification
from pytest_taskcache.observation.window import SLACK, OpenWindow, changed, is_newer
from pytest_taskcache.originals import originals
from pytest_taskcache.ports import Fingerprints

_WRITTEN = 8
_RUN = "<tmp>"
UNNAMED = frozenset({"__main__", "__mp_main__", "__init__"})
"""Last parts of module names that say nothing: what runs first, and packages by the way."""

Digests = dict[tuple[Kind, str], str]


def digest_of(dependencies: Iterable[Dependency]) -> str:
    """The trace's digest: xxh3-128, hexadecimal, of kinds, names and digests in order. None of
    the three can hold the separator, NUL."""
    text = "\0".join(chain.from_iterable(dependencies))
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


class TraceRecorder:
    """Turns closed windows into what they observed. ``natives`` are the project's extensions that
    were loaded: the act and the path, by name."""

    def __init__(
        self,
        fingerprints: Fingerprints,
        find: Callable[[str], SourceFile | None],
        scratch: Scratch,
        verification: Verification,
        log: CodeLog,
    ) -> None:
        self._fingerprints = fingerprints
        self._modules: set[str] = set()
        self._loaded: tuple[int, str] = (0, "")
        self._tops: set[str] = set()
        self._distributions: dict[str, list[str]] = {}
        self._find = find
        self._scratch = scratch
        self._verification = verification
        self._log = log
        self.natives: dict[str, tuple[Opaque, str]] = {}
        self._graph: Graph = {}
        self._graph_state = (0, 0, 0, 0)
        self._acts: list[Reached] = []
        self._loads: Reached | None = None
        self._numbers: dict[tuple[str, str], int] = {}
        self._variables: dict[str, tuple[bytes | None, set[str]]] = {}

    def record(self, window: OpenWindow) -> Observed:
        """What a window saw, whose collecting has ended."""
        with self._fingerprints.one_look():
            return self._record(window)

    def _record(self, window: OpenWindow) -> Observed:
        ran, templates = self._ran(window)
        for path in templates:
            window.reads.setdefault((Kind.FILE, path), True)
        opaque: dict[Opaque, None] = dict.fromkeys(window.opaque)
        for act, path in self._acts_of_imports(ran, window):
            opaque[act] = None
            if path:
                window.reads.setdefault((Kind.FILE, path), True)
        found: Digests = {}
        doubts: dict[str, None] = dict(window.untrusted)
        ran |= self._add_paths(window, found, doubts)
        self._add_variables(window, found)
        self._add_imports(window, found)
        if window.working_directory is not None:
            found[Kind.WORKING_DIRECTORY, "."] = window.working_directory
        for name in INTERPRETER if window.subject else ():  # that of tests is in their key
            found[Kind.INTERPRETER, name] = self._verification.digest(Kind.INTERPRETER, name)
        uses = dict(window.uses)
        code = self._absorb(window, found, doubts)
        self._add_distributions()
        log = self._log
        position = len(log.nodes)  # before another thread comes further
        segments = log.flush()
        uses.update(dict.fromkeys(segments))
        own = code_dependency(log.name, segments, position, ran, whole=not window.complete)
        ordered = tuple(
            sorted({own, *code, *(Dependency(*key, digest) for key, digest in found.items())})
        )
        trace = Trace(ordered, digest_of(ordered), tuple(uses))
        self._own(window, trace.digest)
        names = tuple(self._fingerprints.name_of(path) for path in islice(window.changed, _WRITTEN))
        return Observed(trace, tuple(opaque), tuple(doubts), names)

    def renewed(self, trace: Trace) -> Trace:
        """The same trace, with the log of this process as it is now in place of what it was:
        records that are written together then share the same parts."""
        segments = self._log.flush()
        if not segments:
            return trace
        found: list[Dependency] = []
        stale: set[str] = set()
        needed: set[str] = set()  # by the logs of others, a part of which may be the same
        for dependency in trace.dependencies:
            if dependency.kind is Kind.CODE:
                part = dependency.name.split(":")
                is_own = part[0] == self._log.name
                (stale if is_own else needed).update(part[1].split(","))
                if is_own:
                    part[1] = ",".join(blob.digest for blob in segments)
                    dependency = Dependency(Kind.CODE, ":".join(part), segments[-1].digest)
            found.append(dependency)
        if not stale:
            return trace
        stale -= needed
        uses = [blob for blob in trace.uses if blob.digest not in stale]
        ordered = tuple(sorted(found))
        return Trace(ordered, digest_of(ordered), tuple(dict.fromkeys((*uses, *segments))))

    def _ran(self, window: OpenWindow) -> tuple[set[int], list[str]]:
        """The positions of what ran, and the files of code that is no Python (templates)."""
        log = self._log
        log.read_runs()
        ran: set[int] = set()
        templates: list[str] = []
        noted = (code for piece in window.pieces for code in list(piece.values()))
        for code in chain(noted, window.running):
            position = log.position(code)
            if position >= 0:
                ran.add(position)
            else:
                source = self._find(code.co_filename)
                if source is not None:
                    templates.append(source.path)
        loaded = (source_of(sys.modules.get(name)) for name in chain(window.tried, window.asked))
        for filename in chain([window.subject], window.modules, loaded):
            source = self._find(filename) if filename else None
            if source is not None and source.python:
                ran.add(log.root(source))
        return ran, templates

    def _add_distributions(self) -> None:
        """Enters the distributions that were loaded from since."""
        state = len(sys.modules), next(reversed(sys.modules), "")  # what is new comes last
        if state == self._loaded:
            return
        self._loaded = state
        names = set(sys.modules) - self._modules
        self._modules |= names
        for name in names:
            space = namespace_of(sys.modules.get(name))
            if space.get("__path__") and not space.get("__file__"):  # others may add to it
                self._log.touch_imported(name.rpartition(".")[2], Kind.IMPORT, name, name)
        tops = {name.partition(".")[0] for name in names} - self._tops
        self._tops |= tops
        fresh: dict[str, list[str]] = {}
        for top in tops - sys.stdlib_module_names:
            for distribution in self._fingerprints.owners(top):
                fresh.setdefault(distribution, []).append(top)
        for name, modules in fresh.items():
            self._distributions.setdefault(name, []).extend(modules)
        for name, modules in self._distributions.items() if fresh else ():
            # Whoever imports it uses what it requires, too: a new numpy changes what pandas does.
            for each in self._fingerprints.requirements(name):
                if each in fresh or (name in fresh and each in self._distributions):
                    digest = self._verification.digest(Kind.DISTRIBUTION, each)
                    self._log.add_distribution(each, digest, modules)

    def _acts_of_imports(self, ran: set[int], window: OpenWindow) -> list[tuple[Opaque, str]]:
        """What cannot be observed of the modules that this code leads to: children that their
        imports ran, also where these set what came of it on something else, and extensions of the
        project, with their files."""
        log = self._log
        if not log.opaque and not self.natives:
            return []
        self._look_where_acts_lead()
        files = {log.file_of(each) for each in ran}
        led_to = closure(self._graph, files)
        shared = ((owner, act) for owner, act, all_of in log.opaque if all_of)
        found = [(act, "") for owner, act in shared if log.file_of(owner) in led_to]
        found += [
            (act, path)
            for name, (act, path) in sorted(self.natives.items())
            if name in led_to or path in window.modules
        ]
        nodes = [self._number_of(each) for each in ran]
        for reached in self._acts:
            if cause := reached.invalid(nodes, len(self._numbers)):
                found.append((log.opaque[int(cause)][1], ""))
        if self._loads is not None and self._loads.invalid(nodes, len(self._numbers)):
            found += self.natives.values()
        return found

    def _look_where_acts_lead(self) -> None:
        log = self._log
        state = (len(log.files), len(log.imports), len(self.natives), len(log.opaque))
        if state == self._graph_state:
            return
        self._graph_state = state
        analysed = self._verification.archive.present
        analyses = {name: analysed(name, digest) for name, digest in log.digests.items()}
        self._graph = import_graph([*log.digests, *self.natives], tuple(log.imports), analyses)
        # As what an import read leads to all who get at what it made of that, whatever runs until
        # then; by kinds, since each may be allowed by itself.
        nodes = [
            (file, name)
            for file, one in analyses.items()
            for name in (MODULE, FILE, *(d.name for d in (one.definitions if one else ())))
        ]
        self._numbers = {node: number for number, node in enumerate(nodes)}
        walked = log_of(nodes, analyses, self._graph, complete=False)
        touched: dict[str, dict[int, tuple[int, str]]] = {}
        for number, (owner, act, _) in enumerate(log.opaque):
            touched.setdefault(act.kind, {})[self._number_of(owner)] = 0, str(number)
        self._acts = [affected(walked, {}, each) for each in touched.values()]
        loads = dict.fromkeys(self._users_of_natives(analyses), (0, "native"))
        self._loads = affected(walked, {}, loads) if loads else None

    def _users_of_natives(self, analyses: Mapping[str, Analysis | None]) -> Iterator[int]:
        """The definitions that mention what their file imported of the project's extensions."""
        for file, leads in self._graph.items():
            modules = {
                sign + name.rpartition("/")[2].partition(".")[0]
                for name in self.natives.keys() & leads
                for sign in ("", PART)
            }
            one = analyses.get(file)
            if one is None or not modules:
                continue
            imports = [each for each in one.definitions if each.kind is DefinitionKind.IMPORT]
            names = {name for each in imports if modules & each.mentions for name in each.binds}
            for each in one.definitions:
                if each not in imports and names & each.mentions:
                    yield self._numbers[file, each.name]

    def _number_of(self, node: int) -> int:
        file, name = self._log.file_of(node), self._log.nodes[node][1]
        return self._numbers.get((file, name), self._numbers[file, MODULE])

    def _add_paths(self, window: OpenWindow, found: Digests, doubts: dict[str, None]) -> set[int]:
        """Adds what was read; the nodes of those who made, before any window, what was."""
        makers: set[int] = set()
        for kind, path in list(window.reads):
            if self._scratch.holds(path):
                # What another one wrote there since may be something else, if no input tells.
                others = set() if window.counts(path) else window.inherited
                nodes = self._scratch.derived_from(path, {*window.absorbed} - others)
                if nodes is not None:
                    makers.update(nodes)
                    continue
            name = self._fingerprints.name_of(path)
            early = window.early.get((kind, path))
            if early is not None:
                found[kind, name] = early
                continue
            if name == _RUN:
                continue  # the run's own directory: there as soon as anyone asks for one
            found[kind, name] = self._verification.digest(kind, name)
            moment = window.opened
            if self._scratch.changed_at(path) > moment - 10 * SLACK:
                moment += SLACK  # its youth is our own doing, unless it is younger than the window
            if not window.changed_here(path) and _changed_since(kind, path, moment):
                doubts[changed(name)] = None
        for kind, path in list(window.left):
            if not self._scratch.holds(path):
                name = self._fingerprints.name_of(path)
                found[Kind.LEFT, f"{kind} {name}"] = self._verification.digest(kind, name)
        return makers

    def _add_variables(self, window: OpenWindow, found: Digests) -> None:
        for name in list(window.variables):
            value, owners = self._variables.get(name, (None, set()))
            set_for_it = not owners.isdisjoint(window.absorbed) and window.variables[name] == value
            if set_for_it and not window.subject:
                continue  # a fixture of the test set it; for a value, another one may have set it
            early = window.early.get((Kind.ENVIRONMENT, name))
            if name == EVERYTHING and window.late:
                # Read after the computation changed some of it: what was there before counts.
                if same(window.environment, self._verification.start):
                    name, early = at_start(name), None
                else:
                    early = self._fingerprints.variable_digest(name, window.environment)
            found[Kind.ENVIRONMENT, name] = (
                self._verification.digest(Kind.ENVIRONMENT, name) if early is None else early
            )

    def _add_imports(self, window: OpenWindow, found: Digests) -> None:
        for name in [*window.tried, *window.asked]:
            if name.rpartition(".")[2] in UNNAMED:
                continue
            filename = source_of(sys.modules.get(name))
            if filename and self._scratch.holds(filename) and window.covers(filename):
                found[Kind.IMPORT, name] = ABSENT  # as it is before the computation runs
            elif name not in sys.modules or (filename and self._find(filename) is not None):
                found[Kind.IMPORT, name] = self._verification.digest(Kind.IMPORT, name)
        for distribution in list(window.distributions):
            kind = Kind.DISTRIBUTIONS if distribution == EVERYTHING else Kind.DISTRIBUTION
            name = normalized(distribution)
            found[kind, name] = self._verification.digest(kind, name)

    def _absorb(
        self, window: OpenWindow, found: Digests, doubts: dict[str, None]
    ) -> list[Dependency]:
        """Adds what reused values rest on; the CODE dependencies among it."""
        code: list[Dependency] = []
        for dependency in chain.from_iterable(window.absorbed.values()):
            if dependency.kind in (Kind.CODE, Kind.TRACE):
                code.append(dependency)
                continue
            key = (dependency.kind, dependency.name)
            if found.setdefault(key, dependency.digest) != dependency.digest:
                doubts[changed(dependency.name)] = None
                found[key] = dependency.digest
        return code

    def _own(self, window: OpenWindow, trace: str) -> None:
        """Notes what this computation leaves behind for those that reuse it."""
        self._scratch.own(chain(window.written, window.made), trace)
        for name in window.set_here:
            value = environ.present(name)
            before, owners = self._variables.get(name, (None, set()))
            if window.is_outer(name, value):
                continue
            self._variables[name] = (value, {*owners, trace} if before == value else {trace})


def _changed_since(kind: Kind, path: str, moment: int) -> bool:
    """Whether something else changed what was read. A directory's own times tell of its
    entries, which matter to a listing only; ``__pycache__`` is no entry of interest."""
    if not is_newer(path, moment):
        return False
    if kind is Kind.STAT:
        try:
            return not stat.S_ISDIR(originals.stat(path).st_mode)
        except OSError:
            return True
    if kind is Kind.LISTING:
        return not is_newer(os.path.join(path, "__pycache__"), moment)
    return True
