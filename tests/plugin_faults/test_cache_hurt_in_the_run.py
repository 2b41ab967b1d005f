"""What happens to the cache while the tests run: a full disk, a directory that vanishes."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hurt_project import ALL_COUNTED, HurtProject, Ran, check_recovered, check_unharmed

NO_FILE_GROWS = """
    import resource, sys
    sys.dont_write_bytecode = True  # Python itself would leave a part of a module's
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
"""


@pytest.mark.parametrize("size", [5_000, 20_000, 150_000, 260_000])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_files_that_cannot_grow(hurt: HurtProject, plain: Ran, size: int, warm: bool) -> None:
    """No file may grow beyond this size, as over quota; Python ignores the signal for it.
    Whatever could still be written is whole, and the rest is stored when there is room."""
    if warm:
        hurt.run()
        text = (hurt.root / "counter.py").read_text()
        hurt.write("counter.py", text.replace("os.close(handle)", "os.close(handle), 0"))
    ran = hurt.run(prelude=NO_FILE_GROWS.format(size=size))
    check_unharmed(ran, plain)
    assert ran.faults, ran.shown
    assert set(ran.counts) == set(ALL_COUNTED), ran.shown
    check_recovered(hurt)


@pytest.fixture
def small_disk(hurt: HurtProject) -> Iterator[Path]:
    """A file system of 200 kB where the cache is to be."""
    hurt.cache.parent.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k,mode=0700", "none", str(hurt.cache.parent)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system, and not everywhere")
    yield hurt.cache.parent
    subprocess.run(["umount", str(hurt.cache.parent)], check=True)


def test_a_full_disk(hurt: HurtProject, plain: Ran, small_disk: Path) -> None:
    """A disk without room from the start, one that fills up, and one with room again."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(196 << 10))
    full = hurt.run()
    check_unharmed(full, plain)
    assert any("disk full" in reason for reason in full.faults), full.shown
    ballast.unlink()
    filling = hurt.run()
    check_unharmed(filling, plain)
    assert any("disk full" in reason for reason in filling.faults), filling.shown
    command = ["mount", "-o", "remount,size=10m", str(small_disk)]
    subprocess.run(command, check=True)
    check_recovered(hurt)


VANISHING = {
    "the cache": "import shutil; shutil.rmtree('.pytest_cache/taskcache')",
    "pytest's cache": "import shutil; shutil.rmtree('.pytest_cache')",
    "the index": "import os; os.unlink('.pytest_cache/taskcache/index.sqlite3')",
    "the index with its log": """
import glob, os
for path in glob.glob('.pytest_cache/taskcache/index.sqlite3*'):
    os.unlink(path)
""",
    "the results": "import shutil; shutil.rmtree('.pytest_cache/taskcache/results')",
    "the locks of runs": "import shutil; shutil.rmtree('.pytest_cache/taskcache/runs')",
}


@pytest.mark.parametrize("what", VANISHING)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_what_vanishes_is_made_anew(hurt: HurtProject, plain: Ran, what: str, warm: bool) -> None:
    """A test, or somebody in another terminal, deletes the cache under the run. What was in it
    is lost; what is computed afterwards is stored."""
    if warm:
        hurt.run()
    ran = hurt.run(DEED=VANISHING[what])
    check_unharmed(ran, plain)
    if not warm:  # else there was nothing to compute afterwards
        after = hurt.run("-k", "test_after")
        assert not after.counts["test"], after.shown
    check_recovered(hurt)


def test_the_cache_becomes_a_file(hurt: HurtProject, plain: Ran) -> None:
    """In place of the directory stands something in which nothing can be stored."""
    deed = """
import shutil
shutil.rmtree('.pytest_cache/taskcache')
open('.pytest_cache/taskcache', 'w').close()
"""
    ran = hurt.run(DEED=deed)
    check_unharmed(ran, plain)
    assert ran.faults, ran.shown
    hurt.cache.unlink()
    check_recovered(hurt)


def test_the_index_is_damaged_under_the_run(hurt: HurtProject, plain: Ran) -> None:
    """Somebody writes nonsense over the index that is open."""
    hurt.run()
    deed = """
with open('.pytest_cache/taskcache/index.sqlite3', 'r+b') as file:
    file.write(b'nonsense' * 20000)
import glob, os
for path in glob.glob('.pytest_cache/taskcache/index.sqlite3-wal'):
    os.truncate(path, 0)
"""
    ran = hurt.run(DEED=deed)
    check_unharmed(ran, plain)
    check_recovered(hurt)


def test_the_directory_of_the_project_is_left(hurt: HurtProject, plain: Ran) -> None:
    """A test goes to another directory, which is then removed, and does not come back: what
    runs after it has no working directory."""
    deed = """
import os, tempfile
where = tempfile.mkdtemp()
os.chdir(where)
os.rmdir(where)
"""
    without = hurt.run(plugin=False, DEED=deed)
    ran = hurt.run(DEED=deed)
    check_unharmed(ran, without)
    check_recovered(hurt)


def test_the_project_is_removed(hurt: HurtProject) -> None:
    """A test removes its own project, cache included: the rest of the run is as without us."""
    deed = "import os, shutil; shutil.rmtree(os.getcwd())"
    hurt.write("test_suite.py", SHORT)
    moved = hurt.root.with_name("moved")
    moved.mkdir()
    for path in hurt.root.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    without = hurt.run(plugin=False, DEED=deed)
    moved.rename(hurt.root)
    ran = hurt.run(DEED=deed)
    check_unharmed(ran, without)
    assert ran.counts == Counter(test=6)


SHORT = """
    import os
    import pytest
    from counter import count

    @pytest.mark.cached
    @pytest.mark.parametrize("n", range(3))
    def test_before(n):
        count("test")

    def test_deed():
        exec(os.environ.get("DEED", ""), {})

    @pytest.mark.cached
    @pytest.mark.parametrize("n", range(3))
    def test_after(n):
        count("test")
"""


@pytest.mark.parametrize("name", ["_getframe", "audit"])
def test_sys_lacks_what_the_cache_uses(hurt: HurtProject, plain: Ran, name: str) -> None:
    """A test takes it away, to see what its own code does without."""
    deed = f"""
import os, sys
from unittest import mock
with mock.patch.object(sys, "{name}"):
    del sys.{name}
    os.environ.get("HOME")
    os.path.exists(open("counter.py").name)
    os.getcwd()
"""
    ran = hurt.run(DEED=deed)
    check_unharmed(ran, plain)
    assert not ran.faults, ran.shown
    check_recovered(hurt)
