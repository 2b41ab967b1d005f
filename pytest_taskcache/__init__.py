"""Never compute the same thing twice in a test suite.

Importing this package imports neither pytest nor anything else: each name below is loaded when
it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_taskcache.config.standalone import Cache
    from pytest_taskcache.decorator import CachedFunction, State, cached
    from pytest_taskcache.digests.values.reducers import register_hasher
    from pytest_taskcache.engine.active import get_transaction, transaction
    from pytest_taskcache.engine.computation import Defaults
    from pytest_taskcache.engine.validators import (
        all_inputs,
        all_parameters,
        duration_only,
        never_use,
        partial_inputs_only,
        partial_parameters_only,
    )
    from pytest_taskcache.errors import (
        ConfigurationError,
        LockError,
        PolicyConflictError,
        SerializationError,
        StorageError,
        TaskCacheError,
        UndigestableError,
        UnknownInputError,
    )
    from pytest_taskcache.locking.file import FileLockManager
    from pytest_taskcache.locking.memory_locks import MemoryLockManager
    from pytest_taskcache.locking.postgres import PostgresLockManager
    from pytest_taskcache.locking.redis import RedisLockManager
    from pytest_taskcache.model import __version__
    from pytest_taskcache.model.decision import Decision, Fault, Hit, Miss, Uncacheable
    from pytest_taskcache.model.modes import IsolationLevel
    from pytest_taskcache.plugin.fixtures import cached_fixture
    from pytest_taskcache.policies.algebra import CachePolicy, TaskContext
    from pytest_taskcache.policies.parts import (
        DEFAULT,
        ENV,
        FILES,
        INPUTS,
        NO_CACHE,
        OBSERVED,
        PACKAGES,
        PYTHON,
        RUN_ID,
        TASK_SOURCE,
        TEST_PARAMETERS,
        CacheKeyFnPolicy,
        UserPolicy,
        task_input_hash,
    )
    from pytest_taskcache.serializers.compressed import (
        CompressedPickleSerializer,
        CompressedSerializer,
    )
    from pytest_taskcache.serializers.json import JSONSerializer
    from pytest_taskcache.serializers.pickle import PickleSerializer
    from pytest_taskcache.serializers.trees import TreeSerializer, tree
    from pytest_taskcache.storage.local import LocalStorage
    from pytest_taskcache.storage.memory import MemoryStorage
    from pytest_taskcache.transactions.transaction import (
        CommitMode,
        Transaction,
        TransactionError,
        TransactionStateError,
    )

_HOMES = {
    "decorator": ("cached", "CachedFunction", "State"),
    "config.standalone": ("Cache",),
    "engine.computation": ("Defaults",),
    "engine.active": ("get_transaction", "transaction"),
    "engine.validators": (
        "all_inputs",
        "all_parameters",
        "duration_only",
        "never_use",
        "partial_inputs_only",
        "partial_parameters_only",
    ),
    "errors": (
        "ConfigurationError",
        "LockError",
        "PolicyConflictError",
        "SerializationError",
        "StorageError",
        "TaskCacheError",
        "UndigestableError",
        "UnknownInputError",
    ),
    "digests.values.reducers": ("register_hasher",),
    "locking.file": ("FileLockManager",),
    "locking.memory_locks": ("MemoryLockManager",),
    "locking.postgres": ("PostgresLockManager",),
    "locking.redis": ("RedisLockManager",),
    "model": ("__version__",),
    "model.decision": ("Decision", "Fault", "Hit", "Miss", "Uncacheable"),
    "model.modes": ("IsolationLevel",),
    "plugin.fixtures": ("cached_fixture",),
    "policies.algebra": ("CachePolicy", "TaskContext"),
    "policies.parts": (
        "DEFAULT",
        "ENV",
        "FILES",
        "INPUTS",
        "NO_CACHE",
        "OBSERVED",
        "PACKAGES",
        "PYTHON",
        "RUN_ID",
        "TASK_SOURCE",
        "TEST_PARAMETERS",
        "CacheKeyFnPolicy",
        "UserPolicy",
        "task_input_hash",
    ),
    "serializers.compressed": ("CompressedPickleSerializer", "CompressedSerializer"),
    "serializers.json": ("JSONSerializer",),
    "serializers.pickle": ("PickleSerializer",),
    "serializers.trees": ("TreeSerializer", "tree"),
    "storage.local": ("LocalStorage",),
    "storage.memory": ("MemoryStorage",),
    "transactions.transaction": (
        "CommitMode",
        "Transaction",
        "TransactionError",
        "TransactionStateError",
    ),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

# Written out, since type checkers do not work it out; a test holds both lists together.
__all__ = [
    "__version__",
    "Cache",
    "CacheKeyFnPolicy",
    "CachePolicy",
    "CachedFunction",
    "CommitMode",
    "CompressedPickleSerializer",
    "CompressedSerializer",
    "ConfigurationError",
    "DEFAULT",
    "Decision",
    "Defaults",
    "ENV",
    "FILES",
    "Fault",
    "FileLockManager",
    "Hit",
    "INPUTS",
    "IsolationLevel",
    "JSONSerializer",
    "LocalStorage",
    "LockError",
    "MemoryLockManager",
    "MemoryStorage",
    "Miss",
    "NO_CACHE",
    "OBSERVED",
    "PACKAGES",
    "PYTHON",
    "PickleSerializer",
    "PolicyConflictError",
    "PostgresLockManager",
    "RUN_ID",
    "RedisLockManager",
    "SerializationError",
    "State",
    "StorageError",
    "TASK_SOURCE",
    "TEST_PARAMETERS",
    "TaskCacheError",
    "TaskContext",
    "Transaction",
    "TransactionError",
    "TransactionStateError",
    "TreeSerializer",
    "Uncacheable",
    "UndigestableError",
    "UnknownInputError",
    "UserPolicy",
    "all_inputs",
    "all_parameters",
    "cached",
    "cached_fixture",
    "duration_only",
    "get_transaction",
    "never_use",
    "partial_inputs_only",
    "partial_parameters_only",
    "register_hasher",
    "task_input_hash",
    "transaction",
    "tree",
]


def __getattr__(name: str) -> object:
    home = _WHERE.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
