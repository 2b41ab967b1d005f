"""What is remembered between runs, so that questions about them can be answered afterwards.

Kept on the local shelf and never sent anywhere: the tallies of the last runs, with an entry for
each computation that ran; the arguments that keys were computed for, as people see them; and
the texts that computations rested on (small files, listings, versions; sources are kept by their
contents, see `source_archive`), a few versions of each, so that a change can be shown line by line.
Losing any of it costs only detail.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from pytest_taskcache.dataclass import dataclass, replace
from pytest_taskcache.model.dependency import Dependency, Kind
from pytest_taskcache.observation.source_archive import source_on
from pytest_taskcache.ports import Shelf
from pytest_taskcache.report.tally import Tally, TallyEntry

RUNS = 10
"""How many runs are remembered."""

_ENTRIES = 10_000
"""Entries of one run at most; those that ran go before those that were reused."""

_VERSIONS = 4
_TEXT = 64_000
"""Bytes of a text at most; of larger files only the size is remembered."""

_TEXTS = 500
"""Dependencies of one run whose texts are remembered at most."""

_INPUTS = 20
_TEXT_KINDS = (Kind.FILE, Kind.LISTING, Kind.DISTRIBUTION)
_SOURCES = ("function", "module", "source")
_RUN_SECTION, _NEXT_SECTION = "report.runs", "report.next"
_TEXT_SECTION, _INPUT_SECTION = "report.texts", "report.inputs"


@dataclass(frozen=True, slots=True)
class Fact:
    """What is remembered of a dependency, for people: its text (source, a small file, names of
    a listing, a version) and its size in bytes (-1: unknown)."""

    text: str = ""
    size: int = -1


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run as it is remembered; times in POSIX seconds."""

    id: str
    started: float
    ended: float
    tally: Tally


