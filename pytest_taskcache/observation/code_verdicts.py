"""Whether the code that a record rests on is as it was.

The code part of all records of a log is judged together: its manifest (its files with their
contents' digests), its footprints and its distributions are compared with the present once.
Nothing differs: the code part of every record holds. Else one walk backwards from what changed
tells for each node when it began to reach a change, and a record is invalid if one of its nodes
did before the record's window closed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set

from pytest_taskcache.code.definitions import EVERYTHING as WHOLE_FILE
from pytest_taskcache.code.definitions import (
    IMPORTED,
    Analysis,
    Changed,
    Changes,
    Definition,
    diff,
    everything,
)
from pytest_taskcache.code.import_graph import Graph, closure, import_graph
from pytest_taskcache.code.reach import Log, Reached, affected
from pytest_taskcache.garbage import uncollected
from pytest_taskcache.model.dependency import ABSENT, Blob, Change, Dependency, Kind, Trace
from pytest_taskcache.observation.code_log import (
    LOADED,
    CodeLog,
    CodePart,
    DecodedLog,
    decode_code,
    decode_log,
)
from pytest_taskcache.observation.hooks.environ import without_mark
from pytest_taskcache.observation.source_archive import SourceArchive
from pytest_taskcache.ports import Shelf

Digest = Callable[[Kind, str], str]

CHANGES = 8
"""How many changes are named."""

_NOTHING = ""
"""Stands for the content of a file that a log has not met."""

_SLOTS = 64
_SHELVES = 256


def _shelf_of(log: str) -> tuple[str, str]:
    """Section and item of the shelf that tell where all of a log is: for those of the last runs,
    but for the few that another one was put upon."""
    number = int(log, 16)
    return f"code.heads {number // _SLOTS % _SHELVES}", str(number % _SLOTS)


class CodeVerdicts:
    """Verdicts by log. ``digest`` is the present one of a dependency; ``read`` gives segments,
    None for those that are lost."""

    def __init__(self, digest: Digest, archive: SourceArchive) -> None:
        self.read: Callable[[Blob], bytes | None] = lambda blob: None
        self.shelf: Shelf | None = None
        self._digest = digest
        self._archive = archive
        self._logs: dict[str, _Verdict] = {}
        self._met: set[str] = set()
        self._expected: dict[str, tuple[int, list[Blob]]] = {}
        self._ends: dict[str, Sequence[Blob]] = {}

    def keep_head(self, log: CodeLog) -> None:
        """Keeps where all of a log is, and of others as far as was seen here: who checks the first
        of its records would else know only as far as that came, and judge the log anew with each
        record that came further."""
        if self.shelf is None:
            return
        ends = self._ends | ({log.name: log.segments} if log.segments else {})
        for name, segments in ends.items():
            blobs = [[blob.digest, blob.size] for blob in segments]
            section, slot = _shelf_of(name)
            self.shelf.write(section, {slot: json.dumps([name, blobs]).encode()})

    def nodes(self, log: str) -> list[tuple[str, str]]:
        """The files and definitions of a log's nodes, in order; of one that was never checked,
        none."""
        verdict = self._logs.get(log)
        return verdict.nodes if verdict is not None else []

    def _head(self, name: str) -> list[Blob]:
        """All of a log, if it is known where that is; the slot may be another log's."""
        if self.shelf is None:
            return []
        section, slot = _shelf_of(name)
        try:
            log, blobs = json.loads(self.shelf.read(section).get(slot, b"[0, 0]"))
            return [Blob(digest, size) for digest, size in blobs] if log == name else []
        except (ValueError, TypeError):
            return []

    def reconsider(self) -> None:
        """Something that was asked for differs from what it was."""
        for verdict in self._logs.values():
            verdict.compared = False

    def meet(self, files: Iterable[str]) -> bool:
        """As `Verification.meet`."""
        self._met.update(files)
        if not any(verdict.misjudged() for verdict in self._logs.values()):
            return False
        self.reconsider()
        return True

    def imported(self, traces: Iterable[Trace], *, seen: bool = False) -> dict[str, set[str]]:
        """The files that were imported when these were recorded, which were checked, those that
        they import, and so on, each with what it imports; with ``seen``, which costs less, by what
        was seen to be imported first by whom."""
        found: dict[str, set[str]] = {}
        for verdict, first in self._files_of(traces).items():
            graph = verdict.seen_imports if seen else verdict.imports
            for name in closure(graph, first):
                found.setdefault(name, set()).update(graph[name])
        return found

    def outward(
        self, traces: Sequence[Trace], there: Set[str], apart: Collection[str]
    ) -> list[bool]:
        """Of each of these traces, which were checked, whether a file changes what others have when
        it is imported that was imported when it was recorded, and is not ``there`` now, or what ran
        then does, but for what the files ``apart`` hold."""
        leading: dict[_Verdict, set[str]] = {}
        for verdict, first in self._files_of(traces).items():
            importers: dict[str, list[str]] = {}
            for name in closure(verdict.imports, first):
                for each in verdict.imports[name]:
                    importers.setdefault(each, []).append(name)
            names = (importers.keys() | first) - there
            outward = (each for each in names if any(e.outward for e in self._outline(each)))
            leading[verdict] = closure(importers, outward)

        @functools.cache
        def taking(name: str) -> set[str]:
            return set() if name in apart else {e.name for e in self._outline(name) if e.takes}

        return [
            any(
                name in leading[verdict] or node in taking(name)
                for verdict, part in self._parts(trace)
                for name, node in (verdict.nodes[at] for each in part.ran for at in each)
            )
            for trace in traces
        ]

    def _outline(self, name: str) -> Sequence[Definition]:
        return self._archive.outline(name, self._digest(Kind.FILE, name)).definitions

    def _files_of(self, traces: Iterable[Trace]) -> dict[_Verdict, set[str]]:
        """The files of what ran, by the log that tells so."""
        files: dict[_Verdict, set[str]] = {}
        for verdict, part in (each for trace in traces for each in self._parts(trace)):
            nodes = (verdict.nodes[at] for ran in part.ran for at in ran)
            files.setdefault(verdict, set()).update(name for name, _ in nodes)
        return files

    def _parts(self, trace: Trace) -> Iterator[tuple[_Verdict, CodePart]]:
        for dependency in trace.dependencies:
            if dependency.kind is Kind.CODE:
                part = decode_code(dependency)
                yield self._logs[part.log], part

    def expect(self, dependency: Dependency, uses: Iterable[Blob]) -> None:
        """A record is about to be checked. Of all heads of one log the longest answers for all,
        so that it alone is read."""
        try:
            part = decode_code(dependency)
        except ValueError:
            return  # told when it is checked
        if self._expected.get(part.log, (-1, []))[0] < part.position:
            self._expected[part.log] = part.position, _segments(part, uses)

    def check(self, dependency: Dependency, uses: Iterable[Blob]) -> list[Change]:
        """What changed of the code that a record rests on; empty if nothing did."""
        try:
            part = decode_code(dependency)
        except ValueError:
            return [Change("code log", "unreadable", dependency.digest, "")]
        verdict = self._logs.get(part.log)
        if verdict is not None and verdict.length < part.position and (known := verdict.of(part)):
            return known  # more of the log leads to more changes, not to fewer
        if verdict is None or verdict.length < part.position:
            _, longest = self._expected.pop(part.log, (0, []))
            head = [] if verdict is not None else self._head(part.log)
            own = _segments(part, uses)
            verdict, found = self._load([head, longest, own], part.position)
            if found != head:
                self._ends[part.log] = found
            if verdict is None:
                return [Change("code log", "lost", dependency.digest, "")]
            self._logs[part.log] = verdict
        return verdict.of(part)

    def _load(self, heads: Iterable[list[Blob]], length: int) -> tuple[_Verdict | None, list[Blob]]:
        """The first of these that is there, and holds as many nodes, and where it was."""
        for blobs in heads:
            found = [data for blob in blobs if (data := self.read(blob)) is not None]
            if len(found) < len(blobs):
                continue
            try:
                verdict = _Verdict(decode_log(found), self._archive, self._digest, self._met)
            except ValueError:
                continue
            if verdict.length >= length:
                return verdict, blobs
        return None, []


