"""While something that a cached call may reach is patched, it is neither answered nor kept."""

from __future__ import annotations

import builtins
import decimal
import io
import json
import locale
import os
import sys
import threading
import time
from unittest import mock

import pytest
from bodies import times

from pytest_taskcache.model.decision import Hit, Miss, Uncacheable

LIBRARY = """
    K = 1
    OTHER = 1
    TABLE = {"a": 1}
    PRICES = {}

    class Config:
        debug = False
        @property
        def verbose(self):
            return self.debug

    def rate():
        return K

    def set_rate(value):
        global K
        K = value

    _rows = None

    def rows():
        global _rows
        if _rows is None:
            _rows = [4]
        return _rows[0]

    _settings = None

    def load():
        global _settings
        _settings = {"scale": 10}

    def settings():
        if _settings is None:
            load()
        return _settings

    class Connection:
        def __init__(self):
            self.handle = None
        def open(self):
            self.handle = 3
        def ask(self):
            if self.handle is None:
                self.open()
            return self.handle

    connection = Connection()

    SEEN = []

    def remembered(key):
        if key not in PRICES:
            PRICES[key] = len(key)
        return PRICES[key]

    NESTED = {"a": [1, {"b": 1}]}

    def untouched():
        return 3

    HANDLERS = {"rate": rate}
    config = Config()

    import argparse, collections, contextvars, dataclasses, decimal, enum, threading, types

    USER, LOCAL = contextvars.ContextVar("USER", default="nobody"), threading.local()
    OPTED, ROLES = argparse.Namespace(), contextvars.ContextVar("ROLES", default=[])

    class Colour(enum.Enum):
        RED, BLUE = "red", "blue"

    class Between(Config):
        pass

    class Below(Between):
        class Meta:
            scale = 1

    @dataclasses.dataclass(slots=True)
    class Options:
        width: int = 1

    PRICE, COLOUR, OPTIONS, ZERO = decimal.Decimal(1), Colour.RED, Options(), 0.0
    QUEUE = collections.deque()
    _INSIDE = {}
    SHOWN = types.MappingProxyType(_INSIDE)

    def newest():
        return Below

    def late():
        try:
            return LATE
        except NameError:
            return 0

    class Job:
        def start(self):
            self.OTHER = OTHER
            return self

        def end(self):
            return 0

    class Task:
        def end(self):
            return 2

    class Empty:
        pass

    def stage():
        return "first"

    hook, HOOKS = None, []

    def collected():
        found, named = [], {}
        found.append(OTHER)
        named["other"] = found[0]
        return sum(named.values())
"""

KINDS = {
    "PRICE": ("lib.PRICE", lambda lib: assign(lib, "PRICE", decimal.Decimal(2))),
    "COLOUR": ("lib.COLOUR", lambda lib: assign(lib, "COLOUR", lib.Colour.BLUE)),
    "OPTIONS": ("lib.OPTIONS.width", lambda lib: assign(lib.OPTIONS, "width", 2)),
    "ZERO": ("str(lib.ZERO)", lambda lib: assign(lib, "ZERO", -0.0)),
    "QUEUE": ("len(lib.QUEUE)", lambda lib: lib.QUEUE.append(1)),
    "USER": ("lib.USER.get()", lambda lib: lib.USER.set("somebody")),
    "ROLES": ("len(lib.ROLES.get())", lambda lib: lib.ROLES.get().append(1)),
    "LOCAL": ("getattr(lib.LOCAL, 'user', 0)", lambda lib: assign(lib.LOCAL, "user", 1)),
    "OPTED": ("vars(lib.OPTED).get('x')", lambda lib: assign(lib.OPTED, "x", 1)),
    "SHOWN": ("len(lib.SHOWN)", lambda lib: lib._INSIDE.update(a=1)),
    "debug": ("lib.Below.debug", lambda lib: assign(lib.Below, "debug", True)),
    "scale": ("lib.Below.Meta.scale", lambda lib: assign(lib.Below.Meta, "scale", 2)),
    "further below": ("lib.newest().debug", lambda lib: assign(lib.Below, "debug", True)),
    "LATE": ("lib.late()", lambda lib: assign(lib, "LATE", 1)),
    "same name": ("lib.Job().start().OTHER", lambda lib: assign(lib, "OTHER", 2)),
    "local containers": ("lib.collected()", lambda lib: assign(lib, "OTHER", 2)),
    "evaluated": ("eval('lib.OTHER + 1')", lambda lib: assign(lib, "OTHER", 2)),
    "asked for": ("operator.attrgetter('OTHER')(lib)", lambda lib: assign(lib, "OTHER", 2)),
    "function": ("lib.stage()", lambda lib: assign(lib, "stage", lambda: "other")),
    "method": ("lib.Job().end()", lambda lib: assign(lib.Job, "end", lambda self: 1)),
    "class": ("lib.Job().end()", lambda lib: assign(lib, "Job", lib.Task)),
    "class without methods": ("lib.Empty.__name__", lambda lib: assign(lib, "Empty", lib.Task)),
    "hook": ("lib.hook and lib.hook()", lambda lib: assign(lib, "hook", lambda: 1)),
    "hooks": ("[hook() for hook in lib.HOOKS]", lambda lib: lib.HOOKS.append(lambda: 1)),
    "body of a class": ("", lambda lib: assign(lib, "OTHER", 2)),
}
"""What a function reads of the library, and what changes that by hand."""

