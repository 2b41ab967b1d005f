"""The threat model of docs/security.md, where it is about storages: one attack a test.

Each test plays the attacker with the means the model gives them, and then the victim with the
composition that the documentation recommends. What must not happen is that the victim gets the
attacker's bytes.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decorator_parts import KEY, NOW, OTHER_KEY, Bucket, digest_of, make_variant, sha256_of, store

from pytest_taskcache.errors import UntrustedStorageError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.storage.local import LocalStorage
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.namespaces import Namespace
from pytest_taskcache.storage.remote.signed import Signed
from pytest_taskcache.storage.remote.tiered import Tier, Tiered

EVIL = b"cos\nsystem\n(S'touch /tmp/pwned'\ntR."
GOOD = b"a pickled value"
KEY_OF_VALUE = "d" * 32


def victim(
    bucket: MemoryStorage, *keys: bytes, project: str = "project", now: float = NOW
) -> Tiered:
    """A laptop or a CI job of main: local storage in front, the verified remote behind."""
    remote = Signed(bucket, keys, namespace="main", project=project, clock=lambda: now)
    return Tiered([Tier(MemoryStorage()), Tier(remote, write=False)])


def values(storage: Tiered, key: str = KEY_OF_VALUE) -> list[bytes]:
    """All that could be unpickled for a key."""
    found = []
    for variant in storage.read_records([key]).get(key, ()):
        data = variant.result.inline
        if data is None:
            view = storage.read_result(variant.result.digest, variant.result.size)
            data = None if view is None else bytes(view)
        if data is not None:
            found.append(data)
    return found


def publish(bucket: MemoryStorage, *keys: bytes, payload: bytes = GOOD, **fields: Any) -> Variant:
    """What main's CI job does."""
    variant = make_variant(1, key=KEY_OF_VALUE, payload=payload, **fields)
    signed = Signed(bucket, keys or (KEY,), namespace="main", project="project", clock=lambda: NOW)
    store(signed, variant, payload)
    return variant


def test_the_recommended_set_up_serves_the_honest() -> None:
    """Else the tests below would pass with a storage that returns nothing at all."""
    bucket = Bucket()
    publish(bucket)

    assert values(victim(bucket, KEY)) == [GOOD]


def test_malicious_pull_request_without_the_key() -> None:
    """Its job may write to the bucket, as a public one does; it has no key."""
    bucket = Bucket()
    for number, inline in ((2, False), (3, True)):
        evil = make_variant(number, key=KEY_OF_VALUE, payload=EVIL, inline=inline)
        store(bucket, Namespace("main").inner(evil), EVIL)

    assert values(victim(bucket, KEY)) == []
    assert values(victim(bucket)) == []


def test_malicious_pull_request_that_can_sign() -> None:
    """CVE-2025-36852: the job of a pull request has the key. It writes its own namespace, which
    main does not read; the store's permissions keep it out of main's."""
    bucket = Bucket()
    keys = (KEY,)
    request = Signed(bucket, keys, namespace="pr~main", also=["main"], clock=lambda: NOW)
    store(request, make_variant(2, key=KEY_OF_VALUE, payload=EVIL), EVIL)

    main = Signed(bucket, keys, namespace="main", clock=lambda: NOW)
    assert main.read_records([KEY_OF_VALUE]) == {}
    assert values(Tiered([Tier(MemoryStorage()), Tier(main)])) == []


def test_a_pull_request_that_reads_main_cannot_write_it() -> None:
    """Its own storage in front, main's read-only behind: nothing it does reaches main."""
    mains, own = Bucket(), Bucket()
    variant = publish(mains)
    before = list(mains.scan())
    tiers = [
        Tier(Signed(own, (OTHER_KEY,), namespace="main", clock=lambda: NOW)),
        Tier(
            Signed(mains, (KEY,), namespace="main", project="project", clock=lambda: NOW),
            write=False,
        ),
    ]
    request = Tiered(tiers)

    assert values(request) == [GOOD]
    store(request, make_variant(2, key=KEY_OF_VALUE, payload=EVIL), EVIL)
    request.remove_records([variant.id])

    assert list(mains.scan()) == before
    assert values(victim(mains, KEY)) == [GOOD]


def test_poisoned_bucket_payload_under_the_right_digest() -> None:
    """Bytes made to have the same xxh3-128 pass the adapter's check, not the SHA-256."""
    bucket = Bucket()
    variant = publish(bucket)
    bucket.swapped = {variant.result.digest: EVIL}

    assert values(victim(bucket, KEY)) == []


