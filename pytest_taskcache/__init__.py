"""Never compute the same thing twice in a test suite.

Importing this package imports neither pytest nor anything else: each name below is loaded when
it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_taskcache.config.standalone import Cache as Cache
    from pytest_taskcache.decorator import CachedFunction as CachedFunction
    from pytest_taskcache.decorator import State as State
    from pytest_taskcache.decorator import cached as cached
    from pytest_taskcache.digests.values.reducers import register_hasher as register_hasher
    from pytest_taskcache.engine.active import get_transaction as get_transaction
    from pytest_taskcache.engine.active import transaction as transaction
    from pytest_taskcache.engine.computation import Defaults as Defaults
    from pytest_taskcache.engine.validity import all_inputs as all_inputs
    from pytest_taskcache.engine.validity import all_parameters as all_parameters
    from pytest_taskcache.engine.validity import duration_only as duration_only
    from pytest_taskcache.engine.validity import never_use as never_use
    from pytest_taskcache.engine.validity import partial_inputs_only as partial_inputs_only
    from pytest_taskcache.engine.validity import partial_parameters_only as partial_parameters_only
    from pytest_taskcache.errors import ConfigurationError as ConfigurationError
    from pytest_taskcache.errors import LockError as LockError
    from pytest_taskcache.errors import PolicyConflictError as PolicyConflictError
    from pytest_taskcache.errors import SerializationError as SerializationError
    from pytest_taskcache.errors import StorageError as StorageError
    from pytest_taskcache.errors import TaskCacheError as TaskCacheError
    from pytest_taskcache.errors import UndigestableError as UndigestableError
    from pytest_taskcache.errors import UnknownInputError as UnknownInputError
    from pytest_taskcache.locking.file import FileLockManager as FileLockManager
    from pytest_taskcache.locking.leases import MemoryLockManager as MemoryLockManager
    from pytest_taskcache.locking.postgres import PostgresLockManager as PostgresLockManager
    from pytest_taskcache.locking.redis import RedisLockManager as RedisLockManager
    from pytest_taskcache.model import __version__ as __version__
    from pytest_taskcache.model.decision import Decision as Decision
    from pytest_taskcache.model.decision import Fault as Fault
    from pytest_taskcache.model.decision import Hit as Hit
    from pytest_taskcache.model.decision import Miss as Miss
    from pytest_taskcache.model.decision import Uncacheable as Uncacheable
    from pytest_taskcache.model.modes import IsolationLevel as IsolationLevel
    from pytest_taskcache.plugin.fixtures import cached_fixture as cached_fixture
    from pytest_taskcache.policies.algebra import CachePolicy as CachePolicy
    from pytest_taskcache.policies.algebra import TaskContext as TaskContext
    from pytest_taskcache.policies.parts import DEFAULT as DEFAULT
    from pytest_taskcache.policies.parts import ENV as ENV
    from pytest_taskcache.policies.parts import FILES as FILES
    from pytest_taskcache.policies.parts import INPUTS as INPUTS
    from pytest_taskcache.policies.parts import NO_CACHE as NO_CACHE
    from pytest_taskcache.policies.parts import OBSERVED as OBSERVED
    from pytest_taskcache.policies.parts import PACKAGES as PACKAGES
    from pytest_taskcache.policies.parts import PYTHON as PYTHON
    from pytest_taskcache.policies.parts import RUN_ID as RUN_ID
    from pytest_taskcache.policies.parts import TASK_SOURCE as TASK_SOURCE
    from pytest_taskcache.policies.parts import TEST_PARAMETERS as TEST_PARAMETERS
    from pytest_taskcache.policies.parts import CacheKeyFnPolicy as CacheKeyFnPolicy
    from pytest_taskcache.policies.parts import UserPolicy as UserPolicy
    from pytest_taskcache.policies.parts import task_input_hash as task_input_hash
    from pytest_taskcache.serializers.compressed import (
        CompressedPickleSerializer as CompressedPickleSerializer,
    )
    from pytest_taskcache.serializers.compressed import CompressedSerializer as CompressedSerializer
    from pytest_taskcache.serializers.json import JSONSerializer as JSONSerializer
    from pytest_taskcache.serializers.pickle import PickleSerializer as PickleSerializer
    from pytest_taskcache.serializers.trees import TreeSerializer as TreeSerializer
    from pytest_taskcache.serializers.trees import tree as tree
    from pytest_taskcache.storage.local import LocalStorage as LocalStorage
    from pytest_taskcache.storage.memory import MemoryStorage as MemoryStorage
    from pytest_taskcache.transactions.transaction import CommitMode as CommitMode
    from pytest_taskcache.transactions.transaction import Transaction as Transaction
    from pytest_taskcache.transactions.transaction import TransactionError as TransactionError
    from pytest_taskcache.transactions.transaction import (
        TransactionStateError as TransactionStateError,
    )

_HOMES = {
    "config.standalone": "Cache",
    "decorator": "CachedFunction State cached",
    "digests.values.reducers": "register_hasher",
    "engine.active": "get_transaction transaction",
    "engine.computation": "Defaults",
    "engine.validity": (
        "all_inputs all_parameters duration_only never_use partial_inputs_only "
        "partial_parameters_only"
    ),
    "errors": (
        "ConfigurationError LockError PolicyConflictError SerializationError StorageError "
        "TaskCacheError UndigestableError UnknownInputError"
    ),
    "locking.file": "FileLockManager",
    "locking.leases": "MemoryLockManager",
    "locking.postgres": "PostgresLockManager",
    "locking.redis": "RedisLockManager",
    "model": "__version__",
    "model.decision": "Decision Fault Hit Miss Uncacheable",
    "plugin.fixtures": "cached_fixture",
    "model.modes": "IsolationLevel",
    "policies.algebra": "CachePolicy TaskContext",
    "policies.parts": (
        "DEFAULT ENV FILES INPUTS NO_CACHE OBSERVED PACKAGES PYTHON RUN_ID TASK_SOURCE "
        "TEST_PARAMETERS CacheKeyFnPolicy UserPolicy task_input_hash"
    ),
    "serializers.compressed": "CompressedPickleSerializer CompressedSerializer",
    "serializers.json": "JSONSerializer",
    "serializers.pickle": "PickleSerializer",
    "serializers.trees": "TreeSerializer tree",
    "storage.local": "LocalStorage",
    "storage.memory": "MemoryStorage",
    "transactions.transaction": "CommitMode Transaction TransactionError TransactionStateError",
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names.split()}

if not TYPE_CHECKING:  # type checkers see what is imported for them under its own name above
    __all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    home = _WHERE.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_WHERE)
