"""Environment, interpreter, distributions and names of paths."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_taskcache.digests.environment import environment_digest, interpreter_digest
from pytest_taskcache.digests.path_names import Anchors
from pytest_taskcache.digests.present import Present
from pytest_taskcache.model.dependency import ABSENT, READ_IN_C, Kind

# ------------------------------------------------------------------------- environment


def test_variable_counts_by_value_and_absence() -> None:
    """Unset, empty and set are three things."""
    digests = [environment_digest("X", values) for values in ({}, {"X": ""}, {"X": "1"})]
    assert digests[0] == ABSENT
    assert len(set(digests)) == 3


def test_all_variables_leave_out_volatile_ones_only() -> None:
    """Reading the whole environment depends on every variable but those of the session."""
    base = environment_digest("*", {"HOME": "/h"})
    volatile = {"PYTEST_CURRENT_TEST": "t", "PWD": "/", "SSH_TTY": "x", "COLUMNS": "80"}
    assert environment_digest("*", {"HOME": "/h", **volatile}) == base
    assert environment_digest("*", {"HOME": "/h", "MODE": "x"}) != base
    assert environment_digest("PWD", {"PWD": "/"}) != environment_digest("PWD", {"PWD": "/x"})


def test_no_value_is_in_a_digest() -> None:
    """A digest does not give a secret away."""
    assert "hunter2" not in environment_digest("PASSWORD", {"PASSWORD": "hunter2"})


@pytest.mark.parametrize("name", ["TZ", "LANG", "LC_ALL", "PYTHONUTF8"])
def test_variables_read_in_c_belong_to_the_interpreter(name) -> None:
    """What no observer can see being read counts always."""
    assert interpreter_digest(READ_IN_C, {}) != interpreter_digest(READ_IN_C, {name: "1"})


def test_neutral_variables_do_not_change_the_interpreter() -> None:
    """Where modules come from is verified import by import, not by PYTHONPATH."""
    neutral = {"PYTHONPATH": "/x", "USER": "me", "PYTHONHASHSEED": "1"}
    assert interpreter_digest(READ_IN_C, {}) == interpreter_digest(READ_IN_C, neutral)


def test_warning_options_count(monkeypatch) -> None:
    """``-W error`` is another interpreter."""
    before = interpreter_digest("python", {})
    monkeypatch.setattr(sys, "warnoptions", ["error::SyntaxWarning"])
    assert interpreter_digest("python", {}) != before


# ----------------------------------------------------------------------- distributions


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., Path]:
    """Installs a distribution of one module into a directory on the path."""

    def install(name: str, version: str, module: str, text: str = "X = 1\n") -> Path:
        packages = tmp_path / "lib" / "site-packages"
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        file = packages / module / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text(
            f"{module}/__init__.py,sha256=x,{len(text)}\n{info.name}/RECORD,,\n"
        )
        now = time.time_ns()
        os.utime(file, ns=(now, now))
        os.utime(info / "RECORD", ns=(now + 1, now + 1))
        return info

    return install


def present_with(project, *directories: Path) -> Present:
    return Present(project.root, path=lambda: [str(project.root), *map(str, directories)])


def test_third_party_imports_count_by_distribution(project, installed) -> None:
    """A module's distribution is found even where the names differ; a new version, or another
    RECORD, is a change; a distribution nobody imports is none."""
    info = installed("Fancy.Name", "1.0", "fancy_mod")
    installed("unrelated", "1.0", "unrelated")
    present = present_with(project, info.parent)
    assert {*present.owners("fancy_mod")} == {"fancy-name"}
    assert not present.owners("nobodys")
    before = present.digest(Kind.DISTRIBUTION, "fancy-name")
    assert present_with(project, info.parent).digest(Kind.DISTRIBUTION, "fancy.name") == before
    upgraded = info.with_name("Fancy.Name-1.1.dist-info")
    info.rename(upgraded)
    present.forget()
    assert present.digest(Kind.DISTRIBUTION, "fancy-name") != before
    upgraded.rename(info)
    present.forget()
    assert present.digest(Kind.DISTRIBUTION, "fancy-name") == before


def test_file_edited_in_place_counts_by_content(project, installed) -> None:
    """A dependency patched in site-packages is another dependency, and the same again when the
    patch is taken back, whatever its times."""
    info = installed("tool", "1.0", "tool")
    file = info.parent / "tool" / "__init__.py"
    before = present_with(project, info.parent).digest(Kind.DISTRIBUTION, "tool")
    file.write_text("X = 2\n")
    first = present_with(project, info.parent).digest(Kind.DISTRIBUTION, "tool")
    file.write_text("X = 3\n")
    second = present_with(project, info.parent).digest(Kind.DISTRIBUTION, "tool")
    os.utime(file, (1, 1))
    file.write_text("X = 33\n")
    os.utime(file, (1, 1))
    older = present_with(project, info.parent).digest(Kind.DISTRIBUTION, "tool")
    file.unlink()
    lost = present_with(project, info.parent).digest(Kind.DISTRIBUTION, "tool")
    assert len({before, first, second, older, lost}) == 5


def test_editable_installation_is_code_of_the_project(project, installed, tmp_path) -> None:
    """Sources that are installed editable are verified one by one, wherever they lie, and so
    the distribution stays the same when they change."""
    info = installed("dev", "1.0", "dev_stub")
    for place in (tmp_path / "elsewhere", project.root):
        file = place / "src" / "devmod" / "__init__.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("X = 1\n")
        (info / "direct_url.json").write_text(
            json.dumps({"url": place.as_uri(), "dir_info": {"editable": True}})
        )
        present = present_with(project, info.parent)
        assert present.is_project_file(str(file))
        name = present.name_of(file)
        before = [present.digest(Kind.FILE, name), present.digest(Kind.DISTRIBUTION, "dev")]
        file.write_text("X = 2\n")
        present = present_with(project, info.parent)
        assert present.digest(Kind.FILE, name) != before[0]
        assert present.digest(Kind.DISTRIBUTION, "dev") == before[1]


def test_absent_distribution_and_the_list(project, installed) -> None:
    """What is not installed is ABSENT; installing anything changes the list."""
    info = installed("tool", "1.0", "tool")
    present = present_with(project, info.parent)
    assert present.digest(Kind.DISTRIBUTION, "nothing") == ABSENT
    before = present.digest(Kind.DISTRIBUTIONS, "*")
    installed("late", "0.1", "late")
    present.forget()
    assert present.digest(Kind.DISTRIBUTIONS, "*") != before


def test_damaged_metadata_does_not_raise(project, installed) -> None:
    """RECORD as a directory, binary garbage in direct_url.json: still a digest."""
    info = installed("tool", "1.0", "tool")
    (info / "RECORD").unlink()
    (info / "RECORD").mkdir()
    (info / "direct_url.json").write_bytes(b"\xff\xfe[")
    assert len(present_with(project, info.parent).digest(Kind.DISTRIBUTION, "tool")) == 32
    (info / "direct_url.json").write_text("[1]")
    assert len(present_with(project, info.parent).digest(Kind.DISTRIBUTION, "tool")) == 32


def test_real_environment_has_its_distributions(project) -> None:
    """The distributions of this very interpreter are found."""
    present = Present(project.root)
    assert {*present.owners("pytest")} == {"pytest"}
    assert {*present.owners("xxhash")} == {"xxhash"}
    assert present.digest(Kind.DISTRIBUTION, "xxhash") != ABSENT


# ------------------------------------------------------------------------------- names


def test_names_are_relative_to_root_and_temporary(tmp_path) -> None:
    """Two checkouts, and two runs' temporary directories, give one name to the same file."""
    for number in ("1", "2"):
        anchors = Anchors(tmp_path / number, lambda number=number: tmp_path / "t" / number)
        assert anchors.name_of(tmp_path / number / "a" / "b.py") == "a/b.py"
        assert anchors.name_of(tmp_path / "t" / number / "x") == "<tmp>/x"
        assert anchors.name_of("/etc/hosts") == "/etc/hosts"
        assert anchors.name_of(tmp_path / number) == "."
        assert anchors.name_of(tmp_path / "t" / number) == "<tmp>"
        for name in ("a/b.py", "<tmp>/x", "/etc/hosts", "."):
            assert anchors.name_of(anchors.path_of(name)) == name