CALLS = """
    import functools, locale
    from decimal import Decimal
    from bodies import ran
    from pytest_taskcache import *
    import lib

    @cached
    def constant():
        ran("constant")
        return lib.K

    @cached
    def through():
        ran("through")
        return lib.rate()

    @cached
    def handled():
        ran("handled")
        return lib.HANDLERS["rate"]()

    @cached
    def entry():
        ran("entry")
        return lib.TABLE["a"]

    @cached
    def attribute():
        ran("attribute")
        return lib.Config.debug

    @cached
    def method():
        ran("method")
        return lib.config.verbose

    @cached
    def named():
        ran("named")
        return getattr(lib, "K")

    @cached
    def called(function):
        ran("called")
        return function()

    @cached
    def nested():
        ran("nested")
        return lib.NESTED["a"][1]["b"]

    @cached
    def lazy():
        ran("lazy")
        return lib.rows() + lib.remembered("abc")

    @cached
    def configured(number):
        ran("configured")
        return lib.settings()["scale"] * number + lib.connection.ask()

    @cached
    def inner():
        import lib as imported
        ran("inner")
        return imported.K

    @cached
    def mapped():
        ran("mapped")
        return vars(lib)["K"]

    @cached
    def seen():
        ran("seen")
        return len(lib.SEEN)

    @cached
    def apart():
        ran("apart")
        return lib.untouched()

    class Row:
        def __init__(self):
            self.value = lib.K

    @cached
    def asked():
        ran("asked")
        import sys
        return sys.argv[-1]

    @cached
    def third():
        ran("third")
        return str(Decimal(1) / 3)

    @cached
    def comma():
        ran("comma")
        return locale.setlocale(locale.LC_NUMERIC)

    @cached
    def built():
        ran("built")
        return Row().value
"""


@pytest.fixture
def lib(load):
    return load("lib", LIBRARY)


@pytest.fixture
def calls(load, lib):
    return load("calls", CALLS)


PATCHES = {
    "constant": (lambda patch, lib: patch.setattr(lib, "K", 2), 2),
    "through": (lambda patch, lib: patch.setattr(lib, "K", 2), 2),
    "handled": (lambda patch, lib: patch.setattr(lib, "K", 2), 2),
    "entry": (lambda patch, lib: patch.setitem(lib.TABLE, "a", 2), 2),
    "attribute": (lambda patch, lib: patch.setattr(lib.Config, "debug", True), True),
    "method": (lambda patch, lib: patch.setattr(lib.config, "debug", True), True),
    "named": (lambda patch, lib: patch.setattr("lib.K", 2), 2),
    "built": (lambda patch, lib: patch.setattr(lib, "K", 2), 2),
    "asked": (lambda patch, lib: patch.setattr(sys, "argv", ["x"]), "x"),
}


@pytest.mark.parametrize("name", PATCHES)
def test_a_patched_call_runs_and_leaves_the_record_alone(cache, lib, calls, name):
    """Kept before the patch, computed under it every time, answered after it: however the
    function gets at what is patched."""
    function, (patch_it, patched) = getattr(calls, name), PATCHES[name]
    before = function()
    assert function() == before
    assert times(name) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch_it(patch, lib)
        assert (function(), function()) == (patched, patched)
        assert times(name) == 3
        decision = function.call().decision
    assert isinstance(decision, Uncacheable)
    assert decision.reason == "patched state"
    assert "is patched" in decision.detail
    assert function() == before
    assert times(name) == 4


