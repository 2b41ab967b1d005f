"""What was written on the command line, in the environment and in the ini file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_taskcache.config.settings import (
    NAMES,
    Settings,
    Sources,
    project_settings,
    read_settings,
)
from pytest_taskcache.errors import TaskCacheError
from pytest_taskcache.plugin.usage import default_directory


def settings_of(config: pytest.Config) -> Settings:
    """The settings of a run. Raises pytest.UsageError for what cannot work."""
    options: dict[str, str] = {}
    ini: dict[str, str] = {}
    known = config.known_args_namespace
    for name in NAMES:
        value = getattr(config.option, f"taskcache_{name}", None)
        if value is None:
            value = getattr(known, f"taskcache_{name}", None)
        if value is not None:
            options[name] = "\n".join(value) if isinstance(value, list) else _text(value)
        ini[name] = str(config.getini(f"taskcache_{name}") or "")
    try:
        project = project_settings(_project_table(config.rootpath))
        return read_settings(Sources(options, os.environ, ini, project))
    except TaskCacheError as error:
        raise pytest.UsageError(str(error)) from error


def _project_table(root: Path) -> Mapping[str, Any]:
    try:
        if b"taskcache" not in (root / "pyproject.toml").read_bytes():
            return {}
    except OSError:
        return {}  # whoever needs it says why it cannot be read
    from pytest_taskcache.config.tiers import project_table

    return project_table(root)


def _text(value: object) -> str:
    return "true" if value is True else str(value)


def local_directory(config: pytest.Config, settings: Settings) -> Path:
    """Where the local cache lives: in the one directory that the storage setting names, if that
    is all it names, else in its usual place. Raises pytest.UsageError."""
    if settings.storage:
        from pytest_taskcache.config.tiers import only_directory

        try:
            named = only_directory(settings.storage, config.rootpath)
        except TaskCacheError as error:
            raise pytest.UsageError(str(error)) from error
        if named is not None:
            return named
    return default_directory(config)
