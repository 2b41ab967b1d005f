"""The test matrix: ``nox -s tests-3.12``, ``nox -s lint``, ``nox -s typing docs``."""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13"]

nox.options.sessions = ["lint", "typing", "docs", "tests"]
nox.options.error_on_missing_interpreters = False


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, or those that are named: ``nox -s tests-3.13 -- tests/engine``."""
    session.install("--editable", ".[test]")
    session.run("python", "-m", "pytest", *(session.posargs or ["-n", "2", "--dist", "loadgroup"]))


@nox.session
def plugins(session: nox.Session) -> None:
    """Other plugins beside ours: is the list in the documentation true?"""
    session.install("--editable", ".[plugins]")
    session.run("python", "-m", "pytest", "tests/plugin_outcomes/test_known_plugins.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and which room may import which."""
    session.install("--editable", ".[lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """The package under mypy, and what mypy and pyright make of its public names."""
    session.install("--editable", ".[test,lint]")
    session.run("mypy")
    session.run("python", "-m", "pytest", "-q", "tests/typed")


@nox.session
def docs(session: nox.Session) -> None:
    """The site; any warning is an error."""
    session.install("--editable", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})
