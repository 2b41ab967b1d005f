"""Depth, sharing and cycles cost neither correctness nor the run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import digest_world as world
import pytest

import pytest_taskcache
from pytest_taskcache.digests.values import walker
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.digests.values.reducers import MAX_OBJECTS, StreamPickler
from pytest_taskcache.errors import UndigestableError


def nested(depth: int, wrap: Callable[[Any], Any], core: object = None) -> Any:
    value = core
    for _ in range(depth):
        value = wrap(value)
    return value


def at_depth(frames: int, call: Callable[[], str]) -> str:
    """Calls with that many more Python frames on the stack."""
    return call() if frames == 0 else at_depth(frames - 1, call)


def as_list(value: Any) -> Any:
    return [value]


def as_dict(value: Any) -> Any:
    return {"k": value, "n": 1}


def as_tuple(value: Any) -> Any:
    return (1, value, [2])


def as_record(value: Any) -> Any:
    return world.Slotted(1, value)


def as_plain(value: Any) -> Any:
    return world.Plain(a=value)


WRAPS = [as_list, as_dict, as_tuple, as_record, as_plain]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("depth", [40, 200, 330, 480, 700, 950])
def test_digest_does_not_depend_on_the_callers_stack_depth(
    wrap: Callable[[Any], Any], depth: int
) -> None:
    """A value digests alike from the top of the stack, from deep down, and from a thread."""
    room = sys.getrecursionlimit() - 250
    results: list[str] = []
    value = nested(depth, wrap)
    for frames in (0, 100, 400, room - 100):
        results.append(at_depth(frames, lambda: digest_value(value)))
    thread = threading.Thread(target=lambda: results.append(digest_value(value)))
    thread.start()
    thread.join()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(5 * limit)
    try:
        results.append(digest_value(value))
    finally:
        sys.setrecursionlimit(limit)
    assert len(results) == 6
    assert len(set(results)) == 1


@pytest.mark.parametrize("wrap", [as_list, as_dict, as_record])
def test_nesting_of_twenty_thousand_levels_digests_exactly(wrap: Callable[[Any], Any]) -> None:
    """Depth is no limit, and the innermost value still counts."""
    values = [nested(20_000, wrap, 1), nested(20_000, wrap, True), nested(20_001, wrap, 1)]
    assert len({digest_value(value) for value in values}) == 3


_DEEP = """
import sys
from pytest_taskcache.digests.values.digest import digest_value
value = ()
for _ in range(200_000):
    value = (value,)
