"""The errors this project raises, each naming what was wrong and what to do instead.

Every class keeps its facts as attributes beside the text and survives pickling, because
pytest-xdist carries exceptions between processes.
"""

from __future__ import annotations


class TaskCacheError(Exception):
    """Root of every error raised on purpose by pytest-taskcache."""


class ConfigurationError(TaskCacheError):
    """A setting has a value that cannot work.

    Attributes:
        setting: the name the user wrote (an option, an ini key, an argument).
        problem: what is wrong with its value.
        remedy: what to write instead.
    """

    def __init__(self, setting: str, problem: str, remedy: str) -> None:
        super().__init__(setting, problem, remedy)
        self.setting = setting
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}; {self.remedy}"


class MissingExtraError(ConfigurationError):
    """A setting needs a library that is not installed; the remedy is the command for it."""


class PolicyConflictError(TaskCacheError):
    """Two cache policies that were added disagree about one field.

    Attributes:
        field: the field both define.
        left, right: the two settings, as text.
    """

    def __init__(self, field: str, left: str, right: str) -> None:
        super().__init__(field, left, right)
        self.field = field
        self.left = left
        self.right = right

    def __str__(self) -> str:
        return (
            f"policies disagree about {self.field}: {self.left} and {self.right}; "
            f"set {self.field} on one of them only, with .configure({self.field}=...)"
        )


class UnknownInputError(TaskCacheError):
    """`policy - "name"` or a target names an input that the function does not have.

    Attributes:
        function: qualified name of the function.
        name: the input that was named.
        known: the inputs the function has.
    """

    def __init__(self, function: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(function, name, known)
        self.function = function
        self.name = name
        self.known = known

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"{self.function} has no input {self.name!r}; its inputs are: {known}"


class UndigestableError(TaskCacheError):
    """A value has no digest that is the same in every process.

    Attributes:
        path: where in the input it sits, e.g. ``rows[3].conn``; empty for the value itself.
        type_name: its type, e.g. ``sqlite3.Connection``.
        reason: why, when it is more than an unknown type.
    """

    def __init__(self, path: str, type_name: str, reason: str = "") -> None:
        super().__init__(path, type_name, reason)
        self.path = path
        self.type_name = type_name
        self.reason = reason

    @property
    def root(self) -> str:
        """Name of the input the path starts at."""
        for end, char in enumerate(self.path):
            if char in ".[":
                return self.path[:end]
        return self.path

    def __str__(self) -> str:
        where = f"argument {self.path}: " if self.path else ""
        why = f" ({self.reason})" if self.reason else ""
        remedy = f"leave it out with `policy - {self.root!r}` or " if self.root else ""
        return f"{where}{self.type_name} cannot be digested{why}; {remedy}register a hasher"


class SerializationError(TaskCacheError):
    """A value cannot be written by, or read back with, its serializer.

    Attributes:
        serializer: the serializer's name.
        type_name: type of the value, or "" when reading.
        reason: the underlying error, as text.
    """

    def __init__(self, serializer: str, type_name: str, reason: str) -> None:
        super().__init__(serializer, type_name, reason)
        self.serializer = serializer
        self.type_name = type_name
        self.reason = reason

    def __str__(self) -> str:
        what = f"a {self.type_name}" if self.type_name else "a stored value"
        return f"serializer {self.serializer!r} cannot handle {what}: {self.reason}"


class StorageError(TaskCacheError):
    """A storage operation failed; the cache goes on without it.

    Adapters raise this and nothing else for what the world does to them (disk full, network
    gone, server answers nonsense). A value that is absent, torn or corrupt is *not* an error:
    it reads as absent.

    Attributes:
        storage: the storage, as its ``describe()`` says.
        operation: the verb, e.g. "read records".
        reason: short and without secrets; used to count faults by reason.
    """

    def __init__(self, storage: str, operation: str, reason: str) -> None:
        super().__init__(storage, operation, reason)
        self.storage = storage
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.storage}: cannot {self.operation}: {self.reason}"


def fault_of(error: Exception, reason: str = "storage failed") -> tuple[str, str]:
    """Reason and detail of a fault, in the few words that faults are counted by, and at length.
    What is no StorageError comes from users' code; then the reason is as given."""
    if isinstance(error, StorageError):
        return f"{error.operation} failed: {error.reason}", str(error)
    told = str(error) if isinstance(error, TaskCacheError) else f"{type(error).__name__}: {error}"
    return reason, told


class UntrustedStorageError(StorageError):
    """A storage, or what it returned, is not to be trusted: wrong owner, mode or signature."""


class SchemaVersionError(StorageError):
    """A storage was written by a newer version of pytest-taskcache."""


class LockError(TaskCacheError):
    """A lock manager failed; the computation goes on unlocked and the fault is counted.

    Attributes:
        manager: the lock manager, as its ``describe()`` says.
        reason: what happened.
    """

    def __init__(self, manager: str, reason: str) -> None:
        super().__init__(manager, reason)
        self.manager = manager
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.manager}: {self.reason}"
