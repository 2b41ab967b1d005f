"""Only what a key holder signed is read, and only as it was signed."""

import mmap
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from decorator_parts import (
    KEY,
    NOW,
    OTHER_KEY,
    Bucket,
    Faults,
    digest_of,
    make_variant,
    sha256_of,
    store,
)

from pytest_taskcache.errors import StorageError
from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Blob, Result, Variant
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.location import storage_by_url
from pytest_taskcache.storage.remote.namespaces import Namespace
from pytest_taskcache.storage.remote.signed import Signed

PAYLOAD = b"the value"
BLOB = b"a file of a tree"
PART = b"a part that the trace shares with others"


KEY_OF_VALUE = make_variant(1).key


def signed(bucket: MemoryStorage, *keys: bytes, **options: Any) -> Signed:
    options.setdefault("clock", lambda: NOW)
    return Signed(bucket, keys or (KEY,), namespace=options.pop("namespace", "main"), **options)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def written(bucket: Bucket) -> Variant:
    """A signed record with every kind of content, as it lies in the bucket."""
    variant = make_variant(1, payload=PAYLOAD, blobs=[BLOB])
    store(signed(bucket), variant, PAYLOAD, [BLOB])
    return lying_in(bucket)


def lying_in(bucket: Any) -> Variant:
    """The one record of a storage, as it lies there."""
    (raw,) = bucket.scan()
    return raw


def outer(raw: Variant) -> Variant:
    """A record as its reader sees it."""
    found = Namespace("main").outer(raw)
    assert found is not None
    return found


