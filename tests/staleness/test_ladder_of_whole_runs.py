"""What acts on a whole run climbs the ladder in a project of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ladder import counter_source, run_pytest

_TEST = """
import warnings
from counter import count

def test_it():
    count("ran")
    warnings.warn("careful")
"""


@dataclass(frozen=True)
class Whole:
    """A change of a whole run: of files, of options, of the interpreter's flags or of the
    environment (before, after)."""

    name: str
    files: Mapping[str, str] = field(default_factory=dict)
    change: Mapping[str, str] = field(default_factory=dict)
    options: tuple[Sequence[str], Sequence[str]] = ((), ())
    flags: tuple[Sequence[str], Sequence[str]] = ((), ())
    variables: tuple[Mapping[str, str], Mapping[str, str]] = field(default=({}, {}))
    stale: bool = True

    def __str__(self) -> str:
        return self.name


WHOLE = [
    Whole("ini file appears", change={"pytest.ini": "[pytest]\naddopts = -p no:doctest\n"}),
    Whole(
        "filterwarnings",
        {"pytest.ini": "[pytest]\n"},
        {"pytest.ini": "[pytest]\nfilterwarnings = ignore\n"},
    ),
    Whole("another way of reporting", options=((), ("--tb=short", "-ra")), stale=False),
    Whole("selection by name", options=((), ("-k", "test_it")), stale=False),
    Whole("warnings as errors", options=((), ("-W", "error::FutureWarning"))),
    Whole("plugin switched off", options=((), ("-p", "no:faulthandler"))),
    Whole("ini overridden", options=((), ("-o", "xfail_strict=true"))),
    Whole("strict markers", options=((), ("--strict-markers",))),
    Whole("optimized", flags=((), ("-O",))),
    Whole("utf-8 mode", flags=((), ("-X", "utf8"))),
    Whole("hash seed", variables=({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"})),
    Whole("time zone", variables=({"TZ": "UTC"}, {"TZ": "Asia/Tokyo"})),
    Whole("unrelated variable", variables=({"LADDER": "1"}, {"LADDER": "2"}), stale=False),
    Whole(
        "new conftest hook at the root",
        change={"conftest.py": "def pytest_runtest_setup(item):\n    pass\n"},
    ),
    Whole(
        "new autouse fixture at the root",
        {"conftest.py": "import pytest\n"},
        {"conftest.py": "import pytest\n@pytest.fixture(autouse=True)\ndef a():\n    yield\n"},
    ),
    Whole(
        "comment in the conftest at the root",
        {"conftest.py": "import pytest\n"},
        {"conftest.py": "# the tools\nimport pytest\n"},
        stale=False,
    ),
    Whole(
        "plugin of the project",
        {"conftest.py": "pytest_plugins = ['own']\n", "own.py": "X = 1\n"},
        {"own.py": "X = 1\ndef pytest_runtest_setup(item):\n    pass\n"},
    ),
    Whole(
        "plugin of the project given as an option",
        {"own.py": "X = 1\n"},
        {"own.py": "X = 2\n"},
        options=(("-p", "own"), ("-p", "own")),
    ),
    Whole(
        "helper of a plugin",
        {
            "conftest.py": "import tool\ndef pytest_runtest_setup(item):\n    tool.go()\n",
            "tool.py": "def go():\n    return 1\n",
        },
        {"tool.py": "def go():\n    return 2\n"},
    ),
    Whole("module of the standard library hidden", change={"sched.py": ""}),
    Whole("package that hides one", change={"sched/__init__.py": "", "sched/x.txt": ""}),
    Whole("directory of such a name", change={"sched/notes.txt": ""}, stale=False),
    Whole("unrelated file at the root", change={"notes.txt": "1"}, stale=False),
]


class Runs:
    """A project on which pytest is run several times."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "project"
        self.root.mkdir()
        self._counts = directory / "counts"
        self.write("counter.py", counter_source(self._counts))

    def write(self, name: str, text: str) -> None:
        """Writes a file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(
        self,
        *options: str,
        flags: Sequence[str] = (),
        variables: Mapping[str, str | None] | None = None,
        root: Path | None = None,
    ) -> list[str]:
        """What was counted during one run in which all tests must pass."""
        self._counts.write_text("")
        completed = run_pytest(
            root or self.root, "--cache-tests=all", *options, variables=variables, python=flags
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return sorted(self._counts.read_text().split())


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """An empty project."""
    return Runs(tmp_path)


@pytest.mark.parametrize("whole", WHOLE, ids=str)
def test_what_acts_on_a_whole_run(runs: Runs, whole: Whole) -> None:
    """An outcome is kept for runs alike, and only for those."""

    def run(moment: int) -> list[str]:
        return runs.run(
            *whole.options[moment], flags=whole.flags[moment], variables=whole.variables[moment]
        )

    runs.write("test_it.py", _TEST)
    for name, text in whole.files.items():
        runs.write(name, text)
    assert run(0) == ["ran"]
    assert run(0) == []
    for name, text in whole.change.items():
        runs.write(name, text)
    assert run(1) == (["ran"] if whole.stale else [])
    assert run(1) == []


_VALUES = """
from counter import count
from pytest_taskcache import cached, cached_fixture

