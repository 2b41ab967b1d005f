"""Carrying records from one storage to another, and through a file.

An archive is a zip file: ``records/<id>`` (each a record as remote storages write it) and
``results/<digest>``. Its comment is the seal where PYTEST_TASKCACHE_SIGNING_KEY is set: an
HMAC-SHA256 of all bytes before it. Reading values back executes what they name, so an archive is
taken in only if its seal fits, or if whoever runs the command vouches for it.
"""

from __future__ import annotations

import hmac
import mmap
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from pytest_taskcache.checksum import checksum_bytes
from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import StorageError, UntrustedStorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Buffer, Storage
from pytest_taskcache.report.contents import Read
from pytest_taskcache.storage.records import decode_variant, encode_variant, results_of
from pytest_taskcache.storage.remote.signed import signing_keys

_BATCH = 100
_SEAL_LENGTH = 64


@dataclass
class Carried:
    """Records carried, present already, and left out since a result is lost or damaged."""

    records: int = 0
    present: int = 0
    lost: int = 0


def copy(
    records: Iterable[Variant],
    read: Read,
    destination: Storage | _NewArchive,
    dry_run: bool = False,
) -> Carried:
    """Carries records with their results, results first. Raises StorageError."""
    done, remaining = Carried(), iter(records)
    while batch := list(islice(remaining, _BATCH)):
        known = destination.read_records({each.key for each in batch})
        there = {each.id for variants in known.values() for each in variants}
        fresh = [each for each in batch if each.id not in there]
        stored = set(destination.has_results({d for each in fresh for d, _ in results_of(each)}))
        whole = []
        for record in fresh:
            results = {d: read(d, size) for d, size in results_of(record) if d not in stored}
            if any(data is None for data in results.values()):
                continue
            whole.append(record)
            for digest, data in results.items():
                stored.add(digest)
                if data is not None and not dry_run:
                    destination.write_result(digest, [data])
        if not dry_run:
            destination.write_records(whole)
        done.records += len(whole)
        done.present += len(batch) - len(fresh)
        done.lost += len(fresh) - len(whole)
    return done


def damaged(records: Iterable[Variant], read: Read) -> Iterator[tuple[Variant, str]]:
    """Every record with what is wrong with it, "" where nothing is: each result is read and its
    digest and size compared, the inline ones too."""
    known: dict[str, str] = {}
    for record in records:
        problem = ""
        inline = record.result.inline
        if inline is not None and checksum_bytes(inline) != record.result.digest:
            problem = "the value in the record is damaged"
        for digest, size in results_of(record):
            if digest not in known:
                data = read(digest, size)
                whole = data is not None and checksum_bytes(bytes(data)) == digest
                known[digest] = "" if whole else f"result {digest} is lost or damaged"
            problem = problem or known[digest]
        yield record, problem


class _NewArchive:
    """An archive that is written; methods as those of ``ports.Storage``."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    def read_records(self, keys: Collection[str]) -> Mapping[str, tuple[Variant, ...]]:
        return {}

    def has_results(self, digests: Collection[str]) -> frozenset[str]:
        return frozenset(each for each in digests if f"results/{each}" in self._file.NameToInfo)

    def write_result(self, digest: str, chunks: Sequence[Buffer]) -> None:
        self._file.writestr(f"results/{digest}", b"".join(chunks))

    def write_records(self, variants: Sequence[Variant]) -> None:
        for variant in variants:
            self._file.writestr(f"records/{variant.id}", encode_variant(variant))


def export(
    records: Iterable[Variant], read: Read, path: Path, environ: Mapping[str, str]
) -> Carried:
    """Writes an archive, which appears whole or not at all. Raises StorageError, OSError."""
    keys = signing_keys(environ)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(partial, "x", zipfile.ZIP_DEFLATED, compresslevel=3) as file:
            done = copy(records, read, _NewArchive(file))
            file.comment = b"-" * _SEAL_LENGTH if keys else b""
        if keys:
            with partial.open("r+b") as stream:
                seal = _seal(stream, keys[0])
                stream.seek(-_SEAL_LENGTH, os.SEEK_END)
                stream.write(seal)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return done


@contextmanager
def archive(
    path: Path, environ: Mapping[str, str], *, vouched: bool
) -> Iterator[tuple[list[Variant], Read]]:
    """The records of an archive, and what reads their results. All of it was compared with its
    seal by then, unless it is vouched for.

    Raises StorageError for a file that is no archive or is damaged, also where that shows while
    it is used, UntrustedStorageError where the seal is missing or wrong and nobody vouches for
    it, OSError."""
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as file:

            def read(digest: str, size: int) -> bytes:
                data = file.read(f"results/{digest}")
                if checksum_bytes(data) != digest:
                    raise zipfile.BadZipFile(f"result {digest} is damaged")
                return data

            if not vouched:
                _check_seal(path, stream, file.comment, signing_keys(environ))
            yield _records(file), read
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError) as error:
        raise StorageError(
            str(path), "import", f"it is no archive of ours, or damaged ({error}); export it again"
        ) from error


def _records(file: zipfile.ZipFile) -> list[Variant]:
    found = []
    for name in file.namelist():
        if name.startswith("records/"):
            variant = decode_variant(file.read(name))
            if variant is None:
                raise zipfile.BadZipFile(f"{name} is damaged, or of another version")
            found.append(variant)
        elif not name.startswith("results/"):
            raise zipfile.BadZipFile("there is something else in it")
    return found


def _check_seal(path: Path, stream: BinaryIO, seal: bytes, keys: Sequence[bytes]) -> None:
    if any(hmac.compare_digest(seal, _seal(stream, key)) for key in keys):
        return
    reason = "its seal is wrong" if seal and keys else "nothing proves where it comes from"
    raise UntrustedStorageError(
        str(path),
        "import",
        f"{reason}; set PYTEST_TASKCACHE_SIGNING_KEY here and where it is exported, or say "
        "--trust if it is yours: reading values back executes code that they name",
    )


def _seal(stream: BinaryIO, key: bytes) -> bytes:
    """The seal of an archive, which goes by all its bytes but those that a seal takes."""
    own = hmac.digest(key, b"taskcache archive", "sha256")  # records are signed with the key itself
    with (
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as content,
        content[:-_SEAL_LENGTH] as sealed,
    ):
        return hmac.digest(own, sealed, "sha256").hex().encode()