@pytest.mark.parametrize("name", PATCHES)
def test_nothing_is_kept_of_a_patched_call(cache, lib, calls, name):
    """One that is first computed under the patch leaves nothing for later."""
    function, (patch_it, patched) = getattr(calls, name), PATCHES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch_it(patch, lib)
        assert function() == patched
    assert function() != patched
    assert times(name) == 2


def assign(owner, name, value):
    setattr(owner, name, value)


CALL = """
    import operator
    from pytest_taskcache import *
    import lib

    @cached
    def function():
        BODY
"""

CHANGES = {
    "constant": (lambda lib: assign(lib, "K", 2), lambda lib: assign(lib, "K", 1), 2),
    "through": (lambda lib: lib.set_rate(2), lambda lib: lib.set_rate(1), 2),
    "named": (lambda lib: lib.set_rate(2), lambda lib: lib.set_rate(1), 2),
    "built": (lambda lib: lib.set_rate(2), lambda lib: lib.set_rate(1), 2),
    "inner": (lambda lib: lib.set_rate(2), lambda lib: lib.set_rate(1), 2),
    "mapped": (lambda lib: lib.set_rate(2), lambda lib: lib.set_rate(1), 2),
    "entry": (lambda lib: lib.TABLE.update(a=2), lambda lib: assign(lib, "TABLE", {"a": 1}), 2),
    "nested": (
        lambda lib: lib.NESTED["a"][1].update(b=2),
        lambda lib: lib.NESTED["a"][1].update(b=1),
        2,
    ),
    "attribute": (
        lambda lib: assign(lib.Config, "debug", True),
        lambda lib: assign(lib.Config, "debug", False),
        True,
    ),
    "seen": (lambda lib: lib.SEEN.append(1), lambda lib: assign(lib, "SEEN", []), 1),
    "method": (
        lambda lib: assign(lib.config, "debug", True),
        lambda lib: delattr(lib.config, "debug"),
        True,
    ),
}
"""By function: what changes a global that it reads, by hand; what undoes that; its value then."""