@cached(serializer="json")
def value():
    count("value")
    return 1

@cached_fixture(serializer="json")
def given():
    count("given")
    return 1

def test_it(given):
    assert value() == given
"""

_OF_BOTH = ("optimized", "utf-8 mode", "time zone")
_OF_VALUES = {
    **{whole.name: whole for whole in WHOLE if whole.name in _OF_BOTH},
    "locale": Whole("locale", variables=({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C"})),
    "hash seed": Whole(
        "hash seed", variables=({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2"}), stale=False
    ),
}


@pytest.mark.parametrize("name", _OF_VALUES)
def test_what_acts_on_the_values_of_a_whole_run(runs: Runs, name: str) -> None:
    """Functions and fixtures rest on the interpreter, too, but for a seed that is drawn anew."""
    whole = _OF_VALUES[name]

    def run(moment: int) -> list[str]:
        own = {"flags": whole.flags[moment], "variables": whole.variables[moment]}
        return runs.run("--cache-tests=none", **own)

    runs.write("test_it.py", _VALUES)
    assert run(0) == ["given", "value"]
    assert run(0) == []
    assert run(1) == (["given", "value"] if whole.stale else [])
    assert run(1) == []


def test_switching_back_is_a_hit(runs: Runs) -> None:
    """Several variants are kept, so that going back to an earlier state runs nothing."""
    runs.write("test_it.py", "from helper import x\nfrom counter import count\n")
    runs.write(
        "test_it.py",
        "from helper import x\nfrom counter import count\n"
        "def test_it():\n    count('ran')\n    assert x()\n",
    )
    for value, expected in ((1, ["ran"]), (2, ["ran"]), (1, []), (2, []), (3, ["ran"]), (1, [])):
        runs.write("helper.py", f"def x():\n    return {value}\n")
        assert runs.run() == expected


def test_another_checkout_hits(runs: Runs, tmp_path: Path) -> None:
    """Paths are kept relative to the root: a copy of the project with its cache runs nothing,
    until something in the copy changes."""
    runs.write("data.txt", "1")
    runs.write(
        "test_it.py",
        "import pathlib\nfrom counter import count\ndef test_it():\n    count('ran')\n"
        "    assert (pathlib.Path(__file__).parent / 'data.txt').read_text()\n",
    )
    assert runs.run() == ["ran"]
    copy = tmp_path / "elsewhere"
    shutil.copytree(runs.root, copy)
    assert runs.run(root=copy) == []
    (copy / "data.txt").write_text("2")
    assert runs.run(root=copy) == ["ran"]
    assert runs.run() == []


_SHARED = """
import pathlib, pytest
from counter import count
from pytest_taskcache import cached_fixture
HERE = pathlib.Path(__file__).parent

@{kind}(scope="session")
def value():
    return (HERE / "data.txt").read_text()