def test_temporary_directory_may_come_late(tmp_path) -> None:
    """The temporary directory is asked for until there is one."""
    made: list[Path] = []
    anchors = Anchors(tmp_path / "root", lambda: made[0] if made else None)
    assert anchors.name_of(tmp_path / "t" / "x") == str(tmp_path / "t" / "x")
    made.append(tmp_path / "t")
    assert anchors.name_of(tmp_path / "t" / "x") == "<tmp>/x"


def test_root_inside_the_temporary_directory(tmp_path) -> None:
    """Where one anchor lies in the other, the nearer one names a path."""
    anchors = Anchors(tmp_path / "t" / "root", lambda: tmp_path / "t")
    assert anchors.name_of(tmp_path / "t" / "root" / "a") == "a"
    assert anchors.name_of(tmp_path / "t" / "a") == "<tmp>/a"


def test_root_reached_through_a_link(tmp_path) -> None:
    """A file named by its resolved path is the same file."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    anchors = Anchors(tmp_path / "link")
    assert anchors.name_of(tmp_path / "real" / "a") == anchors.name_of(tmp_path / "link" / "a")


def test_settings_are_handed_in(project) -> None:
    """The digest of a setting is whatever the plugin says."""
    present = Present(project.root, settings=lambda name: textwrap.shorten(name, 10))
    assert present.digest(Kind.SETTING, "-W") == "-W"