before = digest_value(value)
sys.setrecursionlimit(10**9)
print(digest_value(value) == before)
"""


def test_huge_recursion_limit_does_not_kill_the_interpreter() -> None:
    """Suites that raise the limit for their own recursion survive digesting deep values."""
    environment = os.environ | {"PYTHONPATH": str(Path(pytest_taskcache.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", _DEEP], stdout=subprocess.PIPE, check=True, env=environment
    )
    assert result.stdout.strip() == b"True"


def test_nested_frozensets_digest_at_any_depth() -> None:
    """What only the walker can digest may be as deep as the rest."""
    deep = nested(20_000, lambda value: frozenset({value}), 1)
    assert digest_value(deep) != digest_value(nested(20_000, lambda value: frozenset({value}), 2))


@pytest.mark.parametrize("wrap", [lambda value: [value, value], lambda value: (value, [value])])
def test_shared_structure_is_not_unfolded(wrap: Callable[[Any], Any]) -> None:
    """Sixty containers may stand for 2**60 objects; each is visited once."""
    # the set sends it to the walker at once, which saves the time to find out by counting
    value = [{1}, nested(60, wrap, "x")]
    assert digest_value(value) == digest_value([{1}, nested(60, wrap, "x")])
    assert digest_value(value) != digest_value([{1}, nested(60, wrap, "y")])
    assert digest_value(value) != digest_value([{1}, nested(61, wrap, "x")])


def test_shared_structure_of_native_types_is_not_unfolded() -> None:
    """The same without anything that only the walker can digest."""
    value = nested(40, lambda inner: [inner, inner], "x")
    assert digest_value(value) != digest_value(nested(40, lambda inner: [inner, inner], "y"))


@pytest.mark.parametrize(
    "value",
    [
        [1, [2, (3,), {"a": []}], {}, ()],
        [bytearray(b""), [bytearray(b"abc")], {1: bytearray(b"d")}],
        [world.Trade("a"), world.Slotted(1, [2]), world.Colour.RED, 1j],
        [[i] for i in range(3000)],
        {i: (i, [i]) for i in range(1500)},
    ],
)
def test_both_paths_count_the_same_number_of_objects(value: object) -> None:
    """Whether a value is too large for one stream is decided alike with and without a stack."""
    counted = 0

    def count(_: object) -> None:
        nonlocal counted
        counted += 1

    exploration = walker.Exploration()
    pickler = StreamPickler(lambda data: None, exploration)
    pickler.persistent_id = count  # type: ignore[method-assign]
    pickler.dump(value)
    root = exploration.explore(value, "")
    walker._count(exploration.finished)
    assert isinstance(root, walker.Node)
    assert root.objects == counted


def test_large_plain_values_stay_exact_beyond_the_stream_limit() -> None:
    """A list with more items than one stream may hold still counts to the last item."""
    items = [0] * (MAX_OBJECTS + 10)
    before = digest_value(items)
    items[-1] = 1
    assert digest_value(items) != before


def looped(make: Callable[[], Any], close: Callable[[Any, Any], None], inner: object) -> Any:
    value = make()
    close(value, [value, inner])
    return value


CYCLES: list[tuple[Callable[[], Any], Callable[[Any, Any], None]]] = [
    (list, lambda value, item: value.append(item)),
    (dict, lambda value, item: value.update(k=item)),
    (world.Plain, lambda value, item: setattr(value, "me", item)),
    (lambda: world.Trade("a"), lambda value, item: setattr(value, "notes", item)),
    (world.Items, lambda value, item: value.append(item)),
]


@pytest.mark.parametrize(("make", "close"), CYCLES)
def test_cycles_digest_by_content(
    make: Callable[[], Any], close: Callable[[Any, Any], None]
) -> None:
    """A value that contains itself has a digest, equal for equal copies, else different."""
    assert digest_value(looped(make, close, 1)) == digest_value(looped(make, close, 1))
    assert digest_value(looped(make, close, 1)) != digest_value(looped(make, close, 2))


def test_position_on_a_cycle_counts() -> None:
    """The members of one cycle are different values."""
    first = world.ring("a", "b", "c")
    assert len({digest_value(first), digest_value(first[1]), digest_value(first[1][1])}) == 3


def test_cycle_lengths_are_told_apart_by_what_is_on_them() -> None:
    """Rings that agree for many steps and differ at last do not share a digest."""
    digests = {digest_value(world.ring(*[1] * length, 2)) for length in range(1, 40)}
    assert len(digests) == 39


def test_sets_on_cycles_have_no_order() -> None:
    """Objects that know each other through sets digest by what they know, not by address."""
    assert len({digest_value(world.friends()) for _ in range(5)}) == 1
    lonely = world.friends()
    lonely.friends.pop()  # type: ignore[attr-defined]
    assert digest_value(lonely) != digest_value(world.friends())


def test_long_cycles_of_alike_members_are_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be told apart in bounded time is refused out loud, never guessed."""
    monkeypatch.setattr(walker, "MAX_STEPS", 1000)
    with pytest.raises(UndigestableError, match="too many and too alike"):
        digest_value(world.ring(*[1] * 100, 2), path="graph")


def test_thousand_distinct_members_of_a_cycle_digest() -> None:
    """Large cycles whose members differ are no problem."""
    assert digest_value(world.ring(*range(1000))) == digest_value(world.ring(*range(1000)))