"""


def _two_tests(test: str) -> str:
    return f"from counter import count\ndef {test}(value):\n    count('{test}')\n    assert value\n"


@pytest.mark.parametrize("kind", ["cached_fixture", "pytest.fixture"])
def test_what_a_shared_fixture_read_is_known_to_a_test_recorded_later(
    runs: Runs, kind: str
) -> None:
    """A test that met the fixture as a hit depends on what the fixture read long before."""
    runs.write("data.txt", "1")
    runs.write("conftest.py", _SHARED.format(kind=kind))
    runs.write("test_a.py", _two_tests("test_a"))
    assert runs.run() == ["test_a"]
    runs.write("test_b.py", _two_tests("test_b"))
    assert runs.run() == ["test_b"]
    assert runs.run() == []
    runs.write("data.txt", "2")
    assert runs.run() == ["test_a", "test_b"]
    assert runs.run() == []


@pytest.mark.parametrize("kind", ["cached_fixture", "pytest.fixture"])
def test_what_a_shared_fixture_read_is_known_in_every_worker(runs: Runs, kind: str) -> None:
    """With two workers, of which one computes the fixture, tests in both depend on its file."""
    pytest.importorskip("xdist")
    runs.write("data.txt", "1")
    runs.write("conftest.py", _SHARED.format(kind=kind))
    names = [f"test_{letter}" for letter in "abcdef"]
    for name in names:
        runs.write(f"{name}.py", _two_tests(name))
    two = ("-p", "xdist", "-n", "2")
    assert runs.run(*two) == names
    assert runs.run(*two) == []
    runs.write("data.txt", "2")
    assert runs.run(*two) == names
    assert runs.run(*two) == []
    assert runs.run() == []


@pytest.mark.parametrize("first", ["test_a.py", "test_b.py"])
def test_whoever_imports_first_all_depend_on_what_the_import_read(runs: Runs, first: str) -> None:
    """Tests recorded in different runs and orders know what a module read at import."""
    runs.write("data.txt", "1")
    runs.write(
        "lazy.py", "import pathlib\nX = (pathlib.Path(__file__).parent / 'data.txt').read_text()\n"
    )
    for name in ("test_a", "test_b"):
        runs.write(
            f"{name}.py",
            f"from counter import count\ndef {name}():\n    count('{name}')\n"
            "    import lazy\n    assert lazy.X\n",
        )
    assert runs.run(first) == [first.removesuffix(".py")]
    assert len(runs.run()) == 1
    assert runs.run() == []
    runs.write("data.txt", "2")
    assert runs.run() == ["test_a", "test_b"]


_BESIDE = {
    "pkg/__init__.py": "",
    "pkg/data/own.txt": "",
    "pkg/lib.py": """
import functools, pathlib
DATA = pathlib.Path(__file__).parent / "data"
@functools.cache
def names():
    return [each.name for each in DATA.iterdir()]
""",
    "pkg/test_a.py": """
import pathlib, subprocess
import pytest
from . import lib
HERE = pathlib.Path(__file__).parent
pytestmark = pytest.mark.cached(False)
def test_makes_another():
    (HERE / "data/other").mkdir()
    (HERE / "data/other").rmdir()
def test_makes():
    subprocess.run(["touch", "data/made"], cwd=HERE, check=True)
def test_reads():
    assert len(lib.names()) == 2
""",
    "pkg/test_b.py": "def test_whose_record_is_written():\n    pass\n",
    "pkg/test_c.py": """
import pathlib, subprocess
import pytest
@pytest.mark.cached(False)
def test_removes():
    here = pathlib.Path(__file__).parent
    subprocess.run(["rm", "data/made"], cwd=here, check=True)
""",
    "pkg/test_d.py": """
from counter import count
from . import lib
def test_inherits():
    count("inherits")
    assert lib.names
""",
}


def test_what_a_child_makes_beside_what_tests_make_and_remove(runs: Runs) -> None:
    """Nobody sees by what a child process makes something: that a directory is again as it was
    before tests were seen to make and remove something else in it says nothing of that."""
    for name, text in _BESIDE.items():
        runs.write(name, text)
    assert runs.run() == ["inherits"]
    assert runs.run() == ["inherits"]


_AFTER = {
    "lib.py": _BESIDE["pkg/lib.py"],
    "data/own.txt": "",
    "test_a.py": """
