"""Templated target files: the file's existence is the record (after Prefect 0.x)."""

from __future__ import annotations

import contextlib
import os
import stat
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import xxhash

from pytest_taskcache.errors import ConfigurationError, UnknownInputError
from pytest_taskcache.policies import TaskContext

Target: TypeAlias = "str | Callable[[TaskContext, dict[str, object]], str]"
"""A template, or ``fn(context, arguments)`` that returns a name."""

_VARIABLES = (
    *("date", "today", "yesterday", "tomorrow"),
    *("task_name", "test_module", "test_name", "parameters"),
)
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A target as it lies there: its bytes, their xxh3-128 digest, when it was last changed
    (POSIX seconds). ``owned``: nobody but this user can have written it, inside the target
    directory, so that it may be decoded without a record that vouches for it."""

    data: bytes
    digest: str
    modified: float
    owned: bool


def check_template(template: str, function: str, inputs: tuple[str, ...]) -> None:
    """Raises UnknownInputError for a variable that will never exist, ConfigurationError for a
    template that is malformed, absolute or leaves the target directory."""
    known = (*_VARIABLES, *inputs)
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigurationError(
            "target", f"{template!r} is no template: {error}", "double the braces meant as such"
        ) from None
    for field in fields:
        if field is None:
            continue
        name = field.partition(".")[0].partition("[")[0]
        if name not in known:
            raise UnknownInputError(function, name, known)
    _inside(template, template)


def target_name(
    template: Target, context: TaskContext, arguments: Mapping[str, object], now: datetime
) -> str:
    """The relative POSIX path a template or function names for this call. Raises
    ConfigurationError if it leaves the target directory, cannot be formatted or raises."""
    if callable(template):
        return _called(template, context, arguments)
    values: dict[str, object] = dict(arguments)
    values |= {
        "date": now,
        "today": now.strftime("%Y-%m-%d"),
        "yesterday": (now - timedelta(days=1)).strftime("%Y-%m-%d"),
        "tomorrow": (now + timedelta(days=1)).strftime("%Y-%m-%d"),
        "task_name": context.identity.name,
        "test_module": context.test_module,
        "test_name": context.test_name,
        "parameters": dict(context.parameters),
    }
    try:
        text = template.format(**values)
    except (KeyError, IndexError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            "target", f"{template!r} cannot be filled in: {error}", "check its variables"
        ) from error
    return _inside(text, template)


def _called(
    function: Callable[[TaskContext, dict[str, object]], str],
    context: TaskContext,
    arguments: Mapping[str, object],
) -> str:
    name = f"the target function of {context.task_name}"
    remedy = "return the name of a file inside the target directory"
    try:
        text = function(context, dict(arguments))
    except Exception as error:  # users' code
        raise ConfigurationError(
            "target", f"{name} raised {type(error).__name__}: {error}", remedy
        ) from error
    if not isinstance(text, str):
        raise ConfigurationError("target", f"{name} returned {text!r}", remedy)
    return _inside(text, name)


def read_target(directory: Path, name: str) -> TargetFile | None:
    """The target of this name; None if there is no such file. Raises OSError where there is one
    that cannot be read."""
    path = directory / name
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            return None
        data = file.read()
    owned = _is_ours(info) and _leads_nowhere_else(directory, path)
    return TargetFile(data, xxhash.xxh3_128_hexdigest(data), info.st_mtime, owned)


def export(directory: Path, name: str, data: bytes) -> None:
    """Writes the file by rename. Raises OSError."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.parent.resolve().is_relative_to(directory.resolve()):
        raise PermissionError(f"target {name!r} leaves {directory} through a link")
    draft = path.with_name(f".{os.getpid()}-{os.urandom(6).hex()}.tmp")
    try:
        with open(draft, "xb") as file:
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o600)
            file.write(data)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _is_ours(info: os.stat_result) -> bool:
    if not hasattr(os, "geteuid"):
        return True
    return info.st_uid == os.geteuid() and not info.st_mode & _OTHERS_MAY_WRITE


def _leads_nowhere_else(directory: Path, path: Path) -> bool:
    """Whether no step from the directory to the file is a link, or a directory of others."""
    if os.path.islink(path):
        return False
    step = path.parent
    while True:
        if (step != directory and os.path.islink(step)) or not _is_ours(os.stat(step)):
            return False
        if step == directory:
            return True
        step = step.parent


def _inside(text: str, template: str) -> str:
    path = PurePosixPath(text.replace(os.sep, "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in text:
        raise ConfigurationError(
            "target", f"{template} names {text!r}", "name a file inside the target directory"
        )
    return str(path)
