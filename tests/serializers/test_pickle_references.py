"""What a pickle refers to comes back as what it was: code, singletons and paths, or not at all."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from stored_payloads import NO_FILES, stored, there_and_back

from pytest_taskcache.errors import SerializationError
from pytest_taskcache.ports import Payload
from pytest_taskcache.serializers.compressed import CompressedSerializer
from pytest_taskcache.serializers.json import JSONSerializer
from pytest_taskcache.serializers.named_paths import vanishing
from pytest_taskcache.serializers.pickle import PickleSerializer

Load = Callable[[str], ModuleType]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports a text as the module ``lib`` of a project, anew each time."""
    monkeypatch.syspath_prepend(tmp_path)
    count = iter(range(100))

    def load(text: str) -> ModuleType:
        (tmp_path / "lib.py").write_text(f"# {next(count)}\n" + text)
        importlib.invalidate_caches()
        sys.modules.pop("lib", None)
        return importlib.import_module("lib")

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield load
    sys.modules.pop("lib", None)


def holds(value: object) -> list[tuple[str, str]]:
    """By file: in an order of whole paths, which a checkout's own place decides."""
    return [(Path(file).name, name) for file, name in PickleSerializer().dump(value).holds]


# -------------------------------------------------------------------------------- singletons

SINGLETONS = """
MISSING = object()
class _Unset:
    pass
UNSET = _Unset()
class Named:
    def __init__(self, name): self.name = name
NAMED = Named("NAMED")
class Slotted:
    __slots__ = ("name",)
    def __init__(self, name): self.name = name
SLOTTED = Slotted("SLOTTED")
"""


@pytest.mark.parametrize("name", ["MISSING", "UNSET", "NAMED", "SLOTTED"])
def test_what_a_module_holds_comes_back_as_itself(project: Load, name: str) -> None:
    """``is`` holds after a hit wherever it held after the miss, in another process too."""
    value = getattr(project(SINGLETONS), name)
    data = stored(PickleSerializer().dump({"timeout": [value]}))
    fresh = project(SINGLETONS)
    back: object = PickleSerializer().load(memoryview(data), NO_FILES)
    assert isinstance(back, dict)
    assert back["timeout"][0] is getattr(fresh, name)


def test_sentinels_of_libraries_come_back_as_themselves() -> None:
    """Those that the standard library compares with ``is``."""
    assert there_and_back(PickleSerializer(), [dataclasses.MISSING]) == [dataclasses.MISSING]


def test_a_bare_object_that_nobody_holds_is_refused() -> None:
    """It has nothing but its identity, and that would be lost."""
    with pytest.raises(SerializationError, match=r"bare object\(\) that no module holds"):
        PickleSerializer().dump({"x": [object()]})


def test_a_singleton_that_is_no_longer_what_it_was_is_no_hit(project: Load) -> None:
    """Its name may mean something else by then."""
    data = stored(PickleSerializer().dump(project(SINGLETONS).NAMED))
    project(SINGLETONS.replace('Named("NAMED")', 'Named("OTHER")'))
    with pytest.raises(SerializationError, match=r"lib\.NAMED is no longer what it was"):
        PickleSerializer().load(memoryview(data), NO_FILES)


def test_a_variable_that_a_call_has_filled_is_no_singleton(project: Load) -> None:
    """In the next run it is empty until somebody calls: the value is stored, or refused."""
    text = """
import sqlite3
class Client:
    pass
_client = _mark = _connection = None
def fill():
    global _client, _mark, _connection
    _client = Client()
    _mark = object()
    _connection = sqlite3.connect(":memory:")
"""
    module = project(text)
    module.fill()
    client = stored(PickleSerializer().dump(module._client))
    with pytest.raises(SerializationError, match=r"bare object\(\) that no module holds"):
        PickleSerializer().dump(module._mark)
    with pytest.raises(SerializationError, match=r"cannot pickle .*Connection"):
        PickleSerializer().dump(module._connection)
    module._connection.close()
    fresh = project(text)
    back: object = PickleSerializer().load(memoryview(client), NO_FILES)
    assert type(back) is fresh.Client