import subprocess
import lib
def test_looks_and_has_a_child_make_something():
    lib.names()
    subprocess.run(["touch", "data/made"], cwd=lib.DATA.parent, check=True)
""",
    "test_b.py": """
from counter import count
import lib
def test_inherits():
    count("inherits")
    assert isinstance(lib.names(), list)
""",
}


def test_what_a_child_makes_after_a_look_at_it(runs: Runs) -> None:
    """What was touched counts as it was then, whatever a child process makes of it in the same
    test: in the next run the first look finds more."""
    for name, text in _AFTER.items():
        runs.write(name, text)
    assert runs.run() == ["inherits"]
    assert runs.run() == ["inherits"]
    assert runs.run() == []


def test_what_a_test_patches_until_it_is_torn_down(runs: Runs) -> None:
    """What the cache does for a test, it does when nothing is patched any more."""
    runs.write(
        "test_it.py",
        """
import pathlib
from counter import count

def test_it(monkeypatch):
    count("patches")
    monkeypatch.setattr(pathlib.Path, "__init__", lambda self, *parts: 1 / 0)

def test_after():
    count("after")
""",
    )
    assert runs.run() == ["after", "patches"]
    assert runs.run() == []


@pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="from 3.12 on")
@pytest.mark.parametrize(
    "deed",
    [
        "sys.monitoring.register_callback(tool, sys.monitoring.events.PY_START, None)",
        "sys.monitoring.free_tool_id(tool)",
    ],
)
def test_the_monitoring_of_calls_is_taken_away(runs: Runs, deed: str) -> None:
    """Code that may have run unseen counts as having run, and the run ends as it would."""
    runs.write("lib.py", "def go():\n    return 1\n")
    runs.write(
        "test_it.py",
        f"""
import sys
import pytest
import lib
from counter import count

@pytest.mark.cached(False)
def test_deed():
    for tool in filter(sys.monitoring.get_tool, range(6)):
        {deed}

def test_it():
    count("it")
    assert lib.go()

def test_other():
    count("other")
""",
    )
    assert runs.run() == ["it", "other"]
    assert runs.run() == []
    runs.write("lib.py", "def go():\n    return 2\n")
    assert "it" in runs.run()


def test_a_lazy_module_that_sleeps_until_a_test_uses_it(runs: Runs) -> None:
    """Whoever uses it depends on it, and nobody else wakes it."""
    runs.write(
        "lib.py",
        """
import importlib.util, sys
spec = importlib.util.find_spec("rates")
spec.loader = importlib.util.LazyLoader(spec.loader)
rates = sys.modules["rates"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rates)
""",
    )
    runs.write("rates.py", "RATE = 1\n")
    runs.write(
        "test_it.py",
        """
import lib
from counter import count
from pytest_taskcache import cached, cached_fixture

@cached
def value():
    count("value")
    return lib.rates.RATE

@cached_fixture
def given():
    count("given")
    return lib.rates.RATE

def test_value():
    count("test-value")
    assert value()

def test_given(given):
    count("test-given")
    assert given

def test_rate():
    count("test-rate")
    assert lib.rates.RATE

def test_other():
    count("other")
""",
    )
    using = ["given", "test-given", "test-rate", "test-value", "value"]
    assert runs.run() == ["given", "other", *using[1:]]
    assert runs.run() == []
    runs.write("rates.py", "RATE = 2\n")
    assert set(using) <= set(runs.run())
    assert runs.run() == []


_LIBRARY = """
class Box:
    size = 1

    def __len__(self):
        return self.size

SEEN = []

def register(name):
    SEEN.append(name)
    return name

class Registry:
    names = []

    def __init_subclass__(cls):
        cls.names.append(cls.__name__)

def rate():
    return {rate}
"""

_READER = """
import lib
from counter import count

def test_a():
    count("test_a")
    assert (lib.Box.size, len(lib.Box()), lib.SEEN, lib.Registry.names) != () and lib.rate()
    {check}
