"""Which code counts: what ran in the window, in any thread, and nothing else."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import types

import pytest
from observed_project import Project, counts_as_a_whole, named

from pytest_taskcache.model.dependency import Kind
from pytest_taskcache.observation import running_code

MONITORED = sys.version_info >= (3, 12)


def test_a_function_that_ran_counts_and_one_that_did_not_run_does_not(project: Project) -> None:
    """Changing a function's body re-runs what called it, not its neighbours' callers."""
    project.write("m.py", "def used(): return 1\ndef unused(): return 2\n")
    module = project.load("m")

    observed = project.observe(module.used)

    assert "m.py::used" in project.functions(observed)
    assert "m.py::unused" not in project.functions(observed)
    assert observed.untrusted == ()
    assert project.changes(observed) == []
    project.write("m.py", "def used(): return 1\ndef unused(): return 3\n")
    assert project.changes(observed) == []
    project.write("m.py", "def used(): return 9\ndef unused(): return 3\n")
    assert project.changes(observed) == ["function changed: m.py::used"]


def test_every_window_sees_a_function_that_ran_before_in_another(project: Project) -> None:
    """What the first test ran is not hidden from the second."""
    project.write("m.py", "def f(): return 1\n")
    module = project.load("m")

    first = project.observe(module.f)
    second = project.observe(module.f)

    assert "m.py::f" in project.functions(first)
    assert second == first


def test_identical_functions_on_the_same_line_of_two_files_both_count(project: Project) -> None:
    """Code objects of two files can be equal; their files are still two dependencies."""
    for name in ("left", "right"):
        project.write(f"{name}.py", "def helper():\n    return 1\n")
    left, right = project.load("left"), project.load("right")
    assert left.helper.__code__ == right.helper.__code__

    observed = project.observe(lambda: (left.helper(), right.helper()))

    assert {"left.py::helper", "right.py::helper"} <= project.functions(observed)


def test_overlapping_windows_in_two_threads_both_see_a_helper(project: Project) -> None:
    """Two tests at once: what disables itself after the first hit is credited to both."""
    project.write("m.py", "def helper(): return 1\n")
    module = project.load("m")
    project.settle()
    opened, ran = threading.Event(), threading.Event()
    seen = {}

    def other() -> None:
        window = project.observatory.open_window(None)
        opened.set()
        ran.wait(10)
        seen["other"] = window.close()

    thread = threading.Thread(target=other)
    window = project.observatory.open_window(None)
    thread.start()
    opened.wait(10)
    module.helper()
    ran.set()
    thread.join()
    seen["main"] = window.close()

    assert "m.py::helper" in project.functions(seen["main"])
    assert "m.py::helper" in project.functions(seen["other"])


def test_an_outer_window_sees_what_only_an_inner_one_ran(project: Project) -> None:
    """A fixture that uses a cached function depends on that function's code."""
    project.write("m.py", "def before(): ...\ndef inside(): ...\ndef after(): ...\n")
    module = project.load("m")
    outer = project.window()
    module.before()
    inner = project.window()
    module.inside()
    inside = inner.close()
    module.after()
    observed = outer.close()

    assert project.functions(inside) == {"m.py::inside"}
    assert project.functions(observed) == {"m.py::before", "m.py::inside", "m.py::after"}


