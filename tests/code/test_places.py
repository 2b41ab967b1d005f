"""Which files are the project's, what they are called, where imports find them, and what is
installed beside them."""

from __future__ import annotations

import json
import os
import sys
import time
import zipfile
from pathlib import Path

import pytest

from pytest_taskcache.code.definitions import Analysis, Import
from pytest_taskcache.code.distributions import Distributions
from pytest_taskcache.code.import_graph import closure, import_graph
from pytest_taskcache.code.imports import Finder, SourceFiles
from pytest_taskcache.code.source_file import analyse
from pytest_taskcache.model.dependency import ABSENT


class World:
    """A directory with a project in it, a place for installed packages, and a path."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = directory / "repo" / "project"
        self.site = directory / "env" / "site-packages"
        self.root.mkdir(parents=True)
        (self.root.parent / ".git").mkdir()
        self.site.mkdir(parents=True)
        self.path = [str(self.root), str(self.site)]
        self.distributions = Distributions(lambda: self.path, libraries=[str(self.site)])
        self.finder = Finder(lambda: self.path)
        self.sources = SourceFiles(
            self.root,
            self.distributions,
            self.finder,
            ignore=[self.root / ".cache"],
            path=lambda: self.path,
        )

    def write(self, name: str, text: str = "X = 1\n") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def install(self, name: str, version: str, module: str, *requires: str) -> Path:
        info = self.site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        file = self.site / module / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("X = 1\n")
        lines = [f"Requires-Dist: {one}\n" for one in requires]
        (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n{''.join(lines)}\n")
        (info / "RECORD").write_text(f"{module}/__init__.py,sha256=x,6\n{info.name}/RECORD,,\n")
        now = time.time_ns()
        os.utime(file, ns=(now, now))
        os.utime(info / "RECORD", ns=(now + 1, now + 1))
        self.sources.forget()
        return info

    def find(self, module: str) -> str:
        """The name of the project's source file that an import of a module would run."""
        found = self.finder.find(module)
        file = found.file if found is not None else ""
        return self.sources.name_of(file) if self.sources.is_project(file) else ""

    def digest(self, name: str) -> str:
        self.distributions.forget()
        return self.distributions.digest(name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# ------------------------------------------------------------------ what the project's code is


def test_project_code_is_all_that_nobody_installed(world) -> None:
    """Wherever it lies: beside the root, in a folder that only looks like site-packages, beside
    installed packages; not what RECORD lists, the standard library, or the cache's own."""
    info = world.install("tool", "1.0", "tool")
    own = [
        *("src/a.py", "../lib/a.py", "../../far/a.py", "vendored/site-packages/a.py"),
        *("env/a.py", "tests/test_a.py"),
    ]
    for name in own:
        assert world.sources.is_project(str(world.write(name).resolve())), name
    stray = world.site / "stray.py"
    stray.write_text("")
    (world.site / "tool" / "mine.py").write_text("")
    assert world.sources.is_project(str(stray))
    assert world.sources.is_project(str(world.site / "tool" / "mine.py"))
    assert not world.sources.is_project(str(info.parent / "tool" / "__init__.py"))
    for other in (os.__file__, json.__file__, "<string>", "", str(world.root / ".cache" / "x.py")):
        assert not world.sources.is_project(other), other


def test_installed_packages_of_this_interpreter_are_not_the_project(world) -> None:
    """Those of the real environment are recorded in their distributions."""
    world.path += sys.path
    world.sources.forget()
    assert not world.sources.is_project(pytest.__file__)


def test_editable_installation_is_project_code(world) -> None:
    """Its RECORD lists only what leads to the sources."""
    info = world.install("dev", "1.0", "dev_stub")
    source = world.directory / "elsewhere" / "devmod.py"
    source.parent.mkdir()
    source.write_text("")
    (info / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    world.path.append(str(source.parent))
    assert world.sources.is_project(str(source))
    egg = world.root / "proj.egg-info"
    egg.mkdir()
    (egg / "top_level.txt").write_text("mine\n")
    (egg / "SOURCES.txt").write_text("mine.py\n")
    world.sources.forget()
    assert world.sources.is_project(str(world.write("mine.py")))


# ---------------------------------------------------------------------------------------- names


def test_names_are_the_same_in_every_checkout(tmp_path) -> None:
    """Relative to the root, up to the repository around it, else to the path entry."""
    names = []
    for number in ("1", "deeper/2"):
        world = World(tmp_path / number)
        entry = world.directory / "shared"
        world.path.append(str(entry))
        files = [world.write(one) for one in ("a/b.py", "../lib/c.py")]
        files.append(entry / "d" / "e.py")
        files[-1].parent.mkdir(parents=True)
        files[-1].write_text("")
        found = [world.sources.name_of(os.path.normpath(path)) for path in files]
        assert [world.sources.path_of(name) for name in found] == [
            os.path.normpath(path) for path in files
        ]
        names.append(found)
    assert names[0] == names[1] == ["a/b.py", "../lib/c.py", "<path>/d/e.py"]


def test_a_name_under_a_path_entry_leads_back_to_its_file(world) -> None:
    """Of two files of one name in two entries, another process finds one by it: the other goes by
    its own place, in whatever order they are asked for."""
    files = []
    for entry in ("shared", "shared/deeper"):
        files.append(world.directory / entry / "conftest.py")
        files[-1].parent.mkdir(parents=True)
        files[-1].write_text("")
        world.path.append(str(files[-1].parent))
    for order in (files, files[::-1]):
        world.sources.forget()
        names = {str(file): world.sources.name_of(str(file)) for file in order}
        assert sorted(names.values()) == sorted(["<path>/conftest.py", str(files[0])])
    other = SourceFiles(world.root, world.distributions, world.finder, path=lambda: world.path)
    for file, name in names.items():
        assert other.path_of(name) == file


def test_content_of_whatever_a_path_is(world) -> None:
    """A file, one in a zip file, a directory, a loop of links, nothing."""
    world.write("a.py", "A = 1\n")
    assert world.sources.content("a.py") == b"A = 1\n"
    archive = world.root / "lib.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("pkg/__init__.py", "Z = 1\n")
    assert world.sources.content("lib.zip/pkg/__init__.py") == b"Z = 1\n"
    (world.root / "loop.py").symlink_to("loop.py")
    (world.root / "folder.py").mkdir()
    (world.root / "bad.zip").write_bytes(b"PK\x03\x04")
    for name in ("loop.py", "folder.py", "gone.py", "lib.zip/no.py", "bad.zip/x.py", "a\0b.py"):
        assert world.sources.content(name) is None, name


# -------------------------------------------------------------------------------------- imports


def test_imports_are_found_where_python_finds_them(world) -> None:
    """Modules, packages, namespaces, zip files; and what would be found instead tomorrow."""
    world.write("mod.py")
    world.write("pkg/__init__.py")
    world.write("pkg/inner.py")
    world.write("space/inner.py")
    with zipfile.ZipFile(world.root / "lib.zip", "w") as opened:
        opened.writestr("zipped/__init__.py", "")
        opened.writestr("zipped/inner.py", "")
    world.path.append(str(world.root / "lib.zip"))
    found = {
        name: world.find(name)
        for name in ("mod", "pkg", "pkg.inner", "space", "space.inner", "zipped.inner", "no", "os")
    }
    assert found == {
        "mod": "mod.py",
        "pkg": "pkg/__init__.py",
        "pkg.inner": "pkg/inner.py",
        "space": "",
        "space.inner": "space/inner.py",
        "zipped.inner": "lib.zip/zipped/inner.py",
        "no": "",
        "os": "",
    }
    before = {name: world.sources.import_digest(name) for name in ("mod", "no", "space")}
    assert before["no"] == ABSENT
    for name in ("mod/__init__.py", "no.py", "space/__init__.py"):
        world.write(name)
    world.sources.forget()
    for name, digest in before.items():
        assert world.sources.import_digest(name) != digest, name


def test_an_entry_that_is_on_the_path_twice_changes_nothing(world) -> None:
    """As where each test that runs a script appends its directory once more."""
    world.write("space/inner.py")
    once = world.sources.import_digest("space")
    world.path.append(world.path[0])
    world.sources.forget()
    assert world.sources.import_digest("space") == once


def test_odd_path_entries_break_nothing(world) -> None:
    """A file, a loop of links, a directory that may not be read, text that is no path."""
    world.write("mod.py")
    (world.root / "file").write_text("x")
    (world.root / "loop").symlink_to("loop")
    closed = world.root / "closed"
    closed.mkdir(mode=0)
    odd = [world.root / "file", world.root / "loop", closed, "a\0b", "", world.root / "gone"]
    world.path[:0] = list(map(str, odd))
    world.sources.forget()
    assert world.find("mod") == "mod.py"
    assert world.find("nothing_at_all") == ""
    assert world.distributions.digest("nothing") == ABSENT
    assert world.sources.is_project(str(world.root / "mod.py"))
    closed.chmod(0o700)


def test_imports_lead_to_modules_packages_and_submodules() -> None:
    """Absolute and relative imports, of modules and of names in packages; what was seen to happen
    counts too; and with a file the packages around it."""
    files = ["pkg/__init__.py", "pkg/a.py", "pkg/sub/__init__.py", "pkg/sub/b.py", "top.py"]
    a = Analysis(imports=(Import(1, "", ("sub",)), Import(0, "top", ()), Import(0, "os", ())))
    sub = Analysis(imports=(Import(2, "", ("a",)), Import(1, "b", ("X",)), Import(9, "", ("x",))))
    graph = import_graph(files, [(4, 1)], {"pkg/a.py": a, "pkg/sub/__init__.py": sub})
    assert set(graph["pkg/a.py"]) == {"pkg/__init__.py", "pkg/sub/__init__.py", "top.py"}
    assert set(graph["pkg/sub/__init__.py"]) >= {"pkg/a.py", "pkg/sub/b.py"}
    assert set(graph["top.py"]) == {"pkg/a.py"}
    assert closure(graph, ["pkg/sub/b.py"]) == set(files)


def test_who_mentions_a_submodule_gets_at_it_through_its_package() -> None:
    """``import pkg; pkg.sub.x`` works once anybody has imported pkg.sub; a module that lies in no
    package is got at by an import alone."""
    mentioning = analyse(b"import pkg\ndef test():\n    assert pkg.sub.x == top\n")
    graph = import_graph(["pkg/__init__.py", "pkg/sub.py", "top.py", "test.py"], (),
                         {"test.py": mentioning})  # fmt: skip
    assert set(graph["test.py"]) == {"pkg/__init__.py", "pkg/sub.py"}


# -------------------------------------------------------------------------------- distributions


def test_distribution_counts_by_version_record_and_edits(world) -> None:
    """A new version, another RECORD or a file patched in place is a change; taken back, it is
    the same again, whatever its times."""
    info = world.install("Fancy.Name", "1.0", "fancy_mod")
    file = info.parent / "fancy_mod" / "__init__.py"
    before = world.digest("fancy-name")
    assert world.digest("fancy.name") == before
    seen = {before}
    for text in ("X = 2\n", "X = 33\n"):
        file.write_text(text)
        seen.add(world.digest("fancy-name"))
    file.unlink()
    seen.add(world.digest("fancy-name"))
    file.write_text("X = 1\n")
    os.utime(file, (1, 1))
    assert world.digest("fancy-name") == before
    upgraded = info.with_name("Fancy.Name-1.1.dist-info")
    info.rename(upgraded)
    seen.add(world.digest("fancy-name"))
    assert len(seen) == 5
    assert world.digest("nothing") == ABSENT


def test_requirements_reach_what_is_required(world) -> None:
    """A new numpy changes what pandas does: who imports one rests on both."""
    world.install("numpy", "1.0", "numpy")
    world.install("pandas", "2.0", "pandas", "numpy>=1.0", "missing ; extra == 'x'", "pandas[all]")
    world.install("other", "1.0", "other")
    assert world.distributions.requirements("pandas") == {"numpy", "pandas"}


def test_list_of_distributions_changes_with_any(world) -> None:
    """Whoever lists them all depends on every name and version."""
    world.install("one", "1.0", "one")
    before = world.distributions.list_digest()
    world.install("two", "1.0", "two")
    assert world.distributions.list_digest() != before


def test_damaged_metadata_does_not_raise(world) -> None:
    """RECORD as a directory, binary garbage in METADATA: still a digest, and owners."""
    info = world.install("tool", "1.0", "tool")
    (info / "RECORD").unlink()
    (info / "RECORD").mkdir()
    (info / "METADATA").write_bytes(b"\xff\xfeRequires-Dist: \xff\n\n")
    (info / "top_level.txt").write_text("tool\n")
    before = world.digest("tool")
    assert len(before) == 32
    assert world.distributions.requirements("tool") == {"tool"}
    # Without RECORD the interpreter's own directory tells, and contents count.
    world.sources.forget()
    assert not world.sources.is_project(str(world.site / "tool" / "__init__.py"))
    (world.site / "tool" / "__init__.py").write_text("X = 2\n")
    assert world.digest("tool") != before


def test_the_real_environment(world) -> None:
    """The distributions of this very interpreter are found, by module and by name."""
    found = Distributions(lambda: sys.path)
    assert "pytest" in found.owners("pytest")
    assert {"pytest", "pluggy"} <= found.requirements("pytest")
    assert found.digest("pytest") != ABSENT


LATER = {
    "a module appears": ("new", lambda world: world.write("new.py")),
    "a module vanishes": ("old", lambda world: (world.root / "old.py").unlink()),
    "another shadows it": ("tool", lambda world: world.write("tool/__init__.py")),
    "a portion becomes a package": ("space", lambda world: world.write("space/__init__.py")),
    "a directory beside it does": ("old", lambda world: world.write("old/__init__.py")),
    "in a package": ("space.part", lambda world: world.write("space/part.py")),
    "a link leads nowhere": ("linked", lambda world: (world.directory / "far.py").unlink()),
}


@pytest.mark.parametrize("change", LATER)
def test_what_was_found_stands_until_a_directory_changed(world, change) -> None:
    """For who doubts all there is, as a child process lives: to look again is to look at times."""
    module, change_it = LATER[change]
    world.write("old.py")
    world.write("old/data.txt")
    world.write("space/data.txt")
    world.install("tool", "1", "tool")
    (world.directory / "far.py").write_text("")
    (world.root / "linked.py").symlink_to(world.directory / "far.py")
    time.sleep(0.06)  # times of change cannot be set back, and those of the last 50 ms are racy
    before = world.finder.find(module)
    world.finder.doubt()
    assert world.finder.find(module) is before
    change_it(world)
    world.finder.doubt()
    assert world.finder.find(module) != before
