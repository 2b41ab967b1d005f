"""Whether the code that a trace rests on is as it was, for all records of a log together.

A log's manifest (its files with their contents' digests), its footprints and its distributions
are compared with the present once. Nothing differs: the code part of every record holds. Else one
walk backwards from what changed tells for each node when it began to reach a change, and a record
is invalid if one of its nodes did before the record's window closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pytest_taskcache.code.definitions import Analysis, Changed, Changes, diff
from pytest_taskcache.code.reach import Log, Reached, affected
from pytest_taskcache.model.dependency import ABSENT, Blob, Change, Dependency, Kind
from pytest_taskcache.observation.code_log import (
    LOADED,
    CodePart,
    DecodedLog,
    decode_code,
    decode_log,
)
from pytest_taskcache.observation.import_graph import Graph, closure, import_graph
from pytest_taskcache.observation.source_archive import SourceArchive

Digest = Callable[[Kind, str], str]


class CodeVerdicts:
    """Verdicts by log. ``digest`` is the present one of a dependency."""

    def __init__(self, digest: Digest, archive: SourceArchive) -> None:
        self._digest = digest
        self._archive = archive
        self._read: Callable[[Blob], bytes | None] = lambda blob: None
        self._logs: dict[str, _Verdict] = {}
        self._wanted: dict[str, tuple[CodePart, Iterable[Blob]]] = {}

    def read_parts_by(self, read: Callable[[Blob], bytes | None]) -> None:
        """Says how segments are read; None for those that are lost."""
        self._read = read

    def reconsider(self) -> None:
        """Something that was asked for differs from what it was."""
        for verdict in self._logs.values():
            verdict.compared = False

    def expect(self, dependency: Dependency, uses: Iterable[Blob]) -> None:
        """A record is about to be checked. Of all heads of one log the longest answers for all,
        so that it alone is read."""
        try:
            part = decode_code(dependency)
        except ValueError:
            return  # told when it is checked
        known = self._wanted.get(part.log)
        if known is None or known[0].position < part.position:
            self._wanted[part.log] = part, uses

    def check(self, dependency: Dependency, uses: Iterable[Blob]) -> list[Change]:
        """What changed of the code that a record rests on; empty if nothing did."""
        try:
            part = decode_code(dependency)
        except ValueError:
            return [Change("code log", "unreadable", dependency.digest, "")]
        verdict = self._logs.get(part.log)
        if verdict is None or verdict.length < part.position:
            longest = self._wanted.pop(part.log, None)
            if longest is not None:
                verdict = self._load(longest[0].segments, longest[1])
            if verdict is None or verdict.length < part.position:
                verdict = self._load(part.segments, uses)
            if verdict is None:
                return [Change("code log", "lost", dependency.digest, "")]
            self._logs[part.log] = verdict
        return verdict.of(part)

    def _load(self, segments: tuple[str, ...], uses: Iterable[Blob]) -> _Verdict | None:
        blobs = {blob.digest: blob for blob in uses}
        found = []
        for name in segments:
            data = self._read(blobs.get(name, Blob(name, -1)))
            if data is None:
                return None
            found.append(data)
        try:
            return _Verdict(decode_log(found), self._archive, self._digest)
        except ValueError:
            return None


class _Verdict:
    """What is known of one log: nothing at first, then what differs, then who reaches that."""

    def __init__(self, log: DecodedLog, archive: SourceArchive, digest: Digest) -> None:
        self._log = log
        self._archive = archive
        self._digest = digest
        self.compared = False
        self._changed: tuple[object, ...] = ()
        self._reached: Reached | None = None
        self._imports: Graph = {}
        self._by_file: dict[str, Change] = {}
        self._told: dict[str, Change] = {}
        self._contents: dict[str, tuple[str, str]] = {}

    @property
    def length(self) -> int:
        """How many nodes the log has."""
        return len(self._log.nodes)

    def of(self, part: CodePart) -> list[Change]:
        """What changed of what these nodes rest on, at this position of the log."""
        if not self.compared:
            self._compare()
        if not self._changed:
            return []
        nodes = [node for ran in part.ran for node in ran]
        if part.whole:
            change = self._changed_in_closure(nodes)
            if change is not None:
                return [change]
        if self._reached is None:
            return []
        cause = self._reached.invalid(nodes, part.position)
        if not cause:
            return []
        return [self._told.get(cause) or _definition_change(cause, self._contents)]

    def _compare(self) -> None:
        """Finds what differs; walks only if that is not what it was."""
        self.compared = True
        files = {
            name: (before, after)
            for name, before in self._log.files
            if (after := self._digest(Kind.FILE, name)) != before
        }
        touches = [
            (dependency, owner, position)
            for dependency, owner, position in self._log.touches
            if self._digest(dependency.kind, dependency.name) != dependency.digest
        ]
        distributions = [
            (name, frozenset(modules))
            for name, before, modules in self._log.distributions
            if self._digest(Kind.DISTRIBUTION, name) != before
        ]
        changed = (tuple(files.items()), tuple(touches), tuple(distributions))
        if not any(changed):
            self._changed = ()
            return
        if changed == self._changed:
            return
        self._changed, self._contents = changed, files
        self._walk(files, touches, distributions)

    def _walk(
        self,
        files: dict[str, tuple[str, str]],
        touches: list[tuple[Dependency, int, int]],
        distributions: list[tuple[str, frozenset[str]]],
    ) -> None:
        analyses: dict[str, Analysis] = {}
        changes: dict[str, Changes] = {}
        for name, recorded in self._log.files:
            present = None if name in files else self._archive.present(name, recorded)
            before = present or self._archive.recorded(name, recorded)
            after = self._archive.present(name, files[name][1]) if name in files else before
            if before is None:
                analyses[name] = after or Analysis(whole=True)
                changes[name] = _all_of(after)
                continue
            analyses[name] = before
            if name in files:
                found = diff(before, after) if after is not None else _all_of(before)
                if found:
                    changes[name] = found
        for distribution, modules in distributions:
            told = self._change_of_distribution(distribution)
            for file, analysis in analyses.items():
                importing = [
                    Changed(item, item)
                    for item in analysis.definitions
                    if not modules.isdisjoint(item.mentions) and item.kind == "import"
                ]
                self._told.update((f"{file}::{each}", told) for each in importing)
                if importing:
                    known = changes.get(file, Changes())
                    changes[file] = Changes(
                        (*known.definitions, *importing), reordered=known.reordered
                    )
        touched: dict[int, tuple[int, str]] = {}
        for dependency, owner, position in touches:
            known_touch = touched.get(owner)
            if known_touch is None or position < known_touch[0]:
                cause = f"{dependency.kind} {dependency.name}"
                self._told[cause] = self._change_of(dependency)
                touched[owner] = position, cause
        log = self._log_of(analyses)
        self._imports = log.imports
        self._by_file = {
            **{self._file_of(each[1]): self._change_of(each[0]) for each in touches},
            **{name: Change("file", name, *files[name]) for name in changes if name in files},
        }
        for file, found in changes.items():
            if file not in self._by_file and found:
                self._by_file[file] = self._told.get(f"{file}::{found.definitions[0]}") or Change(
                    "file", file, "", ""
                )
        self._reached = affected(log, changes, touched)

    def _change_of(self, dependency: Dependency) -> Change:
        kind, name, before = dependency
        return Change(str(kind), without_mark(name), before, self._digest(kind, name))

    def _change_of_distribution(self, name: str) -> Change:
        before = next((each for one, each, _ in self._log.distributions if one == name), "")
        return Change(str(Kind.DISTRIBUTION), name, before, self._digest(Kind.DISTRIBUTION, name))

    def _changed_in_closure(self, nodes: Iterable[int]) -> Change | None:
        """A change in one of the files that these nodes' imports lead to, of whatever it is: for
        windows in which code may have run unseen."""
        reached = closure(self._imports, {self._file_of(node) for node in nodes})
        return next((change for name, change in self._by_file.items() if name in reached), None)

    def _file_of(self, node: int) -> str:
        return self._log.files[self._log.nodes[node][0]][0]

    def _log_of(self, analyses: dict[str, Analysis]) -> Log:
        names = [name for name, _ in self._log.files]
        nodes = [(names[file], name) for file, name in self._log.nodes]
        whole = {file for file, name in nodes if name == LOADED}
        imports = import_graph(names, self._log.imports, analyses)
        return Log(nodes, analyses, imports, whole=whole if self._log.complete else names)


def _all_of(analysis: Analysis | None) -> Changes:
    """As if all that a file defines had changed."""
    items = analysis.definitions if analysis is not None else ()
    return Changes(tuple(Changed(item, None) for item in items), reordered=True)


def without_mark(name: str) -> str:
    """A variable's name, without the mark that its value at the start counts."""
    return name.removesuffix(" (at start)")


def _definition_change(cause: str, contents: Mapping[str, tuple[str, str]]) -> Change:
    """``lib.py::f changed`` as a change; the digests are those of the file's contents, by which
    its sources are kept."""
    name, _, verb = cause.rpartition(" ")
    before, after = contents.get(name.partition("::")[0], ("recorded", "present"))
    if verb == "appeared":
        before = ABSENT
    elif verb == "vanished":
        after = ABSENT
    return Change("function", name, before, after)