class History:
    """Reads and writes what is remembered; ``path_of`` finds the file that a name stands for.

    Nothing here raises for what cannot be read or kept.
    """

    def __init__(self, shelf: Shelf, path_of: Callable[[str], Path]) -> None:
        self._shelf = shelf
        self._path_of = path_of
        self._runs: list[PastRun] | None = None
        self._texts: Mapping[str, bytes] | None = None
        self._inputs: dict[str, Mapping[str, str]] | None = None

    def runs(self) -> list[PastRun]:
        """The runs that are remembered, newest first."""
        if self._runs is None:
            found = [_run(item) for item in self._shelf.read(_RUN_SECTION).values()]
            self._runs = sorted(
                (run for run in found if run is not None), key=lambda run: -run.started
            )
        return self._runs

    def inputs(self, key: str) -> Mapping[str, str]:
        """What the arguments looked like when this key was computed; none if not known."""
        if self._inputs is None:
            self._inputs = {}
            for item in self._shelf.read(_INPUT_SECTION).values():
                self._inputs.update(_unpacked(item) or {})
        return self._inputs.get(key, {})

    def before(self, kind: str, name: str, digest: str, created: float) -> Fact | None:
        """A dependency as it was for a record that was made then: what was kept under this digest,
        or, of a source, what was the newest when the record was made."""
        versions = self._versions(_text_name(kind, name))
        if kind in _SOURCES:
            # What is no content's digest, as that of a function's source, is none of a file kept.
            older = [each["digest"] for each in versions if each["since"] <= created]
            kept = (source_on(self._shelf, each) for each in (digest, *older[-1:]))
            content = next((each for each in kept if each is not None), None)
            if content is None:
                return None
            return Fact(content.decode("utf-8", "replace"), len(content))
        found = next((each for each in versions if digest and each["digest"] == digest), None)
        return Fact(found["text"], found["size"]) if found is not None else None

    def now(self, kind: str, name: str) -> Fact | None:
        """A dependency as it is."""
        return _fact(kind, name, self._path_of)

    def past(self, identity: str, before: float) -> Iterator[TallyEntry]:
        """What became of a computation each time that it was asked for before then, the last time
        first."""
        for run in self.runs():
            for entry in reversed(run.tally.entries):
                if entry.identity == identity and entry.at < before:
                    yield entry

    def keep_run(self, run: PastRun) -> None:
        """Remembers a run in place of the oldest one."""
        entries = run.tally.entries
        if len(entries) > _ENTRIES:
            ran = [each for each in entries if each.status != "reused"]
            entries = (ran + [each for each in entries if each.status == "reused"])[:_ENTRIES]
        # The runs themselves are not read for this: a warm run pays for a number.
        last = self._shelf.read(_NEXT_SECTION).get("slot", b"")
        slot = (int(last) + 1) % RUNS if last.isdigit() else 0
        plain = replace(run.tally, entries=entries).to_plain()
        body = {"id": run.id, "started": run.started, "ended": run.ended, "tally": plain}
        self._shelf.write(_RUN_SECTION, {str(slot): _packed(body)})
        self._shelf.write(_NEXT_SECTION, {"slot": str(slot).encode()})
        self._runs = None

    def keep_inputs(self, entries: Iterable[TallyEntry]) -> None:
        """Remembers what the arguments of computed keys looked like, a few a computation."""
        fresh: dict[str, dict[str, Any]] = {}
        seen: set[str] = set()
        for entry in entries:
            if entry.key in seen:
                continue  # the tests of a file share theirs
            if entry.key and entry.inputs and entry.status in ("computed", "refreshed"):
                seen.add(entry.key)
                fresh.setdefault(entry.identity, {})[entry.key] = entry.inputs
        if not fresh:
            return
        known = self._shelf.read(_INPUT_SECTION)
        items = {}
        for identity, inputs in fresh.items():
            merged = {**(_unpacked(known.get(identity, b"")) or {}), **inputs}
            items[identity] = _packed(dict(list(merged.items())[-_INPUTS:]))
        self._shelf.write(_INPUT_SECTION, items)
        self._inputs = None

    def keep_texts(
        self, rests_on: Iterable[Dependency], sources: Mapping[str, str], now: float
    ) -> None:
        """Remembers the texts of dependencies, and which contents (digests) source files have, as
        they are now; what is remembered already is not read again."""
        items = {}

        def keep(title: str, digest: str, look: Callable[[], Fact | None]) -> None:
            versions = self._versions(title)
            if versions and versions[-1]["digest"] == digest:
                return
            if (fact := look()) is not None:
                made = {"digest": digest, "since": now, "text": fact.text, "size": fact.size}
                items[title] = _packed([*versions, made][-_VERSIONS:])

        for name, digest in sources.items():
            keep(_text_name("module", name), digest, Fact)  # its text is kept by content
        wanted = (each for each in rests_on if each.kind in _TEXT_KINDS)
        for kind, name, digest in islice(wanted, _TEXTS):
            keep(_text_name(kind, name), digest, partial(_fact, kind, name, self._path_of))
        self._shelf.write(_TEXT_SECTION, items)
        self._texts = None

    def _versions(self, title: str) -> list[dict[str, Any]]:
        if self._texts is None:
            self._texts = self._shelf.read(_TEXT_SECTION)
        return list(_unpacked(self._texts.get(title, b"")) or [])


def _text_name(kind: str, name: str) -> str:
    if kind in _SOURCES:
        return f"module {name.partition('::')[0]}"
    return f"{kind} {name}"


def _fact(kind: str, name: str, path_of: Callable[[str], Path]) -> Fact | None:
    try:
        if kind == Kind.DISTRIBUTION:
            return Fact(metadata.version(name))
        path = path_of(name.partition("::")[0] if kind in _SOURCES else name)
        if kind == Kind.LISTING:
            return Fact("\n".join(sorted(each.name for each in path.iterdir())[:5000]))
        if kind not in (Kind.FILE, *_SOURCES):
            return None
        if not path.is_file():
            return None  # a pipe or a device would have us wait
        length = path.stat().st_size
        if length > _TEXT:
            return Fact("", length)
        return Fact(path.read_bytes().decode("utf-8"), length)
    except UnicodeDecodeError:
        return Fact("", length)
    except (OSError, ValueError, metadata.PackageNotFoundError):
        return None


def _run(item: bytes) -> PastRun | None:
    plain = _unpacked(item)
    try:
        tally = Tally.from_plain(plain["tally"])
        return PastRun(plain["id"], plain["started"], plain["ended"], tally)
    except (TypeError, KeyError, AttributeError):
        return None  # of another version, or damaged


def _packed(body: object) -> bytes:
    # Text of strangers may hold lone surrogates, which ASCII carries.
    return zlib.compress(json.dumps(body).encode("ascii"), 3)


def _unpacked(item: bytes) -> Any:
    if not item:
        return None
    try:
        return json.loads(zlib.decompress(item))
    except (zlib.error, ValueError):
        return None
