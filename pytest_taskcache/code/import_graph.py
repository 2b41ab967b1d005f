"""Where the imports of the project's files lead, for all who need to know who gets at whom.

    files     app.py   pkg/__init__.py   pkg/tables.py   fast.cpython-311-x86_64-linux-gnu.so
    app.py    from pkg import tables     leads to pkg/__init__.py and pkg/tables.py
    tables    import fast                leads to fast.cpython-311-x86_64-linux-gnu.so

A module ``a.b`` may be any file ``.../a/b.py`` or ``.../a/b/__init__.py``. Which of several it is
does not matter: all count. To these come imports that were seen to happen, by computed names too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from pytest_taskcache.code.definitions import Analysis, Import

Graph = Mapping[str, Collection[str]]
"""The files that a file's imports lead to at once."""


def import_graph(
    files: Sequence[str],
    seen: Iterable[tuple[int, int]],
    analyses: Mapping[str, Analysis | None],
) -> Graph:
    """The graph of these files. ``seen`` are imports that happened, by index in ``files``; those
    of -1 are everyone's. A file without an analysis leads nowhere by itself."""
    graph: dict[str, set[str]] = {name: set() for name in files}
    everyone: set[str] = set()
    for importer, imported in seen:
        leads = graph[files[importer]] if importer >= 0 else everyone
        leads.add(files[imported])
    places = _Places(files)
    for name, leads in graph.items():
        analysis = analyses.get(name)
        for each in analysis.imports if analysis is not None else ():
            leads.update(places.imported(name, each))
        leads |= everyone
        leads.discard(name)
    return graph


def closure(graph: Graph, files: Iterable[str]) -> set[str]:
    """These files, and all that their imports lead to, with the packages around each."""
    found: set[str] = set()
    waiting = list(files)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph.get(name, ())
            waiting += _packages_around(name, graph)
    return found


def _packages_around(name: str, files: Collection[str]) -> Iterator[str]:
    directory = name.rpartition("/")[0]
    while directory and f"{directory}/__init__.py" in files:
        yield f"{directory}/__init__.py"
        directory = directory.rpartition("/")[0]


class _Places:
    """Files by the modules that they may be."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_suffix: dict[str, set[str]] = {}
        for name in names:
            directory, slash, last = name.rpartition("/")
            parts = (directory + slash + last.partition(".")[0]).removesuffix("/__init__")
            while parts:
                self._by_suffix.setdefault(parts, set()).add(name)
                parts = parts.partition("/")[2]

    def imported(self, name: str, one: Import) -> Iterator[str]:
        """The files that an import of this file may lead to."""
        inside = name.split("/")[:-1]
        base = one.module.replace(".", "/")
        if one.level:
            around = inside[: len(inside) + 1 - one.level] if one.level > 1 else inside
            base = "/".join([*around, *([base] if base else [])])
        yield from self._by_suffix.get(base, ())
        for each in one.names:
            yield from self._by_suffix.get(f"{base}/{each}" if base else each, ())
        while not one.level and "/" in base:  # importing a.b.c runs a and a.b, too
            base = base.rpartition("/")[0]
            yield from self._by_suffix.get(base, ())
