"""What key storage holds: variants, each a trace and a pointer to a result."""

from __future__ import annotations

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.model.dependency import Blob as Blob
from pytest_taskcache.model.dependency import Trace
from pytest_taskcache.model.key import Identity, Part

VARIANTS = 16
"""How many variants of one key are kept and offered, newest first."""


@dataclass(frozen=True, slots=True)
class Result:
    """Pointer to a serialized value.

    ``digest`` (xxh3-128, hexadecimal) and ``size`` (bytes) are those of the payload and are
    checked on read. ``inline`` carries a small payload inside the record. ``sha256`` is filled
    where records are signed.
    """

    digest: str
    size: int
    serializer: str
    inline: bytes | None = None
    sha256: str = ""
    blobs: tuple[Blob, ...] = ()


@dataclass(frozen=True, slots=True)
class Variant:
    """One execution's record under a key; never changed once written.

    Times are POSIX seconds (UTC), durations seconds. ``id`` is unique over all storages and
    sorts by creation. ``inputs`` and ``parameters`` serve validators and explanations;
    ``versions`` says what wrote it (``python``, ``taskcache``). ``signature`` is empty unless
    the record is signed.
    """

    id: str
    key: str
    identity: Identity
    parts: tuple[Part, ...]
    trace: Trace
    result: Result
    created: float
    expires: float | None
    duration: float
    producer: str
    versions: tuple[tuple[str, str], ...] = ()
    inputs: tuple[Part, ...] = ()
    parameters: tuple[Part, ...] = ()
    vouched: bool = False
    signature: str = ""
