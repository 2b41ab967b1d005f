"""Who prunes a shared storage: a run that writes it, once a day, and whoever asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from team import SUITE, Place, Team, line_of

from pytest_taskcache.cli import main
from pytest_taskcache.cli.place import Project
from pytest_taskcache.config.settings import Settings
from pytest_taskcache.errors import StorageError
from pytest_taskcache.storage.remote.pruning import Retention

DAY = 86400.0


def root_of(place: Place) -> Path:
    return Path(place.url.removeprefix("file://"))


def records_in(place: Place) -> set[Path]:
    return set(root_of(place).glob("records/*/*/*.json"))


def time_goes_by(place: Place, seconds: float) -> None:
    """All files are that much older, and so is the last pruning."""
    for path in root_of(place).rglob("*"):
        when = path.stat().st_mtime - seconds
        os.utime(path, (when, when))
    mark = root_of(place) / "marks" / "pruned"
    when = mark.stat().st_mtime
    mark.write_text(str(float(mark.read_text()) - seconds))
    os.utime(mark, (when, when))


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["serial", "xdist"])
def test_a_writing_run_prunes_once_a_day(
    workers: tuple[str, ...], signing: Team, place_of: Callable[[str], Place]
) -> None:
    """What nobody has used for long goes at the end of a run, what this run used stays; the next
    run of the day does not look again."""
    place = place_of("file")
    storage = f"--cache-storage={place.url}?unused=7d"
    signing.files["test_suite.py"] = SUITE
    first = signing.checkout("a")
    first.write("test_gone.py", "from counter import count\nfrom test_suite import total\n\n"
                "def test_gone():\n    assert total([5]) == 5\n")  # fmt: skip
    first.run(storage).assert_outcomes(passed=3)
    before = records_in(place)
    assert len(before) == signing.counted() == 4
    time_goes_by(place, 8 * DAY)

    run = signing.checkout("b").run(storage, *workers)
    run.assert_outcomes(passed=2)
    assert signing.counted() == 4, "the second run computed what was shared"
    assert "fault" not in line_of(run)
    assert len(records_in(place)) == 3
    assert records_in(place) < before

    time_goes_by(place, 0.5 * DAY)
    left = records_in(place)
    for path in left:
        os.utime(path, (1e9, 1e9))
    signing.checkout("c").run(f"{storage}&older_than=1d").assert_outcomes(passed=2)
    assert records_in(place) == left
    assert signing.counted() == 4


def test_a_run_that_only_reads_leaves_everything(
    signing: Team, place_of: Callable[[str], Place]
) -> None:
    """Neither pruned nor marked: read-only is read-only."""
    place = place_of("file")
    signing.files["test_suite.py"] = SUITE
    signing.checkout("a").run(f"--cache-storage={place.url}").assert_outcomes(passed=2)
    time_goes_by(place, 90 * DAY)
    before = {path: path.stat().st_mtime_ns for path in root_of(place).rglob("*")}

    signing.checkout("b").run(f"--cache-storage=local:rw,{place.url}:r").assert_outcomes(passed=2)
    signing.checkout("c").run(f"--cache-storage={place.url}", "--cache-mode=r")

    assert {path: path.stat().st_mtime_ns for path in root_of(place).rglob("*")} == before


def test_whoever_asks_for_it(
    signing: Team, place_of: Callable[[str], Place], tmp_path: Path
) -> None:
    """One function prunes all storages that the settings name, to what is asked for, else to what
    the URLs say; the other tiers are left alone."""
    main, other = place_of("file"), place_of("file")
    signing.files["test_suite.py"] = SUITE
    for place in (main, other):
        signing.checkout(place.url[-8:]).run(f"--cache-storage={place.url}")
        time_goes_by(place, 8 * DAY)
    settings = Settings(storage=f"local:rw,{main.url}:rw,{other.url}:r")
    project = Project(tmp_path, settings, tmp_path / "local", readonly=False, create=True)

    assert [removed.records for _, removed in project.prune_shared(Retention())] == [0]
    ((where, removed),) = project.prune_shared(Retention(unused=7 * DAY))
    assert (where, removed.records) == (main.url, 3)
    assert len(records_in(main)) == 0
    assert len(records_in(other)) == 3
    project.settings = Settings()
    assert project.prune_shared(Retention(max_size=0)) == []
    project.close()


def test_from_the_shell(
    signing: Team,
    place_of: Callable[[str], Place],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``taskcache prune --shared`` says what went from where; to try it is refused."""
    place = place_of("file")
    signing.files["test_suite.py"] = SUITE
    checkout = signing.checkout("a", {"storage": f"local:rw,{place.url}:rw"})
    checkout.run().assert_outcomes(passed=2)
    time_goes_by(place, 8 * DAY)
    for name, value in checkout.environ.items():
        monkeypatch.setenv(name, value)
    asked = ["-C", str(checkout.path), "prune", "--shared", "--unused", "7d"]

    assert main([*asked, "--dry-run"]) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert len(records_in(place)) == 3
    assert main(asked) == 0
    shown = "".join(line.strip() for line in capsys.readouterr().out.splitlines())
    assert f"{place.url}: 3 records removed" in shown
    assert not records_in(place)


def test_asking_in_vain(tmp_path: Path) -> None:
    """A storage that cannot be reached is an error, not silence."""
    (tmp_path / "file").touch()
    settings = Settings(storage=f"file://{tmp_path}/file/x")
    project = Project(tmp_path, settings, tmp_path / "local", readonly=False, create=True)
    with pytest.raises(StorageError, match="/file/x"):
        project.prune_shared(Retention())
    project.close()
