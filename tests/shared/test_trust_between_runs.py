"""Who is believed: runs with the key, without one, and with another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import redis_server
from team import KEY, SUITE, Place, Team, line_of, notes_of

VARIABLE = "PYTEST_TASKCACHE_SIGNING_KEY"
OTHER = "the-key-of-another-team-9876543210"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Team:
    """A team whose one checkout, with the key, has written to ``store``."""
    team = Team(tmp_path_factory.mktemp("team"))
    team.files["test_suite.py"] = SUITE
    storage = f"--cache-storage=file://{team.directory}/store"
    team.checkout("first").run(storage, **{VARIABLE: KEY}).assert_outcomes(passed=2)
    assert team.counted() == 3
    return team


@pytest.fixture
def team(original: Team) -> Team:
    """The same team, nothing counted but the first run's three."""
    original.counts.write_text("function\nfixture\ntest\n")
    shutil.rmtree(original.directory / "second", ignore_errors=True)
    return original


@pytest.fixture
def filled(team: Team, tmp_path: Path) -> Place:
    """A copy of the storage that was written to."""
    shutil.copytree(team.directory / "store", tmp_path / "store")
    return Place(f"file://{tmp_path}/store")


def test_without_a_key_nothing_is_unpickled(team: Team, filled: Place) -> None:
    """Remote values are refused and computed; the summary counts them and says what to set. Not
    even an outcome, which executes nothing, is believed unasked."""
    run = team.checkout("second").run(f"--cache-storage={filled.url}")

    run.assert_outcomes(passed=2)
    assert team.counted() == 6
    assert "refused: a remote value could run code when read" in line_of(run)
    assert "refused: a remote value is not signed and taskcache_trust_remote is off" in line_of(run)
    reader, writer = (note for note in notes_of(run) if VARIABLE in note)
    assert "to use what this storage holds" in reader
    assert "what is written there is not signed" in writer


def test_trust_remote_believes_outcomes_and_no_values(team: Team, filled: Place) -> None:
    """``taskcache_trust_remote`` lets plain JSON in: the test is replayed, the pickles are not."""
    second = team.checkout("second", {"trust_remote": "true", "storage": filled.url})
    run = second.run()

    run.assert_outcomes(passed=2)
    assert team.counted("test") == 1
    assert team.counted("function") == team.counted("fixture") == 2
    assert "1 test reused" in line_of(run)


def test_another_key_is_not_believed(team: Team, filled: Place) -> None:
    """What another key signed is refused, whatever it is."""
    second = team.checkout("second", {"trust_remote": "true"})
    run = second.run(f"--cache-storage={filled.url}", **{VARIABLE: OTHER})

    run.assert_outcomes(passed=2)
    assert team.counted() == 6
    assert "signature does not match" in line_of(run)


def test_key_rotation(team: Team, filled: Place) -> None:
    """A run with the new key in front of the old one believes both; one that has only the new
    one believes what that signed."""
    both = team.checkout("second")
    run = both.run(f"--cache-storage={filled.url}", **{VARIABLE: f"{OTHER},{KEY}"})
    run.assert_outcomes(passed=2)
    assert team.counted() == 3
    assert "fault" not in line_of(run)


def test_what_was_written_without_a_key_is_not_believed_with_one(
    tmp_path: Path, place_of: Callable[[str], Place]
) -> None:
    """An unsigned record is refused by whoever has a key."""
    place, team = place_of("file"), Team(tmp_path / "team")
    team.files["test_suite.py"] = SUITE
    team.checkout("first").run(f"--cache-storage={place.url}").assert_outcomes(passed=2)
    run = team.checkout("second").run(f"--cache-storage={place.url}", **{VARIABLE: KEY})
    run.assert_outcomes(passed=2)
    assert team.counted() == 6
    assert "refused: a record is not signed" in line_of(run)


def test_a_bad_key_stops_the_run(team: Team, filled: Place) -> None:
    """A key that is too short is a usage error; its text does not hold the key."""
    run = team.checkout("second").run(f"--cache-storage={filled.url}", **{VARIABLE: "short"})
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert VARIABLE in run.stderr.str()
    assert "short" not in run.stderr.str().replace("too short", "").replace("shorter", "")


def test_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    """Neither the signing key nor a password in a URL gets into the output, the local cache or
    the remote."""
    team = Team(tmp_path / "team")
    team.files["test_suite.py"] = SUITE
    with redis_server("--requirepass", "s3cr3t-pass") as server:
        url = server.url.replace("redis://", "redis://:s3cr3t-pass@")
        team.files["test_other.py"] = f"""
            from counter import count
            from pytest_taskcache import INPUTS, cached

            @cached(policy=INPUTS.configure(key_storage={url!r}))
            def other(x):
                count("other")
                return x

            def test_other():
                assert other(1) == 1
            """
        first, second = team.checkout("first"), team.checkout("second")
        environ = {VARIABLE: KEY, "PYTEST_TASKCACHE_STORAGE": url}
        for checkout in (first, second):
            run = checkout.run("-v", "test_suite.py", **environ)
            run.assert_outcomes(passed=2)
            assert "s3cr3t-pass" not in run.shown
            assert KEY not in run.shown
            checkout.run("test_other.py", **{VARIABLE: KEY}).assert_outcomes(passed=1)
        assert team.counted() == 4
    for file in first.path.rglob("*"):
        if file.is_file() and file.name != "test_other.py" and "__pycache__" not in file.parts:
            content = file.read_bytes()
            assert b"s3cr3t-pass" not in content, file
            assert KEY.encode() not in content, file
