"""A storage of a third party, registered by an entry point: it serves like those built in.

It is slow as well, which shows what becomes of uploads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from team import Checkout, Team, line_of

ADAPTER = """
    import os, time
    from pytest_taskcache.storage.remote.location import storage_by_url

    class Slow:
        # Another storage, but for the time that records take.
        trusted = False

        def __init__(self, directory):
            self._inner = storage_by_url("file://" + directory)

        def __getattr__(self, name):
            return getattr(self._inner, name)

        def describe(self):
            return "slow"

        def read_records(self, keys): return self._inner.read_records(keys)
        def recent(self, identities): return self._inner.recent(identities)
        def scan(self): return self._inner.scan()
        def remove_records(self, ids): self._inner.remove_records(ids)
        def write_result(self, digest, chunks): self._inner.write_result(digest, chunks)
        def add_file(self, digest, source): self._inner.add_file(digest, source)
        def read_result(self, digest, size): return self._inner.read_result(digest, size)
        def copy_file(self, digest, destination, readonly=False):
            return self._inner.copy_file(digest, destination, readonly)
        def has_results(self, digests): return self._inner.has_results(digests)
        def close(self): self._inner.close()

        def write_records(self, variants):
            time.sleep(float(os.environ.get("SLOW_PAUSE", "0")))
            self._inner.write_records(variants)

    def open_slow(url):
        return Slow(url.removeprefix("slow://"))
    """

CONFORMANCE = """
    import pytest
    from pytest_taskcache.testing.storages import StorageConformance
    from their_adapter import open_slow

    class TestTheirs(StorageConformance):
        @pytest.fixture
        def make_storage(self, tmp_path_factory):
            place = tmp_path_factory.mktemp("place")
            return lambda: open_slow(f"slow://{place}")
    """

MANY = """
    import pytest
    from counter import count
    from pytest_taskcache import cached

    @cached
    def value(n):
        count("value")
        return n

    @pytest.mark.parametrize("n", range(8))
    def test_value(n):
        assert value(n) == n
    """


@pytest.fixture
def adapter(signing: Team, tmp_path: Path) -> str:
    """A distribution that registers ``slow://``, on the path of all checkouts; its URL."""
    site = tmp_path / "site"
    info = site / "their_adapter-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-adapter\nVersion: 1.0\n")
    (info / "RECORD").write_text("their_adapter.py,,\n")
    (info / "entry_points.txt").write_text(
        "[pytest_taskcache.storages]\nslow = their_adapter:open_slow\n"
    )
    Checkout(site, {}).write("their_adapter.py", ADAPTER)
    before = signing.environ.get("PYTHONPATH")
    signing.environ["PYTHONPATH"] = f"{site}:{before}" if before else str(site)
    return f"slow://{tmp_path}/place"


def test_it_shares_like_those_built_in(signing: Team, adapter: str) -> None:
    """Its URL goes wherever another one does, and its values are verified like any other's."""
    signing.files["test_many.py"] = MANY
    for name in ("a", "b"):
        run = signing.checkout(name).run(f"--cache-storage={adapter}")
        run.assert_outcomes(passed=8)
    assert signing.counted() == 8
    assert "fault" not in line_of(run)


def test_it_passes_the_conformance_suite(signing: Team, adapter: str) -> None:
    """The suite that is shipped runs in a project of the adapter's author."""
    signing.files["test_theirs.py"] = CONFORMANCE
    run = signing.checkout("a").run("--cache-tests=none", "-x")
    assert run.ret == pytest.ExitCode.OK, run.shown
    assert run.parseoutcomes()["passed"] > 30


def test_uploads_are_awaited_with_a_line_of_progress(signing: Team, adapter: str) -> None:
    """The end of a run waits for what is still under way, says how far it is, and leaves nothing
    behind."""
    signing.files["test_many.py"] = MANY
    run = signing.checkout("a").run(f"--cache-storage={adapter}", SLOW_PAUSE="0.7")
    run.assert_outcomes(passed=8)
    assert any("taskcache: uploading " in line and "/8" in line for line in run.outlines), run.shown
    assert "not uploaded" not in line_of(run)
    signing.checkout("b").run(f"--cache-storage={adapter}").assert_outcomes(passed=8)
    assert signing.counted() == 8


def test_each_worker_awaits_its_uploads(signing: Team, adapter: str) -> None:
    """A worker of xdist ends when it has sent all it computed."""
    signing.files["test_many.py"] = MANY
    run = signing.checkout("a").run(f"--cache-storage={adapter}", "-n2", SLOW_PAUSE="0.5")
    run.assert_outcomes(passed=8)
    assert "not uploaded" not in line_of(run)
    signing.checkout("b").run(f"--cache-storage={adapter}").assert_outcomes(passed=8)
    assert signing.counted() == 8


def test_what_could_not_be_uploaded_is_counted(signing: Team, adapter: str) -> None:
    """A remote that takes longer than it may is given up; what it did not get is counted, and
    stays in the local cache."""
    signing.files["test_many.py"] = MANY
    checkout = signing.checkout("a")
    run = checkout.run(f"--cache-storage={adapter}", SLOW_PAUSE="30")
    run.assert_outcomes(passed=8)
    assert "8 not uploaded" in line_of(run), run.shown
    checkout.run().assert_outcomes(passed=8)
    assert signing.counted() == 8


def test_a_lock_is_kept_until_the_upload_is_there(
    signing: Team, adapter: str, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    """Who waits for the lock on another host finds the value when it gets it, however long the
    upload took."""
    go = signing.directory / "go"
    signing.files["test_slow.py"] = f"""
        import os, time
        from counter import count
        from pytest_taskcache import cached

        @cached(key="one")
        def value():
            count("value")
            while not os.path.exists({str(go)!r}):
                time.sleep(0.01)
            return 1

        def test_value():
            count("begun")
            assert value() == 1
        """
    ini = {
        "storage": adapter,
        "isolation": "SERIALIZABLE",
        "lock_manager": str(signing.directory / "locks"),
    }
    first = signing.checkout("a", ini).start(SLOW_PAUSE="1.2")
    wait_until(lambda: signing.counted("value") == 1)
    second = signing.checkout("b", ini).start()
    wait_until(lambda: signing.counted("begun") == 2)
    go.touch()
    for run in (first.finish(), second.finish()):
        run.assert_outcomes(passed=1)
    assert signing.counted("value") == 1
