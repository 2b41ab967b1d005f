"""A project in memory: what ran in it, an edit, and which tests that invalidates."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from pytest_taskcache.code.definitions import Analysis, Changes, diff
from pytest_taskcache.code.import_graph import import_graph
from pytest_taskcache.code.reach import Log, Reached, affected
from pytest_taskcache.code.source_file import analyse


def analysed(name: str, text: str) -> Analysis:
    leaf = name.rpartition("/")[2]
    content = textwrap.dedent(text).lstrip("\n").encode("utf-8", "surrogateescape")
    return analyse(content, is_test=leaf.startswith("test_"))


class Project:
    """Source files, and what a process ran of them, in order: ``file::qualname``; a module's
    body by ``file`` alone. A file that is not told to have run did so before all else."""

    def __init__(self, files: Mapping[str, str], ran: Sequence[str]) -> None:
        self.files = {name: textwrap.dedent(text).lstrip("\n") for name, text in files.items()}
        told = {one for one in ran if "::" not in one}
        order = [*(name for name in files if name not in told), *ran]
        self.nodes = [
            (file, name or "<module>") for file, _, name in (one.partition("::") for one in order)
        ]
        analyses = {name: analysed(name, text) for name, text in self.files.items()}
        self.log = Log(self.nodes, analyses, import_graph(list(analyses), (), analyses))

    def edit(self, name: str, before: str, after: str) -> dict[str, Changes]:
        text = self.files.get(name, "")
        assert before in text
        edited = text.replace(before, after, 1) if before else text + after
        old = self.log.files.get(name, Analysis())
        return {name: diff(old, analysed(name, edited))}

    def reached(self, changes: Mapping[str, Changes]) -> Reached:
        return affected(self.log, changes)

    def position(self, node: str) -> int:
        file, _, name = node.partition("::")
        return self.nodes.index((file, name or "<module>"))

    def why(self, changes: Mapping[str, Changes], *ran: str, closed: str = "") -> str:
        """What invalidates a record that ran these, closed after ``closed``; empty for valid."""
        position = self.position(closed) if closed else len(self.nodes)
        found = self.reached(changes)
        return found.invalid([self.position(one) for one in ran], position)
