"""What a fixture may read from its request or itself, as its byte code tells."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from pytest_taskcache.plugin.fixture_inputs import reads_of, reads_of_self


def helper(*given: object) -> object:
    return given


def param(request: Any) -> Any:
    return request.param


def param_of(request: Any) -> Any:
    return request.param.size + len(request.param)


def chain(request: Any) -> Any:
    return request.node.name, request.config.getoption("x")


def loop(request: Any, others: Any) -> Any:
    return [(other, request.node.name) for other in others]


def inner(request: Any) -> Any:
    def look() -> Any:
        return request.module

    return look()


def sets(request: Any) -> None:
    request.thing = 1


def hands_on(request: Any) -> Any:
    return helper(1, request)


def keeps(request: Any) -> Any:
    kept = request
    return kept.param


def dynamic(request: Any, name: str) -> Any:
    return getattr(request, name)


def nothing(request: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("function", "reads"),
    [
        (param, {"param"}),
        (param_of, {"param.size", "param"}),
        (chain, {"node.name", "config.getoption"}),
        (loop, {"node.name"}),
        (inner, {"module"}),
        (sets, {"thing"}),
        (nothing, set()),
        (hands_on, None),
        (keeps, None),
        (dynamic, None),
    ],
)
def test_reads_of_an_argument(function: Any, reads: set[str] | None) -> None:
    """Every attribute is found, in loops and inner functions too; None where the argument goes
    anywhere else."""
    found = reads_of(function, "request")
    assert found == (None if reads is None else frozenset(reads))


class Base:
    kept: int
    far: int

    def above(self) -> int:
        return self.far

    @property
    def shown(self) -> int:
        return self.kept


class Sample(Base):
    own: int
    lazy: int

    def direct(self) -> int:
        return self.own

    def through_others(self) -> int:
        return self.direct() + self.shown + self.computed

    def above(self) -> int:
        return super().above()

    @functools.cached_property
    def computed(self) -> int:
        return self.lazy

    def everything(self) -> dict[str, object]:
        return vars(self)

    def through_everything(self) -> object:
        return self.everything()


def test_reads_of_a_method_follow_what_it_calls() -> None:
    """Methods, properties and inherited ones that are called by name count with what they read."""
    found = reads_of_self(Sample.through_others, Sample)
    assert found is not None
    assert {"own", "kept", "lazy"} <= found
    assert "far" not in found
    above = reads_of_self(Sample.above, Sample)
    assert above is not None
    assert "far" in above


def test_a_method_that_hands_itself_on_may_read_anything() -> None:
    """Then all that the instance holds counts."""
    assert reads_of_self(Sample.everything, Sample) is None
    assert reads_of_self(Sample.through_everything, Sample) is None