def test_poisoned_bucket_record_with_a_payload_of_its_own() -> None:
    """A true record whose result is pointed elsewhere."""
    bucket = Bucket()
    publish(bucket)
    (true,) = bucket.scan()
    bucket.write_result(digest_of(EVIL), [EVIL])
    pointed = replace(true.result, digest=digest_of(EVIL), size=len(EVIL), sha256=sha256_of(EVIL))
    bucket.planted = {true.key: (replace(true, result=pointed),)}

    assert values(victim(bucket, KEY)) == []


def test_poisoned_bucket_does_not_spread_into_local_storage() -> None:
    """A later run without the remote finds nothing of it either."""
    bucket = Bucket()
    variant = publish(bucket)
    bucket.swapped = {variant.result.digest: EVIL}
    local = MemoryStorage()
    remote = Signed(bucket, (KEY,), namespace="main", project="project", clock=lambda: NOW)
    tiered = Tiered([Tier(local), Tier(remote)])
    values(tiered)

    assert local.read_records([KEY_OF_VALUE]) == {}
    assert local.has_results([variant.result.digest]) == frozenset()


def test_stolen_key_is_worth_nothing_once_it_is_taken_away() -> None:
    """Rotation: the thief signs with the old key; who has dropped it does not believe them."""
    bucket = Bucket()
    publish(bucket, KEY, payload=EVIL)

    assert values(victim(bucket, OTHER_KEY, KEY)) == [EVIL]  # with the key, anyone is believed
    assert values(victim(bucket, OTHER_KEY)) == []


def test_replayed_old_record_keeps_its_dates_and_its_trace() -> None:
    """It verifies, as it was signed: what it rests on and when it expires cannot be renewed, so
    the engine sees that it does not hold any more."""
    bucket = Bucket()
    old = publish(bucket, created=NOW - 7200)
    (raw,) = bucket.scan()
    bucket.planted = {raw.key: (replace(raw, created=NOW, expires=NOW + 3600),)}
    assert values(victim(bucket, KEY)) == []

    bucket.planted = {raw.key: (raw,)}
    (found,) = victim(bucket, KEY).read_records([KEY_OF_VALUE])[KEY_OF_VALUE]
    assert found.expires == old.expires == NOW - 3600
    assert found.trace == old.trace


def test_swapped_records_of_two_keys() -> None:
    """Both true, each under the other's key: a test that passed for one that fails."""
    bucket = Bucket()
    signed = Signed(bucket, (KEY,), namespace="main", project="project", clock=lambda: NOW)
    for number, key in enumerate(("a" * 32, "b" * 32)):
        store(signed, make_variant(number, key=key, payload=b"%d" % number), b"%d" % number)
    first, second = bucket.scan()
    bucket.planted = {first.key: (second,), second.key: (first,)}

    assert victim(bucket, KEY).read_records(["a" * 32, "b" * 32]) == {}


def test_records_of_another_project_in_the_same_bucket() -> None:
    """Same key, other project: not believed."""
    bucket = Bucket()
    publish(bucket)

    assert values(victim(bucket, KEY, project="another project")) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners and modes")
def test_local_directory_that_others_can_write(tmp_path: Path) -> None:
    """Local storage is unpickled without signatures, so it has to be ours alone."""
    directory = tmp_path / "cache"
    storage = LocalStorage(directory)
    variant = make_variant(1, payload=GOOD)
    store(storage, variant, GOOD)
    storage.close()
    directory.chmod(0o777)

    with pytest.raises(UntrustedStorageError):
        LocalStorage(directory).read_records([variant.key])


def test_a_shared_directory_is_trusted_no_more_than_a_bucket(tmp_path: Path) -> None:
    """Whatever the adapter says of itself: without a key Signed makes nothing of it executable."""
    shared = LocalStorage(tmp_path / "share")
    variant = make_variant(1, key=KEY_OF_VALUE, payload=EVIL)
    store(shared, Namespace("main").inner(variant), EVIL)

    remote = Signed(shared, (), namespace="main", trust_remote=True)
    tiered = Tiered([Tier(MemoryStorage()), Tier(remote)])

    assert not remote.trusted
    assert values(tiered) == []


def test_a_flood_of_forged_records_costs_hits_not_safety() -> None:
    """Who can write can crowd out (that is not promised against); never more than that."""
    bucket = Bucket()
    publish(bucket)
    (true,) = bucket.scan()
    for number in range(40):
        forged = replace(true, id=f"9{number:019d}", created=NOW + number)
        bucket.write_records([forged])

    assert values(victim(bucket, KEY)) in ([], [GOOD])
