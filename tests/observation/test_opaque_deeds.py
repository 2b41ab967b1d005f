"""Deeds whose effects nobody can observe are named, without their arguments."""

from __future__ import annotations

import ctypes
import ctypes.util
import multiprocessing
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from observed_project import Project, named

from pytest_taskcache.model.dependency import Kind, Observed, Opaque
from pytest_taskcache.observation.hooks.dispatcher import muted
from pytest_taskcache.observation.hooks.opaque import children


def kinds(observed: Observed) -> set[str]:
    return {deed.kind for deed in observed.opaque}


DEEDS: dict[str, Callable[[], object]] = {
    "run": lambda: subprocess.run(["true", "--token=secret"], check=True),
    "shell": lambda: subprocess.run("true secret", shell=True, check=True),
    "system": lambda: os.system("true secret"),
    "posix_spawn": lambda: os.waitpid(os.posix_spawn("/bin/true", ["true", "secret"], {}), 0),
}


@pytest.mark.parametrize("how", DEEDS)
def test_a_child_process_is_opaque_and_its_arguments_stay_secret(
    project: Project, how: str
) -> None:
    """An outcome that hangs on a child is not cached unless allowed; no secret is written."""
    observed = project.observe(DEEDS[how])

    assert kinds(observed) == {"subprocess"}
    assert "secret" not in str(observed.opaque)


def test_the_program_is_named(project: Project) -> None:
    """The summary can say which program made a test uncacheable."""
    observed = project.observe(lambda: subprocess.run(["/bin/true"], check=True))

    assert observed.opaque == (Opaque("subprocess", "true"),)


_IMPORTED_LATER = """
import sys
sys.modules.pop("subprocess", None)  # whatever starts the interpreter may have imported it
from pytest_taskcache import Cache

def program():
    import subprocess
    subprocess.run([sys.executable, "-c", ""], check=True)

with Cache(sys.argv[1]) as cache:
    window = cache.engine.parts.observation.open_window(program)
    window.enter()
    program()
    window.leave()
    print(*(deed.kind for deed in window.close().opaque))
    import _posixsubprocess, subprocess
    print(subprocess._fork_exec is _posixsubprocess.fork_exec)
"""


