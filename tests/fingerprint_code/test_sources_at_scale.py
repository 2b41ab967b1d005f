"""Real sources, broken sources, and how often anything is parsed or opened."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest
from pytest_taskcache.fingerprint.closure import reachable_source
from pytest_taskcache.fingerprint.qualnames import function_key
from pytest_taskcache.fingerprint.skeleton import parse_module
from pytest_taskcache.fingerprint.syntax import Writer

from pytest_taskcache.digests.present import Present
from pytest_taskcache.model.dependency import ABSENT, Kind

LIBRARY = Path(os.__file__).parent


def test_standard_library_parses() -> None:
    """Hundreds of real files: each parses, and its functions are those of its syntax tree."""
    files = [
        *LIBRARY.glob("*.py"),
        *(LIBRARY / "json").glob("*.py"),
        *(LIBRARY / "email").glob("*.py"),
        *(LIBRARY / "asyncio").glob("*.py"),
        *(LIBRARY / "unittest").glob("*.py"),
    ]
    assert len(files) > 200
    for file in files[::2]:
        source = file.read_bytes()
        module = parse_module(source)
        assert not module.mentions.opaque, file
        named = {
            node.name
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert {name.rpartition(".")[2] for name in module.digests.functions} <= named
    encoder = parse_module(Path(json.encoder.__file__).read_bytes())
    assert "JSONEncoder.iterencode" in encoder.digests.functions


def test_closure_over_the_standard_library_as_a_project(project, later) -> None:
    """A project the size of the email package is parsed once a file, held in one graph for many
    questions, and not parsed at all in the next session."""
    for source in (LIBRARY / "email").rglob("*.py"):
        target = project.root / "letters" / source.relative_to(LIBRARY / "email")
        target.parent.mkdir(exist_ok=True, parents=True)
        target.write_text(source.read_text().replace("email.", "letters."))
    session = project.session(shelf=True, clock=later)
    seed = "letters/parser.py::Parser.parsestr"
    first = session.reach({seed}, set())
    parses = session.modules.parses
    assert parses <= len({item.name for item in first if item.kind is Kind.MODULE}) + 2
    assert session.reach({seed}, set()) is first
    for name in list(session.modules.digests("letters/message.py").functions):
        session.reach({f"letters/message.py::{name}"}, {"letters/parser.py"})
    assert session.modules.parses - parses <= 3
    assert session.closure.graphs <= 3
    reached = {item.name for item in first if item.kind is Kind.FUNCTION}
    assert "letters/feedparser.py::FeedParser.feed" in reached
    session.save()
    again = project.session(shelf=True, clock=later)
    assert tuple(again.reach({seed}, set())) == tuple(first)
    assert again.modules.parses == 0
    assert again.contents.reads == 0


def test_verification_alone_reads_no_mentions(project, later) -> None:
    """A warm session that only compares digests loads the small section, parses nothing and
    builds no graph."""
    project.write({"m.py": "def f():\n    return 1\n", "n.py": "import m\n"})
    session = project.session(shelf=True, clock=later)
    trace = session.reach({"m.py::f"}, {"n.py"})
    session.save()
    project.shelf.reads.clear()
    warm = project.session(shelf=True, clock=later)
    assert all(warm.digest(kind, name) == digest for kind, name, digest in trace)
    assert warm.modules.parses == warm.closure.graphs == 0
    assert not any(section.startswith("mentions") for section in project.shelf.reads)


def test_forget_keeps_what_did_not_change(project, later) -> None:
    """After a write somewhere else nothing is parsed or read again."""
    project.write({"m.py": "def f():\n    return 1\n"})
    session = project.session(clock=later)
    session.reach({"m.py::f"}, set())
    before = (session.modules.parses, session.contents.reads, session.closure.graphs)
    project.write({"other.txt": "x"})
    session.forget()
    session.reach({"m.py::f"}, set())
    assert (session.modules.parses, session.contents.reads, session.closure.graphs) == before
    project.write({"m.py": "def f():\n    return 2\n"})
    session.forget()
    session.reach({"m.py::f"}, set())
    assert session.closure.graphs == before[2] + 1


@pytest.mark.parametrize(
    "source",
    [
        b"def f(:\n",
        b"x = '\xff'\n",
        b"# coding: nonsense\n",
        b"\x00\x01",
        b"x = " + b"(" * 3000 + b")" * 3000,
        b"x = " + b"-" * 5000 + b"1\n",
        b"x = [" + b"1+" * 20000 + b"1]\n",
    ],
)
def test_unparsable_sources_count_by_their_bytes(project, source) -> None:
    """Syntax errors, undecodable bytes and trees too deep to walk have digests that follow every
    byte, for the module and whatever is asked of it."""
    path = project.root / "m.py"
    path.write_bytes(source)
    names = [(Kind.MODULE, "m.py"), (Kind.SOURCE, "m.py"), (Kind.FUNCTION, "m.py::f")]
    before = [project.session().digest(*name) for name in names]
    assert ABSENT not in before
    assert project.session().reach({"m.py::f"}, {"m.py"})
    path.write_bytes(source + b"#")
    after = [project.session().digest(*name) for name in names]
    assert all(one != two for one, two in zip(before, after, strict=True))


def test_deep_and_odd_literals_are_walked() -> None:
    """Huge integers, surrogates, infinities and long chains are normalised like anything else."""
    source = (
        f"A = {10**4000}\nB = '\\ud800'\nC = 1e999\nD = -0.0\nE = 1j\nF = ...\nG = b'\\xff'\n"
        f"H = {'+'.join(['1'] * 200)}\nI = 0x{'f' * 6000}\n"
    ).encode()
    module = parse_module(source)
    assert not module.mentions.opaque
    assert parse_module(source.replace(b"-0.0", b"0.0")).digests != module.digests


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("1", "True"),
        ("1", "1.0"),
        ("'1'", "1"),
        ("b'a'", "'a'"),
        ("(1,)", "1"),
        ("[1, 2]", "[[1], 2]"),
        ("f(a, b)", "f((a, b))"),
        ("f(a, 'b')", "f(a.b)"),
        ("a.b.c", "a.b"),
        ("'=a'", "a"),
        ("None", "'None'"),
        ("not a", "-a"),
        ("a < b < c", "a < (b < c)"),
        ("lambda x: x", "lambda x: (x, )"),
        ("{1: 2}", "{1, 2}"),
        ("f(*a)", "f(a)"),
        ("f'{a}'", "f'{a!r}'"),
        ("f'{a:1}'", "f'{a:2}'"),
        ("[x for x in a]", "{x for x in a}"),
        ("a if b else c", "b if a else c"),
        ("x[1:2]", "x[1, 2]"),
    ],
)
def test_different_trees_have_different_texts(one, two) -> None:
    """The normalised text loses nothing that tells two expressions apart."""
    texts = []
    for source in (one, two):
        writer = Writer()
        writer.write(ast.parse(source, mode="eval").body)
        texts.append(writer.out)
    assert texts[0] != texts[1]


def test_nameless_functions_belong_to_the_function_around_them() -> None:
    """Lambdas and comprehensions count as the named function around them; what stands at module
    level belongs to the module."""
    assert function_key("f") == "f"
    assert function_key("C.m.<locals>.g.<locals>.<lambda>") == "C.m.<locals>.g"
    assert function_key("f.<locals>.C.<lambda>") == "f"
    assert function_key("f.<locals>.<lambda>.<locals>.<genexpr>") == "f"
    assert function_key("<lambda>") == function_key("<module>") == ""
    assert function_key("C.<lambda>") == ""
    assert function_key("<lambda>.<locals>.f") == ""


def test_reachable_source_needs_no_observation(project, monkeypatch) -> None:
    """From a loaded function, the digests of everything it can reach by name."""
    project.write(
        {
            "stopgap_lib.py": "K = 1\ndef used():\n    return K\ndef other():\n    return 2\n",
            "stopgap_main.py": "import stopgap_lib\ndef go():\n    return stopgap_lib.used()\n",
        }
    )
    monkeypatch.syspath_prepend(project.root)
    import importlib

    go = importlib.import_module("stopgap_main").go
    found = {str(item) for item in reachable_source(go, project.root)}
    assert {
        "function stopgap_main.py::go",
        "function stopgap_lib.py::used",
        "module stopgap_lib.py",
    } <= found
    assert "function stopgap_lib.py::other" not in found
    assert reachable_source(json.dumps, project.root) == []


def test_threads_may_ask_at_once(project) -> None:
    """Eight threads asking the same questions get the same answers."""
    from concurrent.futures import ThreadPoolExecutor

    project.write(
        {f"m{i}.py": f"import m{(i + 1) % 8}\ndef f{i}():\n    return {i}\n" for i in range(8)}
    )
    present = Present(project.root, path=lambda: [str(project.root)])

    def ask(number: int) -> tuple[object, ...]:
        for i in range(8):
            present.digest(Kind.MODULE, f"m{(i + number) % 8}.py")
            if number % 2:
                present.forget()
        return tuple(present.reach({"m0.py::f0"}, set()))

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(16)))
    assert len(answers) == 1