def test_what_was_signed_is_read_back(bucket: Bucket, written: Variant, tmp_path: Path) -> None:
    """By another process with the key: record, result and files, and as trusted."""
    faults = Faults()
    reader = signed(bucket, on_fault=faults)

    assert reader.trusted
    assert reader.read_records([KEY_OF_VALUE]) == {KEY_OF_VALUE: (outer(written),)}
    assert bytes(reader.read_result(written.result.digest, len(PAYLOAD)) or b"") == PAYLOAD
    assert reader.copy_file(digest_of(BLOB), tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == BLOB
    name = str(outer(written).identity)
    assert reader.recent([name]) == {name: outer(written)}
    assert faults == {}


def test_the_record_states_the_sha256_of_everything(written: Variant) -> None:
    """Payload and files are bound to the signature."""
    assert written.result.sha256 == sha256_of(PAYLOAD)
    assert [blob.sha256 for blob in written.result.blobs] == [sha256_of(BLOB)]
    assert written.signature


def other(value: Any) -> Any:
    """A value of the same type that differs."""
    match value:
        case bool():
            return not value
        case Identity(file, name):
            return Identity(file, f"{name}x")
        case Trace(dependencies, digest):
            return replace(value, dependencies=dependencies[:1])
        case Blob(digest, size):
            return Blob(digest, size + 1)
        case Result():
            return replace(value, size=value.size + 1)
        case str():
            return f"{value[:-1]}{'0' if value[-1:] != '0' else '1'}"
        case int():
            return value + 1
        case float():
            return value - 1.0
        case tuple():
            return value[:-1]
        case None:
            return b"inline"
        case bytes():
            return value + b"x"
    raise AssertionError(f"no other value of {value!r}")


def alterations(variant: Variant) -> Iterator[tuple[str, Variant]]:
    """The variant with each single field altered, at every level."""
    for field in fields(Variant):
        yield field.name, replace(variant, **{field.name: other(getattr(variant, field.name))})
    for field in fields(Result):
        changed = other(getattr(variant.result, field.name))
        result = replace(variant.result, **{field.name: changed})
        yield f"result.{field.name}", replace(variant, result=result)
    trace = variant.trace
    for field in Blob._fields:
        blob = variant.result.blobs[0]
        changed = blob._replace(**{field: other(getattr(blob, field))})
        result = replace(variant.result, blobs=(changed,))
        yield f"blob.{field}", replace(variant, result=result)
    yield "trace.digest", replace(variant, trace=replace(trace, digest=other(trace.digest)))
    for place in range(3):
        dependency = list(trace.dependencies[1])
        dependency[place] = other(str(dependency[place])) if place else Kind.STAT
        dependencies = (trace.dependencies[0], Dependency(*dependency))
        changed_trace = replace(trace, dependencies=dependencies)
        yield f"dependency[{place}]", replace(variant, trace=changed_trace)
    for name in ("parts", "inputs", "parameters", "versions"):
        (left, right), *rest = getattr(variant, name)
        for pair in ((other(left), right), (left, other(right)), (left + right[0], right[1:])):
            whole = (Part(*pair) if name != "versions" else pair, *rest)
            yield f"{name} {pair}", replace(variant, **{name: whole})
    yield "identity.file", replace(variant, identity=Identity("x.py", variant.identity.name))
    yield "never expires", replace(variant, expires=None)
    yield "expires later", replace(variant, expires=(variant.expires or 0.0) + 1e6)


def test_every_single_field_is_covered(bucket: Bucket, written: Variant) -> None:
    """Whatever is altered in a record, it is no longer believed."""
    seen = 0
    for what, altered in alterations(written):
        assert altered != written, what
        bucket.planted = {written.key: (altered,)}
        faults = Faults()
        reader = signed(bucket, on_fault=faults)
        assert reader.read_records([KEY_OF_VALUE]) == {}, what
        assert sum(faults.values()) == 1, what
        assert reader.read_result(written.result.digest, len(PAYLOAD)) is None, what
        seen += 1
    assert seen > 30


def test_an_inline_payload_is_covered(bucket: Bucket) -> None:
    """Small values ride inside their record and are signed with it."""
    variant = make_variant(1, payload=PAYLOAD, inline=True)
    signed(bucket).write_records([variant])
    raw = lying_in(bucket)
    assert raw.result.sha256 == sha256_of(PAYLOAD)

    bucket.planted = {raw.key: (replace(raw, result=replace(raw.result, inline=b"the v0lue")),)}

    assert signed(bucket).read_records([variant.key]) == {}


def test_a_swapped_payload_is_refused(bucket: Bucket, written: Variant, tmp_path: Path) -> None:
    """Bytes that an adapter's own checksum accepts, but that nobody signed, never come back."""
    faults = Faults()
    reader = signed(bucket, on_fault=faults)
    assert reader.read_records([KEY_OF_VALUE])
    bucket.swapped = {written.result.digest: b"evil value", digest_of(BLOB): b"evil file"}

    assert reader.read_result(written.result.digest, len(PAYLOAD)) is None
    assert not reader.copy_file(digest_of(BLOB), tmp_path / "blob")
    assert not (tmp_path / "blob").exists()
    assert faults == {"refused: a result is not the one that was signed": 2}


def test_a_result_without_a_verified_record_is_never_returned(
    bucket: Bucket, written: Variant, tmp_path: Path
) -> None:
    """A digest alone, e.g. from another storage's record, proves nothing."""
    reader = signed(bucket)

    assert reader.read_result(written.result.digest, len(PAYLOAD)) is None
    assert not reader.copy_file(digest_of(BLOB), tmp_path / "blob")
    assert reader.has_results([written.result.digest, digest_of(BLOB)]) == frozenset()
    assert not (tmp_path / "blob").exists()


@pytest.mark.parametrize(
    ("reason", "reader"),
    [
        ("signature does not match", lambda *given: signed(given[0], OTHER_KEY, on_fault=given[1])),
        (
            "signature does not match",
            lambda *given: signed(given[0], project="other", on_fault=given[1]),
        ),
    ],
    ids=["another key", "another project"],
)
def test_another_key_or_project_is_refused(
    bucket: Bucket, written: Variant, reason: str, reader: Callable[[Bucket, Faults], Signed]
) -> None:
    """Records cannot be carried from one project to another."""
    faults = Faults()
    storage = reader(bucket, faults)

    assert storage.read_records([KEY_OF_VALUE]) == {}
    assert storage.recent([str(outer(written).identity)]) == {}
    assert [text for text in faults if reason in text]


def test_an_unsigned_record_is_refused(bucket: Bucket, written: Variant) -> None:
    """It is what every forgery starts with."""
    bucket.planted = {written.key: (replace(written, signature=""),)}
    faults = Faults()
    storage = signed(bucket, on_fault=faults)

    assert storage.read_records([KEY_OF_VALUE]) == {}
    assert faults == {"refused: a record is not signed": 1}


def test_a_record_under_another_key_is_refused(bucket: Bucket, written: Variant) -> None:
    """Well signed, but for another computation."""
    bucket.planted = {f"main/{'f' * 32}": (written,)}
    faults = Faults()
    storage = signed(bucket, on_fault=faults)

    assert storage.read_records(["f" * 32]) == {}
    assert faults == {"refused: a record lies where another one belongs": 1}


def test_keys_can_be_rotated(bucket: Bucket, written: Variant) -> None:
    """New key in front: it signs, the old one still verifies; once it is gone, no more."""
    both = signed(bucket, OTHER_KEY, KEY)
    newer = make_variant(2, payload=b"newer")
    store(both, newer, b"newer")

    keys = [KEY_OF_VALUE, newer.key]
    assert set(both.read_records(keys)) == set(keys)
    assert set(signed(bucket, OTHER_KEY).read_records(keys)) == {newer.key}
    assert set(signed(bucket, KEY).read_records(keys)) == {KEY_OF_VALUE}


@pytest.mark.parametrize(("ahead", "believed"), [(599.0, True), (601.0, False)])
def test_a_record_from_the_future_is_refused(bucket: Bucket, ahead: float, believed: bool) -> None:
    """Clocks may differ by ten minutes; a record dated further ahead would never expire."""
    variant = make_variant(1, inline=True, created=NOW + ahead)
    signed(bucket).write_records([variant])

    assert bool(signed(bucket).read_records([variant.key])) is believed


def test_a_good_variant_is_found_among_forged_ones(bucket: Bucket, written: Variant) -> None:
    """Spam under a key hides nothing that the storage still returns."""
    forged = [replace(written, id=f"{n:020d}-spam", signature="x" * n) for n in range(9)]
    bucket.planted = {written.key: (*forged[:4], written, *forged[4:])}

    assert signed(bucket).read_records([KEY_OF_VALUE]) == {KEY_OF_VALUE: (outer(written),)}


def test_one_warning_for_all_refusals(bucket: Bucket, written: Variant) -> None:
    """Counted each, told once."""
    faults = Faults()
    storage = signed(bucket, OTHER_KEY, on_fault=faults)

    for _ in range(5):
        storage.read_records([KEY_OF_VALUE])
        storage.read_result(written.result.digest, len(PAYLOAD))

    first, second = faults
    assert ("signature" in first, faults[first], "verified record" in second) == (True, 5, True)
    (sentence,) = faults.sentences
    assert "bucket://" in sentence
    assert "signature" in sentence


def test_a_second_payload_under_one_digest_is_refused(bucket: Bucket) -> None:
    """Two bodies with one xxh3 digest: whichever came second is neither written nor believed."""
    faults = Faults()
    storage = signed(bucket, on_fault=faults)
    digest = "a" * 32
    storage.write_result(digest, [b"first"])
    with pytest.raises(StorageError, match="same digest"):
        storage.write_result(digest, [b"second"])

    result = Result(digest, 6, "json", None, sha256_of(b"second"))
    asked = make_variant(3)
    twin = Namespace("main").inner(replace(asked, result=result))
    bucket.planted = {twin.key: (replace(twin, signature=next(storage._signatures(twin))),)}

    assert storage.read_records([asked.key]) == {}
    reason = "refused: a record states another SHA-256 for a result already known"
    assert faults == {reason: 1}


def test_a_record_of_an_unknown_result_is_no_way_in(bucket: Bucket) -> None:
    """What someone else put under a digest is not vouched for by signing a record of it."""
    evil = b"evil"
    bucket.write_result(digest_of(evil), [evil])
    variant = make_variant(1, payload=evil)
    signed(bucket).write_records([variant])

    reader = signed(bucket)
    ((found,),) = reader.read_records([variant.key]).values()

    assert found.result.sha256 == ""
    assert reader.read_result(variant.result.digest, len(evil)) is None


def test_bytes_cannot_change_after_they_were_verified(tmp_path: Path) -> None:
    """A mapped file of a shared directory shows what others write to it later; what is returned
    does not."""
    path = tmp_path / "result"
    data = os.urandom(3 * mmap.PAGESIZE)
    path.write_bytes(data)

    class Shared(Bucket):
        def read_result(self, digest: str, size: int) -> memoryview | None:
            with path.open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))

    shared = Shared()
    store(signed(shared), make_variant(1, payload=data), data)
    reader = signed(shared)
    reader.read_records([make_variant(1).key])
    found = reader.read_result(digest_of(data), len(data))
    with path.open("r+b") as file:
        file.write(b"evil" * 1000)

    assert found is not None
    assert bytes(found) == data
    assert not found.readonly  # still the caller's own to change, as the port says


