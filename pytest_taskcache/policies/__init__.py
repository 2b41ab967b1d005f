"""What goes into a key."""

from pytest_taskcache.model.modes import IsolationLevel
from pytest_taskcache.policies.algebra import CachePolicy
from pytest_taskcache.policies.context import TaskContext
from pytest_taskcache.policies.custom import CacheKeyFnPolicy, UserPolicy, task_input_hash
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
)

__all__ = [
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
    "CachePolicy",
    "IsolationLevel",
    "TaskContext",
    "UserPolicy",
    "task_input_hash",
]
