"""Payloads as the bytes that a storage would hold, and back."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from pytest_taskcache.ports import Payload, Restore, Serializer


def stored(payload: Payload) -> bytes:
    return b"".join(payload.chunks)


def _nowhere(*_: object) -> NoReturn:
    raise AssertionError("this serializer has no business with files")


NO_FILES = Restore(_nowhere, _nowhere)


def there_and_back(serializer: Serializer, value: object) -> object:
    return serializer.load(memoryview(stored(serializer.dump(value))), NO_FILES)


def mapping_of(data: bytes, folder: Path) -> memoryview:
    """A private mapping of a new file that holds the bytes."""
    import mmap

    path = folder / f"mapped-{len(list(folder.iterdir()))}"
    path.write_bytes(data)
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
