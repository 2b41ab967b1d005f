"""Carrying records from one storage to another, and through a file.

An archive is a zip file: ``records/<n>`` (each a record as remote storages write it),
``results/<digest>``, and ``seal``: an HMAC-SHA256 over the names and SHA-256 of all before it,
where PYTEST_TASKCACHE_SIGNING_KEY is set. Reading values back executes what they name, so an
archive is taken in only if its seal fits, or if whoever runs the command vouches for it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pytest_taskcache.checksum import checksum_bytes
from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.errors import StorageError, UntrustedStorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.ports import Storage
from pytest_taskcache.storage.pointers import results_of
from pytest_taskcache.storage.records import decode_variant, encode_variant
from pytest_taskcache.storage.remote.signed import signing_keys

_SEAL = "seal"
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Carried:
    """How many records were carried, were there already, or could not be carried because a
    result of theirs is lost or damaged."""

    records: int = 0
    present: int = 0
    lost: int = 0


def copy(records: Iterable[Variant], source: Storage, destination: Storage) -> Iterator[Carried]:
    """Carries records with their results, results first; yields how far it is after each batch.
    Raises StorageError."""
    done = Carried()
    for batch in _batches(records):
        known = destination.read_records({each.key for each in batch})
        there = {each.id for variants in known.values() for each in variants}
        fresh = [each for each in batch if each.id not in there]
        stored = destination.has_results({d for each in fresh for d, _ in results_of(each)})
        whole = [each for each in fresh if _results_copied(each, source, destination, stored)]
        destination.write_records(whole)
        done = Carried(
            done.records + len(whole),
            done.present + len(batch) - len(fresh),
            done.lost + len(fresh) - len(whole),
        )
        yield done


def damaged(records: Iterable[Variant], storage: Storage) -> Iterator[tuple[Variant, str]]:
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
                data = storage.read_result(digest, size)
                whole = data is not None and checksum_bytes(bytes(data)) == digest
                known[digest] = "" if whole else f"result {digest} is lost or damaged"
            problem = problem or known[digest]
        yield record, problem


def export(
    records: Iterable[Variant], storage: Storage, path: Path, environ: Mapping[str, str]
) -> Iterator[Carried]:
    """Writes records and their results to an archive, which appears whole or not at all; yields
    how far it is. Raises StorageError, OSError."""
    keys = signing_keys(environ)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    done, sums, written = Carried(), hashlib.sha256(), set()
    try:
        with zipfile.ZipFile(partial, "x", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:

            def add(name: str, data: bytes) -> None:
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
                sums.update(_line(name, data))

            for record in records:
                results = {
                    digest: storage.read_result(digest, size)
                    for digest, size in results_of(record)
                    if digest not in written
                }
                if any(data is None for data in results.values()):
                    done = Carried(done.records, 0, done.lost + 1)
                    continue
                for digest, data in results.items():
                    add(f"results/{digest}", bytes(data or b""))
                    written.add(digest)
                add(f"records/{done.records}", encode_variant(record))
                done = Carried(done.records + 1, 0, done.lost)
                yield done
            if keys:
                archive.writestr(_SEAL, _seal(keys[0], sums.digest()))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    yield done


def take_in(
    path: Path, storage: Storage, environ: Mapping[str, str], *, vouched: bool, dry_run: bool
) -> Iterator[Carried]:
    """Adds an archive's records and results to a storage; yields how far it is. Nothing is
    written before all of the archive was read and its seal fits.

    Raises StorageError for a file that is no archive or is damaged, UntrustedStorageError where
    the seal is missing or wrong and nobody vouches for it, OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not vouched:
                _check_seal(archive, path, environ)
            variants = _records(archive, path)
            known = storage.read_records({each.key for each in variants})
            there = {each.id for found in known.values() for each in found}
            fresh = [each for each in variants if each.id not in there]
            done = Carried(0, len(variants) - len(fresh), 0)
            yield done
            for batch in _batches(fresh):
                for digest, _ in {pair for each in batch for pair in results_of(each)}:
                    data = archive.read(f"results/{digest}")
                    if checksum_bytes(data) != digest:
                        raise zipfile.BadZipFile(f"result {digest} is damaged")
                    if not dry_run:
                        storage.write_result(digest, [data])
                if not dry_run:
                    storage.write_records(batch)
                done = Carried(done.records + len(batch), done.present)
                yield done
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError) as error:
        raise StorageError(
            str(path), "import", f"it is no archive of ours, or damaged ({error}); export it again"
        ) from error


def _records(archive: zipfile.ZipFile, path: Path) -> list[Variant]:
    found = []
    for name in archive.namelist():
        if name.startswith("records/"):
            variant = decode_variant(archive.read(name))
            if variant is None:
                raise zipfile.BadZipFile(f"{name} is damaged, or of another version")
            found.append(variant)
    if any(not name.startswith(("records/", "results/", _SEAL)) for name in archive.namelist()):
        raise zipfile.BadZipFile("there is something else in it")
    return found


def _check_seal(archive: zipfile.ZipFile, path: Path, environ: Mapping[str, str]) -> None:
    keys = signing_keys(environ)
    names = archive.namelist()
    sums = hashlib.sha256()
    for name in names:
        if name != _SEAL:
            sums.update(_line(name, archive.read(name)))
    seal = archive.read(_SEAL) if _SEAL in names else b""
    if any(hmac.compare_digest(seal, _seal(key, sums.digest())) for key in keys):
        return
    reason = "its seal is wrong" if seal and keys else "nothing proves where it comes from"
    raise UntrustedStorageError(
        str(path),
        "import",
        f"{reason}; set PYTEST_TASKCACHE_SIGNING_KEY here and where it is exported, or say "
        "--trust if it is yours: reading values back executes code that they name",
    )


def _line(name: str, data: bytes) -> bytes:
    return f"{name} {len(data)} {hashlib.sha256(data).hexdigest()}\n".encode()


def _seal(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, b"taskcache archive\n" + content, hashlib.sha256).hexdigest().encode()


def _results_copied(
    record: Variant, source: Storage, destination: Storage, stored: Iterable[str]
) -> bool:
    for digest, size in results_of(record):
        if digest in stored:
            continue
        data = source.read_result(digest, size)
        if data is None:
            return False
        destination.write_result(digest, [data])
    return True


def _batches(records: Iterable[Variant]) -> Iterator[list[Variant]]:
    batch: list[Variant] = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
