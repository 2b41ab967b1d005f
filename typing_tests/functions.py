"""What type checkers must make of the decorators. Never run: mypy --strict and pyright read it."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

from pytest_taskcache import (
    DEFAULT,
    ENV,
    FILES,
    Cache,
    CachePolicy,
    State,
    Transaction,
    cached,
    cached_fixture,
    register_hasher,
    transaction,
)

policy: CachePolicy = DEFAULT + FILES("*.csv") + ENV("TZ") - "y"


@cached
def plain(x: int, y: str = "") -> list[int]:
    return [x]


assert_type(plain(1), list[int])
assert_type(plain(1, y="a"), list[int])
plain("1")  # type: ignore[arg-type]


@cached(policy=policy, key=None)
def configured(x: int, y: str = "") -> dict[str, int]:
    return {y: x}


assert_type(configured(1), dict[str, int])


class K:
    @cached
    def m(self, x: int) -> int:
        return x


assert_type(K().m(1), int)
assert_type(K.m.call(K(), 1), State[int])
assert_type(K().m.call(1), State[int])
assert_type(K().m.is_cached(1), bool)
assert_type(K.m.is_cached(K(), 1), bool)
assert_type(plain.forget(1), int)
K().m("1")  # type: ignore[arg-type]


@cached
async def coro(x: int) -> str:
    return str(x)


async def use() -> None:
    assert_type(await coro(1), str)


@cached
def gen(x: int) -> Iterator[int]:
    yield x


assert_type(gen(1), Iterator[int])


@cached_fixture(scope="session")
def data() -> Iterator[int]:
    yield 1


@cached_fixture
def other(data: int) -> int:
    return data


@cached
async def agen(x: int) -> AsyncIterator[int]:
    yield x


def use_all() -> None:
    with Cache("directory") as cache, transaction() as one:
        assert_type(one, Transaction)
        cache.clear()
    register_hasher(K, lambda each: "k")