def test_what_the_observation_itself_calls_is_not_what_a_computation_calls(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 3.11 a computation that calls much is given up on; one that uses a cached function is
    not, however many calls it takes to find out what that function rests on."""
    monkeypatch.setattr(running_code, "FREE", 100)
    monkeypatch.setattr(running_code, "SHARE", 0.0)
    project.write("m.py", "def inside(): ...\ndef outside(): ...\n")
    module = project.load("m")
    outer = project.window()
    trace = project.observe(module.inside).trace
    project.observatory.verify(trace)
    project.observatory.prefetch([trace])
    module.outside()
    observed = outer.close()

    assert not counts_as_a_whole(observed)
    assert project.functions(observed) == {"m.py::inside", "m.py::outside"}


def test_many_inner_windows_lose_nothing_of_the_outer(project: Project) -> None:
    """A computation around a thousand cached calls keeps what it ran first."""
    project.write("m.py", "def first(): ...\ndef repeated(): ...\n")
    module = project.load("m")
    outer = project.window()
    module.first()
    for _ in range(200):
        inner = project.observatory.open_window(None)
        module.repeated()
        inner.close()
    observed = outer.close()

    assert {"m.py::first", "m.py::repeated"} <= project.functions(observed)


def test_a_generator_resumed_in_the_window_counts(project: Project) -> None:
    """A generator that was started earlier runs in the window too."""
    project.write(
        "m.py",
        """
        def rows():
            yield 1
            try:
                yield 2
            except ValueError:
                yield 3
        """,
    )
    module = project.load("m")
    resumed, thrown = module.rows(), module.rows()
    next(resumed), next(thrown)
    next(thrown)

    assert "m.py::rows" in project.functions(project.observe(next, resumed))
    assert "m.py::rows" in project.functions(project.observe(thrown.throw, ValueError))


def test_coroutines_count(project: Project) -> None:
    """Async helpers, resumed by the event loop, are dependencies as any other."""
    project.write(
        "m.py",
        """
        import asyncio
        async def inner():
            await asyncio.sleep(0)
            return 1
        async def outer():
            return await inner()
        """,
    )
    module = project.load("m")
    observed = project.observe(lambda: asyncio.run(module.outer()))

    assert {"m.py::inner", "m.py::outer"} <= project.functions(observed)


def test_code_that_a_thread_is_already_running_counts(project: Project) -> None:
    """A worker thread that was started before, and is in the middle of a function, counts."""
    project.write(
        "m.py",
        """
        def serve(ready, stop):
            ready.set()
            stop.wait(10)
        """,
    )
    module = project.load("m")
    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=module.serve, args=(ready, stop))
    thread.start()
    ready.wait(10)
    try:
        observed = project.observe(lambda: None)
    finally:
        stop.set()
        thread.join()

    assert "m.py::serve" in project.functions(observed)


@pytest.mark.skipif(not MONITORED, reason="3.11 traces only threads that have a window")
def test_what_an_older_thread_calls_in_the_window_counts(project: Project) -> None:
    """A thread pool that lives longer than a test still shows what it ran for it."""
    project.write("m.py", "def job(): return 1\n")
    module = project.load("m")
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(10)
        module.job()
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    window = project.window()
    go.set()
    done.wait(10)
    thread.join()

    assert "m.py::job" in project.functions(window.close())


def test_a_thread_started_in_the_window_counts(project: Project) -> None:
    """Work handed to a new thread is the computation's own."""
    project.write("m.py", "def job(): return 1\n")
    module = project.load("m")

    def run() -> None:
        thread = threading.Thread(target=module.job)
        thread.start()
        thread.join()

    assert "m.py::job" in project.functions(project.observe(run))


def test_the_openers_own_callers_do_not_count(project: Project) -> None:
    """An inner computation does not depend on the body of whoever asked for it."""
    project.write("m.py", "def outer(ask): return ask()\ndef inner(): return 1\n")
    module = project.load("m")

    observed = module.outer(lambda: project.observe(module.inner))

    assert project.functions(observed) == {"m.py::inner"}


def test_generated_code_is_no_dependency_and_traces_repeat(project: Project) -> None:
    """dataclasses, namedtuples and exec'd text have no file; they cause no misses."""
    project.write(
        "m.py",
        """
        import dataclasses, collections
        def make():
            Point = collections.namedtuple("Point", "x y")
            @dataclasses.dataclass
            class Pair:
                left: int
                right: int
            space = {}
            exec("def generated(): return 1", space)
            return Point(1, 2), Pair(1, 2), space["generated"]()
        """,
    )
    module = project.load("m")
    first, second = project.observe(module.make), project.observe(module.make)

    assert {name.rpartition("::")[0] for name in project.functions(first)} == {"m.py"}
    assert second.trace == first.trace
    assert project.changes(first) == []


def test_a_hidden_lru_cache_hit_still_depends_on_the_cached_function(project: Project) -> None:
    """The second caller of a memoized function depends on its body, though it did not run."""
    project.write(
        "m.py",
        """
        import functools
        @functools.lru_cache
        def slow(): return 1
        def caller(): return slow()
        """,
    )
    module = project.load("m")
    project.observe(module.caller)
    second = project.observe(module.caller)

    assert "m.py::slow" not in project.functions(second)
    text = (project.root / "m.py").read_text()
    project.write("m.py", text.replace("slow(): return 1", "slow(): return 2"))
    assert project.changes(second) == ["function changed: m.py::slow"]


def test_code_from_a_template_counts_by_its_file(project: Project) -> None:
    """A compiled template that is served from a cache still depends on the template."""
    template = project.write("page.html", "return 1\n")
    space: dict = {}
    exec(compile("def render(): return 1", str(template), "exec"), space)
    project.settle()

    assert "page.html" in named(project.observe(space["render"]), Kind.FILE)


def test_a_foreign_tracer_on_3_11_falls_back_to_whole_modules(project: Project) -> None:
    """Under coverage or a debugger no dependency is lost: on 3.11 whole modules count."""
    project.write("m.py", "def used(): return 1\ndef unused(): return 2\n")
    module = project.load("m")

    def foreign(frame, event, arg):
        return None

    before = sys.gettrace()
    sys.settrace(foreign)
    try:
        observed = project.observe(module.used)
        assert sys.gettrace() is foreign
    finally:
        sys.settrace(before)

    if MONITORED:
        assert project.functions(observed) == {"m.py::used"}
    else:
        assert counts_as_a_whole(observed)


def test_a_tracer_set_inside_the_window_does_not_hide_code(project: Project) -> None:
    """A debugger that comes and goes in the middle of a test loses nothing."""
    project.write(
        "m.py",
        """
        import sys
        def hidden(): return 1
        def debugged():
            before = sys.gettrace()
            sys.settrace(lambda *arguments: None)
            try:
                return hidden()
            finally:
                sys.settrace(before)
        """,
    )
    module = project.load("m")
    observed = project.observe(module.debugged)

    if MONITORED:
        assert "m.py::hidden" in project.functions(observed)
    else:
        assert counts_as_a_whole(observed)
    assert project.changes(observed) == []


@pytest.mark.parametrize("core", ["ctrace", "sysmon"])
def test_coverage_and_windows_do_not_disturb_each_other(
    project: Project, core: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With coverage measuring, functions still count and coverage still gets its lines."""
    coverage = pytest.importorskip("coverage")
    if core == "sysmon" and not MONITORED:
        pytest.skip("sys.monitoring is new in 3.12")
    if sys.gettrace() is not None:
        pytest.skip("another tracer is active")
    monkeypatch.setenv("COVERAGE_CORE", core)
    project.write("m.py", "def used():\n    return 1\ndef unused():\n    return 2\n")
    module = project.load("m")
    measuring = coverage.Coverage(data_file=None, include=[f"{project.root}/*"])
    measuring.start()
    try:
        observed = project.observe(module.used)
        again = project.observe(module.used)
    finally:
        measuring.stop()
    lines = measuring.get_data().lines(str(project.root / "m.py"))

    assert lines == [2]
    assert project.functions(again) == project.functions(observed)
    if MONITORED:
        assert project.functions(observed) == {"m.py::used"}
    else:
        assert counts_as_a_whole(observed)


@pytest.mark.skipif(MONITORED, reason="calls are not traced from 3.12 on")
def test_code_that_mostly_calls_is_given_up_on_and_counts_by_its_modules(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 3.11 tracing a hot loop would take many times as long; instead the whole modules
    count, so that nothing is lost, and the next computation is traced as before."""
    monkeypatch.setattr(running_code, "SHARE", 0.0)  # however slow the machine is
    project.write("m.py", "def f(): pass\ndef hot():\n    for _ in range(20_000): f()\n")
    module = project.load("m")

    observed = project.observe(module.hot)
    after = project.observe(module.f)

    assert counts_as_a_whole(observed)
    assert not counts_as_a_whole(after)
    assert "m.py::f" in project.functions(after)
    assert sys.gettrace() is None


def test_a_long_computation_with_few_distinct_functions_takes_little_memory(
    project: Project,
) -> None:
    """What ran a thousand times is noted once."""
    project.write("m.py", "def f(): pass\ndef many():\n    for _ in range(1000): f()\n")
    module = project.load("m")
    window = project.window()
    module.many()

    assert sum(map(len, window.pieces)) < 100
    window.close()


@pytest.mark.parametrize("how", ["FunctionType", "__code__", "replace", "eval"])
def test_code_that_is_made_by_hand_counts(project: Project, how: str) -> None:
    """Decorators that rebuild functions from code objects hide nothing."""
    project.write("m.py", "def f(): return 1\n")
    path = project.root / "m.py"
    code = next(
        one
        for one in compile(path.read_text(), str(path), "exec").co_consts
        if isinstance(one, types.CodeType)
    )

    def plain() -> None: ...

    if how == "FunctionType":
        call = types.FunctionType(code, {})
    elif how == "replace":
        call = types.FunctionType(code.replace(co_firstlineno=7), {})
    elif how == "eval":
        call = functools.partial(eval, code)
    else:
        plain.__code__ = code
        call = plain

    assert "m.py::f" in project.functions(project.observe(call))


def test_code_loaded_before_arming_counts(project: Project) -> None:
    """A project whose plugin is imported by the runner itself is observed all the same."""
    project.observatory.disarm()
    project.write(
        "m.py",
        """
        def f(): return (lambda: helper())()
        def helper(): return 1
        def rows():
            yield 1
            yield 2
        """,
    )
    module = project.load("m")
    rows = module.rows()
    next(rows)
    project.observatory.arm()

    assert {"m.py::f", "m.py::helper"} <= project.functions(project.observe(module.f))
    assert "m.py::rows" in project.functions(project.observe(next, rows))


def test_code_that_lay_in_the_temporary_directory_before_counts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout beside the project's is code like any other, wherever both lie; what is written
    there meanwhile is a matter of who wrote it."""
    beside = project.root.parent / "beside"
    beside.mkdir()
    monkeypatch.syspath_prepend(beside)
    (beside / "before.py").write_text("def f(): return 1\n")
    project.settle()
    project.observatory.disarm()
    project.observatory.arm()
    (beside / "meanwhile.py").write_text("def f(): return 1\n")
    before, meanwhile = project.load("before"), project.load("meanwhile")
    first, second = project.observe(before.f), project.observe(meanwhile.f)

    (beside / "before.py").write_text("def f(): return 2\n")
    (beside / "meanwhile.py").write_text("def f(): return 2\n")
    assert project.changes(first) == ["function changed: <path>/before.py::f"]
    assert project.changes(second) == []