@pytest.mark.parametrize("name", CHANGES)
def test_a_global_that_is_changed_by_hand_counts_by_what_it_holds(cache, lib, calls, name):
    """`lib.K = 2`, a setter, an entry, an attribute of a class or an object: nobody patches, and
    no event tells. Each state has a record of its own, the one at the end of collection too."""
    function, (change, undo, changed) = getattr(calls, name), CHANGES[name]
    before = function()
    assert function() == before
    change(lib)
    told = function.call()
    assert told.result() == changed
    assert isinstance(told.decision, Miss)
    assert [each.kind for each in told.decision.changes] == ["global"]
    assert (function(), times(name)) == (changed, 2)
    undo(lib)
    assert (function(), times(name)) == (before, 2)
    change(lib)
    assert (function(), times(name)) == (changed, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_global_is_its_change_is_seen(cache, lib, load, kind):
    """Rebound or changed in place, at module level or in a class, there before or not; also where
    a function works on containers and attributes of its own."""
    read, change = KINDS[kind]
    body = f"return {read}"
    if kind == "body of a class":
        body = "class Inside:\n            x = lib.OTHER\n        return Inside.x"
    function = load("reads", CALL.replace("BODY", body)).function
    before = function()
    assert function() == before
    change(lib)
    told = function.call()
    assert told.result() != before
    assert [each.kind for each in told.decision.changes] == ["global"]


def test_what_a_method_by_hand_gave_is_not_given_without_it(cache, lib, load, calls):
    """The plain method is not among what ran."""
    assert calls.constant() == 1, "what the library holds is known from here on"
    function = load("reads", CALL.replace("BODY", "return lib.Job().end()")).function
    plain, lib.Job.end = lib.Job.end, lambda self: 1
    assert (function(), function()) == (1, 1)
    lib.Job.end = plain
    assert function() == 0


def test_a_lambda_sets_nothing_that_the_code_around_it_sets(cache, lib, load):
    """A test that hands on a lambda, and then changes what it reads: the lambda alone is called."""
    steps = load(
        "steps",
        """
        from pytest_taskcache import *
        import lib

        @cached
        def called(function):
            return function()

        alone = lambda: lib.K

        def steps():
            ask = lambda: lib.K
            before = called(ask), called(alone)
            lib.K = 2
            return before, (called(ask), called(alone))
        """,
    ).steps
    assert steps() == ((1, 1), (2, 2))
    lib.K = 1
    assert steps() == ((1, 1), (2, 2))


def test_no_code_of_a_thread_local_is_executed_to_look_at_it(cache, lib, load):
    """Its ``__init__`` runs in each thread that asks it for something first."""
    body = """if asks:
            return LOCAL.made
        return "nothing"

    import threading

    class Local(threading.local):
        def __init__(self):
            self.made = threading.current_thread() is threading.main_thread()
            if not self.made:
                raise RuntimeError("of the main thread alone")

    LOCAL = Local()
    """
    call = CALL.replace("BODY", body).replace("def function():", "def function(asks):")
    function, found = load("reads", call).function, []
    assert (function(True), function(False)) == (True, "nothing")
    thread = threading.Thread(target=lambda: found.append(function(False)))
    thread.start()
    thread.join()
    assert found == ["nothing"]


def test_a_changed_global_without_a_digest_is_not_kept(cache, lib, calls):
    """What it holds cannot be told from anything else."""
    assert calls.entry() == 1
    lib.TABLE["lock"] = threading.Lock()
    told = calls.entry.call()
    assert calls.entry() == 1
    assert times("entry") == 3
    assert "TABLE" in str(told.decision)
    del lib.TABLE["lock"]
    assert calls.entry() == 1
    assert times("entry") == 3


def fixed(value):
    return lambda *_: value


LIBRARIES = {
    "standard library": ("time.time()", time, "time", fixed(1), fixed(2)),
    "its data": ("os.environ.get('X')", os, "environ", {"X": "1"}, {"X": "2"}),
    "built in": ("oct(8)", builtins, "oct", fixed(1), fixed(2)),
}


def with_libraries(load, body):
    text = CALL.replace("import operator", "import json, os, time").replace("BODY", body)
    return load("reads", text).function


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_put_into_a_library_by_hand_counts(cache, lib, load, name):
    """It is told by its value, as what the project holds is."""
    read, owner, attribute, *others = LIBRARIES[name]
    function = with_libraries(load, f"return {read}")
    found, was = [function(), function()], getattr(owner, attribute)
    for other in others:
        try:
            setattr(owner, attribute, other)
            found += function(), function()
        finally:
            setattr(owner, attribute, was)
    found.append(function())
    first, _, second, _, third, _, _ = found
    assert found == [first, first, second, second, third, third, first]
    assert len({first, second, third}) == 3


def test_code_of_another_library_put_in_place_by_hand_is_not_kept(cache, lib, load):
    """A clock that stands still is called alike whatever the time."""
    function, was = with_libraries(load, "return json.dumps.__name__"), json.dumps
    assert function() == "dumps"
    try:
        json.dumps = pytest.Item
        told = function.call()
    finally:
        json.dumps = was
    assert told.result() == "Item"
    assert "json.dumps" in str(told.decision)
    assert function() == "dumps"


def test_the_time_zone_counts_as_it_is(cache, lib, load):
    """It is read in C, by whatever tells a local time."""
    function = with_libraries(load, "return time.localtime(0).tm_hour")
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for zone in ("UTC", "Asia/Tokyo", "UTC", "Asia/Tokyo"):
            patch.setenv("TZ", zone)
            time.tzset()
            found.append(function.call())
    time.tzset()
    assert [each.result() for each in found] == [0, 9, 0, 9]
    assert [isinstance(each.decision, Hit) for each in found] == [False, False, True, True]


def test_what_a_function_remembers_itself_changes_nothing(cache, lib, calls):
    """A lazy global and a table that it fills: they count by the code that does."""
    assert (calls.lazy(), calls.lazy()) == (7, 7)
    lib.remembered("abcd")
    assert calls.lazy() == 7
    assert times("lazy") == 1


def test_what_was_loaded_by_an_earlier_call_is_no_change(cache, lib, calls):
    """The first call loads the settings and opens the connection; later ones find both."""
    for _ in range(2):
        assert [calls.configured(number) for number in (1, 2, 3)] == [13, 23, 33]
    assert times("configured") == 3
    lib.connection.handle = 4
    lib._settings = {"scale": 100}
    assert calls.configured(1) == 13, "its own code sets both: known by name alone"


def test_what_it_cannot_reach_does_not_matter(cache, lib, calls, monkeypatch):
    """A patch of another name, of another table, of a variable, of the output."""
    calls.apart()
    monkeypatch.setattr(lib, "OTHER", 2)
    monkeypatch.setitem(lib.PRICES, "a", 2)
    monkeypatch.setenv("REGION", "north")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert calls.apart() == 3
    assert times("apart") == 1


def test_the_decimal_context_and_the_locale_are_patched_by_who_changes_them(cache, calls):
    """What calculations and formats depend on without naming it."""
    third, comma = calls.third(), calls.comma()
    with decimal.localcontext() as context:
        context.prec = 3
        assert calls.third() == "0.333"
    with decimal.localcontext() as context:
        context.prec = 2
        assert calls.third() == "0.33"
    with decimal.localcontext() as context:
        context.capitals = 0
        assert calls.third() == third
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
        assert calls.comma() == "C.UTF-8"
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)
    assert (calls.third(), calls.comma()) == (third, comma)
    assert (times("third"), times("comma")) == (4, 2)


