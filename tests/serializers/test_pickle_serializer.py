"""Pickles: what comes back, whose memory it is, and what damage does."""

from __future__ import annotations

import gc
import io
import os
import random
import subprocess
import sys
import tracemalloc
from collections import namedtuple
from functools import partial
from pathlib import Path

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from importable_values import Colour, Row, WakesUpAngry, double
from stored_payloads import NO_FILES, mapping_of, stored, there_and_back

import pytest_taskcache
from pytest_taskcache.errors import SerializationError
from pytest_taskcache.serializers.pickle import ALIGNMENT, PickleSerializer, pack

PICKLE = PickleSerializer()

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=9000)
    | st.binary(max_size=9000).map(bytearray)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.frozensets(st.integers() | st.text(), max_size=4)
    ),
    max_leaves=12,
)


def types_of(value: object) -> object:
    """The types all the way down; of sets without an order."""
    if isinstance(value, dict):
        return dict, [(types_of(k), types_of(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [types_of(item) for item in value]
    if isinstance(value, frozenset):
        return type(value), {(type(item), item) for item in value}
    return type(value)


@given(values)
@settings(deadline=None)
def test_any_plain_value_comes_back(value: object) -> None:
    """What is stored is what comes back, in value and type."""
    back = there_and_back(PICKLE, value)
    assert back == value
    assert types_of(back) == types_of(value)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["u1", "<i4", ">f8", "c16", "S3", "U2", "M8[ns]", "b1"]),
            st.integers(0, 3000),
            st.booleans(),
        ),
        max_size=6,
    ),
    st.booleans(),
)
@settings(deadline=None, max_examples=50)
def test_arrays_come_back_with_dtype_order_and_writability(
    kinds: list[tuple[str, int, bool]], mapped: bool
) -> None:
    """Any mix of small and large arrays comes back, whether it is copied or viewed in place."""
    rng = np.random.default_rng(0)
    arrays = []
    for dtype, size, readonly in kinds:
        array = rng.integers(0, 2, (size, 2)).astype(dtype)
        array = np.asfortranarray(array) if size % 2 else array
        array.flags.writeable = not readonly
        arrays.append(array)
    data = stored(PICKLE.dump(arrays))
    back = PICKLE.load(memoryview(bytearray(data) if mapped else data), NO_FILES)
    assert isinstance(back, list)
    for one, other in zip(back, arrays, strict=True):
        assert one.dtype == other.dtype
        assert one.flags.writeable == other.flags.writeable
        assert one.flags.f_contiguous == other.flags.f_contiguous
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "array",
    [
        np.broadcast_to(np.arange(3), (4, 3)),
        np.arange(9)[::2],
        np.array([1, "a"], dtype=object),
        np.zeros(3, dtype=[("a", "i4"), ("b", "O")]),
        np.rec.array([(1, 2.0)]),
        np.ma.array([1, 2], mask=[False, True]),
    ],
    ids=["broadcast", "strided", "objects", "fields", "records", "masked"],
)
def test_what_numpy_pickles_without_a_buffer_stays_read_only(array: np.ndarray) -> None:
    """A hit can be written to where the miss could, and nowhere else."""
    for writeable in (True, False):
        given = array.copy()
        if not writeable:
            given = array[...]
            given.flags.writeable = False
        back = there_and_back(PICKLE, [given, given])
        assert isinstance(back, list)
        assert back[0] is back[1]
        assert type(back[0]) is type(given)
        assert back[0].flags.writeable is writeable
        assert np.array_equal(np.asarray(back[0]), np.asarray(given))


def test_storing_a_large_array_takes_no_memory_of_its_size() -> None:
    """The payload aliases the array instead of copying it."""
    array = np.ones(4_000_000)
    tracemalloc.start()
    try:
        payload = PICKLE.dump({"array": array})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert payload.size > array.nbytes
    assert peak < array.nbytes // 100
    assert any(np.shares_memory(np.frombuffer(chunk, "u1"), array) for chunk in payload.chunks)


