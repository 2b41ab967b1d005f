from __future__ import annotations

from pathlib import Path

import pytest
from servers import Server

from pytest_taskcache.locking.file import FileLockManager
from pytest_taskcache.locking.leases import MemoryLockManager
from pytest_taskcache.locking.postgres import PostgresLockManager
from pytest_taskcache.locking.redis import RedisLockManager
from pytest_taskcache.testing.locks import LockManagerConformance, MakeManager


class TestMemory(LockManagerConformance):
    @pytest.fixture
    def make_manager(self) -> MakeManager:
        shared = MemoryLockManager()
        return lambda: shared


class TestFile(LockManagerConformance):
    @pytest.fixture
    def make_manager(self, tmp_path: Path) -> MakeManager:
        return lambda: FileLockManager(tmp_path / "locks")


class TestRedis(LockManagerConformance):
    @pytest.fixture
    def make_manager(self, redis: Server) -> MakeManager:
        return lambda: RedisLockManager(redis.url)


class TestPostgres(LockManagerConformance):
    @pytest.fixture
    def make_manager(self, postgres: Server) -> MakeManager:
        return lambda: PostgresLockManager(postgres.url)