def test_a_sentinel_behind_an_import_that_fails_is_one(project: Load) -> None:
    """The usual way to have a library's own where there is one."""
    text = "try:\n    from nowhere import MISSING\nexcept ImportError:\n    MISSING = object()\n"
    module = project(text)
    assert there_and_back(PickleSerializer(), module.MISSING) is module.MISSING


def test_instances_with_content_are_copied(project: Load) -> None:
    """A caller may change its own; the module's stays as it is."""
    module = project("class Config:\n    pass\nCONFIG = Config()\nCONFIG.rows = [1]\n")
    back = there_and_back(PickleSerializer(), module.CONFIG)
    assert back is not module.CONFIG
    assert back.rows == [1]  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------- functions

FUNCTIONS = """
RATE = 1
def make(n):
    def inner(x, *, scale=2):
        "Scales."
        return (x + n) * scale * RATE
    return inner
def counter():
    n = 0
    def up():
        nonlocal n
        n += 1
        return n
    def get():
        return n
    return [up, get]
def factorial():
    def fact(n):
        return 1 if n < 2 else n * fact(n - 1)
    return fact
def decorate(function):
    def wrapper(*args):
        return -function(*args)
    return wrapper
@decorate
def decorated(x):
    return x
def plain(x):
    return x
"""


def test_a_closure_comes_back_with_all_that_it_has(project: Load) -> None:
    """Cells, defaults, names, documentation and attributes set on it."""
    function = project(FUNCTIONS).make(1)
    function.mark = ["here"]
    back: object = there_and_back(PickleSerializer(), function)
    assert back(2) == 6  # type: ignore[operator]
    assert back.__qualname__ == "make.<locals>.inner"  # type: ignore[attr-defined]
    assert (back.__doc__, back.mark) == ("Scales.", ["here"])  # type: ignore[attr-defined]


def test_closures_share_their_cells_and_may_call_themselves(project: Load) -> None:
    """As they did when they were made."""
    module = project(FUNCTIONS)
    up, get = there_and_back(PickleSerializer(), module.counter())  # type: ignore[misc]
    assert (up(), up(), get()) == (1, 2, 2)
    fact: object = there_and_back(PickleSerializer(), module.factorial())
    assert fact(5) == 120  # type: ignore[operator]


def test_a_functions_globals_are_its_modules_not_copies(project: Load) -> None:
    """A constant that is edited, or patched, is read as it is when the function runs."""
    data = stored(PickleSerializer().dump(project(FUNCTIONS).make(0)))
    project(FUNCTIONS.replace("RATE = 1", "RATE = 100"))
    back: object = PickleSerializer().load(memoryview(data), NO_FILES)
    assert back(1) == 200  # type: ignore[operator]