def test_an_array_from_a_mapped_file_is_a_view_of_it(tmp_path: Path) -> None:
    """Loading copies nothing: the arrays lie in the mapping, aligned, and can be written to,
    which changes neither the file nor what the next reader gets."""
    arrays = {name: np.arange(n, dtype="f8") for name, n in (("a", 1000), ("b", 1777), ("c", 513))}
    data = stored(PICKLE.dump(arrays))
    mapping = mapping_of(data, tmp_path)
    back = PICKLE.load(mapping, NO_FILES)
    assert isinstance(back, dict)
    whole = np.frombuffer(mapping, "u1")
    for name, array in back.items():
        assert np.shares_memory(array, whole)
        assert array.ctypes.data % ALIGNMENT == 0
        array[:] = -1
        assert np.array_equal(arrays[name], np.arange(len(array)))
    assert (tmp_path / "mapped-0").read_bytes() == data
    again = PICKLE.load(mapping_of(data, tmp_path), NO_FILES)
    assert isinstance(again, dict)
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


def test_an_array_from_read_only_bytes_can_be_written_to() -> None:
    """A small payload kept inside a record is read-only bytes; the value is writable all the
    same, and the bytes stay as they are."""
    data = stored(PICKLE.dump(np.zeros(1000)))
    kept = bytes(bytearray(data))
    back = PICKLE.load(memoryview(kept), NO_FILES)
    assert isinstance(back, np.ndarray)
    back += 1
    assert kept == data
    assert back.sum() == 1000


def test_data_frames_come_back_and_can_be_changed(tmp_path: Path) -> None:
    """pandas goes by the same buffers as numpy."""
    frame_ = pd.DataFrame({"n": np.arange(5000.0), "s": ["x", "y"] * 2500})
    data = stored(PICKLE.dump(frame_))
    back = PICKLE.load(mapping_of(data, tmp_path), NO_FILES)
    assert isinstance(back, pd.DataFrame)
    pd.testing.assert_frame_equal(back, frame_)
    back.loc[0, "n"] = 7.0
    assert (tmp_path / "mapped-0").read_bytes() == data


def test_importable_classes_and_functions_stay_the_same_objects() -> None:
    """A value's class is the one that a test compares it with, not a copy."""
    back = there_and_back(PICKLE, [Row("a", ["b"]), Colour.RED, double, Row])
    assert back == [Row("a", ["b"]), Colour.RED, double, Row]
    assert isinstance(back, list)
    assert type(back[0]) is Row
    assert back[1] is Colour.RED


def test_functions_without_a_name_come_back() -> None:
    """Lambdas, closures and partials of them go by value, together with what they refer to."""
    factor = 3
    back = there_and_back(PICKLE, [lambda x: x * factor, partial(lambda a, b: a - b, 10), Row])
    assert isinstance(back, list)
    assert back[0](4) == 12
    assert back[1](3) == 7
    assert back[2] is Row


def test_a_class_without_a_name_is_refused_and_named() -> None:
    """Its copy would not be equal to what the test builds with the class itself."""

    class Local:
        pass

    for value in (Local(), [Local], {"f": lambda: Local}):
        with pytest.raises(SerializationError, match=r"<locals>\.Local .*top level of a module"):
            PICKLE.dump(value)


def test_a_class_whose_name_means_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with two conftest files of one name, of which only the last is found by it."""
    value = Row("a")
    monkeypatch.setattr("importable_values.Row", type("Row", (), {}))
    with pytest.raises(SerializationError, match=r"importable_values\.Row cannot be found"):
        PICKLE.dump(value)


def test_named_tuples_made_on_the_fly_come_back_equal() -> None:
    """As from `DataFrame.itertuples`; they compare as tuples, whatever their class."""
    point = namedtuple("point", "x y")(1, 2)
    back = there_and_back(PICKLE, [point])
    assert back == [point] == [(1, 2)]
    assert isinstance(back, list)
    assert back[0].y == 2


def test_what_would_come_back_as_something_else_is_refused(tmp_path: Path) -> None:
    """cloudpickle would turn an open file into its text, and a view into bytes."""
    (tmp_path / "text").write_text("text")
    with (tmp_path / "text").open() as file:
        assert isinstance(file, io.TextIOWrapper)
        with pytest.raises(SerializationError, match="open file"):
            PICKLE.dump([file])
    with pytest.raises(SerializationError, match="memoryview"):
        PICKLE.dump([memoryview(b"view")])


def test_the_reason_names_the_types_and_the_cause() -> None:
    """The message says which value could not be stored and why."""
    with pytest.raises(SerializationError) as caught:
        PICKLE.dump({"generator": (x for x in "abc")})
    assert caught.value.type_name == "dict"
    assert "generator" in caught.value.reason
    with pytest.raises(SerializationError) as caught:
        PICKLE.load(memoryview(stored(PICKLE.dump(WakesUpAngry()))), NO_FILES)
    assert "ZeroDivisionError" in caught.value.reason


def test_deep_nesting_ends_in_an_error_not_in_a_crash() -> None:
    """A value nested deeper than the interpreter's stack is refused."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError):
        PICKLE.dump(deep)