def test_a_link_is_never_made(tmp_path: Path) -> None:
    """Whoever can write to the stored file could else change the restored one."""
    inner = LocalStorage(tmp_path / "cache")
    storage = signed(inner)  # type: ignore[arg-type]
    file = tmp_path / "file"
    file.write_bytes(b"content" * 1000)
    storage.add_file(digest_of(file.read_bytes()), file)

    assert storage.copy_file(digest_of(file.read_bytes()), tmp_path / "copy", True)
    assert (tmp_path / "copy").stat().st_nlink == 1


def test_a_vanished_file_is_a_storage_error(bucket: Bucket, tmp_path: Path) -> None:
    """Not an OSError, which would break the test that stores it."""
    with pytest.raises(StorageError, match="add file"):
        signed(bucket).add_file("a" * 32, tmp_path / "gone")


def test_parts_of_a_trace_are_covered() -> None:
    """What a trace shares with others is named by SHA-256 too, and returned only so."""
    inner = storage_by_url(f"memory://{uuid.uuid4().hex}")
    variant = make_variant(1, payload=PAYLOAD, inline=True)
    uses = (Blob(digest_of(PART), len(PART)),)
    variant = replace(variant, trace=replace(variant.trace, uses=uses))
    store(signed(inner), variant, PAYLOAD, [PART])

    reader = signed(inner)
    assert reader.read_result(digest_of(PART), len(PART)) is None
    ((read,),) = reader.read_records([variant.key]).values()
    assert [blob.sha256 for blob in read.trace.uses] == [sha256_of(PART)]
    assert reader.read_result(digest_of(PART), len(PART)) == PART
    for field in Blob._fields:
        changed = read.trace.uses[0]._replace(**{field: other(getattr(read.trace.uses[0], field))})
        altered = replace(read, trace=replace(read.trace, uses=(changed,)))
        inner.write_records([Namespace("main").inner(altered)])
        assert signed(inner).read_records([variant.key]) == {}, field