def _segments(part: CodePart, uses: Iterable[Blob]) -> list[Blob]:
    blobs = {blob.digest: blob for blob in uses}
    return [blobs.get(name, Blob(name, -1)) for name in part.segments]


class _Verdict:
    """What is known of one log: nothing at first, then what differs, then who reaches that."""

    def __init__(
        self, log: DecodedLog, archive: SourceArchive, digest: Digest, met: Collection[str]
    ) -> None:
        self._log = log
        self._met = met
        self._archive = archive
        self._digest = digest
        self.nodes = [(log.files[file][0], name) for file, name in log.nodes]
        self.compared = False
        self._differing: tuple[tuple[object, ...], ...] = ()
        self._reached: Reached | None = None
        self._imports: Graph = {}
        self._by_file: dict[str, Change] = {}
        self._told: dict[str, Change] = {}
        self._contents: dict[str, tuple[str, str]] = {}

    @property
    def length(self) -> int:
        """How many nodes the log has."""
        return len(self._log.nodes)

    def misjudged(self) -> bool:
        """Whether the files that this run met make a difference that was not known."""
        new = {**self._strangers(), **self._left_out(self._contents)}
        return not new.keys() <= self._contents.keys()

    def _strangers(self) -> dict[str, str]:
        """Files that this run met and the log did not, which are there for what they do to others,
        with their contents: as if they had appeared."""
        names = set(self._met).difference(name for name, _ in self._log.files)
        found = {name: self._digest(Kind.FILE, name) for name in names}
        return {name: now for name, now in found.items() if self._archive.is_outward(name, now)}

    def _left_out(self, changed: Collection[str]) -> dict[str, tuple[str, str]]:
        """The same, the other way round: what files that changed had imported, and this run does
        not, as if it had vanished."""
        if not self._met or not changed:
            return {}
        gone = closure(self.imports, changed).difference(self._met, changed)
        found = ((name, digest) for name, digest in self._log.files if name in gone)
        is_outward = self._archive.is_outward
        return {name: (digest, _NOTHING) for name, digest in found if is_outward(name, digest)}

    @functools.cached_property
    def imports(self) -> Graph:
        """Where imports led when the log was written, those of what did not change since."""
        outlines = {name: self._archive.outline(name, digest) for name, digest in self._log.files}
        return self._graph(outlines)

    @functools.cached_property
    def seen_imports(self) -> Graph:
        """Which file was seen to be the first to import which."""
        return self._graph({})

    def _graph(self, analyses: Mapping[str, Analysis]) -> Graph:
        names = [name for name, _ in self._log.files]
        return import_graph(names, (one for one in self._log.imports if one[0] >= 0), analyses)

    def of(self, part: CodePart) -> list[Change]:
        """What changed of what these nodes rest on, at this position of the log."""
        if not self.compared:
            self._compare()
        if self._reached is None or not any(self._differing):
            return []
        nodes = [node for ran in part.ran for node in ran if node < self.length]
        if part.whole:
            change = self._changed_in_closure(nodes)
            if change is not None:
                return [change]
        if not self._reached.invalid(nodes, part.position):
            return []
        reasons = self._reached.reasons(nodes, part.position)[:CHANGES]
        return [self._told.get(one) or _definition_change(one, self._contents) for one in reasons]

    def _compare(self) -> None:
        """Finds what differs; walks only if that is not what it was. Where that fails, nothing is
        concluded: whoever asks next finds out anew."""
        log, digest = self._log, self._digest
        files = {
            name: (before, after)
            for name, before in log.files
            if (after := digest(Kind.FILE, name)) != before
        }
        files |= self._left_out(files)
        files |= {name: (_NOTHING, now) for name, now in self._strangers().items()}
        touches = [each for each in log.touches if self._differs(each[0], each[2])]
        distributions = [
            each for each in log.distributions if digest(Kind.DISTRIBUTION, each[0]) != each[1]
        ]
        differing = (tuple(files.items()), tuple(touches), tuple(map(str, distributions)))
        if differing != self._differing and any(differing):
            with uncollected():
                self._walk(files, touches, distributions)
        self._differing = differing
        self.compared = True

    def _differs(self, touched: Dependency, position: int) -> bool:
        """Whether something is neither as it was touched at a position nor, where none but the
        code that was seen to can have made it or taken it away, as it was at first."""
        kind, name, digest = touched
        present = self._digest(kind, name)
        if present == digest:
            return False
        first = self._log.made.get((kind, name), ("",))[0]
        return present != first or position >= min(self._log.unseen, default=position + 1)

    def _walk(
        self,
        files: dict[str, tuple[str, str]],
        touches: list[tuple[Dependency, int, int]],
        distributions: list[tuple[str, str, list[str]]],
    ) -> None:
        analyses, changes = self._definitions(files)
        if not changes and not touches and not distributions:
            self._reached = None  # comments: who mentions what is no matter
            return
        others = {name: (now, now) for name, now in self._log.files if name not in files}
        unchanged, lost = self._definitions(others)
        analyses |= unchanged
        changes |= lost
        told: dict[str, Change] = {}
        by_file = {name: Change("file", name, "", "") for name in changes}
        for dependency, modules in self._loaded(touches, distributions):
            change = self._change_of(dependency)
            for file, analysis in analyses.items():
                importing = [  # at the top, within a function, or by name
                    Changed(item, item)
                    for item in analysis.definitions
                    if not item.mentions.isdisjoint(modules)
                ]
                if importing:
                    changes[file] = [*changes.get(file, ()), *importing]
                    told.update((f"{file}::{each}", change) for each in importing)
                    by_file[file] = change
        touched: dict[int, tuple[int, str]] = {}
        for dependency, owner, position in touches:
            if self._is_imported(owner):
                continue
            change = by_file[self._file_of(owner)] = self._change_of(dependency)
            if owner not in touched or position < touched[owner][0]:
                touched[owner] = position, str(dependency)
                told[str(dependency)] = change
        by_file.update(
            (name, Change("file", name, *files[name])) for name in files.keys() & changes
        )
        self._contents, self._told, self._by_file = files, told, by_file
        names = [name for name, _ in self._log.files]
        nodes = [(names[file], name) for file, name in self._log.nodes]
        strangers = files.keys() - names
        self._imports = import_graph([*names, *strangers], self._log.imports, analyses)
        analyses = {name: one for name, one in analyses.items() if name not in strangers}
        asked = {names[imported] for importer, imported in self._log.imports if importer < 0}
        complete = self._log.complete
        log = log_of(nodes, analyses, self._imports, complete=complete, asked=asked)
        self._reached = affected(log, changes, touched, self._handed_on())

    def _loaded(
        self,
        touches: Iterable[tuple[Dependency, int, int]],
        distributions: Iterable[tuple[str, str, list[str]]],
    ) -> Iterator[tuple[Dependency, Collection[str]]]:
        """What changed of distributions, and of what bodies of their modules touched, and the names
        of the modules whose importers that is a matter of."""
        for name, before, modules in distributions:
            yield Dependency(Kind.DISTRIBUTION, name, before), modules
        for dependency, owner, _ in touches:
            if self._is_imported(owner):
                module = self._log.nodes[owner][1].removeprefix(IMPORTED)
                yield dependency, self._importers(module)

    def _importers(self, module: str) -> Collection[str]:
        """A top-level module that is not the project's, and those whose distributions require its:
        each of them is entered with all that its own requires."""
        entered: dict[str, set[str]] = {}
        for distribution, _, modules in self._log.distributions:
            entered.setdefault(distribution, set()).update(modules)
        holding = [each for each in entered.values() if module in each]
        return set.intersection(*holding) if holding else {module}

    def _is_imported(self, node: int) -> bool:
        return self._log.nodes[node][1].startswith(IMPORTED)

    def _handed_on(self) -> Iterator[tuple[int, int, int]]:
        """Who made what another touched, who that is, and when."""
        for (kind, name, _), owner, position in self._log.touches if self._log.made else ():
            for maker in self._log.made.get((kind, name), ("", []))[1]:
                yield maker, owner, position

    def _definitions(
        self, files: Mapping[str, tuple[str, str]]
    ) -> tuple[dict[str, Analysis], dict[str, Changes]]:
        """What these files, with their contents then and now, defined, and define now, and what
        differs: all of a file whose text is lost."""
        analyses: dict[str, Analysis] = {}
        changes: dict[str, Changes] = {}
        for name, (recorded, now) in files.items():
            differs = now != recorded
            present = self._archive.present(name, now)
            before = present if present and not differs else self._archive.recorded(name, recorded)
            before = Analysis() if recorded == _NOTHING else before
            if before is None:
                analyses[name] = present or Analysis()
                changes[name] = _all_of(present)
                continue
            analyses[name] = before
            if differs:
                found = diff(before, present) if present is not None else _all_of(before)
                if found:
                    changes[name] = found
                if present is not None:
                    analyses[name] = Analysis(
                        (*before.definitions, *present.definitions),
                        (*before.imports, *present.imports),
                    )
        return analyses, changes

    def _change_of(self, dependency: Dependency) -> Change:
        kind, name, before = dependency
        return Change(str(kind), without_mark(name), before, self._digest(kind, name))

    def _changed_in_closure(self, nodes: Iterable[int]) -> Change | None:
        """A change in one of the files that these nodes' imports lead to, of whatever it is: for
        windows in which code may have run unseen."""
        reached = closure(self._imports, {self._file_of(node) for node in nodes})
        return next((change for name, change in self._by_file.items() if name in reached), None)

    def _file_of(self, node: int) -> str:
        return self._log.files[self._log.nodes[node][0]][0]


