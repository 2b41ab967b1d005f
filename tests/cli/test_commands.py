"""``taskcache`` looks, explains, cleans and carries; each verb has JSON and an exit code."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from cli_project import Commands

from pytest_taskcache import Cache, cached

KEY = {"PYTEST_TASKCACHE_SIGNING_KEY": "a secret of more than sixteen bytes"}
ROWS, SIZES = "test_suite.py::rows", "test_suite.py::größe"


def test_ls_lists_by_name_size_and_pattern(made: Commands) -> None:
    """All records, or those that match; the largest first where that is asked for."""
    assert made.names().count(ROWS) == 2
    assert {each["name"] for each in made.json("ls", "rows")} == {ROWS, "test_suite.py::test_rows"}
    assert [each["name"] for each in made.json("ls", "--sort", "size", "--limit", "1")] == [SIZES]
    assert all(
        each["kind"] == "test" for each in made.json("ls", "*::test_*") if "::test_" in each["name"]
    )
    assert "größe" in made.run("ls").stdout


def test_show_tells_what_a_record_rests_on(made: Commands) -> None:
    """The code that ran in numbers and by name, other dependencies, arguments, producer."""
    (first, *_) = made.json("show", ROWS)
    assert ["code", "2 functions of 2 files ran"] in first["rests_on"]
    assert "helpers.py::make_rows" in first["ran"]
    assert first["inputs"] in ({"n_rows": "10"}, {"n_rows": "20"})
    text = made.run("show", "test_rows").stdout
    assert "file size.txt" in text
    assert "code 3 functions of 2 files ran" in text
    assert "took" in text


def test_explain_names_before_and_after(made: Commands) -> None:
    """The last run in which it ran is explained, though it was reused since: the argument with
    both values, the function with a diff."""
    text = made.run("explain", ROWS).stdout
    assert "argument n_rows: 10 -> 20" in text
    whole = made.run("explain", "test_suite.py::test_rows").stdout
    assert "-     return [0] * n" in whole
    assert "+     return [1] * n" in whole
    assert "line 1: - 10" in whole
    (document, *_) = made.json("explain", ROWS)
    assert document["points"][0]["before"] == "10"


def test_explain_says_what_would_allow_what_was_refused(made: Commands) -> None:
    """A refused test is explained with what to write."""
    assert "allow={'subprocess'}" in made.run("explain", "test_child").stdout


def test_stats_count_and_remember(made: Commands) -> None:
    """Sizes and counts, and a line for each of the last runs that had something to tell."""
    stats = made.json("stats")
    listed = [each["kind"] for each in made.json("ls")]
    assert {kind: told["records"] for kind, told in stats["kinds"].items()} == Counter(listed)
    assert stats["records"] > 0
    assert len(stats["runs"]) == 3
    assert stats["runs"][-1]["computed"] == {"function": 2, "test": 2}


def test_looking_changes_nothing(own: Commands) -> None:
    """ls, show, explain, stats, verify, doctor and every dry run leave the cache as it is."""
    index = own.path / ".pytest_cache/taskcache/index.sqlite3"

    def content() -> list[str]:
        with sqlite3.connect(f"file:{index}?immutable=1", uri=True) as connection:
            return list(connection.iterdump())

    before = content()
    for verb in (
        ["ls"], ["show", "rows"], ["explain", "rows"], ["stats"], ["verify"], ["doctor"],
        ["clear", "--dry-run"], ["prune", "--older-than", "1s", "--dry-run"],
        ["verify", "--remove", "--dry-run"], ["push", "elsewhere/", "--dry-run"],
    ):  # fmt: skip
        assert own.run(*verb).returncode == 0, verb
    assert content() == before


def test_clear_forgets_one_and_it_is_computed_again(own: Commands) -> None:
    """Only what matches goes; the next run computes just that."""
    assert own.run("clear", "test_rows").returncode == 0
    assert "test_suite.py::test_rows" not in own.names()
    replayed = own.pytest("-v")
    assert "test_suite.py::test_rows PASSED" in replayed
    assert "test_escapes[\\x1b[31mred\\x1b[0m] CACHED" in replayed
    assert "1 function + 1 test reused, 1 test computed" in replayed
    why = " ".join(own.run("explain", "test_rows").stdout.split())
    assert "is gone (cleared, or evicted)" in why


def test_clear_asks_before_it_forgets_everything(own: Commands) -> None:
    """Without a terminal to ask on, it wants --yes; then nothing is left."""
    refused = own.run("clear")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert own.names()
    assert own.run("clear", "--yes").returncode == 0
    assert own.names() == []


def test_prune_removes_by_age_use_and_size(own: Commands) -> None:
    """Nothing that is young and used; all that is beyond a size."""
    assert own.json("prune", "--older-than", "1d", "--unused", "1d")["removed"] == []
    removed = own.json("prune", "--max-size", "10kB")["removed"]
    assert SIZES in removed
    assert SIZES not in own.names()
    assert own.json("verify")["damaged"] == []


def test_verify_finds_and_forgets_damage(own: Commands) -> None:
    """A flipped byte in a value is found, with exit code 1, and the record forgotten on demand."""
    files = [
        each
        for each in (own.path / ".pytest_cache/taskcache/results").rglob("*")
        if each.is_file() and each.stat().st_size > 1000
    ]
    files[0].chmod(0o600)
    data = bytearray(files[0].read_bytes())
    data[1000] ^= 1
    files[0].write_bytes(data)
    found = own.json("verify", code=1)
    assert [each["name"] for each in found["damaged"]] == [SIZES]
    assert own.run("verify", "--remove").returncode == 1
    assert own.run("verify").returncode == 0
    assert SIZES not in own.names()


def test_an_archive_carries_a_cache(own: Commands, tmp_path: Path) -> None:
    """What is exported, sealed, and imported elsewhere is replayed there: no body runs. The old
    sources are not carried: what was recorded before a file was edited counts as changed."""
    archive = tmp_path / "cache.zip"
    assert own.run("export", str(archive), env=KEY).returncode == 0
    shutil.rmtree(own.path / ".pytest_cache")
    assert own.run("import", str(archive), env=KEY).returncode == 0
    assert "test_suite.py::test_rows CACHED" in own.pytest("-v")
    assert own.json("import", str(archive), "--trust")["records"] == 0


def test_an_archive_of_strangers_is_refused(own: Commands, tmp_path: Path) -> None:
    """Without a seal that fits, or with one byte changed, nothing is taken in."""
    unsealed, sealed = tmp_path / "unsealed.zip", tmp_path / "sealed.zip"
    own.run("export", str(unsealed))
    own.run("export", str(sealed), env=KEY)
    own.run("clear", "--yes")
    other = {"PYTEST_TASKCACHE_SIGNING_KEY": "another secret of sixteen bytes"}
    for archive, env in ((unsealed, KEY), (sealed, other), (sealed, None)):
        refused = own.run("import", str(archive), env=env)
        assert refused.returncode == 3
        assert "--trust" in refused.stderr
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(sealed.read_bytes()[:-300])
    assert own.run("import", str(damaged), "--trust").returncode == 3
    assert own.names() == []


def test_push_and_pull_carry_to_a_directory(own: Commands, tmp_path: Path) -> None:
    """A directory gets all that is here, and gives it back."""
    (tmp_path / "team").mkdir(mode=0o700)
    names, records = own.names(), own.json("stats")["records"]
    assert own.json("push", str(tmp_path / "team"))["records"] == records
    assert own.json("push", str(tmp_path / "team"))["present"] == records
    own.run("clear", "--yes")
    assert own.json("pull", str(tmp_path / "team"))["records"] == records
    assert own.names() == names
    nowhere = own.run("push")
    assert nowhere.returncode == 2
    assert "no other storage is set" in nowhere.stderr


def test_push_and_pull_carry_to_a_shared_storage(
    own: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run has the local cache in front of a URL; a push must not take what is there for sent."""
    monkeypatch.setenv(*next(iter(KEY.items())))
    shared = f"file://{tmp_path}/shared"
    names, records = own.names(), own.json("stats")["records"]
    assert own.json("push", shared)["records"] == records
    assert own.json("push", shared)["present"] == records
    own.run("clear", "--yes")
    assert own.json("pull", shared)["records"] == records
    assert own.names() == names
    refused = own.run("push", f"{shared}:r")
    assert refused.returncode == 2
    assert "may only be read; name it without ':r'" in refused.stderr


