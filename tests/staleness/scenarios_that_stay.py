"""What must stay cached, and what should."""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

from ladder import EVERY, Expect, Scenario
from scenarios_of_files import MADE_AND_REMOVED, NO_CHILDREN

_CALLERS_NAME = """
import sys

def f():
    frame = sys._getframe(1)
    names = frame.f_globals if frame is not None else None
    if names is not None:
        return 1 + len(names["__name__"]) - len(names.get("__name__", ""))
"""
_HELPER = "def price(x):\n    return x * 2\n"
_ENDPOINT = """
import operator

FUNCTIONS = {name: found for name, found in vars(operator).items() if callable(found)}

class Endpoint:
    def methods(self):
        return [name for name in ("GET", "PUT") if getattr(self, name.lower(), None)]

    def all(self):
        return len(dir(self)), FUNCTIONS["add"](1, 2), getattr(FUNCTIONS, "size", int("3"))

    @classmethod
    def of_class(cls):
        return sorted(dir(cls))
"""
_BOX = """
class Box:
    def __init__(self, module):
        self.module = module

    def size(self):
        return listed(self.module) + listed(self)

def listed(thing):
    return len(dir(thing))

"""
_BODY = {"head": "from .helper import price", "body": "result = price(2)"}


def _touch(path: Path) -> None:
    os.utime(path, (2_000_000_000, 2_000_000_000))


def _keeps(name: str, **given: object) -> Scenario:
    return Scenario(name, expect=Expect.KEPT, **given)  # type: ignore[arg-type]


