from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contenders import Contender
from servers import Server, postgres_server, redis_server


@pytest.fixture
def contend() -> Iterator[Callable[..., Contender]]:
    """Starts contenders; all are gone when the test ends."""
    started: list[Contender] = []

    def start(spec: str, *words: str) -> Contender:
        started.append(Contender(spec, *words))
        return started[-1]

    yield start
    for contender in started:
        contender.close()


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def redis_spec(redis: Server) -> str:
    """Redis with leases short enough to be waited for."""
    return f"{redis.url}?lease=2&heartbeat=0.5"


@pytest.fixture(params=["file", "redis", "postgres"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of each lock manager that several processes can share."""
    match request.param:
        case "file":
            return str(tmp_path / "locks")
        case "redis":
            return str(request.getfixturevalue("redis_spec"))
        case _:
            server: Server = request.getfixturevalue("postgres")
            return server.url


@pytest.fixture
def key() -> str:
    return f"key-{os.urandom(8).hex()}"
