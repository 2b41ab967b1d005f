"""Locks between processes that share a directory: the default."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import xxhash

from pytest_taskcache.errors import LockError
from pytest_taskcache.locking import keyfile, liveness
from pytest_taskcache.locking.encoding import unknown
from pytest_taskcache.locking.forking import ForkAware
from pytest_taskcache.locking.keyfile import Claim, Found
from pytest_taskcache.ports import Holder, Lease

GRACE = 5.0
_SUFFIX = ".key"
_ATTEMPTS = 8


class FileLockManager(ForkAware):
    """Mutual exclusion between all processes that use the same directory.

    ``keys/`` has one file per *held* key, made atomically, that names its holder; ``alive/`` has
    one file per process, which the process keeps locked (``flock``) as long as it lives, so that
    any number of held keys costs one descriptor. A key file whose process is gone is taken over,
    under the lock of ``takeover.lock``, by exactly one. A key file that cannot be understood counts
    as held until it has not changed for ``grace`` seconds.

    Tokens are nanoseconds since 1970, and at least one more than the token that is replaced and
    than any that this object gave out. A clock set back between a release and the next acquisition
    by another process may thus give a smaller token; the older lease was given up by then.

    A stopped process (SIGSTOP) lives, and keeps what it holds. On a network file system the locks
    must reach the other hosts (NFS does, unless mounted with ``local_lock``); where they do not,
    use Redis or PostgreSQL.
    """

    def __init__(self, directory: Path, *, grace: float = GRACE) -> None:
        super().__init__()
        self._directory = directory.absolute()
        self._keys = self._directory / "keys"
        self._alive = self._directory / "alive"
        self._guard = self._directory / "takeover.lock"
        self._grace = grace
        self._life: liveness.Liveness | None = None
        self._held: dict[str, tuple[Lease, bytes]] = {}
        self._last = 0
        self._scratches = 0

    def describe(self) -> str:
        """Where this is, for people."""
        return f"file locks in {self._directory}"

    def acquire(self, key: str, holder: Holder) -> Lease | Holder:
        """The lease, or who has it. Raises LockError."""
        with self._mutex, self._told("acquire"):
            life = self._present()
            path = self._path(key)
            for _ in range(_ATTEMPTS):
                found = keyfile.read(path)
                if found is None:
                    claim = self._claim(holder, 0, life)
                    if keyfile.create(path, self._scratch(life), claim.encode()):
                        return self._keep(key, claim)
                    continue
                if not self._is_dead(found, life):
                    return _named(found)
                taken = self._take_over(path, found, holder, life)
                if isinstance(taken, Claim):
                    return self._keep(key, taken)
                if taken is not None:
                    return taken
            return unknown("others, who keep being faster")

    def release(self, lease: Lease) -> None:
        """Gives up the lease, if it is still ours. Raises LockError; then it is still held."""
        with self._mutex, self._told("release"):
            held = self._held.get(lease.key)
            if held is None or held[0] != lease:
                return
            self._remove(lease.key, held[1])
            del self._held[lease.key]

    def confirm(self, lease: Lease) -> bool:
        """Whether our file is still there, and we are still seen to live. Raises LockError."""
        with self._mutex, self._told("confirm"):
            held = self._held.get(lease.key)
            if held is None or held[0] != lease or self._life is None or not self._life.intact():
                return False
            found = keyfile.read(self._path(lease.key))
            return found is not None and found.content == held[1]

    def close(self) -> None:
        """Releases all leases of this object. Never raises."""
        with self._mutex:
            for key, (_, content) in self._held.items():
                # What cannot be removed now is a dead process's in a moment.
                with contextlib.suppress(OSError):
                    self._remove(key, content)
            self._held.clear()
            if self._life is not None:
                self._life.close()
                self._life = None

    def _forget(self) -> None:
        self._held = {}
        if self._life is not None:
            self._life.abandon()
            self._life = None

    def _present(self) -> liveness.Liveness:
        """This process's liveness file, made at first use."""
        if self._life is not None:
            if self._life.intact():
                return self._life
            self._life.close()
            self._life = None
            self._held.clear()
            raise LockError(self.describe(), "its directory vanished, and all locks with it")
        self._keys.mkdir(parents=True, exist_ok=True)
        self._alive.mkdir(exist_ok=True)
        self._life = liveness.Liveness(self._alive)
        self._sweep(self._life)
        return self._life

    def _path(self, key: str) -> Path:
        digest = xxhash.xxh3_128_hexdigest(key.encode("utf-8", "surrogatepass"))
        return self._keys / f"{digest}{_SUFFIX}"

    def _scratch(self, life: liveness.Liveness) -> Path:
        self._scratches += 1
        return self._keys / f"{life.name}.{self._scratches}"

    def _claim(self, holder: Holder, after: int, life: liveness.Liveness) -> Claim:
        self._last = max(time.time_ns(), self._last + 1, after + 1)
        return Claim(holder, self._last, life.name)

    def _keep(self, key: str, claim: Claim) -> Lease:
        lease = Lease(key, claim.holder, claim.token)
        self._held[key] = (lease, claim.encode())
        return lease

    def _remove(self, key: str, content: bytes) -> None:
        # Only we may remove it while we live, so nobody can put another in between.
        path = self._path(key)
        found = keyfile.read(path)
        if found is not None and found.content == content:
            path.unlink(missing_ok=True)

    def _is_dead(self, found: Found, life: liveness.Liveness) -> bool:
        if found.claim is None:
            return abs(life.now() - found.written) > self._grace
        if found.claim.alive == life.name:
            return False
        return not liveness.is_alive(self._alive, found.claim.alive)

    def _take_over(
        self, path: Path, dead: Found, holder: Holder, life: liveness.Liveness
    ) -> Claim | Holder | None:
        """Our claim; or the dead holder while others take over; or None if things changed."""
        with liveness.exclusive(self._guard) as alone:
            if not alone:
                return _named(dead)
            found = keyfile.read(path)
            if found is None or found.content != dead.content or not self._is_dead(found, life):
                return None
            before = found.claim.token if found.claim is not None else 0
            claim = self._claim(holder, before, life)
            keyfile.replace(path, self._scratch(life), claim.encode())
            return claim

    def _sweep(self, life: liveness.Liveness) -> None:
        """Removes what dead processes left behind."""
        with contextlib.ExitStack() as stack:
            leftovers: dict[str, list[Path]] | None = None
            for name in liveness.sweep(self._alive, life.name):
                if leftovers is None:
                    if not stack.enter_context(liveness.exclusive(self._guard)):
                        return
                    leftovers = self._by_process()
                for path in leftovers.get(name, ()):
                    # Asked again, because it may have died only after the list was made, and then
                    # the path may be another's by now; from here on it cannot become another's.
                    if _process_of(path) == name:
                        with contextlib.suppress(PermissionError):  # another user's to remove
                            path.unlink(missing_ok=True)

    def _by_process(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        for path in self._keys.iterdir():
            files.setdefault(_process_of(path), []).append(path)
        return files

    @contextlib.contextmanager
    def _told(self, deed: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot {deed} a lock: {error.strerror or error}"
            raise LockError(self.describe(), reason) from error


def _named(found: Found) -> Holder:
    if found.claim is None:
        return unknown("somebody whose lock file cannot be read")
    return found.claim.holder


def _process_of(path: Path) -> str:
    """The name of the liveness file that a key file or scratch file belongs to; "" for none."""
    if path.suffix != _SUFFIX:
        return path.stem
    found = keyfile.read(path)
    return found.claim.alive if found is not None and found.claim is not None else ""