KEPT = [
    _keeps(
        "what_tests_make_and_remove",
        files=MADE_AND_REMOVED,
        group=NO_CHILDREN,
        change={"maker.py": "# names\n" + textwrap.dedent(MADE_AND_REMOVED["maker.py"])},
    ),
    _keeps(
        "parts_that_need_no_others_in_another_order",
        **_BODY,
        files={"helper.py": _HELPER + "import json\nLIMIT = 2\ndef other(x: int = 1):\n    pass\n"},
        change={
            "helper.py": "import json\ndef other(x: int = 1):\n    pass\nLIMIT = 2\n" + _HELPER
        },
    ),
    _keeps(
        "a_new_function_beside_what_asks_for_any_attribute",
        head="from .helper import Endpoint, price",
        body="result = price(2), Endpoint().methods(), Endpoint().all(), Endpoint.of_class()",
        files={"helper.py": _HELPER + _ENDPOINT},
        change={"helper.py": _HELPER + _ENDPOINT + "\ndef other():\n    return 1\n"},
        forms=EVERY,
    ),
    _keeps("nothing_changed", **_BODY, files={"helper.py": _HELPER}, forms=EVERY),
    _keeps(
        "a_new_constant_beside_what_lists_an_object_that_has_a_module",
        group="an object's module",
        head="from .helper import Box",
        body="result = Box(2).size()",
        files={"helper.py": _BOX},
        change={"helper.py": _BOX + "LIMIT = 3\n"},
        forms=EVERY,
    ),
    _keeps(
        "another_constant_of_the_module_of_what_is_unpickled",
        head="import pickle\nfrom . import kinds",
        body="result = pickle.loads(b'cSELF.kinds\\nKind\\n.').limit",
        files={"kinds.py": "class Kind:\n    limit = 1\nVERSION = '1'\n"},
        change={"kinds.py": "class Kind:\n    limit = 1\nVERSION = '2'\n"},
        forms=EVERY,
    ),
    _keeps(
        "imports_of_what_is_loaded_anyhow",
        group="loaded modules",
        head="import sys",
        body="result = ('SELF.' + 'other') in sys.modules",
        files={"test_other.py": "import json\n\ndef test_other():\n    pass\n"},
        change={
            "test_other.py": """
            import os.path
            from collections import OrderedDict
            from collections.abc import Mapping

            def test_other():
                pass
            """
        },
    ),
    _keeps(
        "comment",
        **_BODY,
        files={"helper.py": _HELPER},
        change={"helper.py": "# rates\ndef price(x):  # of x\n    # twice\n    return x * 2\n"},
        forms=EVERY,
    ),
    _keeps(
        "blank_lines_and_formatting",
        **_BODY,
        files={"helper.py": _HELPER},
        change={"helper.py": "\n\ndef price( x ):\n\n    return (x\n        * 2)\n\n"},
        forms=EVERY,
    ),
    _keeps(
        "touch", **_BODY, files={"helper.py": _HELPER}, change={"helper.py": _touch}, forms=EVERY
    ),
    _keeps(
        "touch_of_a_data_file",
        body="result = (HERE / 'data.txt').read_text()",
        files={"data.txt": "1"},
        change={"data.txt": _touch},
        forms=EVERY,
    ),
    _keeps(
        "data_file_rewritten_with_the_same_bytes",
        body="result = (HERE / 'data.txt').read_text()",
        files={"data.txt": "1"},
        change={"data.txt": "1"},
    ),
    _keeps(
        "unrelated_file",
        **_BODY,
        files={"helper.py": _HELPER, "other.py": "x = 1\n", "data.txt": "1"},
        change={"other.py": "x = 2\n", "data.txt": "2", "new.txt": "1", "fresh.py": "y = 1\n"},
        forms=EVERY,
    ),
    _keeps(
        "other_functions_body",
        **_BODY,
        files={"helper.py": _HELPER + "def other():\n    return 1\n"},
        change={"helper.py": _HELPER + "def other():\n    return 2\n"},
        forms=EVERY,
    ),
    _keeps(
        "comment_in_the_conftest",
        files={
            "conftest.py": "import pytest\n@pytest.fixture\ndef value():\n    return 1\n",
            "test_a.py": """
            from counter import count

            def test_a(value):
                count("SELF.a")
            """,
        },
        change={
            "conftest.py": "import pytest\n# one\n@pytest.fixture\ndef value():\n    return 1\n"
        },
    ),
    _keeps(
        "new_helpers_in_the_conftest",
        files={
            "conftest.py": "import pytest\ndef pytest_runtest_call(item):\n    pass\n",
            "test_a.py": "from counter import count\ndef test_a(tmp_path):\n    count('SELF.a')\n",
        },
        change={
            "conftest.py": """
            import re
            import pytest

            LIMIT = 3

            def pytest_runtest_call(item):
                pass

            def helper():
                return re.compile("x")

            @pytest.fixture
            def fresh():
                return helper()
            """
        },
    ),
    _keeps(
        "comment_in_the_test",
        files={"test_a.py": "from counter import count\ndef test_a():\n    count('SELF.a')\n"},
        change={
            "test_a.py": "# why\nfrom counter import count\n\ndef test_a():\n    count('SELF.a')\n"
        },
    ),
    _keeps(
        "new_test_in_the_file",
        files={"test_a.py": "from counter import count\ndef test_a():\n    count('SELF.a')\n"},
        change={
            "test_a.py": """
            from counter import count
            def test_new():
                assert True
            def test_a():
                count('SELF.a')
            """
        },
    ),
    _keeps(
        "local_variable_of_another_function_is_no_longer_bound",
        **_BODY,
        files={"helper.py": _HELPER + "def other(x):\n    y = x\n    return y\n"},
        change={"helper.py": _HELPER + "def other(x):\n    return y\n"},
        forms=EVERY,
    ),
    _keeps(
        "another_tests_module_where_only_the_callers_own_is_asked_for",
        group="callers",
        files={
            "sentinels.py": """
            import sys

            def make():
                frame = sys._getframe(1)
                module = frame.f_globals.get("__name__")
                if not module or module not in sys.modules:
                    raise ValueError
                return module
            """,
            "used.py": "from .sentinels import make\nMISSING = make()\n",
            "unused.py": "VALUE = 1\n",
            "test_a.py": """
            from counter import count
            from .used import MISSING

            def test_a():
                count("SELF.a")
                assert MISSING
            """,
            "test_b.py": """
            from . import unused

            def test_b():
                assert unused.VALUE
            """,
        },
        change={"unused.py": "VALUE = 2\n"},
    ),
    _keeps(
        "new_unused_function_where_a_local_name_of_the_callers_globals_is_asked_for_one",
        head="from .helper import f",
        body="result = f()",
        files={"helper.py": _CALLERS_NAME},
        change={"helper.py": _CALLERS_NAME + "\ndef unused():\n    return 1\n"},
        forms=EVERY,
    ),
    _keeps(
        "new_unused_function_at_the_end",
        **_BODY,
        files={"helper.py": _HELPER},
        change={"helper.py": _HELPER + "def unused():\n    return 1\n"},
        forms=EVERY,
    ),
    _keeps(
        "new_unused_function_at_the_top",
        **_BODY,
        files={"helper.py": _HELPER},
        change={"helper.py": "def unused():\n    return 1\n" + _HELPER},
        forms=EVERY,
    ),
    _keeps(
        "type_hints_of_a_function_not_run",
        **_BODY,
        files={"helper.py": _HELPER + "def other(x):\n    return 1\n"},
        change={"helper.py": _HELPER + "def other(x: int) -> int:\n    return 1\n"},
        forms=EVERY,
    ),
    _keeps(
        "generated_code",
        head="from .kinds import Point, Pair, Kind",
        body="result = (Point(1) == Point(2), repr(Pair(1, 2)), Kind(1))",
        files={
            "kinds.py": """
            import enum
            from collections import namedtuple
            from dataclasses import dataclass

            @dataclass(order=True)
            class Point:
                x: int

            Pair = namedtuple("Pair", "a b")

            class Kind(enum.IntEnum):
                A = 1
            """
        },
        forms=EVERY,
    ),
    _keeps(
        "file_written_first_by_the_same_computation",
        body="""
        (HERE / "out.txt").write_text("x")
        result = (HERE / "out.txt").read_text()
        """,
        change={"out.txt": "changed"},
        forms=EVERY,
    ),
    _keeps(
        "temporary_files",
        files={
            "test_a.py": """
            import tempfile
            from counter import count

            def test_a(tmp_path):
                count("SELF.a")
                (tmp_path / "x").write_text("1")
                assert (tmp_path / "x").read_text()
                with tempfile.TemporaryDirectory() as where:
                    open(where + "/y", "w").close()
                with tempfile.NamedTemporaryFile() as f:
                    f.write(b"1")
            """
        },
    ),
    _keeps(
        "temporary_directories_of_tests_of_one_name",
        files={
            "test_a.py": """
            import pytest
            from counter import count

            @pytest.mark.parametrize("n", range(40))
            def test_a(tmp_path, n):
                count(f"SELF.{n}")
            """
        },
        # On 3.11 so many calls may not be traced to the end: then what everyone imports counts.
        group="many calls",
    ),
    _keeps(
        "temporary_files_of_an_import",
        files={
            "probe.py": """
            import os, tempfile

            with tempfile.TemporaryDirectory() as where:
                target, link = os.path.join(where, "target"), os.path.join(where, "link")
                open(target, "w").close()
                os.symlink(target, link)
                LINKS = not open(link).read()
                os.rename(target, os.path.join(where, "moved"))
                LISTED = len(os.listdir(where)) == 2
            """,
            "test_a.py": """
            from counter import count
            from .probe import LINKS

            def test_a():
                count("SELF.a")

            def test_b():
                from . import lazy
                count("SELF.b")
            """,
            "lazy.py": """
            import os, shutil, tempfile

            where = tempfile.mkdtemp()
            FOUND = os.path.exists(where) and os.listdir(where)
            shutil.rmtree(where)
            """,
        },
    ),
    _keeps(
        "random_and_time",
        head="import random, time, uuid",
        body="random.random(), time.time(), uuid.uuid4()\nresult = 1",
    ),
    _keeps(
        "own_listener",
        files={
            "test_a.py": """
            import socket
            from counter import count

            def test_a():
                count("SELF.a")
                with socket.create_server(("127.0.0.1", 0)) as server:
                    socket.create_connection(server.getsockname(), timeout=9).close()
            """
        },
    ),
    _keeps(
        "threads",
        head="from concurrent.futures import ThreadPoolExecutor\nfrom .helper import price",
        body="with ThreadPoolExecutor(2) as pool:\n    result = list(pool.map(price, range(4)))",
        files={"helper.py": _HELPER},
    ),
    _keeps(
        "failed_import",
        body="""
        try:
            import no_such_module_SELF
        except ImportError:
            result = 0
        """,
        forms=EVERY,
    ),
    _keeps(
        "warnings_and_logging",
        head="import logging, warnings",
        body="warnings.warn('x')\nlogging.getLogger('SELF').warning('x')\nresult = 1",
    ),
]