def test_a_function_from_another_checkout_names_its_file_here(
    project: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What observes it, and a traceback, look at this checkout's file."""
    data = stored(PickleSerializer().dump(project(FUNCTIONS).make(0)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.syspath_prepend(elsewhere)
    (elsewhere / "lib.py").write_text(FUNCTIONS)
    sys.modules.pop("lib")
    back: object = PickleSerializer().load(memoryview(data), NO_FILES)
    assert back.__code__.co_filename == str(elsewhere / "lib.py")  # type: ignore[attr-defined]


def test_code_that_a_value_holds_is_told(project: Load) -> None:
    """Closures, lambdas and wrappers, wherever they sit; with what they close over."""
    module = project(FUNCTIONS)
    assert holds({"f": [module.make(1)]}) == [("lib.py", "make.<locals>.inner")]
    assert holds(functools.partial(module.counter()[0])) == [("lib.py", "counter.<locals>.up")]
    here = Path(__file__).name, "test_code_that_a_value_holds_is_told.<locals>.<lambda>"
    assert set(holds(module.decorate(lambda x: x))) == {
        ("lib.py", "decorate.<locals>.wrapper"),
        here,
    }


def test_a_wrapper_reads_the_globals_of_the_module_that_made_it(project: Load) -> None:
    """Though ``functools.wraps`` calls it by the name and module of what it wraps."""
    text = """
import functools
SIGN = 1
def signed(function):
    @functools.wraps(function)
    def wrapper(*args):
        return SIGN * function(*args)
    return wrapper
"""
    wrapped = project(text).signed(lambda x: x)
    assert ("lib.py", "signed.<locals>.wrapper") in holds(wrapped)
    data = stored(PickleSerializer().dump(wrapped))
    project(text.replace("SIGN = 1", "SIGN = -1"))
    back: object = PickleSerializer().load(memoryview(data), NO_FILES)
    assert back(2) == -2  # type: ignore[operator]


def test_what_goes_by_name_and_plain_data_hold_nothing(project: Load) -> None:
    """A function that comes back as the present one cannot be outdated."""
    module = project(FUNCTIONS)
    assert holds([module.plain, module.make]) == []
    assert holds({"a": [1, 2.0, "x", (None, {3})], "p": Path("x"), "j": json.dumps}) == []


def test_a_value_holds_what_pickles_and_unpickles_it(project: Load) -> None:
    """Old state meets the present ``__setstate__``: an edit of either makes a record useless."""
    module = project("""
class Kept:
    def __getstate__(self): return {"x": 1}
    def __setstate__(self, state): self.x = state["x"]
    def other(self): pass
class Rebuilt:
    def __reduce__(self): return rebuild, (1,)
def rebuild(n): return Rebuilt()
class Plain:
    def method(self): pass
""")
    assert holds([module.Kept()]) == [
        ("lib.py", "Kept.__getstate__"),
        ("lib.py", "Kept.__setstate__"),
    ]
    assert holds(module.Rebuilt()) == [("lib.py", "Rebuilt.__reduce__"), ("lib.py", "rebuild")]
    assert holds(module.Plain()) == []


def test_compression_tells_what_the_value_inside_holds(project: Load) -> None:
    """Code and paths pass through."""
    value = [project(FUNCTIONS).make(1), Path("/a/b")]
    plain = PickleSerializer().dump(value)
    packed = CompressedSerializer("pickle", "gzip").dump(value)
    assert (packed.holds, packed.paths) == (plain.holds, plain.paths)


def test_a_path_is_named_whole_whatever_it_was_joined_from() -> None:
    """Not the directory that the pieces begin with, which may be a temporary one."""
    value = [Path("/one/two") / "three" / "four", Path("here") / "there", Path()]
    payload = PickleSerializer().dump(value)
    assert [path for path in payload.paths if path.startswith("/one")] == ["/one/two/three/four"]
    assert there_and_back(PickleSerializer(), value) == value


def test_modules_go_by_name() -> None:
    """Without cloudpickle."""
    assert there_and_back(PickleSerializer(), [json, importlib]) == [json, importlib]


# --------------------------------------------------------------------------- what comes back

BROKEN = """
class BadRequest(Exception):
    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
class Proxy:
    def __init__(self, target): self.target = target
    def __getattr__(self, name): return getattr(self.target, name)
class Angry:
    def __setstate__(self, state): raise RuntimeError("no")
    def __getstate__(self): return {"x": 1}
class Rows(dict):
    def __init__(self, limit): self.limit = limit
    def __setitem__(self, key, value): super().__setitem__(key, value * self.limit)
"""


@pytest.mark.parametrize("make", ['BadRequest(404, "gone")', "Proxy([])", "Angry()"])
def test_what_does_not_come_back_is_refused_when_it_is_stored(project: Load, make: str) -> None:
    """Not found out at a later hit, and at each one after it."""
    value = eval(make, vars(project(BROKEN)))
    with pytest.raises(SerializationError, match="would not come back") as caught:
        PickleSerializer().dump({"a": [value]})
    assert "__reduce__" in caught.value.reason


def test_a_container_that_cannot_be_filled_again_is_refused(project: Load) -> None:
    """Its items come back before its attributes."""
    rows = project(BROKEN).Rows(2)
    rows["a"] = 1
    with pytest.raises(SerializationError, match="would not come back"):
        PickleSerializer().dump(rows)


def test_looking_whether_a_value_comes_back_leaves_it_alone(project: Load) -> None:
    """Even one whose arrays its unpickling changes in place."""
    import numpy as np

    module = project(
        "class Scaled:\n"
        "    def __init__(self, rows): self.rows = rows\n"
        "    def __setstate__(self, state):\n"
        "        vars(self).update(state)\n"
        "        self.rows *= 2\n"
    )
    value = module.Scaled(np.ones(10_000))
    PickleSerializer().dump(value)
    assert value.rows.sum() == 10_000


# ------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("make", [Path, str, lambda path: {"at": [str(path)]}])
def test_a_value_whose_file_is_gone_is_no_hit(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    """As path or as text; the miss says which file."""
    file = tmp_path / "rows.csv"
    file.write_text("1")
    data = stored(PickleSerializer().dump(make(file)))
    assert PickleSerializer().load(memoryview(data), NO_FILES) == make(file)
    file.unlink()
    with pytest.raises(SerializationError, match=r"it names .*rows\.csv, which is gone"):
        PickleSerializer().load(memoryview(data), NO_FILES)


def test_a_relative_path_is_looked_for_where_the_value_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the project that is no longer there."""
    monkeypatch.chdir(tmp_path)
    Path("made").write_text("1")
    payload = PickleSerializer().dump([Path("made")])
    assert payload.paths == (str(tmp_path / "made"),)
    Path("made").unlink()
    with pytest.raises(SerializationError, match="it names made, which is gone"):
        PickleSerializer().load(memoryview(stored(payload)), NO_FILES)


def test_paths_of_what_was_never_there_do_not_matter(tmp_path: Path) -> None:
    """A name for a file that somebody may write one day."""
    there_and_back(PickleSerializer(), [tmp_path / "not yet", "/no/such/file"])


@pytest.mark.parametrize(
    "dump", [PickleSerializer().dump, JSONSerializer().dump], ids=["pickle", "json"]
)
def test_absolute_paths_in_texts_are_told(dump: Callable[[object], Payload]) -> None:
    """Whatever the value's shape; other texts are not paths."""
    value = {"log": "/var/log/x.log", "ratio": "1/2", "more": ["/a b", "http://x/y", "/\n"]}
    assert dump(value).paths == ("/var/log/x.log", "/a b")


def test_a_path_in_the_systems_temporary_directory_will_be_gone(tmp_path: Path) -> None:
    """That of ``tempfile``, which lives no longer than its maker; not what lies in the project,
    though it is checked out there, nor what does not exist."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "f.txt"
        file.write_text("x")
        payload = PickleSerializer().dump([file])
        assert vanishing(payload, None) == tempfile.gettempdir()
        assert vanishing(payload, None, [Path(directory)]) == ""
        assert vanishing(PickleSerializer().dump([tempfile.gettempdir()]), None) == ""
    assert vanishing(payload, None) == ""
    assert vanishing(PickleSerializer().dump(["/usr/bin"]), None) == ""


@pytest.mark.parametrize("worker", ["", "popen-gw0"])
def test_every_mention_of_the_runs_temporary_directory_counts(tmp_path: Path, worker: str) -> None:
    """In a URL, in a longer text, as a path that is made of parts, of another worker's too."""
    for value in (f"sqlite:///{tmp_path}/x.db", [tmp_path / "a"], {"command": f"cat {tmp_path}/a"}):
        payload = PickleSerializer().dump(value)
        assert vanishing(payload, tmp_path / worker) == str(tmp_path)
        assert vanishing(payload, tmp_path / "other", [tmp_path]) == ""
