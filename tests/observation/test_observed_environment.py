"""Which environment variables count: those read, with the value they had outside."""

from __future__ import annotations

import copy
import os
import pickle
import runpy
import tempfile
from collections.abc import Callable
from os import environ, getenv
from unittest import mock

import pytest
from observed_project import Project, named

from pytest_taskcache.model.dependency import ABSENT, Kind

READS: dict[str, Callable[[], object]] = {
    "item": lambda: os.environ["CITY"],
    "get": lambda: os.environ.get("CITY"),
    "in": lambda: "CITY" in os.environ,
    "early environ": lambda: environ["CITY"],
    "early getenv": lambda: getenv("CITY"),
    "environb": lambda: os.environb[b"CITY"],
    "expandvars": lambda: os.path.expandvars("$CITY"),
    "setdefault": lambda: os.environ.setdefault("CITY", "x"),
}


@pytest.fixture(autouse=True)
def city(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITY", "Bonn")


@pytest.mark.parametrize("how", READS)
def test_reading_a_variable_counts(
    project: Project, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a variable is read, another value re-runs its reader; no value is kept."""
    observed = project.observe(READS[how])

    assert named(observed, Kind.ENVIRONMENT) == {"CITY"}
    assert "Bonn" not in str(observed)
    assert project.changes(observed) == []
    monkeypatch.setenv("CITY", "Köln")
    assert project.changes(observed) == ["env changed: CITY"]


def test_a_missing_variable_counts_by_its_absence(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that appears later re-runs whoever looked for it."""
    monkeypatch.delenv("CITY")
    observed = project.observe(lambda: getenv("CITY", "nowhere"))

    assert ("env", "CITY", ABSENT) in observed.trace.dependencies
    monkeypatch.setenv("CITY", "Bonn")
    assert project.changes(observed) == ["env appeared: CITY"]


ALL: dict[str, Callable[[], object]] = {
    "iterate": lambda: list(os.environ),
    "items": lambda: list(os.environ.items()),
    "dict": lambda: dict(os.environ),
    "copy": lambda: os.environ.copy(),
    "unpack": lambda: {**os.environ},
    "or": lambda: os.environ | {"A": "1"},
    "len": lambda: len(os.environ),
    "repr": lambda: repr(os.environ),
}


@pytest.mark.parametrize("how", ALL)
def test_reading_them_all_counts_as_one_dependency(
    project: Project, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the environment depends on everything but the documented volatile variables."""
    observed = project.observe(ALL[how])

    assert named(observed, Kind.ENVIRONMENT) == {"*"}
    monkeypatch.setenv("COLUMNS", "7")
    assert project.changes(observed) == []
    monkeypatch.setenv("CITY", "Köln")
    assert project.changes(observed) == ["env changed: *"]


def test_a_variable_set_by_the_computation_does_not_count(project: Project) -> None:
    """What a test sets for itself is its own; what it reads before that is not."""

    def act() -> None:
        os.environ["CITY"] = "Köln"
        os.environ["CITY"]
        os.environ["CITY"] = "Bonn"

    assert named(project.observe(act), Kind.ENVIRONMENT) == set()


def test_a_variable_read_before_it_is_set_counts_as_it_was(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that prepends to a variable depends on the outer value."""

    def act() -> None:
        os.environ["CITY"] = "Neu-" + os.environ["CITY"]

    observed = project.observe(act)
    assert project.changes(observed) == ["env changed: CITY"]
    monkeypatch.setenv("CITY", "Bonn")
    assert project.changes(observed) == []


def _set_one_and_read_all() -> None:
    os.environ["MINE"] = "1"
    os.environ.copy()
    del os.environ["MINE"]


def test_all_variables_count_as_they_were_outside(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy taken after setting one's own variable is no miss in the next run."""
    project.observatory.disarm()
    project.observatory.arm()
    observed = project.observe(_set_one_and_read_all)

    assert named(observed, Kind.ENVIRONMENT) == {"* (at start)"}
    assert observed.untrusted == ()
    assert project.changes(observed) == []
    monkeypatch.setenv("CITY", "Köln")
    assert project.changes(observed) == ["env changed: *"]


def test_all_variables_count_as_an_earlier_computation_left_them(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one test left set is found by the next, and missed where the first was replayed."""
    project.observe(monkeypatch.setenv, "LEFT", "1")
    observed = project.observe(_set_one_and_read_all)

    assert named(observed, Kind.ENVIRONMENT) == {"*"}
    assert observed.untrusted == ()
    assert project.changes(observed) == []
    monkeypatch.delenv("LEFT")
    assert project.changes(observed) == ["env changed: *"]
    monkeypatch.setenv("LEFT", "1")
    assert project.changes(observed) == []


def test_a_variable_that_a_conftest_sets_after_an_import_read_it_counts_as_at_the_start(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`os.environ.setdefault` in a conftest is no miss in the next session, whose look-ups
    happen after that conftest; another outer value is one."""
    monkeypatch.delenv("CITY")
    project.observatory.disarm()
    project.observatory.arm()
    project.write("setup_once.py", "import os\nos.environ.setdefault('CITY', 'Ulm')\n")
    project.write("app.py", "import setup_once\ndef f(): return 1\n")
    module = project.load("app")
    observed = project.observe(module.f)

    def next_session(outer: str | None) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("CITY") if outer is None else patch.setenv("CITY", outer)
            later = project.new_observatory()
            later.arm()
            runpy.run_path(str(project.root / "setup_once.py"))
            changes = [str(change) for change in later.verify(observed.trace)]
            later.disarm()
            return changes

    project.keep_parts(observed)
    assert next_session(None) == []
    assert next_session("Bonn") == ["env appeared: CITY"]


def test_a_variable_set_around_an_inner_computation_counts_for_it_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached function called under a patched variable depends on the patched value; the test
    that patched it does not, on a miss or on a hit."""
    outer = project.window()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CITY", "Köln")
        inner = project.observe(lambda: os.environ["CITY"])
        assert project.observatory.verify(inner.trace) == ()
        outer.absorb(inner.trace)
    around = outer.close()

    assert named(inner, Kind.ENVIRONMENT) == {"CITY"}
    assert project.changes(inner) == ["env changed: CITY"]
    assert named(around, Kind.ENVIRONMENT) == set()
    assert around.untrusted == ()


def test_a_variable_that_a_fixture_left_set_is_its_users_only_by_the_fixture(
    project: Project,
) -> None:
    """A session fixture sets a variable; a test that uses the fixture is looked up before it is
    set up in the next session, and is a hit all the same."""
    with pytest.MonkeyPatch.context() as patch:
        fixture = project.observe(patch.setenv, "CITY", "Ulm")
        user = project.window()
        user.absorb(fixture.trace)
        os.environ["CITY"]
        observed = user.close()
        stranger = project.observe(lambda: os.environ["CITY"])

    assert named(observed, Kind.ENVIRONMENT) == set()
    assert named(stranger, Kind.ENVIRONMENT) == {"CITY"}


def test_monkeypatch_and_mock_read_only_to_restore(project: Project) -> None:
    """Saving a value in order to put it back is no dependency on it."""

    def act() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CITY", "Köln")
            patch.delenv("CITY", raising=False)
        with mock.patch.dict(os.environ, {"CITY": "Köln"}, clear=True):
            os.environ["CITY"]

    assert named(project.observe(act), Kind.ENVIRONMENT) == set()


def test_reads_after_a_restored_patch_still_count(project: Project) -> None:
    """`mock.patch.dict` rewrites every variable when it ends; later reads are real reads."""

    def act() -> None:
        with mock.patch.dict(os.environ, {"OTHER": "1"}):
            pass
        os.environ["CITY"]

    assert named(project.observe(act), Kind.ENVIRONMENT) == {"CITY"}


@pytest.mark.parametrize("how", ["prepend", "raising"])
def test_monkeypatch_depends_on_a_value_it_uses(project: Project, how: str) -> None:
    """Prepending to a variable, or failing where it is missing, hangs on the outer value."""

    def act() -> None:
        with pytest.MonkeyPatch.context() as patch:
            if how == "prepend":
                patch.setenv("CITY", "Alt", prepend="-")
            else:
                patch.delenv("CITY")

    assert named(project.observe(act), Kind.ENVIRONMENT) == {"CITY"}


def test_the_runners_own_variable_never_counts(project: Project) -> None:
    """PYTEST_CURRENT_TEST differs in every phase and says nothing the key does not."""
    observed = project.observe(lambda: os.environ.get("PYTEST_CURRENT_TEST"))

    assert named(observed, Kind.ENVIRONMENT) == set()


def test_a_temporary_directory_lookup_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tempfile.gettempdir` reads TMPDIR on the caller's behalf."""
    monkeypatch.setattr(tempfile, "tempdir", None)

    assert "TMPDIR" in named(project.observe(tempfile.gettempdir), Kind.ENVIRONMENT)


def test_the_environment_is_what_it_was_in_all_else(project: Project) -> None:
    """Type checks, copies, operators and errors are those of the real class."""
    plain = type(copy.copy(os.environ))
    assert plain is os._Environ
    assert isinstance(os.environ, plain)
    assert type(os.environ).__qualname__ == "_Environ"
    assert repr(os.environ).startswith("environ({")
    with pytest.raises(KeyError, match="NOT_THERE"):
        os.environ["NOT_THERE"]
    with pytest.raises(TypeError):
        os.environ["CITY"] = 1  # type: ignore[assignment]
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(os.environ)
    assert dict(os.environ) == {**os.environ} == os.environ | {}
    assert copy.deepcopy(os.environ)["CITY"] == "Bonn"
    project.observatory.disarm()
    assert type(os.environ) is plain
    assert type(os.environb) is plain
