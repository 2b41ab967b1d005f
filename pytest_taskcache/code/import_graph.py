"""Where the imports of the project's files lead, for all who need to know who gets at whom.

    files     app.py   pkg/__init__.py   pkg/tables.py   fast.cpython-311-x86_64-linux-gnu.so
    app.py    from pkg import tables     leads to pkg/__init__.py and pkg/tables.py
    tables    import fast                leads to fast.cpython-311-x86_64-linux-gnu.so
    test.py   import pkg; pkg.tables.f   leads to pkg/tables.py, which someone else imported

A module ``a.b`` may be any file ``.../a/b.py`` or ``.../a/b/__init__.py``. Which of several it is
does not matter: all count. To these come imports that were seen to happen, by computed names too.
A submodule that was imported is an attribute of its package, whoever imported it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from pytest_taskcache.code.definitions import Analysis, Import

Graph = Mapping[str, Collection[str]]
"""The files that a file's imports lead to at once, with the packages around it."""


def import_graph(
    files: Sequence[str], seen: Iterable[tuple[int, int]], analyses: Mapping[str, Analysis | None]
) -> Graph:
    """The graph of these files. ``seen`` are imports that happened, by index in ``files``; those
    of -1 are everyone's. A file without an analysis leads nowhere by itself."""
    graph: dict[str, set[str]] = {name: set() for name in files}
    everyone: set[str] = set()
    for importer, imported in seen:
        leads = graph[files[importer]] if importer >= 0 else everyone
        leads.add(files[imported])
    places = _by_suffix(files)
    for name, leads in graph.items():
        analysis = analyses.get(name)
        for each in analysis.imports if analysis is not None else ():
            leads.update(*(places.get(module, ()) for module in _imported(name, each)))
        leads.update(_packages_around(name, graph))
        leads |= everyone
        leads.discard(name)
    _lead_to_submodules(graph, {name: one for name, one in analyses.items() if one is not None})
    return graph


def _lead_to_submodules(graph: dict[str, set[str]], known: Mapping[str, Analysis]) -> None:
    """Adds submodules that someone imported: they are attributes of their packages, so whoever
    leads into the package, and mentions the name, may get at one."""
    numbers = {name: number for number, name in enumerate(graph)}
    below: dict[str, int] = {}
    submodules: dict[str, list[str]] = {}
    for name, number in numbers.items():
        package, _, leaf = module_of(name).rpartition("/")
        if package:
            submodules.setdefault(leaf, []).append(name)
        directory = name.rpartition("/")[0]
        while directory:
            below[directory] = below.get(directory, 0) | 1 << number
            directory = directory.rpartition("/")[0]
    wanted = {
        file: [
            submodule
            for name in submodules.keys()
            & frozenset().union(*(d.mentions for d in one.definitions))
            for submodule in submodules[name]
        ]
        for file, one in known.items()
        if file in graph
    }
    grown = bool(wanted)
    while grown:
        grown = False
        masks = closure_masks([[numbers[name] for name in leads] for leads in graph.values()])
        for file, found in wanted.items():
            reached = masks[numbers[file]]
            more = {each for each in found if below[module_of(each).rpartition("/")[0]] & reached}
            more -= {file, *graph[file]}
            graph[file] |= more
            grown |= bool(more)


def closure(graph: Graph, files: Iterable[str]) -> set[str]:
    """These files, and all that their imports lead to."""
    found: set[str] = set()
    waiting = list(files)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph.get(name, ())
    return found


def _packages_around(name: str, files: Collection[str]) -> Iterator[str]:
    directory = name
    while directory:
        directory = directory.rpartition("/")[0]
        package = f"{directory}/__init__.py" if directory else "__init__.py"
        if package not in files:
            return
        yield package


def module_of(name: str) -> str:
    """A file's module, with slashes."""
    directory, slash, last = name.rpartition("/")
    return (directory + slash + last.partition(".")[0]).removesuffix("/__init__")


def _by_suffix(names: Iterable[str]) -> dict[str, set[str]]:
    """Files by the modules that they may be."""
    found: dict[str, set[str]] = {}
    for name in names:
        parts = module_of(name)
        while parts:
            found.setdefault(parts, set()).add(name)
            parts = parts.partition("/")[2]
    return found


def _imported(name: str, one: Import) -> Iterator[str]:
    """The modules that an import of this file may run."""
    inside = name.split("/")[:-1]
    base = one.module.replace(".", "/")
    if one.level:
        around = inside[: len(inside) + 1 - one.level] if one.level > 1 else inside
        base = "/".join([*around, *([base] if base else [])])
    yield base
    for each in one.names:
        yield f"{base}/{each}" if base else each
    while not one.level and "/" in base:  # importing a.b.c runs a and a.b, too
        base = base.rpartition("/")[0]
        yield base


def closure_masks(imports: Sequence[Sequence[int]]) -> list[int]:
    """For each file the mask of all that its imports lead to, itself included: each after those it
    leads to, and again for circles, until nothing is added."""
    masks = [1 << file for file in range(len(imports))]
    order = _last_first(imports)
    grown = True
    while grown:
        grown = False
        for file in order:
            mask = masks[file]
            for other in imports[file]:
                mask |= masks[other]
            grown |= mask != masks[file]
            masks[file] = mask
    return masks


def _last_first(imports: Sequence[Sequence[int]]) -> Iterable[int]:
    """The files, each after those it leads to, but for circles."""
    order: dict[int, None] = {}
    seen: set[int] = set()
    waiting = list(range(len(imports)))
    while waiting:
        file = waiting[-1]
        if file in seen:
            order[waiting.pop()] = None
        else:
            seen.add(file)
            waiting += [other for other in imports[file] if other not in seen]
    return order
