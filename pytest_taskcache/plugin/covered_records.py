"""What was covered, as records of its own beside those of the values: see decision 0005."""

from __future__ import annotations

import base64
import os
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import xxhash

from pytest_taskcache.dataclass import dataclass, field, replace
from pytest_taskcache.engine.cache import Engine
from pytest_taskcache.engine.computation import Basis, Computation
from pytest_taskcache.engine.keys import Keyed
from pytest_taskcache.engine.payloads import LostResultError
from pytest_taskcache.engine.recorder import Finished
from pytest_taskcache.engine.routes import Route
from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.decision import Miss, Why
from pytest_taskcache.model.dependency import Change
from pytest_taskcache.model.event import Faulted
from pytest_taskcache.model.key import Identity, Key, Part
from pytest_taskcache.model.record import Variant
from pytest_taskcache.plugin.coverage import Lines, Measurement
from pytest_taskcache.plugin.covered_source import Block, Relocation, Source
from pytest_taskcache.plugin.outcomes.bundles import SERIALIZER

_TEMPORARY = "<tmp>"


@dataclass(frozen=True)
class Covered:
    """The lines of a computation: what ran in it, and what ran while modules were imported for
    it, by the modules' files.

    The former are found again when functions have moved. The latter stand or fall with the
    content of the files, since what these define is part of it; but they are not needed of a
    module that this process has imported too.
    """

    ran: Lines
    imported: Mapping[str, Lines]


@dataclass(frozen=True)
class Subject:
    """A computation whose lines are kept: what it is, where its record goes, what it rests on."""

    computation: Computation
    keyed: Keyed
    route: Route
    basis: Basis
    duration: float


ReadRecords: TypeAlias = Callable[[Route, str], Sequence[Variant]]
"""``read(route, key)``: the records of a key. Raises StorageError."""


