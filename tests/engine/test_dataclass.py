"""Our dataclasses mean what the standard library's mean, though they are compiled later."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from pytest_taskcache.dataclass import _dataclass

_MAKERS: list[tuple[str, Callable[..., Any], Callable[..., Any]]] = [
    ("standard", dataclasses.dataclass, dataclasses.field),
    ("ours", _dataclass, dataclasses.field),
]


def _classes(maker: Callable[..., Any], field: Callable[..., Any], **options: bool) -> list[Any]:
    @maker(**options)
    class Base:
        a: int
        b: list[int] = field(default_factory=list)
        known: ClassVar[int] = 7

    @maker(**options)
    class Derived(Base):
        c: str = "c"
        hidden: int = field(default=3, compare=False, repr=False)
        only: int = field(default=4, kw_only=True)
        made: int = field(init=False, compare=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "made", self.a + 1)

    return [Base, Derived]


def _told(act: Callable[[], Any]) -> object:
    try:
        return act()
    except Exception as error:
        return type(error), str(error).replace("Base.", "").replace("Derived.", "")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("eq", [False, True])
def test_they_behave_alike(frozen: bool, slots: bool, eq: bool) -> None:
    """Construction, comparison, text, hashes, refusals, copies and fields, inheritance included."""
    told = []
    for _, maker, field in _MAKERS:
        base, derived = _classes(maker, field, frozen=frozen, slots=slots, eq=eq)
        one, two = derived(1, only=5), derived(1, [], "c", 9)
        seen: list[object] = [
            repr(base(1)).rpartition(".")[2],
            repr(one).rpartition(".")[2],
            one == derived(1, only=5),
            one == two,
            one == base(1),
            derived(1, only=4) == two,
            (two.a, two.b, two.c, two.hidden, two.only, two.made, two.known),
            _told(lambda base=base: base()),  # type: ignore[misc]
            _told(lambda base=base: base(1, [], 2)),  # type: ignore[misc]
            _told(lambda derived=derived: derived(1, [], "c", 3, 4)),  # type: ignore[misc]
            _told(lambda derived=derived: derived(1, wrong=1)),  # type: ignore[misc]
            _told(lambda one=one: setattr(one, "a", 2)),  # type: ignore[misc]
            _told(lambda one=one: delattr(one, "c")),  # type: ignore[misc]
            derived.__match_args__,
            [each.name for each in dataclasses.fields(derived)],
            dataclasses.asdict(two),
            repr(dataclasses.replace(two, a=5)).rpartition(".")[2],
            repr(copy.copy(two)).rpartition(".")[2],
            base(1).b is base(1).b,
            hasattr(one, "__dict__"),
            dataclasses.is_dataclass(derived),
            str(inspect.signature(derived)),
            derived.__hash__ is None,
            derived.__hash__ is object.__hash__,
        ]
        told.append(seen)
    assert told[0] == told[1]


def test_equal_frozen_ones_have_equal_hashes() -> None:
    """Of what is compared alone."""
    _, derived = _classes(_dataclass, dataclasses.field, frozen=True, slots=True)
    one = derived(1, (), hidden=1)
    assert hash(one) == hash(derived(1, (), hidden=2))
    assert {one: "found"}[derived(1, ())] == "found"


def test_one_field_is_compared_as_a_tuple_of_one() -> None:
    """By identity first, and to a plain truth value, whatever the field's own ``==`` returns."""

    class Odd:
        def __eq__(self, other: object) -> object:  # type: ignore[override]
            return ["true"]

        __hash__ = None  # type: ignore[assignment]

    @_dataclass
    class One:
        a: object

    nan = float("nan")
    same = One(nan) == One(nan), One(Odd()) == One(Odd())  # type: ignore[call-arg]
    assert same == (True, True)
    assert (One(1) == One(2)) is False  # type: ignore[call-arg]


def test_a_method_that_is_written_stays() -> None:
    """As with the standard library's, but that our ``__init__`` may be written too."""

    @_dataclass(frozen=True, slots=True)
    class Written:
        a: int

        def __eq__(self, other: object) -> bool:
            return True

        def __repr__(self) -> str:
            return "mine"

    assert Written(1) == Written(2)  # type: ignore[call-arg]
    assert repr(Written(1)) == "mine"  # type: ignore[call-arg]
    assert hash(Written(1)) == hash(Written(1))  # type: ignore[call-arg]


def test_fields_and_replace_of_a_subclass_of_the_standard_librarys() -> None:
    """As users write policies."""
    base, _ = _classes(_dataclass, dataclasses.field, frozen=True)

    @dataclasses.dataclass(frozen=True)
    class Theirs(base):  # type: ignore[misc]
        extra: int = 1

    theirs = Theirs(1, extra=2)
    assert [one.name for one in dataclasses.fields(theirs)] == ["a", "b", "extra"]
    assert [*inspect.signature(Theirs).parameters] == ["a", "b", "extra"]
    assert dataclasses.replace(theirs, a=3) == Theirs(3, extra=2)


@_dataclass(frozen=True, slots=True)
class Pickled:
    a: int
    b: tuple[int, ...] = ()


def test_a_slotted_frozen_one_pickles() -> None:
    """Though its slots cannot be set one by one."""
    value: Any = Pickled(1, (2,))  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value


def test_a_subclass_with_an_init_of_its_own_calls_ours_first() -> None:
    """It is compiled then, as that of the class it stands on."""

    @_dataclass
    class Base:
        a: int

    class Derived(Base):
        def __init__(self, a: int) -> None:
            super().__init__(a + 1)  # type: ignore[call-arg]

    assert Derived(1).a == 2
    assert Base(1).a == 1  # type: ignore[call-arg]


@pytest.mark.parametrize("slots", [False, True])
def test_one_without_fields(slots: bool) -> None:
    """It has a text, equals another one, and is replaced by one."""

    @_dataclass(frozen=True, slots=slots)
    class Empty:
        pass

    assert repr(Empty()).endswith("Empty()")
    assert Empty() == Empty() == dataclasses.replace(Empty())
    assert hash(Empty()) == hash(Empty())
    assert dataclasses.fields(Empty) == ()