def test_the_collector_pauses_while_loading_and_runs_again_after_a_failure() -> None:
    """Large loads are not slowed down by collections, and nothing stays switched off."""
    data = stored(PICKLE.dump([Row("r") for _ in range(20_000)]))
    collections: list[str] = []

    def note(phase: str, _: object) -> None:
        collections.append(phase)

    assert gc.isenabled()
    gc.callbacks.append(note)
    try:
        gc.collect()
        collections.clear()
        gc.disable()
        PICKLE.load(memoryview(data), NO_FILES)
        assert not gc.isenabled(), "a collector that was off stays off"
        gc.enable()
        during = len(collections)
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert during == 0
    with pytest.raises(SerializationError):
        PICKLE.load(memoryview(stored(PICKLE.dump(WakesUpAngry()))), NO_FILES)
    assert gc.isenabled()


# ------------------------------------------------------------------------------------- damage


def big_payload() -> bytes:
    return stored(PICKLE.dump({"a": np.arange(2000.0), "rows": [Row("x")] * 3, "b": np.ones(777)}))


def test_a_payload_cut_off_anywhere_is_refused() -> None:
    """No shorter payload is taken for a whole one."""
    data = big_payload()
    for end in [*range(400), *range(400, len(data), 97), len(data) - 1]:
        with pytest.raises(SerializationError):
            PICKLE.load(memoryview(data)[:end], NO_FILES)


def test_a_longer_payload_is_refused() -> None:
    """What follows a payload is not its own."""
    for data in (big_payload(), stored(PICKLE.dump(1))):
        with pytest.raises(SerializationError, match=r"expected|checksum"):
            PICKLE.load(memoryview(data + b"\0"), NO_FILES)


def test_no_flipped_bit_reaches_the_unpickler() -> None:
    """Damage outside of the buffers is noticed before a single opcode runs; damage in a buffer
    is another number, and the storage's digest is there for it."""
    data = big_payload()
    stream_end = data.index(b"\0" * 8, 400) if b"\0" * 8 in data[400:] else 400
    picks = random.Random(1)
    flips = [(at, bit) for at in range(32) for bit in range(8)]
    flips += [(picks.randrange(32, len(data)), picks.randrange(8)) for _ in range(1500)]
    refused = 0
    for at, bit in flips:
        damaged = bytearray(data)
        damaged[at] ^= 1 << bit
        try:
            back = PICKLE.load(memoryview(damaged), NO_FILES)
        except SerializationError:
            refused += 1
        else:
            assert isinstance(back, dict)
            assert at > stream_end - 400
            assert back["rows"] == [Row("x")] * 3
    assert refused >= 32 * 8 - 24, "all of the head but its three spare bytes"


def test_the_number_of_buffers_must_fit() -> None:
    """A stream that asks for more or fewer buffers than there are is refused."""
    buffers: list[memoryview] = []

    def collect(buffer: object) -> bool:
        buffers.append(buffer.raw())  # type: ignore[attr-defined]
        return False

    stream = cloudpickle.dumps([np.ones(1000)] * 1, protocol=5, buffer_callback=collect)
    for wrong in ([], [*buffers, memoryview(b"x" * 5000)]):
        data = b"".join(pack(stream, wrong, b""))
        with pytest.raises(SerializationError, match="buffers"):
            PICKLE.load(memoryview(data), NO_FILES)
    data = b"".join(pack(stream, buffers, b""))
    assert PICKLE.load(memoryview(data), NO_FILES)[0].sum() == 1000  # type: ignore[index]