@dataclass
class CoveredRecords:
    """Writes covered lines under keys derived from the computations', and reads them again.

    ``source(file)`` is the file as it is now, ``is_imported(file)`` whether its module was
    imported in this process. Faults are notified, never raised.
    """

    engine: Engine
    measurement: Measurement
    source: Callable[[str], Source]
    is_imported: Callable[[str], bool]
    _relocations: dict[tuple[str, str], Relocation | None] = field(default_factory=dict)
    _known: dict[str, list[tuple[Variant, Covered]]] = field(default_factory=dict)
    _laid_out: set[str] = field(default_factory=set)

    def key(self, digest: str, addition: str = "") -> str:
        """The key of the lines of the computation with this key."""
        return _digest(f"{digest}\0coverage\0{self.measurement.identity}\0{addition}")

    # -------------------------------------------------------------------------- writing

    def write(self, records: Iterable[tuple[Subject, Covered, str]]) -> None:
        """Writes the lines of many computations, each with the addition to its key."""
        routes: dict[str, tuple[Route, list[Variant]]] = {}
        with self._muted():
            for subject, covered, addition in records:
                document = self._encoded(covered)
                if document is None:
                    continue
                identity = subject.keyed.key.identity
                key = Key(
                    self.key(subject.keyed.key.digest, addition),
                    Identity(identity.file, f"{identity.name} (coverage)"),
                    (Part("coverage", self.measurement.identity),),
                    subject.keyed.key.vouched,
                )
                variant = self._variant(subject, key, document, subject.basis)
                if variant is None:
                    continue
                route, variants = routes.setdefault(subject.route.name, (subject.route, []))
                variants += self._layouts(subject, document)
                variants.append(variant)
            for route, variants in routes.values():
                try:
                    self.engine.recorder.publish(route.name, variants)
                except Exception as error:  # storages may be users' code
                    self._fault("covered lines not written", error)

    def _variant(
        self, subject: Subject, key: Key, document: dict[str, object], basis: Basis
    ) -> Variant | None:
        recorder = self.engine.recorder
        try:
            result = recorder.payloads.write(document, SERIALIZER, recorder.local)
        except Exception as error:  # as above
            self._fault("covered lines not written", error)
            return None
        finished = Finished(
            subject.computation,
            replace(subject.keyed, key=key),
            subject.route,
            replace(basis, derives_from=frozenset()),
            subject.duration,
        )
        return recorder.record(finished, result)

    def _encoded(self, covered: Covered) -> dict[str, object] | None:
        """The lines as JSON values; None where they could not be believed later."""
        numbers = array("i")
        ran = self._entries(covered.ran, numbers)
        imported = []
        for file in sorted(covered.imported):
            entries = self._entries(covered.imported[file], numbers)
            if entries is None:
                return None
            imported.append([self.engine.fingerprints.name_of(file), entries])
        if ran is None:
            return None
        packed = zlib.compress(numbers.tobytes(), 1)
        lines = base64.b64encode(packed).decode("ascii")
        return {"ran": ran, "imported": imported, "lines": lines}

    def _entries(self, lines: Lines, numbers: array[int]) -> list[object] | None:
        """Path, digest and count of lines by file; the lines go to ``numbers``."""
        if self.measurement.is_translated(lines):
            return None
        entries: list[object] = []
        for file in sorted(lines):
            path = self.engine.fingerprints.name_of(file)
            if path.startswith(_TEMPORARY):
                continue
            source = self.source(file)
            if not source.digest:
                return None
            plain = self.measurement.to_plain(lines[file])
            for each in plain:
                if isinstance(each, tuple):
                    numbers.extend(each)
                else:
                    numbers.append(each)
            entries.append([path, source.digest, len(plain)])
        return entries

    def _layouts(self, subject: Subject, document: dict[str, Any]) -> Iterable[Variant]:
        """Records of where functions stand in these files, each written once per version."""
        keys = {}
        for path, digest, _ in document["ran"]:
            key = _layout_key(path, digest)
            if f"{subject.route.name}\0{key}" not in self._laid_out:
                self._laid_out.add(f"{subject.route.name}\0{key}")
                keys[key] = path
        if not keys:
            return
        try:
            known = subject.route.records.read_records(keys)
        except Exception as error:  # as above
            self._fault("covered lines not read", error)
            return
        for key, path in keys.items():
            layout = self.source(self._file(path)).layout
            if key in known or layout is None:
                continue
            blocks: dict[str, object] = {"blocks": [list(block) for block in layout.blocks]}
            named = Key(key, Identity(path, "(layout)"), (), vouched=True)
            variant = self._variant(subject, named, blocks, Basis())
            if variant is not None:
                yield variant

    # -------------------------------------------------------------------------- reading

    def find(
        self, digest: str, route: Route, read: ReadRecords, *, vouched: bool, addition: str = ""
    ) -> Covered | Miss:
        """The lines of the computation with this key, where they stand now; else why not. Raises
        StorageError."""
        key = self.key(digest, addition)
        miss = Miss(Why.UNCOVERED)
        known = self._known.setdefault(key, [])
        with self._muted():
            for variant, covered in known:
                if vouched or self._holds(variant):
                    return covered
            for variant in read(route, key):
                if any(one.id == variant.id for one, _ in known):
                    continue
                if not vouched and not self._holds(variant):
                    continue
                found = self._read(variant, route)
                if isinstance(found, str):
                    miss = Miss(Why.UNCOVERED, (Change("covered file", found, "", ""),))
                elif found is not None:
                    self.engine.used.add(variant.id)
                    known.append((variant, found))
                    return found
        return miss

    def _holds(self, variant: Variant) -> bool:
        observation = self.engine.parts.observation
        return observation is None or not observation.verify(variant.trace)

    def _read(self, variant: Variant, route: Route) -> Covered | str | None:
        """The lines; the path of a file that changed where they stood; None if they are lost."""
        document = self._document(variant, route)
        if document is None:
            return None
        try:
            numbers = array("i")
            numbers.frombytes(zlib.decompress(base64.b64decode(document["lines"])))
            return self._placed(document, numbers, route)
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            self._fault("covered lines damaged", error)
            return None

    def _placed(self, document: Any, numbers: array[int], route: Route) -> Covered | str:
        width = 2 if self.measurement.arcs else 1
        at = 0

        def placed(entries: Any, *, exact: bool) -> tuple[Lines, str]:
            """The lines, and the path of a file whose lines cannot be told any more."""
            nonlocal at
            lines: Lines = {}
            changed = ""
            for path, digest, count in entries:
                own: array[int] | None = numbers[at : at + count * width]
                at += count * width
                file = self._file(path)
                if self.source(file).digest != digest:
                    own = None if exact else self._moved(own or array("i"), path, digest, route)
                if own is None:
                    changed = str(path)
                    continue
                pairs = zip(own[::2], own[1::2], strict=True) if width == 2 else own
                lines.setdefault(file, set()).update(self.measurement.from_plain(pairs))
            return lines, changed

        ran, changed = placed(document["ran"], exact=False)
        imported: dict[str, Lines] = {}
        for path, entries in document["imported"]:
            lines, outdated = placed(entries, exact=True)
            file = self._file(path)
            imported[file] = {} if self.is_imported(file) else lines
            if not self.is_imported(file):
                changed = changed or outdated
        if changed:
            return changed
        return Covered(ran, imported)

    def _moved(
        self, numbers: array[int], path: str, digest: str, route: Route
    ) -> array[int] | None:
        relocation = self._relocation(path, digest, route)
        if relocation is None:
            return None
        moved = array("i")
        for number in numbers:
            now = relocation.line(number)
            if now is None:
                return None
            moved.append(now)
        return moved

    def _relocation(self, path: str, digest: str, route: Route) -> Relocation | None:
        known = (path, digest)
        if known not in self._relocations:
            self._relocations[known] = self._relocate(path, digest, route)
        return self._relocations[known]

    def _relocate(self, path: str, digest: str, route: Route) -> Relocation | None:
        now = self.source(self._file(path)).layout
        if now is None:
            return None
        key = _layout_key(path, digest)
        try:
            variants = route.records.read_records([key]).get(key, ())
        except StorageError as error:
            self._fault("covered lines not read", error)
            return None
        for variant in variants:
            document = self._document(variant, route)
            if document is not None:
                return Relocation([Block(*block) for block in document["blocks"]], now.blocks)
        return None

    def _document(self, variant: Variant, route: Route) -> dict[str, Any] | None:
        try:
            found: Any = self.engine.parts.payloads.read(variant.result, route.results, SERIALIZER)
        except LostResultError:
            return None  # as if it had never been written
        except StorageError as error:
            self._fault("covered lines not read", error)
            return None
        return found if isinstance(found, dict) else None

    # ------------------------------------------------------------------------ internals

    def _file(self, path: str) -> str:
        """The name of a file as coverage knows it: links followed."""
        return os.path.realpath(self.engine.fingerprints.path_of(path))

    def _muted(self) -> AbstractContextManager[None]:
        return self.engine.quiet()

    def _fault(self, reason: str, error: Exception) -> None:
        self.engine.notify(Faulted(reason, f"{type(error).__name__}: {error}"))


def _layout_key(path: str, digest: str) -> str:
    return _digest(f"layout\0{path}\0{digest}")


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
