"""What ran in this process, in order, and what it touched: the part that all traces share.

    position   node                       footprint
    0          src/lib.py::<module>
    1          src/lib.py::load           file data/rates.csv, since position 1
    2          tests/test_a.py::<module>
    3          tests/test_a.py::test_a    environment TZ, since position 3

A **node** is a function, or the body of a module, and its position tells when it first ran. A
window keeps only which nodes ran in it and how many there were when it closed: ``0-1,3`` and 4.
What a node touched, in a window or outside of any, is its footprint. Nothing is parsed here and no
graph is walked; `verify` does that, if ever a file changed.

The log leaves the process as segments, JSON that is named by its digest. Each flush makes one of
what is new and merges those before it that are no larger, so that a log of n nodes is in at most
log n segments, and a node is written log n times.
"""

from __future__ import annotations

import inspect
import json
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import xxhash

from pytest_taskcache.changed_paths import is_inside
from pytest_taskcache.code.definitions import IMPORTED, INSIDE, MENTIONS, TEARDOWN, definition_name
from pytest_taskcache.code.function_source import unwrapped
from pytest_taskcache.code.reach import BEGUN, COLLECTED, FILE, MODULE, NEVER
from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.forking import ForkAware
from pytest_taskcache.model.dependency import ABSENT, Blob, Dependency, Kind, Opaque
from pytest_taskcache.observation.hooks.opaque import has_children
from pytest_taskcache.observation.running_code import MONITORING, identity, running_code
from pytest_taskcache.observation.window import PATHS, is_newer
from pytest_taskcache.originals import originals, os_path

LOADED = "<loaded>"
"""The node of a module of which any function may have run before anyone looked."""

UNSTABLE = "changed while it was read"
"""The digest of what changed before it could be digested; equal to no other."""


class SourceFile(NamedTuple):
    """A file of the project that code came from: absolute path, name in traces, and whether it
    is Python (a compiled template is not)."""

    path: str
    name: str
    python: bool


@dataclass(slots=True)
class Touch:
    """One thing that was touched, as it was from ``moment`` (POSIX nanoseconds) until it changed
    or was digested; ``owners`` are the nodes that did."""

    kind: Kind
    where: str
    name: str
    moment: int
    digest: str | None = None
    owners: set[int] = field(default_factory=set)


