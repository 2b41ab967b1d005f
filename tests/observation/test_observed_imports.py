"""What happens during an import belongs to that import, whichever test came first."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import os
import pkgutil
import sys

import pytest
from observed_project import Project, named

from pytest_taskcache.model.dependency import ABSENT, Kind


def test_what_ran_and_was_read_at_import_counts_for_every_later_test(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that computes a constant from a file and the environment at import carries both
    into each test that reaches it, also when it was imported before any window."""
    monkeypatch.setenv("CITY", "Bonn")
    project.observatory.disarm()
    project.observatory.arm()
    project.write("rates.csv", "1")
    project.write("tools.py", "def parse(text): return int(text)\n")
    project.write(
        "config.py",
        """
        import os, pathlib
        from tools import parse
        RATE = parse(pathlib.Path("rates.csv").read_text())
        CITY = os.environ["CITY"]
        HAS_EXTRA = os.path.exists("extra.csv")
        """,
    )
    project.write("app.py", "import config\ndef f(): return config.RATE\n")
    project.settle()
    module = project.load("app")

    first, second = project.observe(module.f), project.observe(module.f)

    for observed in (first, second):
        assert observed.untrusted == ()
        assert project.changes(observed) == []
    for name, text, said in (
        ("rates.csv", "2", "file changed: rates.csv"),
        (
            "tools.py",
            "def parse(text): return 2 * int(text)\n",
            "function changed: tools.py::parse",
        ),
        ("extra.csv", "", "stat appeared: extra.csv"),
    ):
        before = (project.root / name).read_text() if name != "extra.csv" else None
        project.write(name, text)
        assert [project.changes(first), project.changes(second)] == [[said], [said]]
        if before is None:
            (project.root / name).unlink()
        else:
            project.write(name, before)
    assert project.changes(second) == []
    monkeypatch.setenv("CITY", "Trier")
    assert project.changes(second) == ["env changed: CITY"]


def test_a_module_that_another_test_imported_first_carries_its_import(project: Project) -> None:
    """An import inside the first test's window is not that test's alone."""
    project.write("table.txt", "x")
    project.write(
        "lazy.py",
        "import pathlib\nTEXT = pathlib.Path('table.txt').read_text()\ndef get(): return TEXT\n",
    )
    project.write("app.py", "def f():\n    import lazy\n    return lazy.get()\n")
    module = project.load("app")

    first, second = project.observe(module.f), project.observe(module.f)

    project.write("table.txt", "y")
    for observed in (first, second):
        assert project.changes(observed) == ["file changed: table.txt"]


def test_a_registry_filled_at_import_counts_what_each_module_ran(project: Project) -> None:
    """The decorator that every module calls at import counts for each of them, not only for
    the module that was imported first."""
    project.write(
        "registry.py",
        """
        known = {}
        def register(function):
            known[function.__name__] = function
            return function
        """,
    )
    for name in ("one", "two"):
        project.write(
            f"{name}.py",
            f"""
            from registry import register
            @register
            def {name}(): return 1
            """,
        )
    first, second = project.load("one"), project.load("two")

    seen = [
        project.observe(getattr(module, function))
        for module, function in ((first, "one"), (second, "two"))
    ]
    text = (project.root / "registry.py").read_text()
    project.write("registry.py", text.replace("return function", "return 1 and function"))
    for observed in seen:
        assert project.changes(observed) == ["function changed: registry.py::register"]


def test_a_dynamic_import_counts_also_where_the_module_is_loaded_already(project: Project) -> None:
    """`importlib.import_module` of a constants-only module is seen for every caller."""
    project.write("plugin_a.py", "VALUE = 1\n")
    project.write(
        "app.py",
        """
        import importlib
        def f(name): return importlib.import_module(name).VALUE
        """,
    )
    module = project.load("app")

    seen = [project.observe(module.f, "plugin_a") for _ in range(2)]
    for observed in seen:
        assert "plugin_a" in named(observed, Kind.IMPORT)
    project.write("plugin_a.py", "VALUE = 2\n")
    for observed in seen:
        assert project.changes(observed) == ["function changed: plugin_a.py::VALUE"]


