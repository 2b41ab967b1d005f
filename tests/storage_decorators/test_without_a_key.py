"""Without a signing key nothing remote is unpickled."""

from pathlib import Path

import pytest
from decorator_parts import Faults, digest_of, make_variant, store

from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.namespaces import Namespace
from pytest_taskcache.storage.remote.signed import Signed

EXECUTING = [
    "pickle/cpython-3.12",
    "cloudpickle/cpython-3.12",
    "compressed(lz4)+pickle/cpython-3.12",
    "compressed(lz4)+compressed(lz4)+json",
    "compressed(evil)+json",
    "json\n",
    "zstd+pickle",
    "json+pickle",
    "JSON",
    "json/../pickle",
    "array",
    "my.company:Serializer",
    "",
]


@pytest.mark.parametrize("serializer", EXECUTING)
@pytest.mark.parametrize("trust_remote", [False, True])
def test_what_may_execute_code_is_not_returned(serializer: str, trust_remote: bool) -> None:
    """Whatever is not known to be safe is refused, also under taskcache_trust_remote."""
    inner = MemoryStorage()
    variant = make_variant(1, payload=b"value", serializer=serializer)
    store(inner, Namespace("main").inner(variant), b"value")
    faults = Faults()
    storage = Signed(inner, (), namespace="main", trust_remote=trust_remote, on_fault=faults)

    assert storage.read_records([variant.key]) == {}
    assert storage.recent([str(variant.identity)]) == {}
    assert storage.read_result(variant.result.digest, 5) is None
    assert faults == {"refused: a remote value could run code when read": 2}
    (sentence,) = faults.sentences
    assert "PYTEST_TASKCACHE_SIGNING_KEY" in sentence


@pytest.mark.parametrize("serializer", ["json", "outcome/json", "tree", "compressed(zstd)+json"])
def test_plain_data_needs_trust_remote(serializer: str, tmp_path: Path) -> None:
    """JSON executes nothing, but a forged outcome hides a failure; so it takes a decision."""
    inner = MemoryStorage()
    variant = make_variant(1, payload=b"[1]", serializer=serializer, blobs=[b"blob"])
    store(inner, Namespace("main").inner(variant), b"[1]", [b"blob"])

    careful = Signed(inner, (), namespace="main")
    assert careful.read_records([variant.key]) == {}
    assert careful.read_result(variant.result.digest, 3) is None
    assert not careful.copy_file(digest_of(b"blob"), tmp_path / "blob")

    trusting = Signed(inner, (), namespace="main", trust_remote=True)
    assert trusting.read_records([variant.key]) == {variant.key: (variant,)}
    assert bytes(trusting.read_result(variant.result.digest, 3) or b"") == b"[1]"
    assert trusting.copy_file(digest_of(b"blob"), tmp_path / "blob")
    assert not trusting.trusted