# ------------------------------------------------------------------------------- bad input


def test_no_cache_yet_ends_in_a_sentence(tmp_path: Path) -> None:
    """Every verb that needs one says so, and how to come by one."""
    empty = Commands(tmp_path)
    for verb in ("ls", "stats", "verify", "prune"):
        done = empty.run(verb)
        assert done.returncode == 3, verb
        assert "there is none yet; run pytest with something cached" in done.stderr
        assert "Traceback" not in done.stderr
    assert "does not exist yet" in empty.run("doctor").stdout
    assert not list(tmp_path.iterdir())


def test_a_storage_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """What is wrong with its URL, or not installed, with the remedy and without its password."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\ntaskcache_storage = redis://me:hunter2@host/0?nope=1\n"
    )
    done = Commands(tmp_path).run("doctor")
    assert done.returncode == 1
    assert "redis://host/0: unknown option 'nope'" in done.stdout
    assert "use one of: expire, prefix, timeout" in done.stdout
    assert "hunter2" not in done.stdout


@pytest.mark.parametrize("setting", ["storage = team", "key_storage = team"])
def test_a_shared_storage_without_a_key_is_told(tmp_path: Path, setting: str) -> None:
    """Also where it goes by a name, and in whichever setting it stands."""
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.taskcache.storages]\nteam = "file://{tmp_path}/shared"\n'
    )
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ntaskcache_{setting}\n")
    told = Commands(tmp_path).run("doctor").stdout
    assert "believed by nobody" in told
    assert "the settings are sound" not in told
    trusting = Commands(tmp_path).run("doctor", env={"PYTEST_TASKCACHE_TRUST_REMOTE": "true"})
    assert "the settings are sound" in trusting.stdout


def test_an_unknown_name_is_told(made: Commands) -> None:
    """Exit code 1, and where to look."""
    for verb in ("explain", "show", "clear"):
        done = made.run(verb, "nobody")
        assert done.returncode == 1
        assert "taskcache ls" in done.stderr


@pytest.mark.parametrize("damage", ["version", "rubbish"])
def test_an_index_that_cannot_be_read(own: Commands, damage: str) -> None:
    """One of a newer version, and one that is no database, end in a sentence."""
    index = own.path / ".pytest_cache/taskcache/index.sqlite3"
    if damage == "version":
        with sqlite3.connect(index) as connection:
            connection.execute("PRAGMA user_version = 999")
        connection.close()
    else:
        for each in index.parent.glob("index.sqlite3*"):
            each.write_bytes(b"rubbish" * 1000)
    done = own.run("ls")
    assert "Traceback" not in done.stderr
    if damage == "version":
        assert done.returncode == 3
        assert "upgrade pytest-taskcache" in done.stderr
        assert own.run("doctor").returncode == 1


@pytest.mark.parametrize("columns", ["40", "80"])
def test_narrow_terminals(made: Commands, columns: str) -> None:
    """No line is wider than the terminal, and no escape of a test's name gets there."""
    for verb in (["ls"], ["show", "rows"], ["explain", "test_rows"], ["stats"], ["doctor"]):
        done = made.run(*verb, env={"COLUMNS": columns})
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert max(map(len, lines)) <= int(columns), verb
        assert all(line.isprintable() for line in lines)