def log_of(
    nodes: Sequence[tuple[str, str]],
    analyses: Mapping[str, Analysis | None],
    imports: Graph,
    *,
    complete: bool,
    asked: Collection[str] = (),
) -> Log:
    """What ran, as `reach` wants it: of a file without an analysis, or of one whose functions may
    have run unseen, everything."""
    whole = {file for file, name in nodes if name == LOADED}
    asked = {*asked} - whole  # what was loaded before counts by what its globals hold
    files = {name: Analysis() if one is None else one for name, one in analyses.items()}
    return Log(nodes, files, imports, whole if complete else [*files], asked)


def _all_of(analysis: Analysis | None) -> Changes:
    """As if all that a file defines had changed."""
    items = analysis.definitions if analysis is not None else ()
    return [Changed(everything(""), everything("")), *(Changed(item, None) for item in items)]


def _definition_change(cause: str, contents: Mapping[str, tuple[str, str]]) -> Change:
    """``lib.py::f changed`` as a change; the digests are those of the file's contents, by which
    its sources are kept."""
    name, _, verb = cause.rpartition(" ")
    before, after = contents.get(name.partition("::")[0], ("recorded", "present"))
    if verb == "appeared":
        before = ABSENT
    elif verb == "vanished":
        after = ABSENT
    return Change("function", name.removesuffix("::" + WHOLE_FILE), before, after)