if sys.version_info >= (3, 12):  # before, all that may have run counts
    KEPT += [
        _keeps(
            "a_module_that_inspect_looks_at_to_find_another",
            head="import inspect\nfrom .helper import price",
            body="result = price(2), inspect.stack()[0].function, inspect.getmodule(test_it)",
            files={"helper.py": _HELPER},
            change={"helper.py": _HELPER + "\ndef other():\n    return 1\n"},
        ),
        _keeps(
            "other_methods_body",
            head="from .helper import Box",
            body="result = Box().a()",
            files={
                "helper.py": """
                class Box:
                    def a(self):
                        return 1
                    def b(self):
                        return 1
                """
            },
            change={
                "helper.py": """
                class Box:
                    def a(self):
                        return 1
                    def b(self):
                        return 2
                """
            },
            forms=EVERY,
        ),
        _keeps(
            "module_that_another_function_imports",
            **_BODY,
            files={
                "helper.py": _HELPER
                + "def other():\n    from . import heavy\n    return heavy.X\n",
                "heavy.py": "X = 1\n",
            },
            change={"heavy.py": "X = 2\n"},
            forms=EVERY,
        ),
        _keeps(
            "module_that_another_test_imports_in_its_body",
            files={
                "heavy.py": "X = 1\n",
                "test_a.py": """
                def test_a():
                    from . import heavy
                    assert heavy.X
                """,
                "test_b.py": """
                from counter import count

                def test_b():
                    count("SELF.b")
                """,
            },
            change={"heavy.py": "X = 2\n"},
        ),
        _keeps(
            "nested_function_that_did_not_run",
            head="from .helper import make",
            body="result = make(2)[0]()",
            files={
                "helper.py": """
                def make(x):
                    def price():
                        return x * 2
                    class Other:
                        def price(self):
                            return x * 3
                    return price, Other()
                """
            },
            change={
                "helper.py": """
                def make(x):
                    def price():
                        return x * 2
                    class Other:
                        def price(self):
                            return x * 4
                    return price, Other()
                """
            },
            forms=EVERY,
        ),
    ]
