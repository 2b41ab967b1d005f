"""A team, and the real servers that it shares."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_servers import BUCKET, S3Server, moto_server
from servers import Server, postgres_server, redis_server
from team import KEY, LIMIT, Place, Team


@pytest.fixture
def team(tmp_path: Path) -> Team:
    """A team without a signing key, whose project is empty."""
    return Team(tmp_path / "team")


@pytest.fixture
def signing(team: Team) -> Team:
    """A team all of whose members have the key."""
    team.environ["PYTEST_TASKCACHE_SIGNING_KEY"] = KEY
    return team


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def redis() -> Iterator[Server]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Waits until a condition holds; fails where it never does."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    return wait


@pytest.fixture
def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Place]:
    """Makes a fresh place of a kind."""

    def make(kind: str) -> Place:
        fresh = uuid.uuid4().hex
        match kind:
            case "s3":
                server: S3Server = request.getfixturevalue("s3")
                return Place(f"s3://{BUCKET}/{fresh}", server.environment)
            case "file":
                return Place(f"file://{tmp_path}/shared-{fresh}")
            case "sqlite":
                return Place(f"sqlite:///{tmp_path}/{fresh}.db")
            case "redis":
                import redis as client

                url = request.getfixturevalue("redis").url
                with client.Redis.from_url(url) as connection:
                    connection.flushall()
                return Place(url)
            case "postgres":
                import psycopg

                url = request.getfixturevalue("postgres").url
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute(f'CREATE DATABASE "{fresh}"')
                base = url.rpartition("/")[0].partition("://")[2]
                return Place(f"postgresql+psycopg://{base}/{fresh}")
            case _:
                raise AssertionError(kind)

    return make