def test_a_module_that_a_library_makes_counts_by_its_distribution(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``six.moves`` is found only where six is loaded, which the next process has not done yet."""
    project.write("app.py", "from six.moves import range\ndef f(): return range\n")
    project.settle()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", sys.meta_path[:])
        for name in [one for one in sys.modules if one.partition(".")[0] == "six"]:
            patch.delitem(sys.modules, name)
        observed = project.observe(project.load("app").f)
        for name in [one for one in sys.modules if one.partition(".")[0] == "six"]:
            patch.delitem(sys.modules, name)
        sys.meta_path[:] = [one for one in sys.meta_path if type(one).__module__ != "six"]
        assert project.changes(observed) == []


def test_a_missing_module_counts_by_its_absence(project: Project) -> None:
    """A fallback for an optional module is redone when the module appears."""
    project.write(
        "app.py",
        """
        def f(name):
            try:
                __import__(name)
            except ImportError:
                return "fallback"
        """,
    )
    module = project.load("app")
    observed = project.observe(module.f, "not_there_yet")

    assert ("import", "not_there_yet", ABSENT) in observed.trace.dependencies
    project.write("not_there_yet.py")
    assert "import appeared: not_there_yet" in project.changes(observed)


def test_a_source_edited_since_its_import_counts_as_it_was_imported(project: Project) -> None:
    """The result of the old code is not that of the new."""
    path = project.write("m.py", "def f(): return 1\n")
    module = project.load("m")
    project.settle()
    path.write_text("def f(): return 2\n")
    observed = project.observe(module.f)

    assert project.changes(observed) == ["function changed: m.py"]


def test_a_failing_import_leaves_no_thread_inside_it(project: Project) -> None:
    """After an import that raised, reads belong to the window again."""
    project.write("broken.py", "raise ValueError('broken')\n")
    project.write("data.csv")

    def act() -> None:
        with pytest.raises(ValueError, match="broken"):
            project.load("broken")
        open("data.csv").close()

    observed = project.observe(act)

    assert "data.csv" in named(observed, Kind.FILE)


def test_the_import_systems_own_files_do_not_count(project: Project) -> None:
    """Importing is a matter of modules: no source, bytecode or directory is read as a file."""
    project.write("pkg/__init__.py")
    project.write("pkg/inner.py", "X = 1\n")
    observed = project.observe(lambda: project.load("pkg.inner"))

    assert named(observed, Kind.FILE) | named(observed, Kind.LISTING) == set()
    project.write("pkg/inner.py", "raise ValueError\n")
    assert project.changes(observed) != []


def test_package_resources_count_as_files(project: Project) -> None:
    """Data beside the code is data, whichever way it is found."""
    project.write("pkg/__init__.py")
    project.write("pkg/a.txt", "1")
    project.write("pkg/b.txt", "1")
    project.load("pkg")

    observed = project.observe(
        lambda: (
            importlib.resources.files("pkg").joinpath("a.txt").read_text(),
            pkgutil.get_data("pkg", "b.txt"),
        )
    )

    assert {"pkg/a.txt", "pkg/b.txt"} <= named(observed, Kind.FILE)


def test_asking_for_a_distribution_counts(project: Project) -> None:
    """A version check depends on that distribution; entry points on the list of all."""
    one = project.observe(lambda: importlib.metadata.version("pytest"))
    everything = project.observe(lambda: importlib.metadata.entry_points(group="no-such-group"))

    assert named(one, Kind.DISTRIBUTION) == {"pytest"}
    assert named(one, Kind.DISTRIBUTIONS) == set()
    assert named(everything, Kind.DISTRIBUTIONS) == {"*"}


def test_looking_for_modules_among_those_installed_counts(project: Project) -> None:
    """Plugins may be found by how their modules are called, on the whole path."""
    observed = project.observe(lambda: [*pkgutil.iter_modules()])

    assert named(observed, Kind.DISTRIBUTIONS) == {"*"}


def test_hooks_are_gone_after_disarming(project: Project) -> None:
    """A process that no longer observes is as it was."""
    project.observatory.disarm()

    assert type(importlib.import_module).__name__ == "function"
    assert not any("observation" in type(finder).__module__ for finder in sys.meta_path)
    assert type(os.stat).__name__ == "builtin_function_or_method"
    if sys.version_info >= (3, 12):
        assert "pytest-taskcache" not in [sys.monitoring.get_tool(tool) for tool in range(6)]


def test_two_armed_observatories_see_the_same(project: Project) -> None:
    """A pytest run inside a pytest run: both plugins observe, and either may end first."""
    project.write("m.py", "def f():\n with open('data.csv') as h: return h.read()\n")
    project.write("data.csv", "1")
    module = project.load("m")
    other = project.new_observatory()
    outer = project.window()
    other.arm()
    other.arm()
    inner = other.open_window(module.f)
    module.f()
    seen = inner.close()
    other.disarm()
    other.disarm()
    module.f()
    observed = outer.close()

    for each in (seen, observed):
        assert named(each, Kind.FILE) == {"data.csv"}
    project.keep_parts(observed)
    assert "m.py::f" in project.functions(observed)
    assert "m.py::f" in project.functions(project.observe(module.f))


def test_lazy_objects_are_left_asleep(project: Project) -> None:
    """One that acts as soon as it is asked for anything (Django's settings, a lazy module) is not
    asked, neither when observation begins nor when what an import ran is looked for."""
    project.write(
        "lazy.py",
        """
        import subprocess, sys, types
        class Lazy:
            def __getattribute__(self, name): raise RuntimeError(name)
        class LazyModule(types.ModuleType):
            def __getattribute__(self, name): raise RuntimeError(name)
        LAZY, MODULE = Lazy(), LazyModule("lazy_module")
        sys.modules["lazy_module"] = MODULE
        subprocess.run([sys.executable, "-c", ""], check=True)
        def f(): return 1
        """,
    )
    project.settle()
    module = project.load("lazy")
    try:
        observed = project.observe(module.f)
        project.observatory.disarm()
        project.observatory.arm()
    finally:
        sys.modules.pop("lazy_module", None)
    assert [act.kind for act in observed.opaque] == ["subprocess"]


def test_an_import_by_name_has_no_frame_of_ours_above_it(project: Project) -> None:
    """Whoever counts frames, as ``warnings.warn(stacklevel=3)`` does where a package imports its
    modules when they are first asked for, finds those that are there without us."""
    project.write(
        "lazy/__init__.py",
        """
        import importlib
        def __getattr__(name): return importlib.import_module("." + name, __name__)
        """,
    )
    project.write("lazy/old.py", "import warnings\nwarnings.warn('old', stacklevel=4)\n")
    project.write("app.py", "import lazy\ndef f(): return lazy.old\n")
    module = project.load("app")

    with pytest.warns(UserWarning, match="old") as seen:
        observed = project.observe(module.f)

    assert [warning.filename for warning in seen] == [str(project.root / "app.py")]
    assert project.changes(observed) == []
    project.write("lazy/old.py", "VALUE = 1\n")
    assert project.changes(observed) != []


def test_the_machinery_of_imports_can_be_patched(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a test sets in `importlib._bootstrap` is what `importlib.import_module` calls, and is
    gone afterwards, while imports are observed as ever."""
    project.write("tool.py", "")
    machinery = importlib.__dict__["_bootstrap"]
    assert machinery is sys.modules["importlib._bootstrap"]
    plain = machinery._gcd_import
    with monkeypatch.context() as patch:
        patch.setattr(machinery, "_gcd_import", lambda *names: names)
        assert importlib.import_module("tool") == ("tool", None, 0)
    assert machinery._gcd_import is plain
    assert importlib.import_module("tool").__name__ == "tool"