"""

_OUTWARD = {
    "an attribute": ("lib.Box.size = {n}", "assert lib.Box.size == {n}"),
    "an attribute by name": ("setattr(lib.Box, 'size', {n})", "assert lib.Box.size == {n}"),
    "a special method": ("lib.Box.__len__ = lambda self: {n}", "assert len(lib.Box()) == {n}"),
    "a call": ("lib.register({n})", "assert lib.SEEN == [{n}]"),
    "a call for its value": ("x = lib.register({n})", "assert lib.SEEN == [{n}]"),
    "a loop": ("for x in [{n}]:\n    lib.SEEN.append(x)", "assert lib.SEEN == [{n}]"),
    "a try in a loop": (
        "for x in [{n}]:\n    try:\n        lib.register(x)\n    finally:\n        pass",
        "assert lib.SEEN == [{n}]",
    ),
    "a call of its own": ("def act():\n    lib.register({n})\nact()", "assert lib.SEEN == [{n}]"),
    "an annotation": ("lib.Box.size: int = {n}", "assert lib.Box.size == {n}"),
    "a decorator": ("@lib.register\ndef f{n}(): pass", "assert len(lib.SEEN) == 1"),
    "a class": ("class C{n}(lib.Registry): pass", "assert lib.Registry.names == ['C{n}']"),
    "an import": ("import helper", "assert lib.SEEN == [{n}]"),
}


@pytest.mark.parametrize("what", _OUTWARD)
def test_what_importing_a_test_file_does_to_others(runs: Runs, what: str) -> None:
    """A test that runs finds what importing all test files has made of the library, also of one
    whose own tests are replayed; and what it found there is known when that file is edited later,
    which was not imported when the test was recorded."""
    statement, check = _OUTWARD[what]

    def write(number: int) -> None:
        runs.write("helper.py", f"import lib\nlib.register({number})\n")
        text = statement.format(n=number)
        runs.write("test_b.py", f"import lib\n{text}\ndef test_b():\n    assert lib\n")

    runs.write("lib.py", _LIBRARY.format(rate=1))
    runs.write("test_a.py", _READER.format(check=check.format(n=5)))
    write(5)
    assert runs.run() == ["test_a"]
    runs.write("lib.py", _LIBRARY.format(rate=2))
    assert runs.run() == ["test_a"]
    assert runs.run() == []
    write(6)
    runs.write("test_a.py", _READER.format(check=check.format(n=6)))
    assert runs.run() == ["test_a"]
    runs.write("lib.py", _LIBRARY.format(rate=1))
    assert runs.run() == ["test_a"]


@pytest.mark.parametrize("what", [each for each in _OUTWARD if each not in ("a decorator",)])
def test_a_test_file_that_starts_to_act_on_others(runs: Runs, what: str) -> None:
    """The first of its kind in a file that is there, or in a new one: whoever reads what it
    changes runs again, whichever files had been imported when it was recorded."""
    statement, _ = _OUTWARD[what]
    plain = "import lib\ndef test_{0}():\n    assert lib\n"
    runs.write("lib.py", _LIBRARY.format(rate=1))
    runs.write("helper.py", "import lib\nlib.register(5)\n")
    runs.write("test_a.py", _READER.format(check="pass"))
    runs.write("test_b.py", plain.format("b"))
    assert runs.run() == ["test_a"]
    runs.write("lib.py", _LIBRARY.format(rate=2))
    assert runs.run() == ["test_a"]
    acting = plain.replace("\n", f"\n{statement.format(n=5)}\n", 1)
    runs.write("test_b.py", acting.format("b"))
    assert runs.run() == ["test_a"]
    runs.write("test_b.py", plain.format("b"))
    assert runs.run() == []
    if what not in ("a class", "a call for its value", "an import"):
        runs.write("test_c.py", acting.format("c"))
        assert runs.run() == ["test_a"]


def test_a_hook_that_only_some_runs_have(runs: Runs) -> None:
    """A hook that is called once for all tests acts on all: also where its conftest was not there
    when they were recorded, as another directory had been asked for."""
    hook = "def pytest_collection_modifyitems(config):\n    {0}\n"
    runs.write("lib.py", _LIBRARY.format(rate=1))
    runs.write("a/test_a.py", _READER.format(check="pass"))
    runs.write("b/test_b.py", "def test_b():\n    pass\n")
    runs.write("b/conftest.py", hook.format("config.addinivalue_line('markers', 'b')"))
    assert runs.run("a") == ["test_a"]
    assert runs.run() == []
    runs.write("b/conftest.py", hook.format("import lib\n    lib.Box.size = 7"))
    assert runs.run("a") == []
    assert runs.run() == ["test_a"]
    assert runs.run("a") == []
    assert runs.run() == []
    own = "def prepare():\n    import lib\n    lib.Box.size = 8\n"
    runs.write("b/conftest.py", own + hook.format("prepare()"))
    assert runs.run("a") == []
    assert runs.run() == ["test_a"]


@pytest.mark.parametrize("mark", ["skip", "xfail"])
@pytest.mark.parametrize("collect", ["auto", "real"])
def test_a_mark_that_only_some_runs_give(runs: Runs, mark: str, collect: str) -> None:
    """A hook of another directory's conftest gets all tests, and may mark them."""
    runs.write("pytest.ini", f"[pytest]\ntaskcache_collect = {collect}\n")
    runs.write("a/test_a.py", "def test_a():\n    pass\n")
    runs.write("b/test_b.py", "def test_b():\n    pass\n")
    runs.write(
        "b/conftest.py",
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        f"    for item in items:\n        item.add_marker(pytest.mark.{mark})\n",
    )
    assert "1 passed" in run_pytest(runs.root, "--cache-tests=all", "a").stdout
    assert "CACHED" in run_pytest(runs.root, "--cache-tests=all", "-v", "a").stdout
    ended = "2 skipped" if mark == "skip" else "2 xpassed"
    assert ended in run_pytest(runs.root, "--cache-tests=all").stdout


