"""Digests of environment variables and of the interpreter that runs."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache

from pytest_taskcache.checksum import checksum
from pytest_taskcache.model.dependency import ABSENT, READ_IN_C

ALL = "*"
"""The name that stands for all variables but the volatile ones."""

VOLATILE = (
    # Set by pytest, its plugins and their runners for each process or test.
    *("PYTEST_CURRENT_TEST", "PYTEST_VERSION", "PYTEST_XDIST_*", "PYTEST_RUN_CONFIG"),
    *("PYTEST_TASKCACHE_*", "COV_CORE_*", "COVERAGE_PROCESS_*"),
    # Set by shells as they go.
    *("PWD", "OLDPWD", "SHLVL", "_", "RANDOM", "SECONDS", "HISTFILE", "PS1", "PS2"),
    # Set by terminals, desktops and logins for each session.
    *("COLUMNS", "LINES", "WINDOWID", "TERM_SESSION_ID", "TERM_PROGRAM*", "ITERM_*", "TMUX*"),
    *("STY", "SSH_*", "GPG_AGENT_INFO", "GPG_TTY", "DBUS_SESSION_BUS_ADDRESS", "XDG_SESSION_*"),
    *("XDG_RUNTIME_DIR", "DESKTOP_STARTUP_ID", "INVOCATION_ID", "JOURNAL_STREAM"),
    *("SYSTEMD_EXEC_PID", "VSCODE_*"),
)
"""Patterns of variables that change from session to session without changing what tests do;
they count where they are read by name, but not where all variables are read at once."""

_READ_IN_C = ("PYTHON*", "TZ", "TZDIR", "LANG", "LANGUAGE", "LC_*", "LOCPATH")
_NEUTRAL_PYTHON = frozenset(
    (
        "PYTHONPATH",  # what it makes importable is verified import by import
        *("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONSTARTUP"),
        *("PYTHON_HISTORY", "PYTHONUNBUFFERED"),
    )
)
# Whether bytecode is written changes no outcome, and xdist's workers differ in it.
_NEUTRAL_FLAGS = frozenset({"dont_write_bytecode", "quiet", "verbose", "interactive", "inspect"})


def environment_digest(name: str, environ: Mapping[str, str] | None = None) -> str:
    """The digest of a variable's present value, ABSENT where it is not set; for ``*`` of all
    variables but the VOLATILE ones."""
    variables: Mapping[str, str] = os.environ if environ is None else environ
    if name != ALL:
        value = variables.get(name)
        return ABSENT if value is None else checksum(("value", value))
    return _matching_digest(
        {key: value for key, value in variables.items() if not _matches(key, VOLATILE)}
    )


def interpreter_facts(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the interpreter is and how it was started, by name: version, platform, flags, ``-X``
    and ``-W`` options, and the variables that are read in C, where no observer sees them
    (``PYTHON*``, ``TZ``, ``LANG``, ``LC_*``)."""
    variables: Mapping[str, str] = os.environ if environ is None else environ
    flags = [
        f"{name}={getattr(sys.flags, name)}"
        for name in dir(sys.flags)
        if not name.startswith(("_", "n_")) and name not in (*_NEUTRAL_FLAGS, "count", "index")
    ]
    options = [f"{name}={value}" for name, value in sorted(sys._xoptions.items())]
    in_c = {
        f"variable {key}": value
        for key, value in sorted(variables.items())
        if _matches(key, _READ_IN_C) and key not in _NEUTRAL_PYTHON
    }
    return {
        "Python version": f"{sys.implementation.name} {sys.version}",
        "Python platform": f"{sys.platform} {platform.machine()} {sys.maxsize}",
        "Python flags": " ".join(flags),
        "Python -X": " ".join(options),
        "Python -W": " ".join(map(str, sys.warnoptions)),
        **in_c,
    }


def interpreter_digest(name: str, environ: Mapping[str, str] | None = None) -> str:
    """The digest of the `interpreter_facts` that a dependency of this name stands for."""
    facts = interpreter_facts(environ)
    facts.pop("variable PYTHONHASHSEED", None)
    in_c = name == READ_IN_C
    return _matching_digest({k: v for k, v in facts.items() if k.startswith("variable ") == in_c})


@lru_cache(4096)
def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _matching_digest(variables: Mapping[str, str]) -> str:
    return checksum(part for item in sorted(variables.items()) for part in item)
