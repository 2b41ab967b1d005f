"""The names that paths go by in traces, so that another checkout finds the same names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from pytest_taskcache.originals import os_path

TEMPORARY = "<tmp>"
"""First component of the name of anything in the run's temporary directory."""

# What is no UTF-8, what escapes itself, and a name that would read like an anchor.
_UNSAFE = re.compile("^<|[\\\\\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})")


class Anchors:
    """Turns paths into names and back. ``root`` is the project's directory; ``temporary`` returns
    the run's own temporary directory, None for as long as there is none."""

    def __init__(self, root: Path, temporary: Callable[[], Path | None] = lambda: None) -> None:
        self.root = Path(os_path.abspath(root))
        self.temporary: Path | None = None
        self._temporary = temporary
        self._prefixes = [(spelled + os.sep, "") for spelled in _spellings(self.root)]
        self._look_for_temporary()

    def _look_for_temporary(self) -> None:
        found = self._temporary() if self.temporary is None else None
        if found is None:
            return
        self.temporary = Path(os_path.abspath(found))
        self._prefixes += ((spelled + os.sep, TEMPORARY) for spelled in _spellings(found))
        # The longest anchor wins: a root may lie in the temporary directory, or the reverse.
        self._prefixes.sort(key=lambda item: -len(item[0]))

    def name_of(self, path: str | Path) -> str:
        """The name of a path: POSIX, relative to the root, under ``<tmp>/``, else absolute. Follows
        no links. The root itself is ``.``. Backslashes and bytes that are no UTF-8 are escaped, so
        that a name is always text that can be stored."""
        self._look_for_temporary()
        terminated = os_path.abspath(path) + os.sep
        start, anchor = "", ""
        for prefix, named in self._prefixes:
            if terminated.startswith(prefix):
                start, anchor = prefix, named
                break
        rest = _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", terminated[len(start) : -1])
        return f"{anchor}/{rest}" if anchor and rest else anchor or rest or "."

    def path_of(self, name: str) -> Path:
        """The path that a name stands for here; the inverse of name_of."""
        head, _, rest = name.partition("/")
        if head == TEMPORARY:
            self._look_for_temporary()
            # Without a temporary directory nothing of that name exists.
            return (self.temporary or Path(os.sep, TEMPORARY)) / _unescape(rest)
        return self.root / _unescape(name)


def _spellings(path: Path) -> list[str]:
    """A path as named and with its links resolved, without a separator at the end."""
    both = dict.fromkeys((os_path.abspath(path), os_path.realpath(path)))
    return [spelled.rstrip(os.sep) for spelled in both]


def _unescape(name: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name) if "\\" in name else name