@pytest.mark.parametrize("what", _OUTWARD)
def test_a_test_file_that_acts_on_others_no_longer(runs: Runs, what: str) -> None:
    """Whoever read what it changed runs again, also if it is gone."""
    statement, _ = _OUTWARD[what]
    plain = "import lib\ndef test_b():\n    assert lib\n"
    runs.write("lib.py", _LIBRARY.format(rate=1))
    runs.write("helper.py", "import lib\nlib.register(5)\n")
    runs.write("test_a.py", _READER.format(check="pass"))
    runs.write("test_b.py", plain.replace("\n", f"\n{statement.format(n=5)}\n", 1))
    assert runs.run() == ["test_a"]
    runs.write("test_b.py", plain)
    assert runs.run() == ["test_a"]


def test_a_test_file_that_a_directory_hides(runs: Runs) -> None:
    """A directory of a test file's name is imported instead, which pytest says is an error."""
    runs.write("test_a.py", "def test_a():\n    pass\n")
    assert runs.run() == []
    assert runs.run() == []
    runs.write("test_a/__init__.py", "")
    completed = run_pytest(runs.root, "--cache-tests=all")
    assert "import file mismatch" in completed.stdout


def test_who_else_imported_what_acts_on_others(runs: Runs) -> None:
    """A helper counts as imported by each file that imports it, not by the first alone."""
    runs.write("lib.py", _LIBRARY.format(rate=1))
    runs.write("helper.py", "import lib\nlib.register(5)\n")
    runs.write("test_a.py", "import helper\n" + _READER.format(check="assert lib.SEEN == [5]"))
    runs.write("test_b.py", "import helper\ndef test_b():\n    assert helper\n")
    assert runs.run() == ["test_a"]
    runs.write("test_a.py", _READER.format(check="assert lib.SEEN == [5]"))
    assert runs.run() == ["test_a"]