class CodeLog(ForkAware):
    """The log of one process, for one project. Threads may add to it at the same moment.

    ``find`` gives the project's file of a code object's file name, or None; ``digest`` the present
    digest of a kind and a name, empty for what need not be verified. Where code outside of windows
    goes unseen the log is not complete: then every function of a module counts as having run with
    it. ``name`` is unique to this log: all that name it mean this one, as far as it had come.
    """

    def __init__(
        self, find: Callable[[str], SourceFile | None], digest: Callable[[Kind, str], str]
    ) -> None:
        super().__init__()
        self.name = uuid.uuid4().hex[:16]
        self.nodes: list[tuple[int, str]] = []
        self.files: list[SourceFile] = []
        self.digests: dict[str, str] = {}

        self.opaque: list[tuple[int, Opaque, bool]] = []
        self.imports: set[tuple[int, int]] = set()
        self.parts: dict[str, bytes] = {}
        self._find = find
        self._digest = digest
        self._positions: dict[int, tuple[CodeType, int]] = {}
        self._nodes: dict[tuple[int, str], int] = {}
        self._indices: dict[str, int] = {}
        self._mentioned: dict[int, set[str]] = {}

        self._open: dict[tuple[Kind, str], Touch] = {}
        self._noted: set[tuple[Kind, str, str, int, bool]] = set()
        self._makers: dict[tuple[Kind, str], set[int]] = {}
        self._gone: set[str] = set()
        self._seen_until: int | None = None
        self._segments: list[tuple[Blob, int]] = []
        self._fresh = _no_facts()

    def read_runs(self) -> None:
        """Gives a position to all code that ran since."""
        known = self._positions
        for number, code in running_code.unread():
            if number not in known:
                self.position(code)

    def position(self, code: CodeType) -> int:
        """The position of a code object's node, which is made when it is new; -1 for code that
        is not the project's."""
        known = self._positions.get(identity(code))
        if known is not None:
            return known[1]
        source = self._find(code.co_filename)
        position = -1
        if source is not None and source.python:
            position = self._node(self.file(source), node_name(code))
        self._positions[identity(code)] = code, position
        return position

    def position_now(self, code: CodeType) -> int:
        """The same, of code that is running: what ran before it has its position first."""
        if identity(code) not in self._positions:
            self.read_runs()
        return self.position(code)

    def root(self, source: SourceFile) -> int:
        """The position of the node that stands for what acts on all of a file."""
        return self._node(self.file(source), FILE)

    @property
    def collector(self) -> int:
        """The position of the node that stands for what is read while files are collected; -1
        before there is a file."""
        return self._node(0, COLLECTED) if self.files else -1

    def touch_imported(self, module: str, kind: Kind, where: str, name: str) -> None:
        """The body of a module that is not the project's touched something."""
        if self.files:
            self.touch(self._node(0, IMPORTED + module), kind, where, name)

    def begin(self) -> None:
        """Tests run from here on."""
        if self.files:
            self.read_runs()
            self._node(0, BEGUN)

    def tear_down(self, position: int | None) -> None:
        """What was set up at a position is torn down from here on; None: nothing is."""
        if self.files:
            self.read_runs()
            since = NEVER if position is None else position
            self._node(0, f"{TEARDOWN}{since} {len(self.nodes)}")

    def file_of(self, node: int) -> str:
        """The name of the file that a node is in."""
        return self.files[self.nodes[node][0]].name

    def _node(self, file: int, name: str) -> int:
        position = self._nodes.get((file, name))
        if position is None:
            with self.lock:
                position = self._nodes.get((file, name), len(self.nodes))
                if position == len(self.nodes):
                    self.nodes.append((file, name))
                    self._fresh["nodes"].append([file, name])
                    self._nodes[file, name] = position
        return position

    def mention(self, owner: int, names: Iterable[str]) -> None:
        """A node gets at these identifiers though its source does not tell."""
        known = self._mentioned.setdefault(owner, set())
        fresh = sorted(set(names) - known)
        if fresh:
            known.update(fresh)
            file, name = self.nodes[owner]
            self._node(file, f"{MENTIONS}{name} {' '.join(fresh)}")

    def file(self, source: SourceFile) -> int:
        """The index of a source file, which enters the log with the content that it has now."""
        index = self._indices.get(source.name)
        if index is None:
            digest = self._digest(Kind.FILE, source.name)
            with self.lock:
                index = self._indices.get(source.name, len(self.files))
                if index == len(self.files):
                    self.files.append(source)
                    self.digests[source.name] = digest
                    self._fresh["files"].append([source.name, digest])
                    self._indices[source.name] = index
        return index

    def add_import(self, importer: SourceFile | None, source: SourceFile) -> None:
        """A file of the project imports another, or asks for it by name. Without an importer
        everyone depends on it: no file of the project says where it comes from."""
        edge = (-1 if importer is None else self.file(importer), self.file(source))
        if edge not in self.imports:
            with self.lock:
                self.imports.add(edge)
                self._fresh["imports"].append([*edge])

    def add_loaded(self, source: SourceFile) -> None:
        """A module was loaded before anyone looked: any function of it may have run."""
        self._node(self.file(source), LOADED)
        self.add_body(source)

    def add_body(self, source: SourceFile) -> None:
        """A module's body ran."""
        self._node(self.file(source), MODULE)

    def imported(self) -> set[str]:
        """The names of the files whose bodies ran."""
        self.read_runs()
        return {self.file_of(at) for at, (_, name) in enumerate(self.nodes) if name == MODULE}

    def add_distribution(self, name: str, digest: str, modules: Iterable[str]) -> None:
        """A distribution was loaded from; ``modules`` are its top-level modules."""
        with self.lock:
            self._fresh["distributions"].append([name, digest, sorted(modules)])

    def touch(self, owner: int, kind: Kind, where: str, name: str) -> None:
        """A node touched something: ``where`` is an absolute path or a variable's name."""
        touch = self._open.get((kind, where))
        if touch is None:
            touch = self._open[kind, where] = Touch(kind, where, name, originals.now())
        elif owner in touch.owners:
            return
        touch.owners.add(owner)
        with self.lock:
            self._fresh["touches"].append((touch, owner, len(self.nodes)))

    def before_change(self, path: str) -> None:
        """A path is about to change: what was touched there is digested as it is."""
        if self._open:
            for kind in (Kind.FILE, Kind.STAT, Kind.LISTING, Kind.WORKING_DIRECTORY):
                touch = self._open.pop((kind, path), None)
                if touch is not None and touch.digest is None:
                    touch.digest = self._settled(touch)

    def make(
        self, kind: Kind, name: str, makers: Iterable[int], first: Callable[[Kind, str], str]
    ) -> None:
        """These nodes bring about that something comes or goes; ``first`` gives the digest of what
        it is before, an empty one where that shall not count."""
        known = self._makers.get((kind, name))
        fresh, digest = set(makers), ""
        if known is None:
            known = self._makers[kind, name] = set()
            fresh.add(-1)  # makes a row though nobody of the project does it
            digest = first(kind, name)
            if not digest:
                self._gone.add(name)
            elif digest == ABSENT and self._gone and is_inside(name, self._gone):
                digest = ""
        for maker in sorted(fresh - known):
            with self.lock:
                self._fresh["made"].append([kind, name, digest, maker])
        known |= fresh

    def lose_sight(self) -> None:
        """From here on something may come, go or change with nobody to be seen who does it: what
        was touched is digested as it is, and what is touched again is noted again."""
        for touch in list(self._open.values()):
            if touch.digest is None:
                touch.digest = self._settled(touch)
        self._open.clear()
        if self._seen_until is None:
            with self.lock:
                self._seen_until = len(self.nodes)
                self._fresh["unseen"].append(self._seen_until)

    def act(self, owner: int, opaque: Opaque) -> None:
        """A node did something that cannot be observed: a matter of all who import its file."""
        self.opaque.append((owner, opaque, True))

    def keep_act(self, owner: int, opaque: Opaque) -> None:
        """A function may have kept what came of it: a matter of those who reach the function.
        Enough that each kind is noted once."""
        known = ((node, act.kind) for node, act, _ in self.opaque)
        if (owner, opaque.kind) not in known:
            self.opaque.append((owner, opaque, False))

    def _settled(self, touch: Touch) -> str:
        if touch.kind in PATHS and is_newer(touch.where, touch.moment):
            if touch.kind is not Kind.LISTING:
                unseen = not os_path.isdir(touch.where)
            else:  # had this process changed it, it would have been digested before
                unseen = self._seen_until is not None and has_children()
            if unseen:
                return UNSTABLE
        return self._digest(touch.kind, touch.name)

    def flush(self) -> tuple[Blob, ...]:
        """The segments that hold all of the log so far, oldest first; their bytes are in
        ``parts``."""
        with self.lock:
            return self._flush()

    def _flush(self) -> tuple[Blob, ...]:
        facts, self._fresh = self._fresh, _no_facts()
        weight = sum(map(len, facts.values()))
        if weight:
            touches = []
            for touch, owner, position in facts["touches"]:
                if touch.digest is None:
                    touch.digest = self._settled(touch)
                seen = self._seen_until is None or position < self._seen_until
                row = (touch.kind, touch.name, touch.digest, owner, seen)
                if touch.digest and row not in self._noted:
                    self._noted.add(row)
                    touches.append([*row[:-1], position])
            facts["touches"] = touches
            self._append(facts, weight)
        return self.segments

    @property
    def segments(self) -> tuple[Blob, ...]:
        """As `flush` gave them last."""
        return tuple(blob for blob, _ in self._segments)

    def _append(self, facts: dict[str, list[Any]], weight: int) -> None:
        while self._segments and self._segments[-1][1] <= weight:
            before, more = self._segments.pop()
            older = json.loads(zlib.decompress(self.parts[before.digest]))
            facts = {section: older[section] + facts[section] for section in _SECTIONS}
            weight += more
        document = {"complete": MONITORING, **facts}
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=True)
        data = zlib.compress(text.encode(), 1)
        blob = Blob(xxhash.xxh3_128_hexdigest(data), len(data))
        self._segments.append((blob, weight))
        self.parts[blob.digest] = data


