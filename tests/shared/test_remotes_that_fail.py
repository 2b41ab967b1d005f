"""Whatever happens to the remote: the run's outcomes are as without the cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import misbehaving
import pytest
from s3_servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, running
from servers import free_port, redis_server
from team import SUITE, Checkout, Place, Team, line_of, notes_of

FAILING = """
    import pytest
    from counter import count
    from pytest_taskcache import cached

    @cached
    def half(x):
        count("function")
        return x / 2

    def test_good():
        assert half(4) == 2

    def test_bad():
        assert half(4) == 3

    @pytest.mark.cached
    def test_outcome():
        count("test")
"""


def checkout_of(team: Team) -> Checkout:
    team.files["test_suite.py"] = FAILING
    return team.checkout("a")


def check(run: pytest.RunResult, team: Team, *, counted: int = 2) -> None:
    """The outcomes are right; what went wrong was counted, and each of it told once (a server that
    drips can be given up by us or by the vendor's client: two reasons)."""
    run.assert_outcomes(passed=2, failed=1)
    assert team.counted() == counted
    assert "fault" in line_of(run), run.shown
    reasons = [tuple(note.split(":")[1:3]) for note in notes_of(run)]
    assert 1 <= len(reasons) == len(set(reasons)), run.shown
    assert sum("goes on without it" in note for note in notes_of(run)) <= 1
    assert "INTERNALERROR" not in run.shown
    assert "Traceback" not in run.stderr.str()


def s3_environ(endpoint: str, **more: str) -> dict[str, str]:
    return S3Server(endpoint, Path()).environment | more


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/x",
        "redis://127.0.0.1:{port}/0",
        "postgresql+psycopg://me:s3cr3t@127.0.0.1:{port}/db",
    ],
)
def test_dead_server(url: str, signing: Team) -> None:
    """Nobody listens: the run goes on with the local cache, which a second run has hits from."""
    port = free_port()
    environ = s3_environ(f"http://127.0.0.1:{port}")
    checkout = checkout_of(signing)
    storage = f"--cache-storage={url.format(port=port)}"
    first = checkout.run(storage, **environ)
    check(first, signing)
    assert "s3cr3t" not in first.shown
    if url.startswith("s3"):
        second = checkout.run(storage, **environ)
        second.assert_outcomes(passed=2, failed=1)
        assert signing.counted() == 2


@pytest.mark.parametrize(
    "behaviour",
    [misbehaving.resets, misbehaving.is_silent, misbehaving.drips, misbehaving.truncates],
    ids=lambda one: one.__name__,
)
def test_misbehaving_server(behaviour: Callable[..., None], signing: Team) -> None:
    """Silent (as behind a black hole), slow, resetting, truncating: no test fails, nothing
    hangs. (More of them are tried on the adapters themselves.)"""
    with misbehaving.misbehaving_server(behaviour) as port:
        run = checkout_of(signing).run(
            "--cache-storage=s3://bucket/x", **s3_environ(f"http://127.0.0.1:{port}")
        )
    check(run, signing)


def test_portal(signing: Team) -> None:
    """A page that answers every request with "please log in" looks like an empty bucket that
    takes everything: nothing of it is ever a value."""
    checkout = checkout_of(signing)
    with misbehaving.misbehaving_server(misbehaving.is_a_portal) as port:
        environ = s3_environ(f"http://127.0.0.1:{port}")
        for count in (2, 4):
            run = checkout.run("--cache-storage=s3://bucket/x", **environ)
            run.assert_outcomes(passed=2, failed=1)
            assert signing.counted() == count
            checkout.forget()


@pytest.mark.parametrize("scheme", ["redis", "postgresql+psycopg"])
def test_black_hole(scheme: str, signing: Team) -> None:
    """A server that takes connections and never answers, to clients of other protocols."""
    with misbehaving.misbehaving_server(misbehaving.is_silent) as port:
        run = checkout_of(signing).run(f"--cache-storage={scheme}://127.0.0.1:{port}/0")
    check(run, signing)


def test_black_hole_under_xdist(signing: Team) -> None:
    """Each worker gives up on its own, and says so once for all of them."""
    with misbehaving.misbehaving_server(misbehaving.is_silent) as port:
        run = checkout_of(signing).run(
            "--cache-storage=s3://bucket/x", "-n2", **s3_environ(f"http://127.0.0.1:{port}")
        )
    run.assert_outcomes(passed=2, failed=1)
    assert sum("goes on without it" in note for note in notes_of(run)) == 1, run.shown
    assert "fault" in line_of(run)


@contextmanager
def rclone(*options: str) -> Iterator[str]:
    """The endpoint of an S3 server that checks credentials, with an empty BUCKET."""
    with TemporaryDirectory(prefix="taskcache-rclone-") as directory:
        root = Path(directory)
        (root / "data" / BUCKET).mkdir(parents=True)
        port = free_port()
        command = [
            os.fspath(Path(sys.executable).with_name("rclone")), "serve", "s3",
            os.fspath(root / "data"), "--addr", f"127.0.0.1:{port}",
            "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--config", os.fspath(root / "conf"),
            "--vfs-cache-mode", "off", *options,
        ]  # fmt: skip
        with running(command, lambda: _listens(port), root / "log"):
            yield f"http://127.0.0.1:{port}"