_FRAMEWORK = """
import importlib

def pytest_configure():
    settings = importlib.import_module("settings")
    found.update((name, value) for name, value in vars(settings).items() if name.isupper())
    settings.finish(found)

found = {}

def parts():
    return found["PARTS"]
"""
_SETTINGS = {
    "settings.py": "from base import *\nOWN = 1\ndef finish(found):\n    pass\n",
    "base.py": "from made import made\nPARTS = made()\n",
    "made.py": "def made():\n    return [1]\ndef later():\n    return 1\n",
    "site-packages/ladder_framework.py": _FRAMEWORK,
    "site-packages/ladder_framework-1.dist-info/METADATA": "Name: ladder_framework\nVersion: 1\n",
    "site-packages/ladder_framework-1.dist-info/RECORD": "ladder_framework.py,,\n",
    "test_it.py": "import ladder_framework\nfrom counter import count\n"
    "def test_it():\n    count('ran')\n    assert ladder_framework.parts()\n",
    "test_later.py": "from made import later\nfrom counter import count\n"
    "def test_later():\n    count('later')\n    assert later()\n",
}


@pytest.mark.parametrize(
    ("name", "before", "after", "ran"),
    [
        ("settings.py", "OWN = 1", "PARTS = [2]", "ran"),
        ("settings.py", "pass", "found['PARTS'] = [2]", "ran"),
        ("base.py", "PARTS = made()", "PARTS = [2]", "ran"),
        ("made.py", "[1]", "[2]", "ran"),
        pytest.param(
            *("made.py", "return 1\n", "return 2\n", ""),
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="less precise"),
        ),
    ],
)
def test_settings_that_a_library_imports(
    runs: Runs, name: str, before: str, after: str, ran: str
) -> None:
    """A library reads a settings module by itself: no code of the project mentions what is in it,
    not even that others star-import, or compute for it."""
    for each, text in _SETTINGS.items():
        runs.write(f"lib/{each}" if each.startswith("site") else each, text)
    options = "-p", "ladder_framework"
    assert runs.run(*options) == ["later", "ran"]
    assert runs.run(*options) == []
    runs.write(name, _SETTINGS[name].replace(before, after))
    assert ("ran" if "ran" in runs.run(*options) else "") == ran
    assert runs.run(*options) == []


def test_settings_that_a_library_keeps_when_a_test_first_asks(runs: Runs) -> None:
    """The test that asked first is not the only one that has them."""
    for each, text in _SETTINGS.items():
        runs.write(f"lib/{each}" if each.startswith("site") else each, text)
    lazy = _FRAMEWORK.replace("pytest_configure", "load").replace(
        "    return found", "    if not found:\n        load()\n    return found"
    )
    runs.write("lib/site-packages/ladder_framework.py", lazy)
    runs.write("test_next.py", _SETTINGS["test_it.py"].replace("'ran'", "'next'"))
    assert sorted(runs.run()) == ["later", "next", "ran"]
    assert runs.run() == []
    runs.write("base.py", "PARTS = [2]\n")
    assert {"next", "ran"} <= set(runs.run())
    assert runs.run() == []


_LOADER = """
import importlib.machinery
import sys

class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec and name in ("base", "other"):
            spec.loader = Loader(name, spec.origin)
            return spec

sys.meta_path.insert(0, Finder)
"""


def test_a_loader_of_a_library_acts_for_who_imports(runs: Runs) -> None:
    """An edit of what one test imports by it runs that test."""
    runs.write("lib/site-packages/ladder_loader.py", _LOADER)
    at = "lib/site-packages/ladder_loader-1.dist-info/"
    runs.write(f"{at}METADATA", "Name: ladder_loader\nVersion: 1\n")
    runs.write(f"{at}RECORD", "ladder_loader.py,,\n")
    test = "from counter import count\ndef test_it():\n    import {0}\n    count('{0}')\n"
    runs.write("base.py", "PARTS = [1]\n")
    runs.write("other.py", "PARTS = [1]\n")
    runs.write("test_base.py", test.format("base"))
    runs.write("test_other.py", test.format("other"))
    options = "-p", "ladder_loader"
    assert sorted(runs.run(*options)) == ["base", "other"]
    runs.write("base.py", "PARTS = [2]\n")
    assert runs.run(*options) == ["base"]