def test_mock(cache, lib, calls):
    """`mock.patch`, as a context, for several at once, and of a dict; over when it is over."""
    assert (calls.through(), calls.entry()) == (1, 1)
    with mock.patch("lib.rate", return_value=5):
        assert calls.through() == 5
    with mock.patch.multiple(lib, rate=lambda: 6, OTHER=0):
        assert calls.through() == 6
    with mock.patch.dict(lib.TABLE, {"a": 7}):
        assert calls.entry() == 7
    with mock.patch.dict(lib.TABLE, clear=True), pytest.raises(KeyError):
        calls.entry()
    ran_before = times()
    assert (calls.through(), calls.entry()) == (1, 1)
    assert times() == ran_before


def test_a_patch_that_failed_is_none(cache, lib, calls):
    """Nothing was patched, so nothing is in force."""
    calls.constant()
    with pytest.raises(AttributeError), mock.patch("lib.missing", 1):
        pass
    calls.constant()
    assert times("constant") == 1


def test_one_patch_after_another(cache, lib, calls):
    """What a patch hid is reached again once it is gone."""
    calls.through()
    with mock.patch("lib.rate", return_value=5):
        assert calls.through() == 5
    with mock.patch.object(lib, "K", 9):
        assert calls.through() == 9


def test_arguments_that_are_called(cache, lib, calls, monkeypatch):
    """A function that is handed in reaches what it mentions."""
    calls.called(lib.rate)
    monkeypatch.setattr(lib, "K", 2)
    assert calls.called(lib.rate) == 2


def test_a_patch_of_the_standard_library_counts_always(cache, lib, calls, monkeypatch):
    """How code of others gets there is not known."""
    calls.apart()
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    calls.apart()
    assert times("apart") == 2


def test_vouched_calls_too(cache, lib, load, monkeypatch):
    """An author vouches for the program as it is, not as a test patches it."""
    module = load(
        "vouched",
        """
        from bodies import ran
        from pytest_taskcache import *
        import lib

        @cached(policy=INPUTS)
        def f():
            ran("f")
            return lib.K
        """,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lib, "K", 2)
        assert module.f() == 2
    assert module.f() == 1


def test_what_patches_for_itself_is_kept(cache, lib, load):
    """A patch that begins and ends within a call is part of what it computes."""
    module = load(
        "patching",
        """
        from unittest import mock
        from bodies import ran
        from pytest_taskcache import *
        import lib

        @cached
        def f():
            ran("f")
            with mock.patch.object(lib, "K", 4):
                return lib.rate()
        """,
    )
    assert (module.f(), module.f()) == (4, 4)
    assert times("f") == 1


LIKE = """
    import array

    RATE = 1

    class Odd:
        def __eq__(self, other):
            raise RuntimeError("nobody may ask")

    def scaled(x=array.array("i", [1]), odd=Odd(), *, by=1):
        return RATE * by * sum(x)
"""


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [
        ("RATE = 1", "RATE = 5", 5), ("by=1", "by=5", 5), ("[1]", "[5]", 5),
    ],
    ids=["globals", "keyword default", "default"],
)  # fmt: skip
def test_a_function_put_in_place_by_hand_counts_by_all_that_it_is(
    cache, load, before, after, value
):
    """Of one text, at one line, with a default that cannot be compared: it is another function
    all the same, where its globals or its defaults are others."""
    plain, other = load("plain", LIKE), load("other", LIKE.replace(before, after))
    body = "import plain; return plain.scaled()"
    function = load("reads", CALL.replace("import lib", "").replace("BODY", body)).function
    kept = plain.scaled
    assert (function(), function()) == (1, 1)
    plain.scaled = other.scaled
    told = function.call()
    assert told.result() == value
    assert isinstance(told.decision, Miss)
    assert [str(each) for each in told.decision.changes] == ["global changed: plain.scaled"]
    plain.scaled = kept
    assert isinstance(function.call().decision, Hit)
