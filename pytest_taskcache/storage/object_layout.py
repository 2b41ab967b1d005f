"""Where records, results and commit markers lie in a store of objects.

::

    results/<2 hex>/<digest>                     a payload or blob; <2 hex> starts its digest
    records/<2 hex>/<key>/<id>.json              a record committed alone
    records/<2 hex>/<key>/<id>.<commit>.json     a record committed together with others
    commits/<2 hex>/<commit>                     the marker of such a commit

Objects are written once and never changed. A record that names a commit is invisible until the
marker is there, which is written after all records of the commit, which are written after their
results; so a writer may die at any moment. The name of a commit is the digest of the ids in it:
a writer that tries again writes the same objects again.

The commit stands in the name rather than inside the object, so that one listing tells which
records there are, which of them are the newest (ids sort by creation) and which markers have to
be looked for, before a single record is fetched. Records are sharded by the first two digits of
the key's digest: few keys are listed one by one, many keys by 256 listings at most, however
many keys there are.

Keys that are not 32 hexadecimal digits, and ids with characters beyond letters, digits, ``-`` and
``_``, are named by their digest and their bytes in hexadecimal; the record inside says what they
are and is checked against what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple

import xxhash

_DIGEST = re.compile(r"[0-9a-f]{32}").fullmatch
_PLAIN_ID = re.compile(r"(?!x-)[A-Za-z0-9_-]{1,128}").fullmatch
_RECORD = re.compile(
    r"records/([0-9a-f]{2})/([0-9a-f]{32})/([A-Za-z0-9_-]+)(?:\.([0-9a-f]{32}))?\.json"
).fullmatch

SHARDS = tuple(f"{number:02x}" for number in range(256))
FEW = 3
"""Up to so many names of one shard are asked for one by one; for more the shard is listed."""


class RecordName(NamedTuple):
    """The name of a record object: ``id`` as it stands in the path, ``commit`` or ""."""

    id: str
    key: str
    commit: str
    path: str


def digest_text(text: str) -> str:
    """The xxh3-128 digest of any text, lone surrogates included."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def key_segment(key: str) -> str:
    """The path segment of a key: 32 hexadecimal digits."""
    return key if _DIGEST(key) else digest_text(key)


def id_segment(identifier: str) -> str:
    """The path segment of a variant's id; sorts as the ids do."""
    return (
        identifier
        if _PLAIN_ID(identifier)
        else f"x-{identifier.encode('utf-8', 'surrogatepass').hex()}"
    )


def commit_name(ids: Iterable[str]) -> str:
    """The name of the commit of these ids, in whatever order."""
    return digest_text("\n".join(sorted(map(id_segment, ids))))


def record_path(key: str, identifier: str, commit: str = "") -> str:
    """The path of a record object; ``commit`` where it is one of several."""
    segment = key_segment(key)
    suffix = f".{commit}" if commit else ""
    return f"records/{segment[:2]}/{segment}/{id_segment(identifier)}{suffix}.json"


def parse_record_path(path: str) -> RecordName | None:
    """What a record's path says; None for anything else that lies about."""
    match = _RECORD(path)
    if match is None or not match[2].startswith(match[1]):
        return None
    return RecordName(id=match[3], key=match[2], commit=match[4] or "", path=path)


def commit_path(commit: str) -> str:
    """The path of a commit's marker."""
    return f"commits/{commit[:2]}/{commit}"


def result_path(digest: str) -> str:
    """The path of a result. A digest that is not 32 hexadecimal digits cannot leave its place."""
    segment = key_segment(digest)
    return f"results/{segment[:2]}/{segment}"


def split_by_shard(segments: Collection[str]) -> tuple[list[str], list[str]]:
    """Shards to list as a whole, and the remaining segments, to be asked for one by one."""
    shards: dict[str, list[str]] = {}
    for segment in segments:
        shards.setdefault(segment[:2], []).append(segment)
    crowded = [shard for shard, members in shards.items() if len(members) > FEW]
    single = [segment for members in shards.values() if len(members) <= FEW for segment in members]
    return crowded, single


__all__ = [
    "FEW",
    "RecordName",
    "SHARDS",
    "commit_name",
    "commit_path",
    "digest_text",
    "id_segment",
    "key_segment",
    "parse_record_path",
    "record_path",
    "result_path",
    "split_by_shard",
]