def test_an_ascii_terminal(made: Commands) -> None:
    """Names that its encoding lacks are escaped."""
    done = made.apart("ls", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert "gr\\xf6\\xdfe" in done.stdout


def test_a_pipe_that_is_closed_early(made: Commands) -> None:
    """``taskcache show | head -1`` ends well, and silently."""
    command = f"{sys.executable} -m pytest_taskcache show '' ; echo code $? >&2"
    done = subprocess.run(
        ["sh", "-c", f"({command}) | head -1"],
        cwd=made.path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr.strip() == "code 0"


@pytest.mark.parametrize(
    "args", [["prune", "--older-than", "soon"], ["prune", "--max-size", "big"], ["fly"]]
)
def test_wrong_words_are_named(made: Commands, args: list[str]) -> None:
    """Exit code 2, and the word that is wrong."""
    done = made.run(*args)
    assert done.returncode == 2
    assert args[-1] in done.stderr


def test_a_file_that_cannot_be_written(made: Commands) -> None:
    """A sentence, exit code 3."""
    done = made.run("export", "/nowhere/cache.zip")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "/nowhere" in done.stderr


def test_without_the_extra_the_remedy_is_told(made: Commands, tmp_path: Path) -> None:
    """Where click is not installed, the command to install it is told."""
    (tmp_path / "click.py").write_text("raise ImportError('no', name='click')")
    done = made.apart("ls", PYTHONPATH=str(tmp_path))
    assert done.returncode == 4
    assert "pip install 'pytest-taskcache[cli]'" in done.stderr


def test_completion_knows_verbs_and_names(made: Commands) -> None:
    """The script for a shell, and what it asks for."""
    assert "_TASKCACHE_COMPLETE" in made.run("completion", "bash").stdout
    asked = {"_TASKCACHE_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    done = made.apart(**asked, COMP_WORDS="taskcache show test_suite.py::r")
    assert f"plain,{ROWS}" in done.stdout


def test_targets_are_listed_shown_and_forgotten(tmp_path: Path) -> None:
    """By the function that made them and by their names; the file goes with its record."""
    made = cached(target="tables/{n}.json", serializer="json")(table)
    with Cache(tmp_path / "cache", root=tmp_path):
        made(1), made(2)
    commands = Commands(tmp_path)
    listed = commands.json("--cache", "cache", "ls", "tables/1.json")
    assert [(each["kind"], each["name"].partition("::")[2]) for each in listed] == [
        ("target", "table -> tables/1.json")
    ]
    assert "rests on" in commands.run("--cache", "cache", "show", "tables/2.json").stdout
    assert commands.run("--cache", "cache", "clear", "tables/1.json", "--dry-run").returncode == 0
    targets = tmp_path / "cache" / "targets" / "tables"
    assert len(list(targets.iterdir())) == 2
    assert commands.run("--cache", "cache", "clear", "tables/1.json").returncode == 0
    assert [each.name for each in targets.iterdir()] == ["2.json"]


def table(n: int) -> list[int]:
    return [n]


def test_the_table_of_the_project_counts(made: Commands, tmp_path: Path) -> None:
    """``[tool.taskcache]`` of pyproject.toml says where the cache is, and is checked."""
    cache = made.path / ".pytest_cache/taskcache"
    table = tmp_path / "pyproject.toml"
    table.write_text(f"[tool.taskcache]\nstorage = {str(cache)!r}\n")
    assert ROWS in Commands(tmp_path).names()
    table.write_text("[tool.taskcache]\nstorrage = 'x'\n")
    assert "storrage: there is no such setting" in Commands(tmp_path).run("ls").stderr