_SECTIONS = ("nodes", "files", "imports", "distributions", "touches", "made", "unseen")


def _no_facts() -> dict[str, list[Any]]:
    return {section: [] for section in _SECTIONS}


class DecodedLog(NamedTuple):
    """A log as it is read back. Indices and positions are those of `CodeLog`.

    ``nodes``: file and name. ``files``: name and content digest. ``imports``: importing file (-1
    for everyone) and file. ``distributions``: name, digest, modules. ``touches``: dependency,
    owner, length of the log then. ``made``: of what came or went meanwhile, kind and name, with the
    digest that it had at first (empty where that does not count) and the nodes that did it;
    ``unseen``: lengths from which on others, unseen, may have done it.
    """

    complete: bool
    nodes: list[tuple[int, str]]
    files: list[tuple[str, str]]
    imports: list[tuple[int, int]]
    distributions: list[tuple[str, str, list[str]]]
    touches: list[tuple[Dependency, int, int]]
    made: dict[tuple[Kind, str], tuple[str, list[int]]]
    unseen: list[int]


def decode_log(segments: Iterable[bytes]) -> DecodedLog:
    """The log that these segments hold. Raises ValueError for anything else."""
    log = DecodedLog(True, [], [], [], [], [], {}, [])
    complete = True
    try:
        for data in segments:
            document = json.loads(zlib.decompress(data))
            complete = complete and document["complete"] is True
            log.nodes.extend((file, name) for file, name in document["nodes"])
            log.files.extend((name, digest) for name, digest in document["files"])
            log.imports.extend((a, b) for a, b in document["imports"])
            log.distributions.extend((a, b, c) for a, b, c in document["distributions"])
            log.touches.extend(
                (Dependency(Kind(kind), name, digest), owner, position)
                for kind, name, digest, owner, position in document["touches"]
            )
            log.unseen.extend(map(int, document["unseen"]))
            for kind, name, first, maker in document["made"]:
                makers = log.made.setdefault((Kind(kind), name), (first, []))[1]
                if maker >= 0:
                    makers.append(maker)
    except (zlib.error, KeyError, TypeError) as error:
        raise ValueError(f"not a code log: {error}") from error
    return log._replace(complete=complete)


