"""Dependencies on files, directories and the environment."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import sqlite3
from pathlib import Path

from ladder import EVERY, Expect, Scenario

_READ = "(HERE / 'data.txt').read_text()"


def _database(price: int):  # type: ignore[no-untyped-def]
    def write(directory: Path) -> None:
        path = directory if directory.suffix else directory / "prices.sqlite3"
        with sqlite3.connect(path) as connection:
            connection.execute("create table if not exists prices (x)")
            connection.execute("delete from prices")
            connection.execute("insert into prices values (?)", [price])
        connection.close()

    return write


def _retarget(path: Path) -> None:
    path.unlink()
    path.symlink_to("v2")


def _versions(directory: Path) -> None:
    (directory / "current").symlink_to("v1")


def _sparse(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.truncate(size)


def _mark_the_end(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"1")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(path.parent)  # the address must be short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


def _rename(path: Path) -> None:
    path.rename(path.with_name("moved"))


MADE_AND_REMOVED = {
    "data/own.txt": "",
    "name.txt": "made",
    "maker.py": """
        import pathlib
        HERE = pathlib.Path(__file__).parent
        def made():
            return HERE / "data" / (HERE / "name.txt").read_text()
    """,
    "lib.py": """
        import functools, pathlib
        DATA = pathlib.Path(__file__).parent / "data"
        @functools.cache
        def names():
            return [each.name for each in DATA.iterdir()]
    """,
    "test_a.py": """
        import pytest
        from . import lib, maker
        pytestmark = pytest.mark.cached(False)
        def test_makes():
            maker.made().mkdir()
        def test_reads():
            assert len(lib.names()) == 2
        def test_removes():
            maker.made().rmdir()
    """,
    "test_b.py": """
        from counter import count
        from . import lib
        def test_inherits():
            count("SELF.inherits")
            assert lib.names
    """,
}
"""What a test makes in its project, another reads and keeps, and a third one removes."""

NO_CHILDREN = "no children"
"""Their group: they count as they were at first only where no child may have done it."""


FILES = [
    *(
        Scenario(
            f"{kind}_while_os_path_is_replaced",
            files={
                "late.py": "RATE = 2\n",
                "data/rate.txt": "2\n",
                "helper.py": f"""
                import functools, os
                from pathlib import Path

                HERE = Path(__file__).parent

                @functools.cache
                def rate():
                    {text}
                """,
                "test_a.py": """
                from unittest import mock
                from counter import count
                from .helper import rate

                def refused(*_args, **_kwargs):
                    raise AssertionError("refused")

                def test_a():
                    count("SELF.a")
                    names = "abspath", "realpath", "exists", "lexists", "isdir", "isfile", "islink"
                    with mock.patch.multiple("os.path", **dict.fromkeys(names, refused)):
                        assert rate()
                """,
                "test_b.py": """
                from counter import count
                from .helper import rate

                def test_b():
                    count("SELF.b")
                    assert rate()
                """,
            },
            change=change,
        )
        for kind, text, change in [
            ("import", "from .late import RATE; return RATE", {"late.py": "RATE = 3\n"}),
            ("read", "return open(HERE / 'data/rate.txt').read()", {"data/rate.txt": "3\n"}),
            ("listing", "return os.listdir(HERE / 'data')", {"data/new.txt": ""}),
        ]
    ),
    Scenario(
        "what_tests_make_and_remove_comes_from_another",
        files=MADE_AND_REMOVED,
        change={"name.txt": "other"},
        group=NO_CHILDREN,
    ),
    Scenario(
        "what_tests_make_and_remove_is_there",
        files=MADE_AND_REMOVED,
        change={"data/new.txt": ""},
        group=NO_CHILDREN,
    ),
    Scenario(
        "directory_that_the_body_makes_and_others_fill",
        head="import os",
        body="""
        os.makedirs(HERE / "out", exist_ok=True)
        (HERE / "out" / "mine.txt").write_text("1")
        result = sorted(os.listdir(HERE / "out")), (HERE / "out" / "flag").exists()
        """,
        change={"out/flag": ""},
        named=["listing changed: SELF/out", "stat appeared: SELF/out/flag"],
    ),
    Scenario(
        "file_that_the_body_makes_where_there_is_none",
        body="""
        try:
            with (HERE / "settings.txt").open("x") as stream:
                stream.write("1")
        except FileExistsError:
            pass
        result = (HERE / "settings.txt").read_text()
        """,
        change={"settings.txt": "2"},
        named=["file changed: SELF/settings.txt"],
        forms=EVERY[1:2],
    ),
    Scenario(
        "data_file_of_the_body",
        body=f"result = {_READ}",
        files={"data.txt": "1"},
        change={"data.txt": "2"},
        named=["file changed: SELF/data.txt"],
        forms=EVERY,
    ),
    Scenario(
        "data_file_by_pytests_own_paths",
        head="import py",
        body="result = py.path.local(str(HERE)).join('data.txt').read()",
        files={"data.txt": "1"},
        change={"data.txt": "2"},
        named=["file changed: SELF/data.txt"],
        forms=EVERY,
    ),
    Scenario(
        "data_file_of_a_module",
        head="from .helper import load",
        body="result = load()",
        files={
            "data.txt": "1",
            "helper.py": f"""
            from pathlib import Path
            HERE = Path(__file__).parent
            def load():
                return {_READ}
            """,
        },
        change={"data.txt": "2"},
        named=["file changed: SELF/data.txt"],
        forms=EVERY,
    ),
    Scenario(
        "data_file_at_import",
        head="from .helper import DATA",
        body="result = DATA",
        files={
            "data.txt": "1",
            "helper.py": f"import pathlib\nHERE = pathlib.Path(__file__).parent\nDATA = {_READ}\n",
        },
        change={"data.txt": "2"},
        named=["file changed: SELF/data.txt"],
        forms=EVERY,
    ),
    Scenario(
        "data_file_at_import_through_two_modules",
        head="from .outer import DATA",
        body="result = DATA",
        files={
            "data.txt": "1",
            "inner.py": "def load(path):\n    with open(path) as f:\n        return f.read()\n",
            "outer.py": """
            from pathlib import Path
            from .inner import load
            DATA = load(Path(__file__).parent / "data.txt")
            """,
        },
        change={"data.txt": "2"},
        forms=EVERY,
    ),
    Scenario(
        "data_file_of_the_test_module_at_import",
        head=f"DATA = {_READ}",
        body="result = DATA",
        files={"data.txt": "1"},
        change={"data.txt": "2"},
        forms=EVERY,
    ),
    Scenario(
        "data_file_of_the_conftest_at_import",
        files={
            "data.txt": "1",
            "conftest.py": f"""
            import pathlib, pytest
            HERE = pathlib.Path(__file__).parent
            DATA = {_READ}

            @pytest.fixture
            def data():
                return DATA
            """,
            "test_a.py": """
            from counter import count

            def test_a(data):
                count("SELF.a")
                assert data
            """,
        },
        change={"data.txt": "2"},
    ),
    Scenario(
        "json_file",
        head="import json",
        body="with open(HERE / 'data.json') as f:\n    result = json.load(f)",
        files={"data.json": '{"a": 1}'},
        change={"data.json": '{"a": 2}'},
        forms=EVERY,
    ),
    Scenario(
        "pickle_file",
        head="import pickle",
        body="result = pickle.loads((HERE / 'data.pkl').read_bytes())",
        files={"data.pkl": pickle.dumps([1])},
        change={"data.pkl": pickle.dumps([2])},
    ),
    Scenario(
        "sqlite_file",
        head="import sqlite3",
        body="""
        connection = sqlite3.connect(HERE / "prices.sqlite3")
        result = connection.execute("select x from prices").fetchone()
        connection.close()
        """,
        make=_database(1),
        change={"prices.sqlite3": _database(2)},
        named=["file changed: SELF/prices.sqlite3"],
        forms=EVERY,
    ),
    Scenario(
        "sqlite_connection_kept_open_by_a_module",
        files={
            "store.py": """
            import sqlite3, pathlib
            HERE = pathlib.Path(__file__).parent
            CONNECTION = sqlite3.connect(HERE / "prices.sqlite3", check_same_thread=False)
            """,
            "test_a.py": """
            from counter import count
            from .store import CONNECTION

            def test_a():
                count("SELF.a")
                assert CONNECTION.execute("select x from prices").fetchone()
            """,
        },
        make=_database(1),
        change={"prices.sqlite3": _database(2)},
    ),
    Scenario(
        "ini_file_read_by_configparser",
        head="import configparser",
        body="""
        parser = configparser.ConfigParser()
        parser.read([HERE / "absent.ini", HERE / "app.ini"])
        result = parser["app"]["x"]
        """,
        files={"app.ini": "[app]\nx = 1\n"},
        change={"app.ini": "[app]\nx = 2\n"},
    ),
    Scenario(
        "ini_file_that_was_absent",
        head="import configparser",
        body="""
        parser = configparser.ConfigParser()
        parser.read([HERE / "absent.ini", HERE / "app.ini"])
        result = parser["app"]["x"]
        """,
        files={"app.ini": "[app]\nx = 1\n"},
        change={"absent.ini": "[app]\nx = 2\n"},
        named=["file appeared: SELF/absent.ini"],
        forms=EVERY,
    ),
    Scenario(
        "file_read_by_os_open",
        head="import os",
        body="""
        handle = os.open(HERE / "data.txt", os.O_RDONLY)
        result = os.read(handle, 10)
        os.close(handle)
        """,
        files={"data.txt": "1"},
        change={"data.txt": "2"},
    ),
    Scenario(
        "file_mapped_into_memory",
        head="import mmap",
        body="""
        with open(HERE / "data.txt", "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            result = m[:]
        """,
        files={"data.txt": "1"},
        change={"data.txt": "2"},
    ),
    Scenario(
        "file_opened_for_update_and_only_read",
        body="with open(HERE / 'data.txt', 'r+') as f:\n    result = f.read()",
        files={"data.txt": "1"},
        change={"data.txt": "2"},
    ),
    Scenario(
        "file_appended_to_after_reading",
        body="""
        with open(HERE / "data.txt") as f:
            result = f.read()
        with open(HERE / "data.txt", "w") as f:
            f.write(result)
        """,
        files={"data.txt": "1"},
        change={"data.txt": "2"},
    ),
    Scenario(
        "file_copied",
        head="import shutil",
        body="""
        import tempfile
        with tempfile.TemporaryDirectory() as where:
            result = open(shutil.copy(HERE / "data.txt", where)).read()
        """,
        files={"data.txt": "1"},
        change={"data.txt": "2"},
    ),
    Scenario(
        "file_relative_to_the_working_directory",
        body="result = open('SELF/data.txt').read()",
        files={"data.txt": "1"},
        change={"data.txt": "2"},
    ),
    Scenario(
        "file_after_chdir",
        head="import os",
        body="""
        before = os.getcwd()
        os.chdir(HERE / "inner")
        try:
            result = open("data.txt").read()
        finally:
            os.chdir(before)
        """,
        files={"inner/data.txt": "1"},
        change={"inner/data.txt": "2"},
    ),
    Scenario(
        "package_resource",
        head="import importlib.resources",
        body="result = importlib.resources.files('SELF').joinpath('data.txt').read_text()",
        files={"data.txt": "1"},
        change={"data.txt": "2"},
        forms=EVERY,
    ),
    Scenario(
        "package_data_by_pkgutil",
        head="import pkgutil",
        body="result = pkgutil.get_data('SELF', 'data.txt')",
        files={"data.txt": "1"},
        change={"data.txt": "2"},
    ),
    *(
        Scenario(
            f"source_as_data_by_{by}",
            head="import importlib.util, linecache, pkgutil",
            body=f"result = {body}",
            files={"tpl.py": "X = 1  # one\n"},
            change={"tpl.py": "X = 1  # two\n"},
            named=["file changed: SELF/tpl.py"],
        )
        for by, body in (
            ("pkgutil", "pkgutil.get_data('SELF', 'tpl.py')"),
            ("its_loader", "importlib.util.find_spec('SELF.tpl').loader.get_source('SELF.tpl')"),
            ("linecache", "linecache.getline(str(HERE / 'tpl.py'), 1)"),
        )
    ),
    Scenario(
        "certificates",
        head="import ssl",
        body="""
        try:
            ssl.create_default_context(cafile=HERE / "ca.pem")
        except ssl.SSLError as error:
            result = error.reason
        """,
        files={"ca.pem": "1"},
        change={"ca.pem": "2"},
        forms=EVERY,
        named=["file changed: SELF/ca.pem"],
    ),
    *(
        Scenario(
            f"file_that_a_pools_thread_read_for_an_earlier_test_{name}",
            files={
                "data.txt": "1",
                "helper.py": f"""
                import asyncio, functools
                from concurrent.futures import ThreadPoolExecutor
                from pathlib import Path

                POOL = ThreadPoolExecutor(1)
                READ = Path(__file__).with_name("data.txt").read_text
                POOL.submit(int).result()  # its thread is there already

                async def read():
                    return await asyncio.get_running_loop().run_in_executor(POOL, READ)

                @functools.cache
                def value():
                    return {value}
                """,
                **{
                    f"test_{test}.py": f"""
                    from counter import count
                    from .helper import value

                    def test_{test}():
                        count("SELF.{test}")
                        assert value()
                    """
                    for test in "ab"
                },
            },
            change={"data.txt": "2"},
        )
        for name, value in {
            "plainly": "POOL.submit(READ).result()",
            "in_a_coroutine": "asyncio.run(read())",
        }.items()
    ),
    *(
        Scenario(
            f"{what}_that_another_test_had_read",
            files={
                file: "one",
                "same.txt": "one",
                **{
                    f"test_{name}.py": f"""
                    import {line.partition(".")[0]}, pathlib
                    from counter import count

                    HERE = pathlib.Path(__file__).parent

                    def test_{name}():
                        count("SELF.{name}")
                        {line}
                    """
                    for name in "ab"
                },
            },
            change={file: "two"},
        )
        for what, file, line in (
            ("lines", "data.txt", "linecache.getline(str(HERE / 'data.txt'), 1)"),
            ("files", "data.txt", "filecmp.cmp(HERE / 'data.txt', HERE / 'same.txt', False)"),
            (
                "words",
                "de/LC_MESSAGES/data.mo",
                "gettext.translation('data', HERE, ['de'], class_=list)",
            ),
        )
    ),
    Scenario(
        "zip_archive",
        head="import zipfile",
        body="""
        try:
            result = zipfile.ZipFile(HERE / "data.zip").namelist()
        except zipfile.BadZipFile:
            result = None
        """,
        files={"data.zip": "1"},
        change={"data.zip": "2"},
    ),
    Scenario(
        "new_file_matching_a_glob",
        body="result = sorted(p.name for p in (HERE / 'in').glob('*.txt'))",
        files={"in/a.txt": "1"},
        change={"in/b.txt": "1"},
        forms=EVERY,
    ),
    Scenario(
        "new_file_matching_glob_glob",
        head="import glob",
        body="result = glob.glob(str(HERE / 'in' / '*.txt'))",
        files={"in/a.txt": "1"},
        change={"in/b.txt": "1"},
    ),
    Scenario(
        "new_file_in_a_new_directory",
        body="result = sorted(p.name for p in (HERE / 'in').rglob('*.txt'))",
        files={"in/a.txt": "1"},
        change={"in/deep/b.txt": "1"},
    ),
    Scenario(
        "literal_glob",
        body="result = list((HERE / 'in').glob('b.txt'))",
        files={"in/a.txt": "1"},
        change={"in/b.txt": "1"},
    ),
    Scenario(
        "new_file_in_a_listing",
        head="import os",
        body="result = os.listdir(HERE / 'in')",
        files={"in/a.txt": "1"},
        change={"in/b.txt": "1"},
    ),
    Scenario(
        "new_file_in_a_walk",
        head="import os",
        body="result = list(os.walk(HERE / 'in'))",
        files={"in/a/a.txt": "1"},
        change={"in/a/b.txt": "1"},
    ),
    *(
        Scenario(
            f"file_becomes_a_directory_for_{by}",
            head="import glob, os",
            body=f"result = {body}",
            files={"in/a": ""},
            change={"in/a": lambda path: (path.unlink(), path.mkdir())},
            named=["listing changed: SELF/in"],
        )
        for by, body in (
            ("a_walk", "[each[1] for each in os.walk(HERE / 'in')]"),
            ("a_glob", "glob.glob('*/', root_dir=HERE / 'in')"),
            ("a_glob_of_paths", "list((HERE / 'in').glob('*/'))"),
        )
    ),
    Scenario(
        "what_a_link_in_a_walk_leads_to",
        head="import os",
        body="result = [each[1] for each in os.walk(HERE / 'in')]",
        files={"aim": ""},
        make=lambda path: ((path / "in").mkdir(), (path / "in" / "a").symlink_to("../aim")),
        change={"aim": lambda path: (path.unlink(), path.mkdir())},
    ),
    Scenario(
        "size_of_a_scanned_entry",
        head="import os",
        body="result = [e.stat().st_size for e in os.scandir(HERE / 'in')]",
        files={"in/a.txt": "1"},
        change={"in/a.txt": "123"},
    ),
    Scenario(
        "file_appears",
        body="result = (HERE / 'flag').exists()",
        change={"flag": ""},
        named=["stat appeared: SELF/flag"],
        forms=EVERY,
    ),
    Scenario(
        "file_appears_for_isfile",
        head="import os.path",
        body="result = os.path.isfile(os.path.join(HERE, 'flag'))",
        change={"flag": ""},
        forms=EVERY,
    ),
    Scenario(
        "file_appears_for_a_failed_open",
        body="""
        try:
            result = open(HERE / "flag").read()
        except OSError:
            result = None
        """,
        change={"flag": ""},
        named=["file appeared: SELF/flag"],
        forms=EVERY,
    ),
    Scenario(
        "file_appears_in_a_directory_that_was_absent",
        body="result = (HERE / 'no' / 'such' / 'flag').exists()",
        change={"no/such/flag": ""},
    ),
    Scenario(
        "file_vanishes",
        body="result = (HERE / 'flag').exists()",
        files={"flag": ""},
        change={"flag": None},
        named=["stat vanished: SELF/flag"],
        forms=EVERY,
    ),
    Scenario(
        "file_becomes_a_directory",
        body="result = (HERE / 'flag').is_dir()",
        files={"flag": ""},
        change={"flag": lambda path: (path.unlink(), path.mkdir())},
    ),
    Scenario(
        "file_mode",
        head="import os",
        body="result = os.stat(HERE / 'run.sh').st_mode",
        files={"run.sh": ""},
        change={"run.sh": lambda path: path.chmod(0o755)},
        named=["stat changed: SELF/run.sh"],
        forms=EVERY,
    ),
    Scenario(
        "file_access",
        head="import os",
        body="result = os.access(HERE / 'run.sh', os.X_OK)",
        files={"run.sh": ""},
        change={"run.sh": lambda path: path.chmod(0o755)},
    ),
    Scenario(
        "file_found_on_a_path",
        head="import shutil",
        body="result = shutil.which('tool', path=str(HERE / 'bin'))",
        files={"bin/other": ""},
        change={"bin/tool": lambda path: (path.write_text(""), path.chmod(0o755))},
    ),
    Scenario(
        "file_size",
        head="import os",
        body="result = os.path.getsize(HERE / 'data.txt')",
        files={"data.txt": "1"},
        change={"data.txt": "22"},
    ),
    Scenario(
        "link_points_elsewhere",
        body="result = (HERE / 'current' / 'data.txt').read_text()",
        files={"v1/data.txt": "1", "v2/data.txt": "2"},
        make=_versions,
        change={"current": _retarget},
    ),
    *(
        Scenario(
            f"link_on_the_way_of_what_is_the_same_for_{what}",
            head="import os",
            body=f"""
            one, other = (HERE / name / "data.txt" for name in ("v1", "current"))
            result = {line}
            """,
            files={"v1/data.txt": "1", "v2/data.txt": "1"},
            make=_versions,
            change={"current": _retarget},
        )
        for what, line in (
            ("os", "os.path.samefile(one, other)"),
            ("pathlib", "one.samefile(other)"),
        )
    ),
    Scenario(
        "link_itself_is_read",
        head="import os",
        body="result = os.readlink(HERE / 'current')",
        files={"v1/data.txt": "1", "v2/data.txt": "1"},
        make=_versions,
        change={"current": _retarget},
    ),
    Scenario(
        "directory_removed",
        head="import os",
        body="result = os.path.isdir(HERE / 'in') and os.listdir(HERE / 'in')",
        files={"in/a.txt": "1"},
        change={"in": lambda path: shutil.rmtree(path)},
    ),
    Scenario(
        "directory_renamed",
        body="result = (HERE / 'in').exists()",
        files={"in/a.txt": "1"},
        change={"in": _rename},
    ),
    Scenario(
        "data_file_of_an_earlier_test_kept_by_a_module",
        files={
            "data.txt": "1",
            "helper.py": f"""
            from functools import cache
            from pathlib import Path
            HERE = Path(__file__).parent
            @cache
            def load():
                return {_READ}
            """,
            "test_a.py": """
            from counter import count
            from .helper import load

            def test_a():
                count("SELF.a")
                assert load()

            def test_b():
                count("SELF.b")
                assert load()
            """,
        },
        change={"data.txt": "2"},
        stale=["a"],
        free=["b"],
    ),
    Scenario(
        "odd_characters_in_a_name",
        body="result = [p.read_text() for p in sorted((HERE / 'in').iterdir())]",
        files={"in/ä <b>\\n'\"%s \udcff.txt": "1", "in/{}": "1"},
        change={"in/ä <b>\\n'\"%s \udcff.txt": "2"},
    ),
    Scenario(
        "lines_and_control_characters_in_a_name",
        body="result = [p.read_text() for p in sorted((HERE / 'in').iterdir())]",
        files={"in/a\nfile changed: b\r\x1b[31m\t\x7f": "1", "in/\n": "1"},
        change={"in/a\nfile changed: b\r\x1b[31m\t\x7f": "2"},
        forms=EVERY,
    ),
    Scenario(
        "directory_whose_name_is_no_utf8",
        head="import os",
        body="""
        path = os.fsencode(HERE) + b"/in\\xff\\n"
        result = [os.listdir(path), open(path + b"/x").read()]
        """,
        files={"in\udcff\n/x": "1"},
        change={"in\udcff\n/x": "2"},
        forms=EVERY,
    ),
    Scenario(
        "link_loop_becomes_a_file",
        body="""
        try:
            result = (HERE / "loop").read_text()
        except OSError:
            result = None
        """,
        make=lambda directory: (directory / "loop").symlink_to("loop"),
        change={"loop": lambda path: (path.unlink(), path.write_text("1"))},
    ),
    Scenario(
        "fifo_vanishes",
        head="import os",
        body="result = os.path.exists(HERE / 'pipe') and sorted(os.listdir(HERE))",
        make=lambda directory: os.mkfifo(directory / "pipe"),
        change={"pipe": None},
    ),
    Scenario(
        "fifo_becomes_a_file",
        head="import os",
        body="""
        handle = os.open(HERE / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        result = os.read(handle, 9)
        os.close(handle)
        """,
        make=lambda directory: os.mkfifo(directory / "pipe"),
        change={"pipe": lambda path: (path.unlink(), path.write_text("1"))},
    ),
    Scenario(
        "socket_file_is_listed_and_looked_at",
        head="import os",
        body="result = [(e.name, e.stat().st_mode) for e in os.scandir(HERE / 'in')]",
        files={"in/x": ""},
        make=lambda directory: _socket(directory / "in" / "s"),
        change={"in/s": None},
    ),
    Scenario(
        "huge_sparse_file_is_read_at_both_ends",
        head="import os",
        body="""
        with open(HERE / "huge", "rb") as f:
            first = f.read(1)
            f.seek(-1, os.SEEK_END)
            result = first + f.read(1)
        """,
        make=lambda directory: _sparse(directory / "huge", 10 << 30),
        change={"huge": _mark_the_end},
    ),
    Scenario(
        "huge_sparse_file",
        body="""
        with open(HERE / "huge", "rb") as f:
            result = f.read(1)
        """,
        make=lambda directory: _sparse(directory / "huge", 10 << 30),
        change={"huge": lambda path: _sparse(path, 9 << 30)},
    ),
    Scenario(
        "directory_removed_by_the_computation",
        head="import os, shutil, tempfile",
        body="""
        before = os.getcwd()
        where = tempfile.mkdtemp()
        os.chdir(where)
        shutil.rmtree(where)
        try:
            result = os.path.exists("x")
        finally:
            os.chdir(before)
        result = (HERE / "data.txt").read_text()
        """,
        files={"data.txt": "1"},
        change={"data.txt": "2"},
    ),
]

ENVIRONMENT = [
    Scenario(
        "variable_of_the_body",
        head="import os",
        body="result = os.environ['LADDER_SELF']",
        environ={"LADDER_variable_of_the_body": ("1", "2")},
        named=["env changed: LADDER_SELF"],
        forms=EVERY,
    ),
    Scenario(
        "variable_by_getenv",
        head="from os import getenv",
        body="result = getenv('LADDER_SELF')",
        environ={"LADDER_variable_by_getenv": ("1", "2")},
    ),
    Scenario(
        "variable_by_early_bound_environ",
        head="from os import environ",
        body="result = environ.get('LADDER_SELF')",
        environ={"LADDER_variable_by_early_bound_environ": ("1", "2")},
    ),
    Scenario(
        "variable_appears",
        head="import os",
        body="result = 'LADDER_SELF' in os.environ",
        environ={"LADDER_variable_appears": (None, "")},
        named=["env appeared: LADDER_SELF"],
        forms=EVERY,
    ),
    Scenario(
        "variable_vanishes",
        head="import os",
        body="result = os.environ.get('LADDER_SELF')",
        environ={"LADDER_variable_vanishes": ("1", None)},
        named=["env vanished: LADDER_SELF"],
        forms=EVERY,
    ),
    Scenario(
        "variable_as_bytes",
        head="import os",
        body="result = os.environb.get(b'LADDER_SELF')",
        environ={"LADDER_variable_as_bytes": ("1", "2")},
    ),
    Scenario(
        "variable_in_a_path",
        head="import os",
        body="result = os.path.expandvars('$LADDER_SELF/x')",
        environ={"LADDER_variable_in_a_path": ("1", "2")},
    ),
    Scenario(
        "variable_at_import",
        head="from .settings import DEBUG",
        body="result = DEBUG",
        files={"settings.py": "import os\nDEBUG = os.environ.get('LADDER_SELF')\n"},
        environ={"LADDER_variable_at_import": ("1", "2")},
        named=["env changed: LADDER_SELF"],
        forms=EVERY,
    ),
    Scenario(
        "variable_at_import_of_the_test",
        head="import os\nDEBUG = os.environ.get('LADDER_SELF')",
        body="result = DEBUG",
        environ={"LADDER_variable_at_import_of_the_test": ("1", "2")},
        forms=EVERY,
    ),
    Scenario(
        "variable_that_a_test_sets_first",
        files={
            "test_a.py": """
            import os
            from counter import count

            def test_a(monkeypatch):
                count("SELF.a")
                monkeypatch.setenv("LADDER_SELF", "5")
                assert os.environ["LADDER_SELF"] == "5"
            """
        },
        environ={"LADDER_variable_that_a_test_sets_first": ("1", "2")},
        expect=Expect.KEPT,
    ),
]
