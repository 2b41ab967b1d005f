"""A digest is the same in every process, whatever its hash seed, and for every copy of a value."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import digest_world
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pytest_taskcache
from pytest_taskcache.digests.values.digest import digest_arguments, digest_value
from pytest_taskcache.digests.values.reducers import digest_stream
from pytest_taskcache.digests.values.terms import Scope
from pytest_taskcache.digests.values.walker import Exploration, walk

HERE = Path(__file__).parent
PACKAGE_ROOT = Path(pytest_taskcache.__file__).parents[1]

_ANSWERING = """
import pickle, sys
from pytest_taskcache.digests.values.digest import digest_value
while True:
    try:
        value = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump(digest_value(value), sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


def environment(seed: str) -> dict[str, str]:
    return os.environ | {
        "PYTHONHASHSEED": seed,
        "PYTHONPATH": os.pathsep.join([str(PACKAGE_ROOT), str(HERE)]),
    }


def run_python(*arguments: str, seed: str) -> bytes:
    command = [sys.executable, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment(seed)).stdout


@pytest.fixture(scope="module")
def digest_elsewhere() -> Iterator[Callable[[object], object]]:
    """The digest of a value as another process, with another hash seed, works it out."""
    with subprocess.Popen(
        [sys.executable, "-c", _ANSWERING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment("77"),
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        questions, answers = other.stdin, other.stdout

        def digest(value: object) -> object:
            pickle.dump(value, questions)
            questions.flush()
            return pickle.load(answers)

        yield digest


def test_digests_agree_between_processes_with_different_hash_seeds() -> None:
    """Every kind of value digests alike in this process and in three with other hash seeds."""
    here = {name: digest_value(value) for name, value in digest_world.many_values().items()}
    for seed in ("0", "1", "4242"):
        there = json.loads(run_python(str(HERE / "digest_world.py"), seed=seed))
        assert there == here


def test_all_kinds_of_value_differ_from_each_other() -> None:
    """No two values of the collection share a digest."""
    digests = [digest_value(value) for value in digest_world.many_values().values()]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("name", digest_world.many_values())
def test_digest_does_not_depend_on_which_object_it_is(name: str) -> None:
    """Building a value twice gives one digest, and digesting it changes nothing."""
    first, second = digest_world.many_values()[name], digest_world.many_values()[name]
    assert digest_value(first) == digest_value(second)
    assert digest_value(first) == digest_value(first)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),
    st.binary(),
    st.binary().map(bytearray),
    st.complex_numbers(),
    st.dates(),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.sampled_from([digest_world.Colour.RED, digest_world.Level.ONE, len, int, ...]),
)
hashables = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.booleans()),
    lambda inner: st.one_of(
        st.tuples(inner, inner), st.frozensets(inner, max_size=4), st.lists(inner).map(tuple)
    ),
    max_leaves=6,
)


def containers(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.one_of(st.text(), st.integers()), inner, max_size=5),
        st.builds(digest_world.Trade, st.text(), inner),
        st.builds(digest_world.Slotted, st.integers(), inner),
        st.builds(digest_world.Plain, a=inner),
        st.builds(digest_world.Items, st.lists(inner, max_size=3)),
    )


trees = st.recursive(scalars, containers, max_leaves=25)
values = st.recursive(
    st.one_of(scalars, st.sets(hashables), st.frozensets(hashables)), containers, max_leaves=25
)


@settings(max_examples=100, deadline=None)
@given(trees)
def test_walker_writes_the_same_stream_as_the_pickler(value: object) -> None:
    """A value digests alike on the fast path and on the path taken when the stack runs out."""
    assert walk([value], "", Exploration()) == digest_stream([value], Scope())


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 999, 1000, 1001, 1999, 2000, 2001])
@pytest.mark.parametrize("kind", [list, tuple, dict])
def test_walker_batches_items_as_the_pickler_does(kind: type, size: int) -> None:
    """Containers of every size around the pickler's batches digest alike on both paths."""
    value = {i: [[i]] for i in range(size)} if kind is dict else kind([[i]] for i in range(size))
    assert walk(value, "", Exploration()) == digest_stream(value, Scope())


@settings(max_examples=75, deadline=None)
@given(values)
def test_copies_of_a_value_share_its_digest(value: object) -> None:
    """A deep copy, and what comes back from pickle, digest like the original."""
    assert digest_value(copy.deepcopy(value)) == digest_value(value)
    assert digest_value(pickle.loads(pickle.dumps(value))) == digest_value(value)


@settings(max_examples=75, deadline=None)
@given(values)
def test_values_sent_to_another_process_keep_their_digest(
    digest_elsewhere: Callable[[object], object], value: object
) -> None:
    """A process with another hash seed digests what it is sent as this one does."""
    assert digest_elsewhere(value) == digest_value(value)


@settings(max_examples=75, deadline=None)
@given(values, values)
def test_values_that_differ_in_content_differ_in_digest(left: object, right: object) -> None:
    """Two values share a digest only if their representations agree, type by type."""
    if digest_value(left) == digest_value(right):
        assert described(left) == described(right)


def described(value: object) -> object:
    """A value spelled out with its types; sets sorted, floats by their bits."""
    name = type(value).__qualname__
    if isinstance(value, float):
        return name, value.hex()
    if isinstance(value, dict):
        return name, [(described(key), described(item)) for key, item in value.items()]
    if isinstance(value, set | frozenset):
        return name, sorted(map(repr, map(described, value)))
    if isinstance(value, list | tuple):
        return name, [described(item) for item in value]
    if isinstance(value, digest_world.Slotted):
        return name, described([value.x, value.y])
    if hasattr(value, "__dict__") and type(value).__module__ == "digest_world":
        return name, described(vars(value))
    return name, repr(value)


def test_arguments_digest_like_the_values_they_are() -> None:
    """One digest a name, in the order of the arguments."""
    arguments = {"y": [1], "x": 2}
    digests = digest_arguments(arguments)
    assert list(digests.items()) == [("y", digest_value([1])), ("x", digest_value(2))]


def test_importing_the_digest_imports_no_library_it_supports() -> None:
    """Projects without numpy, pandas, pydantic or attrs pay nothing for them, nor do others
    before the first such value."""
    code = (
        "import sys, pytest_taskcache.digests.values.digest as v; v.digest_value([1, {2: b'x'}]);"
        "libraries = {'numpy', 'pandas', 'pydantic', 'attr', 'decimal', 'uuid'};"
        "print(sorted(libraries & set(sys.modules)))"
    )
    assert run_python("-c", code, seed="0").decode().strip() == "[]"
