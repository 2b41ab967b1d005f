"""The reference pages, made of docstrings, options and the command's help when the site is built.

A hook of mkdocs (``hooks:`` in mkdocs.yml). Nothing is written into the repository.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.structure.files import File, Files

import pytest_taskcache
from pytest_taskcache.cli.commands import taskcache
from pytest_taskcache.config.settings import ENVIRONMENT, NAMES, Settings
from pytest_taskcache.plugin import _SETTINGS as SETTINGS
from pytest_taskcache.plugin import pytest_addoption


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages to those that lie in the directory."""
    pages = {"settings": _settings(), "api": _api(), "command": _command()}
    for name, lines in pages.items():
        content = "\n".join(lines) + "\n"
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


class _Options:
    """Takes the options as pytest's parser would."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[str, str]] = {}

    def getgroup(self, *_: str) -> _Options:
        return self

    def addoption(self, name: str, *, dest: str, help: str, metavar: str = "", **_: Any) -> None:
        short = dest.removeprefix("taskcache_")
        written = f"{name}={metavar}" if metavar else name
        self.found[f"{short} {name}"] = (written, help)

    def addini(self, *_: Any, **__: Any) -> None:
        pass


def _settings() -> Iterator[str]:
    options = _Options()
    pytest_addoption(options)  # type: ignore[arg-type]
    yield "# Settings and options"
    yield ""
    yield "What stands on the command line counts more than a variable, that more than the ini"
    yield "file, and that more than `[tool.taskcache]` of `pyproject.toml`, under short names."
    yield ""
    yield "## Options"
    yield ""
    yield "| option | what it does |"
    yield "|---|---|"
    for written, told in options.found.values():
        yield f"| `{written}` | {told} |"
    yield ""
    yield "## Settings"
    yield ""
    yield "An option that takes no value is `true` or `false` as a setting."
    yield ""
    yield "| ini setting | variable | default | what it says |"
    yield "|---|---|---|---|"
    defaults = Settings()
    for name in NAMES:
        if name not in SETTINGS:
            continue
        default = getattr(defaults, name, "")  # refresh_only is a part of refresh
        plain = type(default) is int or isinstance(default, str)
        shown = f"`{default}`" if plain and default != "" else ""
        yield f"| `taskcache_{name}` | `{ENVIRONMENT}{name.upper()}` | {shown} | {SETTINGS[name]} |"
    yield ""
    yield f"`{ENVIRONMENT}SIGNING_KEY` holds the key that records of a shared storage are signed"
    yield "with; it is read from the environment only."


def _api() -> Iterator[str]:
    yield "# The Python interface"
    yield ""
    yield "Everything below is imported from `pytest_taskcache`."
    for name in sorted(set(pytest_taskcache.__all__) - {"__version__"}):
        thing = getattr(pytest_taskcache, name)
        told = inspect.getdoc(thing) if not isinstance(thing, pytest_taskcache.CachePolicy) else ""
        yield ""
        yield f"## {name}"
        yield ""
        if callable(thing) and told:
            yield "```python"
            yield f"{name}{_signature(thing)}"
            yield "```"
            yield ""
        yield told or f"A policy: `{getattr(thing, 'labels', None) or name}`."
        if inspect.isclass(thing):
            yield from _methods(thing)


def _methods(kind: type) -> Iterator[str]:
    for name, member in vars(kind).items():
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        told = inspect.getdoc(member)
        if told:
            signature = _signature(member) if inspect.isfunction(member) else ""
            yield ""
            yield f"`{name}{signature}`"
            yield f":   {' '.join(told.split())}"


def _signature(thing: Any) -> str:
    try:
        return str(inspect.signature(thing)).replace("'", "")
    except (TypeError, ValueError):
        return "(...)"


def _command() -> Iterator[str]:
    yield "# The taskcache command"
    yield ""
    yield "`pip install 'pytest-taskcache[cli]'`; also `python -m pytest_taskcache`."
    yield ""
    context = click.Context(taskcache, info_name="taskcache")
    yield "```text"
    yield taskcache.get_help(context)
    yield "```"
    for name in taskcache.list_commands(context):
        command = taskcache.get_command(context, name)
        assert command is not None
        yield ""
        yield f"## taskcache {name}"
        yield ""
        yield "```text"
        yield command.get_help(click.Context(command, info_name=name, parent=context))
        yield "```"
