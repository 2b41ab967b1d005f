"""What is kept of a test file's collection: a tree of plain values, and what it rests on.

A record of a file with one class and one parametrized test::

    {"format": 3, "module": "tests.test_rates",
     "table": [["slow"], ["tmp_path"], ...],
     "children": [{"n": "TestRates", "c": [...]}, {"n": "test_rate[1]", ...}],
     "tests": {"TestRates::test_all": "<fixtures and marks>", "test_rate[1]": ...}}

Reading one executes nothing. It is decoded only when its file is collected.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from pytest_taskcache.dataclass import dataclass, field

FORMAT = 3
"""Version of this encoding; part of the key of every record."""

Json = dict[str, Any]


class UnrecordableError(Exception):
    """Why a file has to be collected really; never leaves this room."""


class DamagedRecordError(ValueError):
    """A record that is not what was written."""


@dataclass
class CollectionRecord:
    """One file's collection. ``children`` and ``table`` as `pytest_nodes` writes them; ``tests``
    holds for each test, by the rest of its node id, a text of the marks and fixtures that it had
    when its outcome could be looked up ("" if it could not); ``warnings`` is what collecting the
    file warned of, ``module`` what it is called when imported."""

    module: str
    children: list[Json]
    table: list[Any]
    marks: int
    warnings: list[Json] = field(default_factory=list)
    tests: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    """Why the file cannot be stood in for; then there is no tree."""

    def encode(self) -> bytes:
        """The record as JSON."""
        document = {"format": FORMAT, **vars(self)}
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def decode(cls, data: bytes | memoryview) -> CollectionRecord:
        """The record again. Raises DamagedRecordError."""
        try:
            found = json.loads(bytes(data))
            if found.pop("format") != FORMAT:
                raise DamagedRecordError("written in another format")
            record = cls(**found)
            tests = [entry for entry in record.entries() if "c" not in entry]
            if len(tests) != len(record.tests):
                raise DamagedRecordError("incomplete")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedRecordError(str(error)) from error
        return record

    def entries(self) -> Iterator[Json]:
        """Every entry of the tree, those of tests in order."""
        pending = self.children[::-1]
        while pending:
            entry = pending.pop()
            yield entry
            pending += reversed(entry.get("c", ()))


# ------------------------------------------------------------------------------------ values

_PRIMITIVES = frozenset({str, int, bool, type(None)})


def to_plain(value: object) -> Any:
    """A value as JSON from which `from_plain` makes an equal one of the same types. Raises
    UnrecordableError for others."""
    kind = type(value)
    if kind in _PRIMITIVES or (kind is float and math.isfinite(value)):  # type: ignore[arg-type]
        return value
    if isinstance(value, (list, tuple)) and kind in (list, tuple):
        return {kind.__name__: [to_plain(each) for each in value]}
    if isinstance(value, dict) and kind is dict and all(type(key) is str for key in value):
        return {"dict": {key: to_plain(each) for key, each in value.items()}}
    raise UnrecordableError(f"a {kind.__qualname__} is no plain value")


def from_plain(value: Any) -> Any:
    """The value again."""
    if type(value) is not dict:
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: from_plain(each) for key, each in content.items()}
    parts = [from_plain(each) for each in content]
    return tuple(parts) if kind == "tuple" else parts


# --------------------------------------------------------------------- what an import leaves

_SIGNALS = ("SIGINT", "SIGTERM", "SIGALRM", "SIGCHLD", "SIGUSR1", "SIGUSR2", "SIGHUP")


def global_state() -> dict[str, Any]:
    """What other tests may rely on that an import can leave behind in the process, as it is now.

    Patched foreign modules are not seen: ``taskcache_collect = real`` is for those.
    """
    root = logging.getLogger()
    return {
        "sys.path": list(sys.path),
        "the environment": dict(os.environ),
        "the working directory": _directory(),
        "signal handlers": [
            signal.getsignal(getattr(signal, name)) for name in _SIGNALS if hasattr(signal, name)
        ],
        "the recursion limit": sys.getrecursionlimit(),
        "sys.excepthook": (sys.excepthook, threading.excepthook),
        "threads": {thread.ident for thread in threading.enumerate()},
        "logging": (root.level, list(root.handlers), root.manager.disable),
        "the random state": random.getstate(),
        "the default time-out of sockets": socket.getdefaulttimeout(),
    }


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


_CLOCKS = re.compile(
    rb"\b(?:today|now|utcnow|localtime|gmtime|time_ns|monotonic|perf_counter|time|uuid1|uuid4|"
    rb"urandom|token_hex|token_bytes|token_urlsafe|random|randint|randrange|choice|choices|sample|"
    rb"shuffle|uniform|getpid|gethostname|getnode)\s*\("
)
_NAMES = frozenset(re.findall(r"[a-z_0-9]{3,}", _CLOCKS.pattern.decode()))


def asks_the_clock(source: bytes) -> bool:
    """Whether a test file calls, outside of its functions, something that looks like a clock or
    chance: nobody sees such a call, and its tests may be others tomorrow."""
    if not _CLOCKS.search(source):
        return False
    import ast

    try:
        pending: list[ast.AST] = [ast.parse(source)]
    except (SyntaxError, ValueError):
        return True
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Call):
            called = node.func
            name = getattr(called, "attr", getattr(called, "id", ""))
            made = name == "time" and (node.args or node.keywords)  # a time of day
            if name in _NAMES and not made:
                return True
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            pending.extend((*node.decorator_list, *node.args.defaults))
        elif not isinstance(node, ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))
    return False
