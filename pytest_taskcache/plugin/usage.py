"""Whether a run has any use for the plugin, told before anything of it is imported.

A project that was never cached, and in whose tests nothing says so, costs the reading of its test
files' text. Whoever is missed by that (a mark that is made of pieces, a helper far from the tests)
is noticed when the tests are collected.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

_WORDS = re.compile(rb"taskcache|[.\"']cached\b")
"""What a file says that uses the plugin: its name, ``mark.cached``, ``"cached"``."""

_DIRECTORIES = frozenset({"build", "dist", "node_modules", "venv", "__pycache__"})


def is_wanted(config: pytest.Config) -> bool:
    """Whether an option, a variable or a setting is given, the project has a cache, or the text
    of its tests or conftests speaks of one."""
    given = config.known_args_namespace
    options = any(
        value is not None for name, value in vars(given).items() if name.startswith("taskcache_")
    )
    overridden = any(text.startswith("taskcache_") for text in given.override_ini or ())
    variables = any(name.startswith("PYTEST_TASKCACHE_") for name in os.environ)
    written = getattr(config, "_inicfg", None)
    written = config.inicfg if written is None else written
    return (
        options
        or overridden
        or variables
        or "pytest_taskcache.decorator" in sys.modules
        or any(name.startswith("taskcache_") for name in written)
        or default_directory(config).exists()
        or _speaks(config.rootpath / "pyproject.toml", re.compile(rb"\[tool\.taskcache"))
        or any(_speaks(file) for file in _files(config))
    )


def is_marked(items: Iterable[pytest.Item]) -> bool:
    """Whether collected tests are marked, or what they import is decorated."""
    return "pytest_taskcache.decorator" in sys.modules or any(
        "cached" in item.keywords and item.get_closest_marker("cached") for item in items
    )


def cache_directory(config: pytest.Config) -> Path | None:
    """Where pytest itself keeps what it notes from run to run; None where it keeps nothing."""
    if not config.pluginmanager.hasplugin("cacheprovider"):  # then nobody knows of cache_dir
        return None
    written = Path(os.path.expandvars(str(config.getini("cache_dir")))).expanduser()
    return config.rootpath / written


def default_directory(config: pytest.Config) -> Path:
    """Where the local cache lives unless told otherwise: inside pytest's cache directory, or
    beside the ini file where pytest's cache is switched off."""
    directory = cache_directory(config)
    return config.rootpath / ".taskcache" if directory is None else directory / "taskcache"


def _speaks(file: str | Path, words: re.Pattern[bytes] = _WORDS) -> bool:
    try:
        with open(file, "rb") as opened:
            return words.search(opened.read()) is not None
    except OSError:
        return False


def _files(config: pytest.Config) -> Iterator[str]:
    """The test files and conftests that may be collected, and the modules beside them."""
    given = config.known_args_namespace
    patterns = config.getini("python_files")
    texts = given.file_or_dir or config.getini("testpaths") or [""]
    here = config.invocation_params.dir
    for text in texts:
        start = os.path.join(here, str(text).partition("::")[0])
        directory = start if os.path.isdir(start) else os.path.dirname(start)
        for parent in Path(directory).parents:
            yield os.path.join(parent, "conftest.py")
        if directory != start:
            yield start
            yield os.path.join(directory, "conftest.py")
            continue
        for folder, below, names in os.walk(start):
            below[:] = [name for name in below if name[0] != "." and name not in _DIRECTORIES]
            if "pyvenv.cfg" in names:
                below.clear()
                continue
            python = [name for name in names if name.endswith(".py")]
            tests = (fnmatch.fnmatch(name, each) for name in python for each in patterns)
            if "conftest.py" in python or any(tests):
                yield from (os.path.join(folder, name) for name in python)
