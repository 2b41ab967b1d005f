"""The names of target files, whose existence is the record (after Prefect 0.x)."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import TypeAlias

from pytest_taskcache.errors import ConfigurationError, UnknownInputError
from pytest_taskcache.policies import TaskContext

Target: TypeAlias = "str | Callable[[TaskContext, dict[str, object]], str]"
"""A template, or ``fn(context, arguments)`` that returns a name."""

_VARIABLES = (
    *("date", "today", "yesterday", "tomorrow"),
    *("task_name", "test_module", "test_name", "parameters"),
)


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


def _inside(text: str, template: str) -> str:
    path = PurePosixPath(text.replace(os.sep, "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in text:
        raise ConfigurationError(
            "target", f"{template} names {text!r}", "name a file inside the target directory"
        )
    return str(path)