def _listens(port: int) -> bool:
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_wrong_credentials(signing: Team) -> None:
    """A server that refuses us is as good as none; the note says why, without the secret."""
    with rclone() as endpoint:
        run = checkout_of(signing).run(
            "--cache-storage=s3://bucket/x",
            **s3_environ(endpoint, AWS_SECRET_ACCESS_KEY="wrong-secret"),
        )
    check(run, signing)
    assert "permission denied" in run.shown
    assert "wrong-secret" not in run.shown


def test_no_such_bucket(signing: Team, s3: S3Server) -> None:
    """A bucket that does not exist."""
    run = checkout_of(signing).run("--cache-storage=s3://nowhere/x", **s3.environment)
    check(run, signing)
    assert "no such bucket" in run.shown


def test_bucket_that_cannot_be_written(signing: Team) -> None:
    """Reads work, writes are refused: what could not be uploaded is counted."""
    with rclone("--read-only") as endpoint:
        run = checkout_of(signing).run("--cache-storage=s3://bucket/x", **s3_environ(endpoint))
    run.assert_outcomes(passed=2, failed=1)
    assert "2 not uploaded" in line_of(run), run.shown
    assert signing.counted() == 2


BLOCKER = """
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {blocked!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
            return None

    sys.meta_path.insert(0, Blocker())
"""


def test_missing_extra(signing: Team) -> None:
    """A machine without the library runs its tests all the same; the note is the command that
    installs it."""
    signing.files["blocking.py"] = BLOCKER.format(blocked={"obstore"})
    run = checkout_of(signing).run("-p", "blocking", "--cache-storage=s3://b/x", PYTHONPATH=path())
    check(run, signing)
    assert "pip install 'pytest-taskcache[objects]'" in run.shown
    assert "storage not available" in line_of(run)


def path() -> str:
    """A PYTHONPATH that has the checkout in front."""
    return os.pathsep.join(filter(None, [".", os.environ.get("PYTHONPATH")]))


def test_missing_extra_of_a_lock_manager(signing: Team) -> None:
    """Without the library locks are files: runs on this machine still exclude each other."""
    signing.files["blocking.py"] = BLOCKER.format(blocked={"redis"})
    checkout = checkout_of(signing)
    checkout.write(
        "pytest.ini",
        "[pytest]\ntaskcache_lock_manager = redis://host/0\ntaskcache_isolation = SERIALIZABLE\n",
    )
    run = checkout.run("-p", "blocking", PYTHONPATH=path())
    check(run, signing)
    assert "pip install 'pytest-taskcache[redis]'" in run.shown


def test_dead_lock_manager(signing: Team) -> None:
    """Locks that cannot be had hold nobody up."""
    checkout = checkout_of(signing)
    run = checkout.run(
        PYTEST_TASKCACHE_LOCK_MANAGER=f"redis://127.0.0.1:{free_port()}/0",
        PYTEST_TASKCACHE_ISOLATION="SERIALIZABLE",
    )
    run.assert_outcomes(passed=2, failed=1)
    assert "lock manager failed" in line_of(run)
    assert signing.counted() == 2


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["serial", "xdist"])
def test_usage_error(workers: tuple[str, ...], signing: Team) -> None:
    """What cannot be right stops the run before the first test, with a line that says what."""
    url = "redis://:s3cr3t@host/0?nonsense=1" if workers else "nonsense://me:s3cr3t@x/y"
    run = checkout_of(signing).run(f"--cache-storage={url}", *workers)
    assert run.ret == pytest.ExitCode.USAGE_ERROR, run.shown
    assert "nonsense" in run.stderr.str()
    assert "write e.g. s3://" in run.stderr.str() or "unknown option" in run.stderr.str()
    assert "INTERNALERROR" not in run.shown
    assert "s3cr3t" not in run.shown
    assert signing.counted() == 0


def test_server_that_dies_in_the_middle(signing: Team) -> None:
    """Between the first result and its record: what was computed is kept locally."""
    signing.files["test_suite.py"] = """
        import os, signal
        from counter import count
        from pytest_taskcache import cached

        @cached
        def value(x):
            count("function")
            return b"y" * 20_000

        def test_before():
            assert len(value(1)) == 20_000

        def test_death():
            os.kill(int(os.environ["SERVER"]), signal.SIGKILL)

        def test_after():
            assert len(value(2)) == 20_000
        """
    checkout = signing.checkout("a")
    with redis_server() as server:
        environ = {"SERVER": str(server.pid)}
        run = checkout.run(f"--cache-storage={server.url}", **environ)
    run.assert_outcomes(passed=3)
    assert "fault" in line_of(run)
    checkout.run("-k", "not death").assert_outcomes(passed=2)
    assert signing.counted() == 2


def test_truncated_and_foreign_bytes(signing: Team, place_of: Callable[[str], Place]) -> None:
    """Records and results that were cut short, or replaced by someone else's bytes, are computed
    anew; the run after that has hits again."""
    place = place_of("file")
    signing.files["test_suite.py"] = SUITE
    signing.checkout("a").run(f"--cache-storage={place.url}").assert_outcomes(passed=2)
    for number, file in enumerate(Path(place.url.removeprefix("file://")).rglob("*")):
        if file.is_file() and "marks" not in file.parts:
            content = file.read_bytes()
            file.write_bytes(content[: len(content) // 2] if number % 2 else b"GIF89a" * 9)
    signing.checkout("b").run(f"--cache-storage={place.url}").assert_outcomes(passed=2)
    assert signing.counted() == 6
    signing.checkout("c").run(f"--cache-storage={place.url}").assert_outcomes(passed=2)
    assert signing.counted() == 6