def code_dependency(
    log: str, segments: Sequence[Blob], position: int, ran: Iterable[int], *, whole: bool = False
) -> Dependency:
    """What a window rests on of a log: the nodes that ran in it, and how long the log was.
    ``whole``: code may have run unseen, so that any change counts."""
    names = ",".join(blob.digest for blob in segments)
    last = segments[-1].digest if segments else ""
    mark = "*" if whole else ""
    return Dependency(Kind.CODE, f"{log}:{names}:{position}:{mark}{encode_ranges(ran)}", last)


class CodePart(NamedTuple):
    """A CODE dependency as it is read back."""

    log: str
    segments: tuple[str, ...]
    position: int
    ran: tuple[range, ...]
    whole: bool


def decode_code(dependency: Dependency) -> CodePart:
    """What `code_dependency` wrote. Raises ValueError for anything else."""
    log, segments, position, ran = dependency.name.split(":")
    return CodePart(
        log,
        tuple(segments.split(",")) if segments else (),
        int(position),
        decode_ranges(ran.removeprefix("*")),
        ran.startswith("*"),
    )


def encode_ranges(numbers: Iterable[int]) -> str:
    """``0-3,5`` for 0, 1, 2, 3 and 5."""
    found: list[str] = []
    first = last = -2
    for number in [*sorted(numbers), -1]:
        if number == last + 1 and number != -1:
            last = number
            continue
        if first >= 0:
            found.append(str(first) if first == last else f"{first}-{last}")
        first = last = number
    return ",".join(found)


def decode_ranges(text: str) -> tuple[range, ...]:
    """The inverse of `encode_ranges`. Raises ValueError for anything else."""
    found = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.append(range(int(first), int(last or first) + 1))
    return tuple(found)


def node_name(code: CodeType) -> str:
    """The definition that holds this code; MODULE for module bodies and those of classes in
    them."""
    name = code.co_qualname
    if not code.co_flags & inspect.CO_OPTIMIZED:
        # A class body nested in a function ran because that function did.
        name = name.rpartition(INSIDE)[0] or MODULE
    return definition_name(name)


def file_of_subject(subject: Callable[..., Any] | None) -> str | None:
    """The file that defines what is about to run, seen through wrappers, partials and bound
    methods; None where it has none."""
    if type(subject) is FunctionType and "__wrapped__" not in vars(subject):
        return subject.__code__.co_filename  # most are: unwrapping costs ten times as much
    for each in (subject, type(subject).__call__ if callable(subject) else None):
        try:
            return unwrapped(each).__code__.co_filename
        except TypeError:
            continue
    return None
