"""The sources that records rest on, as they were, and what they define: kept locally by content.

They are needed only when a file has changed: to tell which of its definitions did, and to show
the lines. One that is lost counts as if all of the file had changed. They are sent to no shared
storage.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress

from pytest_taskcache.checksum import checksum_bytes
from pytest_taskcache.code.definitions import FORMAT, Analysis
from pytest_taskcache.ports import Shelf

_TEXT = "text"


class SourceArchive:
    """Analyses by content digest; ``read`` gives the present bytes of a file by its name.

    A file may be edited between the moment it was digested and that at which it is read here, so
    that what is read is believed only if it has the digest; ``has`` digests a file anew, for the
    digests that are not of bytes alone (a link's counts where it points).
    """

    def __init__(
        self, read: Callable[[str], bytes | None], has: Callable[[str, str], bool]
    ) -> None:
        self._read = read
        self._has = has
        self._shelf: Shelf | None = None
        self._known: dict[tuple[str, bool], Analysis] = {}
        self._outlines: dict[tuple[str, str], Analysis] = {}
        self._kept: set[str] = set()

    def keep_on(self, shelf: Shelf) -> None:
        """Keeps sources on this shelf from now on, and finds those that are there."""
        self._shelf = shelf

    def forget(self) -> None:
        """Lets go of all analyses, which are many objects for the garbage collector to walk: the
        tests are about to run. Who asks for one again has it read from the shelf."""
        self._known.clear()
        self._outlines.clear()

    def keep(self, name: str, digest: str) -> None:
        """Keeps the content of a file, which has this digest now."""
        if self._shelf is None or digest in self._kept:
            return
        self._kept.add(digest)
        content = self._read_as(name, digest)
        if content is not None and not self._shelf.read(_section(digest)):
            self._shelf.write(_section(digest), {_TEXT: zlib.compress(content, 1)})

    def recorded(self, name: str, digest: str) -> Analysis | None:
        """What the file defined when it had this content; None if that is not known."""
        return self._analysis(name, digest, lambda: source_on(self._shelf, digest))

    def present(self, name: str, digest: str) -> Analysis | None:
        """What the file defines now that it has this content; None if it is not there."""
        return self._analysis(name, digest, lambda: self._read_as(name, digest))

    def outline(self, name: str, digest: str) -> Analysis:
        """Of what the file defines now what changes others when it is imported, by statements or
        functions, and what it imports: much less to read than all of it. Of a file that is not
        there, nothing."""
        known = self._outlines.get((name, digest))
        if known is not None:
            return known
        key = f"outline {FORMAT} {_is_test(name)}"
        known = self._read_item(digest, key)
        if known is None:
            found = self.present(name, digest) or Analysis()
            of_others = (one for one in found.definitions if one.outward or one.takes)
            known = Analysis(tuple(of_others), found.imports)
            if found.definitions:
                self._write_item(digest, key, known)
        self._outlines[name, digest] = known
        return known

    def is_outward(self, name: str, digest: str) -> bool:
        """Whether the body of the file as it is now is there for what it does to others."""
        return any(one.outward for one in self.outline(name, digest).definitions)

    def _read_as(self, name: str, digest: str) -> bytes | None:
        content = self._read(name)
        if content is None or checksum_bytes(content) == digest or self._has(name, digest):
            return content
        return None

    def _analysis(
        self, name: str, digest: str, source: Callable[[], bytes | None]
    ) -> Analysis | None:
        key = (digest, _is_test(name))
        known = self._known.get(key)
        if known is not None:
            return known
        item = f"{FORMAT} {key[1]}"
        known = self._read_item(digest, item)
        if known is None:
            content = source()
            if content is None:
                return None
            from pytest_taskcache.code.source_file import analyse

            known = analyse(content, is_test=key[1])
            self._write_item(digest, item, known)
        self._known[key] = known
        return known

    def _read_item(self, digest: str, item: str) -> Analysis | None:
        kept = self._shelf.read(_section(digest)).get(item) if self._shelf is not None else None
        if kept is not None:
            with suppress(ValueError, zlib.error):  # damaged: made anew
                return Analysis.from_text(zlib.decompress(kept).decode())
        return None

    def _write_item(self, digest: str, item: str, analysis: Analysis) -> None:
        if self._shelf is not None:
            text = zlib.compress(analysis.to_text().encode(), 1)
            self._shelf.write(_section(digest), {item: text})


def source_on(shelf: Shelf | None, digest: str) -> bytes | None:
    """The source of this digest, as it was kept on a shelf; None if it was not."""
    data = shelf.read(_section(digest)).get(_TEXT) if shelf is not None else None
    try:
        return None if data is None else zlib.decompress(data)
    except zlib.error:
        return None


def _section(digest: str) -> str:
    return f"source {digest}"


def _is_test(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith("test_") or last.endswith("_test.py")
