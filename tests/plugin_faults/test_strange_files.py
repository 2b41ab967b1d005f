"""Files that are none, or that cannot be read: no hang, no crash, no stale hit."""

from __future__ import annotations

import os
import py_compile
import warnings

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


def test_a_file_that_python_warns_of(hurt: HurtProject) -> None:
    """It is read as any other, whatever becomes of warnings, and says nothing more than plainly."""
    source = "class Rate:\n    '\\d'\ndef one(): return 1\ndef two(): return {}\n"
    for name, file in (("one", "test_suite.py"), ("two", "test_two.py")):
        hurt.write(
            file,
            f"""
            import pytest
            from counter import count
            import lib

            @pytest.mark.parametrize("kind", [lib.Rate])
            def test_it(kind):
                count("{name}")
                assert lib.{name}()
            """,
        )
    hurt.write("lib.py", source.format(2))
    options = ("--cache-tests=all", "-W", "error")
    for counts in ({"one": 1, "two": 1}, {}):
        seen = _compiled(hurt).run(*options)
        assert seen.code == pytest.ExitCode.OK, seen.shown
        assert seen.counts == counts, seen.shown
    hurt.write("lib.py", source.format(3))
    seen = _compiled(hurt).run(*options)
    assert seen.counts == {"two": 1}, seen.shown
    seen = hurt.run("--cache-tests=all", "-W", "always")
    assert seen.counts == {"one": 1, "two": 1}, seen.shown
    assert "SyntaxWarning" not in seen.shown


def _compiled(hurt: HurtProject) -> HurtProject:
    """The project, whose module Python need not compile, and so does not warn of."""
    with warnings.catch_warnings(action="ignore"):
        py_compile.compile(str(hurt.root / "lib.py"), doraise=True)
    return hurt
