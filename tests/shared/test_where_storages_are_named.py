"""One syntax for storages, wherever they are named: option, ini, environment, pyproject, code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from team import SUITE, Place, Team, line_of, notes_of

BIG = """
    from counter import count
    from pytest_taskcache import cached

    @cached
    def big():
        count("function")
        return b"x" * 50_000

    def test_big():
        assert len(big()) == 50_000
"""


def test_from_ini_environment_and_a_name(signing: Team, place_of: Callable[[str], Place]) -> None:
    """The same storage is found through an ini setting, a variable, and a name of
    ``[tool.taskcache.storages]``, alone and as a tier."""
    place = place_of("file")
    signing.files["test_suite.py"] = BIG
    signing.files["pyproject.toml"] = f'[tool.taskcache.storages]\nteam = "{place.url}"\n'
    signing.checkout("ini", {"storage": place.url}).run().assert_outcomes(passed=1)
    assert signing.counted() == 1

    signing.checkout("environ").run(PYTEST_TASKCACHE_STORAGE=place.url).assert_outcomes(passed=1)
    signing.checkout("name").run("--cache-storage=team").assert_outcomes(passed=1)
    signing.checkout("tier", {"storage": "local:rw,team:r"}).run().assert_outcomes(passed=1)
    assert signing.counted() == 1


def test_a_name_nobody_gave_is_a_usage_error(signing: Team) -> None:
    """A mistyped name does not become a directory; the error names those there are."""
    signing.files["test_suite.py"] = BIG
    signing.files["pyproject.toml"] = '[tool.taskcache.storages]\nteam = "s3://bucket/x"\n'
    checkout = signing.checkout("a")
    run = checkout.run("--cache-storage=local,teem")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    assert "no storage named 'teem'; use one of team" in run.stderr.str()
    assert not (checkout.path / "teem").exists()


def test_records_and_results_apart(
    signing: Team, place_of: Callable[[str], Place], tmp_path: Path
) -> None:
    """Records in a database, results in a bucket, by ini: another checkout gets both, and the
    bucket holds no record, the database no large result."""
    records, results = place_of("sqlite"), place_of("file")
    signing.files["test_suite.py"] = BIG
    ini = {"key_storage": records.url, "result_storage": results.url}
    signing.checkout("a", ini).run().assert_outcomes(passed=1)
    other = signing.checkout("b", ini).run()
    other.assert_outcomes(passed=1)
    assert signing.counted() == 1, other.shown

    bucket = Path(results.url.removeprefix("file://"))
    stored = [path for path in bucket.rglob("*") if path.is_file()]
    assert any(path.stat().st_size >= 50_000 for path in stored)
    assert not any("records" in path.relative_to(bucket).parts for path in stored)
    database = Path(records.url.removeprefix("sqlite:///"))
    assert database.stat().st_size < 1_000_000
    assert b"x" * 1000 not in database.read_bytes()


def test_key_storage_alone_is_remote(signing: Team, place_of: Callable[[str], Place]) -> None:
    """Records go to the remote and small values ride in them; large ones stay where results are
    kept, here in a directory that both checkouts see."""
    records = place_of("file")
    shared = signing.directory / "results"
    signing.files["test_suite.py"] = BIG
    ini = {"key_storage": records.url, "result_storage": str(shared)}
    signing.checkout("a", ini).run().assert_outcomes(passed=1)
    other = signing.checkout("b", ini).run()
    other.assert_outcomes(passed=1)
    assert signing.counted() == 1, other.shown
    kept = [p for p in Path(records.url.removeprefix("file://")).rglob("*") if p.is_file()]
    assert kept
    assert all(path.stat().st_size < 50_000 for path in kept)


def test_a_policy_has_storages_of_its_own(signing: Team, place_of: Callable[[str], Place]) -> None:
    """``configure(key_storage=..., result_storage=...)`` sends one function elsewhere; the rest
    of the project stays local."""
    records, results = place_of("s3"), place_of("file")
    signing.environ |= records.environ
    signing.files["test_suite.py"] = f"""
        from counter import count
        from pytest_taskcache import DEFAULT, cached

        elsewhere = DEFAULT.configure(
            key_storage={records.url!r}, result_storage={results.url!r}
        )

        @cached(policy=elsewhere)
        def shared():
            count("shared")
            return b"x" * 50_000

        @cached
        def own():
            count("own")
            return 1

        def test_both():
            assert len(shared()) == 50_000
            assert own() == 1
        """
    for name in ("a", "b"):
        run = signing.checkout(name).run()
        run.assert_outcomes(passed=1)
    assert signing.counted("shared") == 1, run.shown
    assert signing.counted("own") == 2


def test_prefects_way_with_a_shared_key_storage(
    signing: Team, place_of: Callable[[str], Place]
) -> None:
    """The seeds' own example: ``(TASK_SOURCE + INPUTS).configure(key_storage=bucket)`` shares
    records across machines, and small values with them."""
    place = place_of("s3")
    signing.environ |= place.environ
    signing.files["test_suite.py"] = f"""
        from counter import count
        from pytest_taskcache import INPUTS, TASK_SOURCE, cached

        cache_policy = (TASK_SOURCE + INPUTS).configure(key_storage={place.url!r})

        @cached(policy=cache_policy)
        def my_cached_task(x: int):
            count("task")
            return x + 42

        def test_task():
            assert my_cached_task(1) == 43
        """
    for name in ("laptop", "worker"):
        signing.checkout(name).run().assert_outcomes(passed=1)
    assert signing.counted() == 1


def test_a_tier_that_is_only_read_is_not_written(
    signing: Team, place_of: Callable[[str], Place]
) -> None:
    """``local:rw,remote:r``: CI writes, laptops read. What a laptop computes stays with it."""
    place = place_of("file")
    directory = Path(place.url.removeprefix("file://"))
    signing.files["test_suite.py"] = SUITE
    laptop = signing.checkout("laptop", {"storage": f"local:rw,{place.url}:r"})
    first = laptop.run()
    first.assert_outcomes(passed=2)
    assert "fault" not in line_of(first)
    assert not directory.exists()

    signing.checkout("ci", {"storage": place.url}).run().assert_outcomes(passed=2)
    assert signing.counted() == 6
    before = sorted(directory.rglob("*"))
    laptop.forget()
    run = laptop.run()
    run.assert_outcomes(passed=2)
    assert signing.counted() == 6
    assert sorted(directory.rglob("*")) == before
    assert notes_of(run) == []


def test_a_run_that_only_reads_needs_no_local_cache(
    signing: Team, place_of: Callable[[str], Place]
) -> None:
    """``--cache-mode=r`` on a fresh machine reads the remote and leaves nothing behind."""
    place = place_of("file")
    signing.files["test_suite.py"] = SUITE
    signing.checkout("ci").run(f"--cache-storage={place.url}").assert_outcomes(passed=2)
    fresh = signing.checkout("fresh")
    run = fresh.run(f"--cache-storage={place.url}", "--cache-mode=r")
    run.assert_outcomes(passed=2)
    assert signing.counted() == 3, run.shown
    assert not (fresh.path / ".pytest_cache" / "taskcache" / "index.sqlite3").exists()
