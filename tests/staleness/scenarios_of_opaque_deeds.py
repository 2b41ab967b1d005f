"""What cannot be observed is refused: such tests run each time."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from ladder import Expect, Scenario


def _extension(directory: Path) -> None:
    """A C extension of the interpreter, as if the project had built it."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    found = Path(str(sysconfig.get_config_var("DESTSHARED"))) / f"xxlimited{suffix}"
    shutil.copy(found, directory / found.name)


def _library(directory: Path) -> None:
    import _ctypes

    shutil.copy(_ctypes.__file__, directory / "native.so")


def _deed(name: str, head: str, body: str, **more: object) -> Scenario:
    return Scenario(name, head=head, body=body, expect=Expect.REFUSED, **more)  # type: ignore[arg-type]


_ASKING = "import subprocess\nSAID = subprocess.check_output(['echo', '1'])\n"
_SOMEONE_ELSES = "from . import {}\n\ndef test_it():\n    pass\n"

OPAQUE = [
    _deed(
        "child_of_what_was_handed_to_raises",
        "import pytest, subprocess",
        "result = pytest.raises(OSError, subprocess.call, ['/no/such/program']).type",
    ),
    _deed(
        "subprocess_of_a_submodule_that_someone_else_imported",
        "import SELF",
        "result = SELF.asking.SAID",
        files={"asking.py": _ASKING, "test_other.py": _SOMEONE_ELSES.format("asking")},
    ),
    _deed(
        "subprocess_of_who_set_something_on_a_module",
        "from . import app",
        "result = app.answer",
        files={
            "app.py": "answer = None\n",
            "plug.py": f"{_ASKING}from . import app\napp.answer = SAID\n",
            "test_other.py": _SOMEONE_ELSES.format("plug"),
        },
    ),
    _deed(
        "subprocess_of_the_projects_own_command",
        "import subprocess, sys",
        "result = subprocess.check_output([sys.executable, '-c', 'import SELF.cli'])",
        files={"cli.py": "print(1)\n"},
        change={"cli.py": "print(2)\n"},
    ),
    _deed(
        "subprocess_in_a_temporary_script",
        "import runpy, tempfile",
        """
        with tempfile.TemporaryDirectory() as where:
            path = pathlib.Path(where, "script.py")
            path.write_text("import subprocess; subprocess.run(['true'])")
            result = runpy.run_path(str(path))
        """,
    ),
    *(
        _deed(
            f"work_given_to_{name}_of_another_test",
            "",
            "",
            files={
                "pool.py": f"{line}\n",
                "work.py": "def work():\n    return 1\n",
                "test_a.py": f"""
                from counter import count
                from .pool import POOL
                from .work import work

                def test_first():
                    count("SELF.first")
                    POOL.{call}

                def test_second():
                    count("SELF.second")
                    assert POOL.{call} == 1
                """,
            },
            group="pools",
        )
        for name, line, call in (
            (
                "an_executor",
                "from concurrent.futures import ProcessPoolExecutor\nPOOL = ProcessPoolExecutor(1)",
                "submit(work).result()",
            ),
            (
                "a_pool",
                "import multiprocessing\n"
                "class Lazy:\n"
                "    pool = []\n"
                "    def apply(self, function):\n"
                "        if not self.pool:\n"
                "            self.pool.append(multiprocessing.Pool(1))\n"
                "        return self.pool[0].apply(function)\n"
                "POOL = Lazy()",
                "apply(work)",
            ),
        )
    ),
    _deed("os_system", "import os", "result = os.system('true')"),
    _deed(
        "subprocess_in_a_session_fixture",
        "import subprocess, sys",
        "",
        files={
            "conftest.py": """
            import pytest, subprocess, sys

            @pytest.fixture(scope="session")
            def value():
                return subprocess.check_output([sys.executable, "-c", "print(1)"])
            """,
            "test_a.py": """
            from counter import count

            def test_a(value):
                count("SELF.a")

            def test_b(value):
                count("SELF.b")
            """,
        },
    ),
    _deed(
        "subprocess_at_import",
        "from .version import VERSION",
        "result = VERSION",
        files={
            "version.py": """
            import subprocess, sys
            VERSION = subprocess.check_output([sys.executable, "-c", "print(1)"])
            """
        },
    ),
    _deed(
        "multiprocessing_spawn",
        "import multiprocessing",
        """
        child = multiprocessing.get_context("spawn").Process(target=print)
        child.start()
        child.join()
        result = child.exitcode
        """,
    ),
    _deed(
        "multiprocessing_fork",
        "import multiprocessing",
        """
        child = multiprocessing.get_context("fork").Process(target=print)
        child.start()
        child.join()
        result = child.exitcode
        """,
    ),
    _deed(
        "fork",
        "import os",
        """
        child = os.fork()
        if not child:
            os._exit(0)
        result = os.waitpid(child, 0)
        """,
    ),
    _deed(
        "ctypes_library",
        "import ctypes",
        "result = ctypes.CDLL(str(HERE / 'native.so'))",
        make=_library,
    ),
    _deed("c_extension", "from . import xxlimited", "result = xxlimited", make=_extension),
    _deed(
        "c_extension_imported_by_a_module",
        "from .wrapper import work",
        "result = work()",
        files={
            "wrapper.py": "from . import xxlimited\ndef work():\n    return xxlimited.foo(1, 2)\n"
        },
        make=_extension,
    ),
    _deed(
        "connection_to_a_listener_of_another_test",
        "",
        "",
        files={
            "server.py": """
            import socket
            SERVER = socket.create_server(("127.0.0.1", 0))
            """,
            "test_a.py": """
            import socket
            from counter import count
            from .server import SERVER

            def test_a():
                count("SELF.a")
                socket.create_connection(SERVER.getsockname(), timeout=9).close()
            """,
        },
    ),
    _deed(
        "connection_to_a_unix_socket",
        "",
        "",
        files={
            "server.py": """
            import os, socket, tempfile
            ADDRESS = os.path.join(tempfile.mkdtemp(), "s")
            SERVER = socket.socket(socket.AF_UNIX)
            SERVER.bind(ADDRESS)
            SERVER.listen()
            """,
            "test_a.py": """
            import socket
            from counter import count
            from .server import ADDRESS

            def test_a():
                count("SELF.a")
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(ADDRESS)
            """,
        },
    ),
]

if sys.version_info < (3, 12):  # its example extension was not built yet
    OPAQUE = [one for one in OPAQUE if one.make is not _extension]
