"""Fixtures that all rooms share."""

from __future__ import annotations

import compileall
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import Project

import pytest_taskcache
from pytest_taskcache.code.distributions import _Metadata
from pytest_taskcache.code.imports import SourceFiles

pytest_plugins = ["pytester"]

# A shell that starts us in the background has these ignored, and the processes that the tests
# interrupt, and the servers that they stop, would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    """An empty project."""
    return Project(pytester)


@pytest.fixture(scope="session", autouse=True)
def this_suite_is_not_code_of_the_projects() -> Iterator[None]:
    """The small projects that are observed in this process are taken to be without these tests,
    whose modules are loaded here, and mention names as theirs do."""
    belongs, here = SourceFiles._belongs, str(Path(__file__).parent) + "/"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            SourceFiles,
            "_belongs",
            lambda self, file: not file.startswith(here) and belongs(self, file),
        )
        yield


@pytest.fixture(autouse=True)
def no_module_of_a_project_stays_loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where one of a project is, the next run in this process looks at all functions there are."""
    here, before = str(tmp_path_factory.getbasetemp()), set(sys.modules)
    yield
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(here):
            del sys.modules[name]


@pytest.fixture(scope="session", autouse=True)
def what_is_installed_here_stays_as_it_is() -> Iterator[None]:
    """Each of the runs in this process would look at all files of all that these tests import."""
    look, place = _Metadata.edited_files, sysconfig.get_path("purelib")
    known: dict[Path, list[tuple[str, str]]] = {}

    def look_once(item: _Metadata) -> Iterator[tuple[str, str]]:
        if not item.path.is_relative_to(place):
            return look(item)
        if item.path not in known:
            known[item.path] = list(look(item))
        return iter(known[item.path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Metadata, "edited_files", look_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_byte_code_of_the_projects() -> Iterator[None]:
    """Their files are edited within a second, which is all that byte code tells apart. Ours is
    compiled once here, or each of the processes that tests start would compile it anew."""
    compileall.compile_dir(str(Path(pytest_taskcache.__file__).parent), quiet=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        yield