def test_another_format_is_named_as_such() -> None:
    """A bare pickle, or a payload of a later version, is not taken for one of ours."""
    with pytest.raises(SerializationError, match="do not start"):
        PICKLE.load(memoryview(cloudpickle.dumps([1] * 100)), NO_FILES)
    data = bytearray(stored(PICKLE.dump([1])))
    data[4] = 9
    with pytest.raises(SerializationError, match="version 9"):
        PICKLE.load(memoryview(data), NO_FILES)


# ------------------------------------------------------------------------- ambiguous modules

SCRIPT = """
import sys
from pathlib import Path
from dataclasses import dataclass
from pytest_taskcache.serializers.pickle import PickleSerializer
from pytest_taskcache.errors import SerializationError

@dataclass
class Point:
    x: int

kept = Path(sys.argv[1])
if not kept.exists():
    kept.write_bytes(b"".join(PickleSerializer().dump([Point(1), "__main__"]).chunks))
try:
    back = PickleSerializer().load(memoryview(kept.read_bytes()), None)
    print("equal" if back == [Point(1), "__main__"] else "different")
except SerializationError as error:
    print(error.reason)
"""


def run(*arguments: str | Path) -> str:
    package = Path(pytest_taskcache.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_scripts_own_class_is_the_same_in_its_next_run_and_in_no_other(tmp_path: Path) -> None:
    """`__main__` is whatever script runs: the class of one is never the class of another."""
    ours, moved, other = (tmp_path / name for name in ("ours.py", "moved.py", "other.py"))
    ours.write_text(SCRIPT)
    kept = tmp_path / "kept"
    assert run(ours, kept) == "equal"
    assert run(ours, kept) == "equal", "in another process"
    moved.write_text(SCRIPT)
    assert run(moved, kept) == "equal", "the same text in another place"
    ours.write_text(SCRIPT + "# edited\n")
    assert run(ours, kept) == "equal", "whether an edit matters is for the trace to say"
    other.write_text(SCRIPT.replace("x: int", "x: float"))
    assert "module __main__ was" in run(other, kept)


def test_a_class_of_an_interactive_session_is_gone_with_it(tmp_path: Path) -> None:
    """Without a file nothing says that another session's class is the same one."""
    kept = tmp_path / "kept"
    assert run("-c", SCRIPT, kept) == "equal"
    assert "module __main__ was no file and is now no file" in run("-c", SCRIPT, kept)


def test_a_conftest_class_is_never_another_conftests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `__init__.py`, every conftest module is called `conftest`, one at a time."""
    modules = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = folder / "conftest.py"
        source.write_text(f"NUMBER = {number}\nclass Settings:\n    pass\n")
        module = type(sys)("conftest")
        module.__file__ = str(source)
        exec(source.read_text(), vars(module))
        modules.append(module)
    first, second = modules
    monkeypatch.setitem(sys.modules, "conftest", first)
    data = stored(PICKLE.dump([first.Settings()]))
    back = PICKLE.load(memoryview(data), NO_FILES)
    assert isinstance(back, list)
    assert type(back[0]) is first.Settings
    monkeypatch.setitem(sys.modules, "conftest", second)
    with pytest.raises(SerializationError, match="module conftest was"):
        PICKLE.load(memoryview(data), NO_FILES)
    with pytest.raises(SerializationError, match=r"conftest\.Settings cannot be found"):
        PICKLE.dump(first.Settings())


def test_the_mere_text_of_an_ambiguous_name_binds_to_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cached source texts and lists of module names load wherever they are."""
    data = stored(PICKLE.dump(["__main__", "conftest"]))
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/else.py", raising=False)
    assert PICKLE.load(memoryview(data), NO_FILES) == ["__main__", "conftest"]


def test_name_says_python_and_implementation() -> None:
    """Pickles of functions are read by the same Python only, and keys say so."""
    assert (
        PICKLE.name
        == f"pickle/{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"
    )
