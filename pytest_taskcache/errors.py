"""The errors this project raises, each naming what was wrong and what to do instead.

Every class keeps its facts as attributes beside the text and survives pickling, because
pytest-xdist carries exceptions between processes.
"""

from __future__ import annotations

from pytest_taskcache.dataclass import dataclass


class TaskCacheError(Exception):
    """Root of every error raised on purpose by pytest-taskcache."""

    def __post_init__(self) -> None:
        self.args = tuple(vars(self).values())  # what pickle hands to the constructor


@dataclass(eq=False, repr=False)
class ConfigurationError(TaskCacheError):
    """A setting has a value that cannot work.

    ``setting`` is the name the user wrote (an option, an ini key, an argument), ``remedy`` what to
    write instead.
    """

    setting: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}; {self.remedy}"


class MissingExtraError(ConfigurationError):
    """A setting needs a library that is not installed; the remedy is the command for it."""


@dataclass(eq=False, repr=False)
class PolicyConflictError(TaskCacheError):
    """Two cache policies that were added disagree about one field; both settings as text."""

    field: str
    left: str
    right: str

    def __str__(self) -> str:
        return (
            f"policies disagree about {self.field}: {self.left} and {self.right}; "
            f"set {self.field} on one of them only, with .configure({self.field}=...)"
        )


@dataclass(eq=False, repr=False)
class UnknownInputError(TaskCacheError):
    """`policy - "name"` or a target names an input that the function, by its qualified name, does
    not have; ``known`` are those that it has."""

    function: str
    name: str
    known: tuple[str, ...]

    def __str__(self) -> str:
        known = ", ".join(self.known) or "none"
        return f"{self.function} has no input {self.name!r}; its inputs are: {known}"


@dataclass(eq=False, repr=False)
class UndigestableError(TaskCacheError):
    """A value has no digest that is the same in every process.

    ``path`` says where in the input it sits, e.g. ``rows[3].conn`` (empty for the value itself),
    ``type_name`` e.g. ``sqlite3.Connection``, ``reason`` why, if it is more than an unknown type.
    """

    path: str
    type_name: str
    reason: str = ""

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


@dataclass(eq=False, repr=False)
class SerializationError(TaskCacheError):
    """A value cannot be written by, or read back with, its serializer; ``type_name`` is "" when
    reading, ``reason`` the underlying error as text."""

    serializer: str
    type_name: str
    reason: str

    def __str__(self) -> str:
        what = f"a {self.type_name}" if self.type_name else "a stored value"
        return f"serializer {self.serializer!r} cannot handle {what}: {self.reason}"


@dataclass(eq=False, repr=False)
class StorageError(TaskCacheError):
    """A storage operation failed; the cache goes on without it.

    Adapters raise this and nothing else for what the world does to them (disk full, network
    gone, server answers nonsense). A value that is absent, torn or corrupt is *not* an error:
    it reads as absent.

    ``storage`` is what its ``describe()`` says, ``operation`` the verb, e.g. "read records",
    ``reason`` short and without secrets: faults are counted by it.
    """

    storage: str
    operation: str
    reason: str

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


@dataclass(eq=False, repr=False)
class LockError(TaskCacheError):
    """A lock manager failed; the computation goes on unlocked and the fault is counted.
    ``manager`` is what its ``describe()`` says."""

    manager: str
    reason: str

    def __str__(self) -> str:
        return f"{self.manager}: {self.reason}"
