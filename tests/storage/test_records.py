"""The canonical bytes that adapters store and signatures cover."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_samples import digest_of, result_of, variant_of

from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.model.record import Blob, Result, Variant
from pytest_taskcache.storage.records import decode_variant, encode_variant

TEXT = st.text(st.characters(), max_size=20)
PARTS = st.lists(st.builds(Part, TEXT, TEXT), max_size=3).map(tuple)
TIMES = st.floats(allow_nan=False, allow_infinity=False)
DIGESTS = st.binary(max_size=8).map(digest_of)
DEPENDENCIES = st.lists(
    st.builds(Dependency, st.sampled_from(list(Kind)), TEXT, TEXT), max_size=4
).map(tuple)


@st.composite
def results(draw: st.DrawFn) -> Result:
    data = draw(st.binary(max_size=50))
    return Result(
        digest_of(data),
        len(data),
        draw(TEXT),
        draw(st.sampled_from([data, None])),
        draw(TEXT),
        draw(st.lists(st.builds(Blob, DIGESTS, st.integers(0), TEXT), max_size=2).map(tuple)),
    )


VARIANTS = st.builds(
    Variant,
    id=TEXT,
    key=TEXT,
    identity=st.builds(Identity, TEXT, TEXT),
    parts=PARTS,
    trace=st.builds(Trace, DEPENDENCIES, TEXT),
    result=results(),
    created=TIMES,
    expires=st.none() | TIMES,
    duration=TIMES,
    producer=TEXT,
    versions=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    inputs=PARTS,
    parameters=PARTS,
    vouched=st.booleans(),
    signature=TEXT,
)


@given(VARIANTS)
def test_any_variant_survives_the_round_trip(variant: Variant) -> None:
    """What was stored is what is read, to the last field."""
    assert decode_variant(encode_variant(variant)) == variant


@given(VARIANTS, VARIANTS)
def test_different_variants_have_different_bytes(one: Variant, other: Variant) -> None:
    """A signature over the bytes covers every field."""
    assert (encode_variant(one) == encode_variant(other)) == (one == other)


def test_bytes_are_the_same_in_every_process() -> None:
    """A signature made by one process holds in another, whatever its hash seed."""
    variant = variant_of("k", result=result_of(b"\x00\xff", blobs=[b"one"]))
    code = (
        "import pickle, sys; from pytest_taskcache.storage.records import encode_variant;"
        "sys.stdout.buffer.write(encode_variant(pickle.loads(sys.stdin.buffer.read())))"
    )
    for seed in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-c", code],
            input=pickle.dumps(variant),
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(p for p in sys.path if p)},
        )
        assert child.stdout == encode_variant(variant)


def test_whole_numbers_count_as_times() -> None:
    """A time given as an integer is the same time."""
    variant = variant_of("k")
    assert encode_variant(replace(variant, created=7)) == encode_variant(
        replace(variant, created=7.0)
    )


def test_every_single_torn_byte_string_reads_as_absent() -> None:
    """A record that was cut off anywhere is none, rather than an error."""
    data = encode_variant(variant_of("k", result=result_of(b"value", blobs=[b"b"])))
    for end in range(len(data)):
        assert decode_variant(data[:end]) is None


def test_flipped_bits_never_yield_a_damaged_payload() -> None:
    """An inline payload is only ever returned as it was written."""
    variant = variant_of("k", result=result_of(b"a payload of some length"))
    data = encode_variant(variant)
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            found = decode_variant(damaged)
            assert found is None or found.result.inline == variant.result.inline


@pytest.mark.parametrize(
    "change",
    [
        {"format": 1},
        {"format": None},
        {"vouched": 1},
        {"created": "now"},
        {"created": True},
        {"created": 10**400},
        {"expires": []},
        {"id": 5},
        {"identity": ["only one"]},
        {"parts": [["a"]]},
        {"parts": {}},
        {"trace": {"digest": "x"}},
        {"trace": {"digest": "x", "dependencies": [["witchcraft", "a", "b"]]}},
        {"result": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_field_of_the_wrong_shape_reads_as_absent(change: dict[str, object]) -> None:
    """Whatever a foreign or newer writer left there, reading it neither fails nor guesses."""
    document = json.loads(encode_variant(variant_of("k")))
    assert decode_variant(json.dumps(document | change).encode()) is None


@pytest.mark.parametrize("digest", ["../../etc/passwd", "A" * 32, "a" * 31, "a" * 32 + "\n", ""])
def test_a_digest_that_is_no_file_name_is_refused(digest: str) -> None:
    """A record from elsewhere cannot name a file outside result storage."""
    document = json.loads(encode_variant(variant_of("k", result=result_of(b"v", inline=False))))
    document["result"]["digest"] = digest
    assert decode_variant(json.dumps(document).encode()) is None
    document["result"]["digest"] = digest_of(b"v")
    document["result"]["blobs"] = [[digest, 1, ""]]
    assert decode_variant(json.dumps(document).encode()) is None


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a":NaN}'])
def test_other_bytes_read_as_absent(data: bytes) -> None:
    """Garbage is a miss."""
    assert decode_variant(data) is None


def test_an_inline_payload_must_be_the_one_its_digest_names() -> None:
    """Swapping the payload of a record is noticed without a signature, too."""
    variant = variant_of("k", result=replace(result_of(b"value"), inline=b"velue"))
    assert decode_variant(encode_variant(variant)) is None


def test_undecodable_file_names_survive() -> None:
    """A file name that is not Unicode is a dependency like any other."""
    odd = Dependency(Kind.FILE, "b\udc80d.txt", "d")
    variant = variant_of("k", trace=Trace((odd,), "t"))
    assert decode_variant(encode_variant(variant)) == variant