def test_a_program_is_told_once_where_subprocess_is_imported_later(tmp_path: Path) -> None:
    """It has an event of its own, beside what is watched for `multiprocessing`."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED_LATER, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["subprocess", "False"]


def test_asking_the_platform_is_not_opaque(project: Project) -> None:
    """`platform` asks itself through children; the platform is in every key anyway."""
    platform._uname_cache = None  # type: ignore[attr-defined]
    observed = project.observe(lambda: platform.uname().processor)

    assert observed.opaque == ()


def test_a_fork_is_opaque_and_the_child_observes_nothing(project: Project) -> None:
    """A forked child neither crashes in the hooks nor pretends to have observed anything."""
    project.write("m.py", "def inside(): return open('data').read()\n")
    project.write("data", "1")
    module = project.load("m")
    verdict = project.root / "verdict"

    def act() -> None:
        pid = os.fork()
        if pid == 0:
            module.inside()
            window = project.observatory.open_window(module.inside)
            module.inside()
            inner = window.close()
            verdict.write_text(repr(inner.untrusted))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    window = project.window()
    act()
    observed = window.close()

    assert kinds(observed) == {"fork"}
    assert "nothing was observed" in verdict.read_text()
    assert "m.py::inside" not in project.functions(observed)


def _work() -> None:
    return None


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_is_opaque_whatever_the_start_method(project: Project, method: str) -> None:
    """A pool's or process's work happens out of sight."""
    context = multiprocessing.get_context(method)

    def act() -> None:
        process = context.Process(target=_work)
        process.start()
        process.join()

    assert "multiprocessing" in kinds(project.observe(act))


def _library() -> str:
    extensions = Path(os.__file__).parent / "lib-dynload"
    return str(next(extensions.glob("_bisect*.so")))


def test_a_shared_library_of_the_project_is_opaque_and_its_file_counts(project: Project) -> None:
    """A rebuilt library is a change; what it touches is unknown."""
    target = project.root / "lib" / "native.so"
    target.parent.mkdir()
    target.write_bytes(Path(_library()).read_bytes())

    observed = project.observe(ctypes.CDLL, str(target))

    assert observed.opaque == (Opaque("ctypes", "lib/native.so"),)
    assert named(observed, Kind.FILE) == {"lib/native.so"}
    system = project.observe(ctypes.CDLL, None)
    assert system.opaque == ()


@pytest.mark.parametrize("user", ["bisect_user", "app"])
def test_a_native_extension_of_the_project_is_opaque_for_all_who_use_it(
    project: Project, user: str
) -> None:
    """Whichever test imported it first, every test that uses it depends on it; also one that gets
    at it where someone else set it."""
    source = Path(_library())
    (project.root / source.name).write_bytes(source.read_bytes())
    project.write("m.py", f"import {user}\ndef f(): return {user}.use([1], 1)\n")
    project.write("app.py", "use = None\n")
    project.write("plug.py", "import _bisect, app\napp.use = _bisect.bisect_right\n")
    project.write("bisect_user.py", "import _bisect\nuse = _bisect.bisect_right\n")
    saved = sys.modules.pop("_bisect", None)
    try:
        project.load("plug")
        module = project.load("m")
        first, second = project.observe(module.f), project.observe(module.f)
    finally:
        sys.modules.pop("_bisect", None)
        if saved is not None:
            sys.modules["_bisect"] = saved

    for observed in (first, second):
        assert observed.opaque == (Opaque("native", source.name),)
        assert source.name in named(observed, Kind.FILE)


def _serve(server: socket.socket) -> threading.Thread:
    def accept() -> None:
        server.accept()[0].close()

    thread = threading.Thread(target=accept)
    thread.start()
    return thread


def _listener(family: int, directory: Path) -> socket.socket:
    server = socket.socket(family)
    server.bind(str(directory / "s") if family == socket.AF_UNIX else ("127.0.0.1", 0))
    server.listen()
    return server


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["inet", "unix"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_connection_is_opaque_unless_the_listener_was_opened_in_the_window(
    project: Project, family: int, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that starts its own server sees everything; a database that runs already is
    opaque, also through a local socket."""
    monkeypatch.chdir(project.scratch)
    listeners = [] if inside else [_listener(family, Path())]

    def act() -> None:
        server = listeners[0] if listeners else _listener(family, Path())
        thread = _serve(server)
        with socket.socket(family) as client:
            client.connect(server.getsockname())
        thread.join()
        server.close()

    assert kinds(project.observe(act)) == (set() if inside else {"network"})


def test_resolving_a_foreign_name_is_opaque_a_local_one_is_not(project: Project) -> None:
    """Asking a name server is a dependency on the world."""

    def local() -> None:
        socket.getaddrinfo("127.0.0.1", 80)
        socket.getaddrinfo("localhost", 80)
        socket.getaddrinfo(None, 80)

    def foreign() -> None:
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("no-such-host.invalid", 80)

    assert kinds(project.observe(local)) == set()
    assert project.observe(foreign).opaque == (Opaque("network", "no-such-host.invalid"),)


def test_muted_deeds_are_nobodys(project: Project) -> None:
    """What the cache's own storages connect to ties no computation to them."""

    def act() -> None:
        with muted():
            subprocess.run(["true"], check=True)

    assert project.observe(act).opaque == ()


@pytest.mark.parametrize("command", ["rm data", "echo 2 > data", "rm -r folder/below"])
def test_what_a_child_changes_counts_as_it_was_before(project: Project, command: str) -> None:
    """The author of a cached function answers for its child, and not for files that it read: the
    child took one of them away, or put another in its place."""
    project.write("data", "1")
    project.write("folder/below/file")
    project.settle()

    def act() -> None:
        Path("data").read_text()
        os.listdir("folder")
        subprocess.run(["sh", "-c", command], check=True)

    observed = project.observe(act)
    assert not observed.untrusted
    assert project.changes(observed)
    project.write("data", "1")
    project.write("folder/below/file")
    assert project.changes(observed) == []


@pytest.mark.skipif(sys.platform != "linux", reason="no other platform tells of children")
def test_children_are_seen_while_threads_end() -> None:
    """One that ends while they are listed takes none with it: a fixture was refused, as if it had
    left a child running that there had been before."""
    over = threading.Event()

    def start_and_end() -> None:
        while not over.is_set():
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()

    busy = threading.Thread(target=start_and_end)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        busy.start()
        try:
            seen = [str(child.pid) in children() for _ in range(300)]
        finally:
            over.set()
            busy.join()
            child.communicate(b"\n")
    assert all(seen)
