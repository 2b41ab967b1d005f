"""What one checkout computed another one does not: the main promise of a shared storage."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from team import SUITE, Place, Team, line_of

KINDS = ("s3", "file", "sqlite", "postgres", "redis")

FIXTURES = """
    import numpy as np
    from counter import count
    from pytest_taskcache import cached_fixture

    @cached_fixture(scope="session")
    def array():
        count("array")
        return np.arange(300_000, dtype="float64").reshape(300, 1000)

    @cached_fixture(scope="session")
    def tree(tmp_path_factory):
        count("tree")
        root = tmp_path_factory.mktemp("tree")
        (root / "deep" / "er").mkdir(parents=True)
        (root / "deep" / "er" / "big.bin").write_bytes(bytes(range(256)) * 400)
        (root / "note.txt").write_text("hello")
        return root
"""

RICH = """
    import pytest
    from counter import count
    from helper import scale
    from pytest_taskcache import cached

    @cached
    def table(rows):
        count("function")
        return {n: scale(n) for n in range(rows)}

    @pytest.fixture
    def rows():
        with open("data/rows.txt") as file:
            return int(file.read())

    def test_values(array, tree, rows):
        assert array.shape == (300, 1000) and array[299, 999] == 299_999
        assert (tree / "deep/er/big.bin").read_bytes() == bytes(range(256)) * 400
        assert (tree / "note.txt").read_text() == "hello"
        assert table(rows)[10] == 20

    @pytest.mark.cached
    def test_outcome(rows):
        count("test")
        assert scale(rows) == 40

    @pytest.mark.cached
    @pytest.mark.parametrize("word", ["a", "b"])
    def test_each(word, tmp_path):
        count("test")
        (tmp_path / "x").write_text(word)
        assert (tmp_path / "x").read_text() == word
"""


def rich(team: Team) -> None:
    team.files |= {
        "test_suite.py": RICH,
        "helper.py": "def scale(n):\n    return 2 * n\n",
        "data/rows.txt": "20",
        "conftest.py": FIXTURES,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_another_checkout_computes_nothing(
    kind: str, signing: Team, place_of: Callable[[str], Place]
) -> None:
    """Functions, fixtures (an array, a tree of files) and outcomes that one checkout computed
    are hits in a checkout elsewhere, which has nothing of its own."""
    place = place_of(kind)
    rich(signing)
    signing.environ |= place.environ
    first, second = signing.checkout("a"), signing.checkout("far/away/b")

    first.run(f"--cache-storage={place.url}").assert_outcomes(passed=4)
    assert signing.counted() == 6
    other = second.run(f"--cache-storage={place.url}")

    other.assert_outcomes(passed=4)
    assert signing.counted() == 6, other.shown
    assert "1 function + 2 fixtures + 3 tests reused" in line_of(other)
    assert "fault" not in line_of(other)


def test_what_changed_is_computed_again(signing: Team, place_of: Callable[[str], Place]) -> None:
    """A checkout of another state of the project hits only what its own files still allow (sources
    are never sent, so that a file of another content counts as a whole for who imports it), and
    each of two branches finds its own."""
    place = place_of("file")
    rich(signing)
    main, branch = signing.checkout("main"), signing.checkout("branch")
    branch.write("data/rows.txt", "20 ")
    branch.write("helper.py", "def scale(n):\n    return n + n\n")

    main.run(f"--cache-storage={place.url}").assert_outcomes(passed=4)
    branch.run(f"--cache-storage={place.url}").assert_outcomes(passed=4)
    assert signing.counted("array") == 1
    assert signing.counted("tree") == 1
    assert signing.counted("function") == 2
    before = signing.counted()
    for checkout in (main, branch):
        checkout.forget()
        checkout.run(f"--cache-storage={place.url}").assert_outcomes(passed=4)
    assert signing.counted() == before


def test_a_hit_is_filled_into_the_local_cache(
    signing: Team, place_of: Callable[[str], Place]
) -> None:
    """Once read from the remote, an entry is there without it."""
    place = place_of("file")
    signing.files["test_suite.py"] = SUITE
    first, second = signing.checkout("a"), signing.checkout("b")
    first.run(f"--cache-storage={place.url}").assert_outcomes(passed=2)
    second.run(f"--cache-storage={place.url}").assert_outcomes(passed=2)

    second.run().assert_outcomes(passed=2)
    assert signing.counted() == 3


def test_memory_of_fsspec_serves_one_process(signing: Team) -> None:
    """``memory://`` lives as long as its process: two runs of it in one share it."""
    signing.files["test_suite.py"] = SUITE
    signing.files["twice.py"] = """
        import shutil, sys
        import pytest

        for _ in range(2):
            plugins = ["-p", "no:randomly", "-p", "no:pytest-retry"]  # one process, one run of it
            assert pytest.main([*plugins, "--cache-storage=memory://team"]) == 0
            shutil.rmtree(".pytest_cache")
            for name in ("test_suite", "counter"):
                sys.modules.pop(name, None)
        """
    checkout = signing.checkout("a")
    done = subprocess.run(
        [sys.executable, "twice.py"],
        cwd=checkout.path,
        env=checkout.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert signing.counted() == 3, done.stdout


def test_workers_share_a_remote(signing: Team, place_of: Callable[[str], Place]) -> None:
    """Under xdist every worker writes to the remote and has sent all when it ends; what the
    workers of one checkout computed, those of another do not."""
    place = place_of("s3")
    rich(signing)
    signing.environ |= place.environ
    first, second = signing.checkout("a"), signing.checkout("b")

    first.run(f"--cache-storage={place.url}", "-n2").assert_outcomes(passed=4)
    assert signing.counted() == 6
    other = second.run(f"--cache-storage={place.url}", "-n2")
    other.assert_outcomes(passed=4)
    assert signing.counted() == 6, other.shown
