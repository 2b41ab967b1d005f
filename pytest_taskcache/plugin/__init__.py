"""The pytest plugin: what pytest loads. Everything heavier is imported when it is needed.

Whether a run has any use for it is told before that. A project that was never cached, and in whose
tests nothing says so, costs the reading of its test files' text. Whoever is missed by that (a mark
that is made of pieces, a helper far from the tests) is noticed when the tests are collected.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_taskcache.plugin.session import Session

SESSION = pytest.StashKey["Session"]()
"""Where the run's state hangs on the config."""

_OURS = "pytest_taskcache."

_SETTINGS = {
    "refresh": "Compute everything anew, once; what is new is then found first.",
    "refresh_only": "Compute anew what PATTERN names: a part of file::qualified.name, or a glob; "
    "several times, one a line, or separated by commas.",
    "mode": "What a run may do with the cache: rw (read and write), r, w, or off.",
    "tests": "Whose outcomes are cached: marked (tests with @pytest.mark.cached), all or none.",
    "storage": "Where the cache lives (default: .pytest_cache/taskcache): a directory, a URL, or a "
    "name of [tool.taskcache.storages].",
    "verify": "Run this share of the hits anyway, and fail if one differs from its record.",
    "dry_run": "Tell which tests would run and why, and run none.",
    "recheck": "Run failed tests that used cached values once more with fresh ones, and tell "
    "whether the cache was the cause.",
    "explain": "Say why each computation ran: what changed, with before and after. As a setting "
    "also whose reasons: misses, hit, refused or all.",
    "report": "Write a page about the run: what ran, why, and what was saved.",
    "collect": "Whether unchanged test files are left unimported: auto, or real (never).",
    "neutral_options": "Names of options and settings that no outcome depends on.",
    "key_storage": "Where records live, if apart from results.",
    "result_storage": "Where results live, if apart from records.",
    "lock_manager": "What locks computations: file (default), memory, a directory or a URL.",
    "isolation": "AUTO, READ_COMMITTED or SERIALIZABLE.",
    "max_size": "Size limit of the local cache, e.g. 5GB.",
    "tests_max_age": "How long outcomes are valid, e.g. 7d, or never.",
    "fixtures": "Names of fixtures to cache that are not decorated.",
    "serializer": "How values are written that name no serializer, e.g. json, compressed.",
    "expiration": "How long values of functions and fixtures are valid, e.g. 12h.",
    "commit": "When values become visible to others: LAZY, EAGER or OFF.",
    "namespace": "Namespace to write to in a shared storage, e.g. {branch}.",
    "read_namespaces": "Further namespaces to read from, e.g. main.",
    "trust_remote": "Whether unsigned JSON outcomes of a shared storage are believed.",
}
"""What each setting is for."""

_FLAG: dict[str, Any] = {"action": "store_true", "default": None}

_OPTIONS: dict[str, dict[str, Any]] = {
    "refresh": _FLAG,
    "refresh_only": {"action": "append", "metavar": "PATTERN"},
    "mode": {"metavar": "rw|r|w|off"},
    "tests": {"metavar": "marked|all|none"},
    "storage": {"metavar": "PATH|URL"},
    "verify": {"metavar": "PERCENT[@SEED]"},
    "dry_run": _FLAG,
    "recheck": _FLAG,
    "explain": {"action": "store_const", "const": "misses"},
    "report": {"metavar": "FILE.html"},
}
"""Those that are options as well, ``--cache-NAME``, and how pytest is to read them."""


_WORDS = re.compile(rb"taskcache|[.\"']cached\b")
"""What a file says that uses the plugin: its name, ``mark.cached``, ``"cached"``."""

_DIRECTORIES = frozenset({"build", "dist", "node_modules", "venv", "__pycache__"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the ``--cache-*`` options and the ``taskcache_*`` ini settings."""
    group = parser.getgroup("taskcache", "caching of functions, fixtures and tests")
    for name, text in _SETTINGS.items():
        parser.addini(f"taskcache_{name}", text, default="")
        if name in _OPTIONS:
            option, dest = f"--cache-{name.replace('_', '-')}", f"taskcache_{name}"
            group.addoption(option, dest=dest, help=text, **_OPTIONS[name])
    group.addoption(
        "--cache-explain-of",
        dest="taskcache_explain",
        help="As --cache-explain, for other decisions than misses.",
        metavar="misses|hit|refused|all",
    )


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declares the hooks that other plugins and conftests may implement."""
    from pytest_taskcache.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)
    pluginmanager.register(_Early)


class _Early:
    @staticmethod
    @pytest.hookimpl(hookwrapper=True, trylast=True)  # of the kind that errors do not go through
    def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
        """Starts observing, if the run has any use for it, before any other plugin imports
        something of the project (pytest-django its settings)."""
        if _is_wanted(early_config):
            _session_of(early_config)
        yield


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Sees, before the conftests are imported, whether pytest-cov has begun to measure."""
    if SESSION in early_config.stash:
        early_config.stash[SESSION].watch_coverage()


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker; settles the settings, where the plugin was loaded late too."""
    config.addinivalue_line(
        "markers",
        "cached(policy, expiration, allow, fixtures, ...): replay this test's outcome while "
        "nothing it depends on has changed; cached(False) opts out",
    )
    if SESSION in config.stash or _is_wanted(config):
        _session_of(config).configure()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Closes what was opened."""
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.close()
    if _PlainImport in sys.meta_path:
        sys.meta_path.remove(_PlainImport)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Registers the hooks that do the work, if anything here is cached at all."""
    config = session.config
    if session.testsfailed and not (
        config.option.continue_on_collection_errors
        or hasattr(config, "workerinput")
        or config.pluginmanager.hasplugin("dsession")  # runs what could be collected
    ):
        return  # pytest ends here
    if SESSION not in config.stash:
        if not is_marked(session.items):
            return
        _session_of(config).configure()
    config.stash[SESSION].collected(session.items)


def _session_of(config: pytest.Config) -> Session:
    if SESSION not in config.stash:
        if _PlainImport not in sys.meta_path:
            sys.meta_path.insert(0, _PlainImport)
        from pytest_taskcache.plugin.session import Session

        config.stash[SESSION] = Session(config)
    return config.stash[SESSION]


class _PlainImport:
    """Finds the modules of this package as Python does. Pytest rewrites the assertions of every
    plugin's modules, and loads even those without one by a way that takes twice the time."""

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the path holds for a module of ours; None for others, which are not ours to find."""
        return PathFinder.find_spec(name, path, target) if name.startswith(_OURS) else None


@pytest.fixture
def taskcache(request: pytest.FixtureRequest) -> object:
    """The active cache, the running test's transaction, and the decisions so far."""
    return _session_of(request.config).handle()


def _is_wanted(config: pytest.Config) -> bool:
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
