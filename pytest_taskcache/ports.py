"""The protocols between the engine and what it is composed of.

Every adapter raises only the errors named here; everything else the world does to it is its
own to absorb. All methods may be called from several threads and, where the adapter is shared,
from several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.model.event import Event
from pytest_taskcache.model.record import Variant

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes, or a contiguous view of them."""


@dataclass(frozen=True, slots=True)
class FileBlob:
    """A file that belongs to a payload: its xxh3-128 digest, size in bytes, where it lies now."""

    digest: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Payload:
    """A serialized value: the bytes, in chunks that are written one after the other, and the
    files it refers to by digest. Chunks may alias the value's memory: write them before anyone
    can change it.

    ``holds`` is the project's code that the bytes are worth nothing without, run or not: closures,
    lambdas, what pickles and unpickles an instance; each by the absolute path of its file and its
    qualified name. ``paths`` are the absolute paths that the value names, as text or as paths.
    """

    chunks: tuple[Buffer, ...]
    blobs: tuple[FileBlob, ...] = ()
    holds: tuple[tuple[str, str], ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in all chunks together, blobs not counted."""
        return sum(memoryview(chunk).nbytes for chunk in self.chunks)


CopyBlob: TypeAlias = Callable[[str, Path, bool], None]
"""``copy(digest, destination, readonly)``: puts a blob's content at a path that does not exist
yet (reflink, else copy; a hard link only if ``readonly``). Raises StorageError if it is lost."""


@dataclass(frozen=True, slots=True)
class Restore:
    """What a serializer may use while loading: ``scratch()`` makes a fresh empty directory that
    the run owns, ``copy`` fetches blobs."""

    scratch: Callable[[], Path]
    copy: CopyBlob


@runtime_checkable
class Serializer(Protocol):
    """Bytes from values, and back."""

    @property
    def name(self) -> str:
        """Stable name; part of every key. For formats that depend on the interpreter it says
        so itself, e.g. ``pickle/cpython-3.12``."""

    @property
    def executes(self) -> bool:
        """Whether loading can execute code that the bytes name (pickle: True; JSON: False)."""

    def dump(self, value: object) -> Payload:
        """The payload of a value. Raises SerializationError."""

    def load(self, data: memoryview, restore: Restore) -> object:
        """A new value from a payload's bytes; may keep (zero-copy) views of ``data``.

        Raises SerializationError.
        """


@runtime_checkable
class KeyStorage(Protocol):
    """Records by key. Append-only: a variant is never changed once written. Who has no columns
    for its fields stores it as the bytes of ``pytest_taskcache.storage.records``.

    Whatever the world does to a storage it raises as a StorageError, which takes three texts:
    ``StorageError(self.describe(), "read records", "connection refused")``, that is where, what
    could not be done, and why, in words that are few and hold no secret: faults are counted by
    them. What is absent, torn or corrupt is no error.
    """

    def describe(self) -> str:
        """Where this is, for people; without secrets."""

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        """The committed variants of each key that has any: newest first, VARIANTS at most.

        One round trip (or a bounded number, in parallel) for any number of keys. Corrupt
        records read as absent. Raises StorageError.
        """

    def write_records(self, variants: Sequence[Variant]) -> None:
        """Commits all of them; idempotent by ``Variant.id``. Their results (``result`` with its
        blobs, and what the trace ``uses``) have been written before, so that whichever is visible
        is complete and valid by itself.

        Storages that have transactions commit all or none, visible to others when it returns.
        Others may show some of them before, and after a StorageError."""

    def recent(self, identities: Collection[str]) -> Mapping[str, Variant]:
        """The newest variant of each identity (``str(Identity)``), whatever its key; for
        explanations. May be empty where the storage keeps no such index. Raises StorageError."""

    def scan(self) -> Iterator[Variant]:
        """All committed variants, in no order, read lazily: for listings, and for pruning. What is
        written or removed meanwhile may be among them or not. Raises StorageError."""

    def remove_records(self, ids: Collection[str]) -> None:
        """Forgets variants by id; unknown ids are ignored. Raises StorageError."""

    def close(self) -> None:
        """Releases handles; using it again afterwards reopens it. Never raises."""


@runtime_checkable
class ResultStorage(Protocol):
    """Payloads and blobs by content digest (xxh3-128, hexadecimal)."""

    @property
    def trusted(self) -> bool:
        """Whether what it returns may be unpickled: it is local and ours."""

    def describe(self) -> str:
        """Where this is, for people; without secrets."""

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        """Stores bytes under their digest; a digest already there is left as it is. Atomic:
        no reader ever sees a part. Raises StorageError."""

    def add_file(self, digest: str, source: Path) -> None:
        """As write_result, from a file, which stays where it is and keeps its own inode."""

    def read_result(self, digest: str, size: int) -> memoryview | None:
        """The bytes, possibly a private (copy-on-write) mapping; None if absent, torn or not
        of this digest and size (checked at least once per process). Raises StorageError."""

    def copy_file(self, digest: str, destination: Path, readonly: bool = False) -> bool:
        """Puts the bytes at a new path (reflink, else copy; a hard link only if readonly);
        False if absent, torn or corrupt. Raises StorageError."""

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        """Those of the digests that are stored. Raises StorageError."""

    def close(self) -> None:
        """As KeyStorage.close."""


@runtime_checkable
class Storage(KeyStorage, ResultStorage, Protocol):
    """Both roles in one object."""


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A target as it lies there: its bytes, their xxh3-128 digest, when it was last changed
    (POSIX seconds). ``owned``: nobody but this user can have written it, inside the target
    directory, so that it may be decoded without a record that vouches for it. ``path``: where it
    can be looked at again, None where it is no local file."""

    data: Buffer
    digest: str
    modified: float
    owned: bool = False
    path: Path | None = None


@runtime_checkable
class TargetStorage(Protocol):
    """What a result storage can do that keeps targets, too: values under the names that their
    authors chose (``target=``). Those of any other result storage lie in the local cache."""

    def read_target(self, name: str) -> TargetFile | None:
        """The target of a relative POSIX path; None if there is none. Raises StorageError."""

    def write_target(self, name: str, data: Buffer, key: str) -> None:
        """Writes or replaces it, atomically; it may go when no record of ``key`` has its digest
        any more ("": it stays). Raises StorageError."""

    def target_path(self, name: str) -> Path | None:
        """Where a target that was just written can be looked at; None if it is no local file."""


class FullStorage(Storage, TargetStorage, Protocol):
    """All three roles in one object, as our own have them."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds, or wants, a lock.

    ``run`` identifies the test run and ``started`` (POSIX seconds) its age; ``process`` is
    ``pid@host``; ``attempt`` is unique to the computation within its process; ``label`` is for
    people, e.g. a node id.
    """

    run: str
    started: float
    process: str
    attempt: str
    label: str = ""

    @property
    def age(self) -> tuple[float, str]:
        """Sorts runs from oldest to youngest; the same for all workers of a run."""
        return (self.started, self.run)


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lock. ``token`` grows with every acquisition of the key (a fencing token)."""

    key: str
    holder: Holder
    token: int


@runtime_checkable
class LockManager(Protocol):
    """Mutual exclusion by key. Nothing here blocks: the engine does the waiting."""

    def describe(self) -> str:
        """What and where this is, for people; without secrets."""

    def acquire(self, key: str, holder: Holder) -> Lease | Holder:
        """The lease, or who has it. A holder whose process died, or whose lease ran out, has
        nothing. Raises LockError."""

    def release(self, lease: Lease) -> None:
        """Gives up the lease; one that was lost meanwhile is ignored. Raises LockError."""

    def confirm(self, lease: Lease) -> bool:
        """Whether the lease is still held, asked right before a commit. Raises LockError."""

    def close(self) -> None:
        """Releases all leases of this object. Never raises."""


class Fingerprints(Protocol):
    """Digests of things as they are now, and the names they go by in traces."""

    def name_of(self, path: str | Path) -> str:
        """The name of a path in a trace: POSIX, relative to the root, or under ``<tmp>/``, else
        absolute. Follows no links."""

    def path_of(self, name: str) -> Path:
        """The path a name stands for here; the inverse of name_of."""

    def owners(self, module: str) -> Collection[str]:
        """The names of the distributions that a top-level module is installed from."""

    def hiding(self, path: Sequence[str]) -> Collection[str]:
        """Names for digests of kind ``IMPORT`` that tell which modules of the standard library the
        directories of this path hide."""

    def digest(self, kind: Kind, name: str) -> str:
        """The present digest of a dependency; ABSENT where it does not exist. Never raises:
        what cannot be read gets a digest that says so. Memoized until ``forget``."""

    def requirements(self, distribution: str) -> Collection[str]:
        """The distribution and all installed ones that it requires, directly or not."""

    def source(self, name: str) -> bytes | None:
        """The bytes of a source file, in a zip file too; None where there is none."""

    def is_project_file(self, path: str) -> bool:
        """Whether there is a file at a path that is neither the standard library's nor recorded
        in an installed, non-editable distribution."""

    def variable_digest(self, name: str, variables: Mapping[bytes, bytes]) -> str:
        """The digest of an environment variable, or of all for ``*``, in an encoded environment."""

    def forget(self, path: str = "", *, tree: bool = False) -> None:
        """What is at this absolute path, or anything, may have changed (a write, a rename, a child
        process): drops it from the memo, with all below it for a ``tree``; digests kept by stat
        stay. Cheap: what is dropped is worked out once something is asked."""

    def doubt(self, lasts: Callable[[], bool]) -> None:
        """Files may change without a sign for as long as this holds: until it was asked once more
        after that, nothing of them is remembered."""

    def one_look(self) -> AbstractContextManager[None]:
        """What this thread asks inside is answered as of its beginning, for all that is doubted."""


class Shelf(Protocol):
    """Small derived facts kept between sessions. Losing them costs time, never correctness."""

    def read(self, section: str) -> Mapping[str, bytes]:
        """All items of a section; empty if there are none or they cannot be read."""

    def write(self, section: str, items: Mapping[str, bytes]) -> None:
        """Adds or replaces items. Never raises; what cannot be kept is not kept."""


class Observer(Protocol):
    """Is told what happened. An observer that raises is reported and breaks nothing."""

    def notify(self, event: Event) -> None:
        """Called synchronously, possibly from several threads."""
