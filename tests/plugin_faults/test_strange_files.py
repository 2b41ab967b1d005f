"""Files that are none, or that cannot be read: no hang, no crash, no stale hit."""

from __future__ import annotations

import os

import pytest
from hurt_project import HurtProject
from test_unusable_cache import run_without_privileges


def test_a_fifo_with_a_writer(hurt: HurtProject) -> None:
    """A test opens a named pipe that a thread of its own writes to. Nothing of ours opens it,
    which would wait for ever; and what was written comes from a file, which counts."""
    hurt.write(
        "test_suite.py",
        """
        import pathlib, threading
        from counter import count

        def test_it():
            count("test")
            data = pathlib.Path("data.txt").read_text()
            writer = threading.Thread(target=lambda: pathlib.Path("pipe").write_text(data))
            writer.start()
            with open("pipe") as pipe:
                found = pipe.read()
            writer.join()
            assert found == data
        """,
    )
    os.mkfifo(hurt.root / "pipe")
    for text in ("1", "2"):
        hurt.write("data.txt", text)
        first = hurt.run("--cache-tests=all")
        assert first.code == pytest.ExitCode.OK, first.shown
        assert first.counts == {"test": 1}, first.shown
        again = hurt.run("--cache-tests=all")
        assert again.code == pytest.ExitCode.OK, again.shown
        assert not again.faults, again.shown


def test_a_file_without_permission(hurt: HurtProject) -> None:
    """A test expects that it may not read a file. Once it may, it runs again."""
    hurt.write(
        "test_suite.py",
        """
        from counter import count

        def test_it():
            count("test")
            try:
                found = open("secret").read()
            except PermissionError:
                found = "nothing"
            assert found
        """,
    )
    secret = hurt.write("secret", "1")
    secret.chmod(0)
    first = run_without_privileges(hurt, "--cache-tests=all")
    assert first.code == pytest.ExitCode.OK, first.shown
    assert first.counts == {"test": 1}
    secret.chmod(0o600)
    allowed = run_without_privileges(hurt, "--cache-tests=all")
    assert allowed.code == pytest.ExitCode.OK, allowed.shown
    assert allowed.counts == {"test": 1}, allowed.shown
