"""The verbs of the ``taskcache`` command."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import update_wrapper
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from pytest_taskcache.cli import FOUND, UNUSABLE, transfer
from pytest_taskcache.cli.doctor import examine
from pytest_taskcache.cli.place import Project
from pytest_taskcache.errors import StorageError, TaskCacheError
from pytest_taskcache.model import __version__
from pytest_taskcache.report.contents import Held
from pytest_taskcache.report.explanation import explain as explained
from pytest_taskcache.report.page import write_page
from pytest_taskcache.report.terminal import summary_line
from pytest_taskcache.report.wording import age, counted, duration, harmless, size, wrapped
from pytest_taskcache.storage.remote.location import parse_size, parse_span
from pytest_taskcache.storage.remote.pruning import Retention

T = TypeVar("T")
_NAMED = 20
_TOLD_OF_RUNS = ("saved", "reused", "computed", "refused", "faults")


class Parsed(click.ParamType):  # type: ignore[type-arg] # no generic before 8.3
    """What a setting's parser reads; its ValueError says the remedy."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value that a text means."""
        try:
            return self._parse(str(value))
        except ValueError as error:
            self.fail(f"{value!r} is no {self.name}; {error}", param, ctx)


class Name(click.ParamType):  # type: ignore[type-arg] # no generic before 8.3
    """A test's id, a function's name, or a part of one."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names of what is cached."""
        try:
            with closing(Project.find(Path.cwd())) as project:
                names = {each.name for each in project.held()}
        except (TaskCacheError, OSError):
            return []
        return [CompletionItem(name) for name in sorted(names) if incomplete in name]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 something (or nothing) was found, 2 written wrong, 3 the cache "
    "cannot be used, 4 the extra 'cli' is missing, 130 interrupted.",
)
@click.option("-C", "--directory", metavar="DIR", help="Look from here instead of where you are.")
@click.option("--cache", metavar="DIR", help="The cache's own directory.")
@click.version_option(__version__, prog_name="pytest-taskcache")
def taskcache(directory: str | None, cache: str | None) -> None:
    """Look into the cache of pytest-taskcache, and see why something ran."""


class Answer(NamedTuple):
    """What a verb found, for ``--json`` and for people; the exit code; what is the matter."""

    document: Any
    shown: Iterable[str | Table]
    code: int = 0
    problem: str = ""


def _verb(function: Callable[..., Answer]) -> click.Command:
    """A command of the function's name, with --json; the function is given the project."""

    @click.pass_context
    def run(context: click.Context, /, *, as_json: bool, **arguments: Any) -> int:
        given: Mapping[str, str] = context.find_root().params
        start = Path(given["directory"] or ".").resolve()
        with closing(Project.find(start, given["cache"] or "")) as project:
            answer = function(project, **arguments)
        if as_json:
            click.echo(json.dumps(answer.document, indent=2, ensure_ascii=True))
        else:
            _print(answer.shown)
            if answer.problem:
                click.echo(f"taskcache: {harmless(answer.problem)}", err=True)
        return answer.code

    option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    command: click.Command = taskcache.command(function.__name__.strip("_"))(
        option(update_wrapper(run, function))
    )
    return command


_name = click.argument("pattern", type=Name(), metavar="NAME")
_pattern = click.argument("pattern", type=Name(), default="", metavar="[PATTERN]")
_storage = click.argument("storage", default="", metavar="[STORAGE]")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


def _print(shown: Iterable[str | Table]) -> None:
    """Prints for people; lines stay whole where a program or a file reads them."""
    whole = not (sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit())
    console = Console(
        file=sys.stdout, width=10_000 if whole else None, markup=False, highlight=False, emoji=False
    )
    for each in shown:
        if isinstance(each, Table):
            console.print(each)
            continue
        for piece in wrapped(harmless(each), 0 if whole else console.width):
            click.echo(piece)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for title in titles:
        right = title in ("size", "took", "records")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    return table


def _watched(items: Iterable[T], label: str) -> Iterable[T]:
    if not sys.stderr.isatty():
        return items
    return track(items, label, console=Console(stderr=True), transient=True)


def _plain(held: Held, used: Mapping[str, float]) -> dict[str, Any]:
    record = held.record
    return {
        "id": record.id,
        "name": held.name,
        "kind": held.kind,
        "key": record.key,
        "size": held.size,
        "created": held.created,
        "used": max(used.get(record.id, held.created), held.created),
        "expires": held.expires,
        "seconds": held.seconds,
        "serializer": record.result.serializer,
        "producer": held.name if held.kind == "test" else record.producer,
        "versions": dict(record.versions),
        "vouched": record.vouched,
    }


def _nothing(pattern: str) -> Answer:
    about = f"nothing is known of {pattern!r}" if pattern else "nothing is cached"
    problem = f"{about}; taskcache ls lists what there is"
    return Answer([], (), FOUND if pattern else 0, problem)


_ORDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "name": lambda each: (each["name"], -each["created"]),
    "size": lambda each: -each["size"],
    "age": lambda each: -each["created"],
    "used": lambda each: -each["used"],
    "took": lambda each: -each["seconds"],
}


@_verb
@_pattern
@click.option("--sort", type=click.Choice([*_ORDERS]), default="name")
@click.option("--limit", type=click.IntRange(1), help="Only so many.")
def ls(project: Project, pattern: str, sort: str, limit: int | None) -> Answer:
    """List what is cached; PATTERN is a part of a name, or has a * in it."""
    used = project.local.last_uses()
    records = [_plain(each, used) for each in project.held(pattern)]
    if not records:
        return _nothing(pattern)
    records = sorted(records, key=_ORDERS[sort])[:limit]
    now = time.time()
    rows = (
        (
            each["name"],
            each["kind"],
            size(each["size"]),
            duration(each["seconds"]),
            age(now - each["created"]),
            age(now - each["used"]),
        )
        for each in records
    )
    return Answer(records, [_table(("name", "kind", "size", "took", "made", "used"), rows)])


@_verb
@_name
def show(project: Project, pattern: str) -> Answer:
    """Show the records of NAME: what they rest on, what they hold, who made them."""
    used, found = project.local.last_uses(), []
    for each in project.held(pattern):
        rests_on, ran = project.contents.grounds(each.trace)
        found.append(
            {
                **_plain(each, used),
                "inputs": dict(project.history.inputs(each.record.key)),
                "parts": {part.name: part.digest for part in each.record.parts},
                "rests_on": [[str(one.kind), one.name] for one in rests_on],
                "ran": ran,
            }
        )
    if not found:
        return _nothing(pattern)
    return Answer(found, (line for plain in found for line in _shown(plain)))


def _shown(plain: Mapping[str, Any]) -> Iterator[str]:
    now = time.time()
    yield plain["name"]
    yield f"  {plain['kind']}, {size(plain['size'])}, took {duration(plain['seconds'])}"
    yield f"  made {age(now - plain['created'])} by {plain['producer']}"
    versions = ", ".join(f"{name} {version}" for name, version in plain["versions"].items())
    yield f"  with {plain['serializer']}" + (f", {versions}" if versions else "")
    if plain["expires"] is not None:
        left = plain["expires"] - now
        yield f"  expires in {duration(left)}" if left > 0 else f"  expired {age(-left)}"
    if plain["vouched"]:
        yield "  vouched for by its author: what it rests on is not verified"
    for name, value in plain["inputs"].items():
        yield f"  argument {name} = {value}"
    yield f"  key {plain['key']}: {', '.join(plain['parts']) or 'named outright'}"
    yield f"  rests on {counted(len(plain['rests_on']), 'thing')}:"
    for kind, name in plain["rests_on"]:
        yield f"    {kind} {name}"


@_verb
@_name
@click.option("--runs", type=click.IntRange(1), default=1, help="Of the last so many runs.")
def explain(project: Project, pattern: str, runs: int) -> Answer:
    """Say why NAME (a test or a function) ran when it last did, or was not kept."""
    now = time.time()
    found = []
    for run in project.history.runs():
        struck = [
            each
            for each in run.tally.entries
            if (pattern in each.identity or pattern == each.test) and each.status != "reused"
        ]
        found += [explained(each, project.history, now) for each in struck]
        runs -= bool(struck)
        if runs <= 0:
            break
    records = project.held(pattern) if not found else []
    if found:
        lines = (line for each in found for line in each.lines(everything=True))
        return Answer([each.to_plain() for each in found], lines)
    recorded = (
        f"{record.name}: recorded {age(now - record.created)}; it did not run since in any run "
        "that is remembered"
        for record in records
    )
    return Answer([], recorded) if records else _nothing(pattern)


@_verb
def stats(project: Project) -> Answer:
    """Say how much is cached, and what the last runs did."""
    counts = project.local.statistics()
    records, sizes = Counter[str](), Counter[str]()
    for held in project.held():
        records[held.kind] += 1
        sizes[held.kind] += held.size
    runs = project.history.runs()
    document = {
        "directory": str(project.directory),
        "bytes": counts.bytes,
        "max_bytes": project.settings.max_size,
        "records": counts.variants,
        "results": counts.results,
        "staged": counts.staged,
        "index_bytes": counts.index_bytes,
        "kinds": {each: {"records": records[each], "bytes": sizes[each]} for each in records},
        "runs": [
            {"id": run.id, "started": run.started, "seconds": run.ended - run.started}
            | {name: getattr(run.tally, name) for name in _TOLD_OF_RUNS}
            for run in runs
        ],
    }
    now = time.time()
    of_limit = f"{size(counts.bytes)} of {size(project.settings.max_size)}"
    number = counted(counts.variants, "record")
    rows = ((kind, str(records[kind]), size(sizes[kind])) for kind in records)
    shown: list[str | Table] = [
        f"{project.directory}: {of_limit}, {number}, index {size(counts.index_bytes)}",
        _table(("kind", "records", "size"), rows),
        *(
            f"{age(now - run.started)}: {summary_line(run.tally).removeprefix('taskcache: ')}"
            for run in runs
        ),
    ]
    return Answer(document, shown)


@_verb
@_pattern
@click.option("--remove", is_flag=True, help="Forget the damaged records.")
@_dry_run
def verify(project: Project, pattern: str, remove: bool, dry_run: bool) -> Answer:
    """Read every value and compare its digest; exit code 1 if one is lost or damaged."""
    remove = remove and not dry_run
    project.readonly = not remove
    records = _watched(project.scan(pattern), "verifying")
    found = list(transfer.damaged(records, project.local.read_result))
    bad = [(record, why) for record, why in found if why]
    if remove and bad:
        project.local.remove_records({record.id for record, _ in bad})
        project.local.prune(full=True)
    damage = [{"name": str(each.identity), "id": each.id, "problem": why} for each, why in bad]
    removed = " and forgotten" if remove else ""
    told = f"{counted(len(bad), 'record')} damaged{removed}" if bad else "all whole"
    shown = [f"{record.identity}: {why}" for record, why in bad]
    shown.append(f"{counted(len(found), 'record')} verified, {told}")
    if bad and not remove:
        shown.append("taskcache verify --remove forgets them; what they hold is computed anew")
    document = {"records": len(found), "damaged": damage, "removed": remove}
    return Answer(document, shown, FOUND if bad else 0)


@_verb
@click.option("--older-than", type=Parsed("span", parse_span), help="Made so long ago, e.g. 30d.")
@click.option("--unused", type=Parsed("span", parse_span), help="Not of use for so long, e.g. 7d.")
@click.option(
    "--max-size",
    type=Parsed("size", parse_size),
    help="Least recently used ones beyond it, e.g. 500MB.",
)
@click.option("--shared", is_flag=True, help="Also the shared storages that may be written.")
@_dry_run
def prune(
    project: Project,
    older_than: float | None,
    unused: float | None,
    max_size: int | None,
    shared: bool,
    dry_run: bool,
) -> Answer:
    """Remove what is expired, too old, unused or too much (by default: beyond the setting)."""
    if shared and dry_run:
        raise click.UsageError("--shared removes at once; leave out --dry-run")
    limit = project.settings.max_size if max_size is None else max_size
    project.readonly = dry_run
    removed = project.removing(
        lambda each: each.local.prune(
            max_size=limit, older_than=older_than, unused=unused, full=True
        ),
        dry_run=dry_run,
    )
    document, shown, *_ = _told_removed(*removed, dry_run)
    gone = project.prune_shared(Retention(older_than, max_size, unused)) if shared else []
    far = [{"storage": where, **asdict(one)} for where, one in gone]
    told = (
        f"{where}: {counted(one.records, 'record')} removed, {size(one.freed)}"
        for where, one in gone
    )
    return Answer({**document, "shared": far}, [*shown, *told])


@_verb
@_pattern
@click.option("--yes", is_flag=True, help="Do not ask.")
@_dry_run
def clear(project: Project, pattern: str, yes: bool, dry_run: bool) -> Answer:
    """Forget what matches PATTERN, or everything."""
    project.readonly = dry_run
    number = len(project.held(pattern))
    if pattern and not number:
        return _nothing(pattern)
    if not (pattern or yes or dry_run):
        if not sys.stdin.isatty():
            raise click.UsageError("this forgets everything; say --yes, or give a PATTERN")
        click.confirm(f"Forget all {counted(number, 'result')}?", abort=True)
    removed = project.removing(
        lambda each: each.forget(pattern) if pattern else each.local.clear(), dry_run=dry_run
    )
    return _told_removed(*removed, dry_run)


def _told_removed(names: list[str], number: int, dry_run: bool) -> Answer:
    document = {"dry_run": dry_run, "removed": names, "bytes": number}
    # a pattern may fit more than was meant
    named = names if dry_run or len(names) <= _NAMED else ()
    verb = "would be removed" if dry_run else "removed"
    total = f"{counted(len(names), 'result')} {verb}, {size(number)}"
    return Answer(document, [*named, total])


@_verb
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_pattern
def export_(project: Project, file: Path, pattern: str) -> Answer:
    """Write what is cached to one FILE, e.g. for a CI cache."""
    records = _watched(project.scan(pattern), "exporting")
    done = transfer.export(records, project.local.read_result, file, os.environ)
    return _told_carried(done, "exported")


@_verb
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--trust", is_flag=True, help="The file is mine: take it in without a seal.")
@_dry_run
def import_(project: Project, file: Path, trust: bool, dry_run: bool) -> Answer:
    """Add what a FILE holds that 'taskcache export' wrote."""
    project.readonly, project.create = False, True
    with transfer.archive(file, os.environ, vouched=trust) as (records, read):
        watched = _watched(records, "importing")
        done = transfer.copy(watched, read, project.local, dry_run=dry_run)
    return _told_carried(done, "would be imported" if dry_run else "imported")


@_verb
@_storage
@click.option("--only", "pattern", default="", type=Name(), help="Only what matches.")
@_dry_run
def push(project: Project, storage: str, pattern: str, dry_run: bool) -> Answer:
    """Copy what is cached here to another STORAGE (default: the one that is set)."""
    project.readonly = dry_run
    if dry_run:
        number = sum(1 for _ in project.scan(pattern))
        return _told_carried(transfer.Carried(number), "would be pushed")
    faults: list[str] = []
    with project.far_storage(storage, faults, alone=True) as far:
        records = _watched(project.scan(pattern), "pushing")
        done = transfer.copy(records, project.local.read_result, far)
    return _told_carried(done, "pushed", faults)


@_verb
@_storage
@_dry_run
def pull(project: Project, storage: str, dry_run: bool) -> Answer:
    """Copy what another STORAGE holds (default: the one that is set) to here."""
    faults: list[str] = []
    project.readonly, project.create = dry_run, True
    with project.far_storage(storage, faults, alone=False) as far:
        if dry_run:
            number = sum(1 for _ in far.scan())
            return _told_carried(transfer.Carried(number), "would be pulled")
        done = transfer.copy(_watched(far.scan(), "pulling"), far.read_result, project.local)
    return _told_carried(done, "pulled", faults)


def _told_carried(done: transfer.Carried, verb: str, faults: Sequence[str] = ()) -> Answer:
    present = f", {done.present} there already" if done.present else ""
    lost = f", {done.lost} left out because their value is lost" if done.lost else ""
    shown = [f"{counted(done.records, 'record')} {verb}{present}{lost}", *faults]
    return Answer({**asdict(done), "faults": [*faults]}, shown, UNUSABLE if faults else 0)


@_verb
@click.argument(
    "file", type=click.Path(dir_okay=False, path_type=Path), default="taskcache-report.html"
)
def report(project: Project, file: Path) -> Answer:
    """Write a page about the last run that is remembered, its reasons, and the cache."""
    runs = project.history.runs()
    if not runs:
        raise StorageError(
            str(project.directory), "report", "no run is remembered yet; run pytest once more"
        )
    limit = project.settings.max_size
    write_page(file, runs[0], project.history, project.local, limit)
    told = f"{file}: the run that began {age(time.time() - runs[0].started)}"
    return Answer({"file": str(file), "run": runs[0].id}, [told])


@_verb
def doctor(project: Project) -> Answer:
    """Say what is wrong with this set-up, in plain words."""
    findings = list(examine(project))
    problems = sum(bool(each.problem) for each in findings)
    shown = []
    for each in findings:
        if each.problem:
            shown += [f"problem  {each.what} {each.problem}", f"         -> {each.remedy}"]
        else:
            shown.append(f"ok       {each.what}")
    shown.append(counted(problems, "problem") if problems else "nothing is wrong")
    return Answer([asdict(each) for each in findings], shown, FOUND if problems else 0)


@taskcache.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of a SHELL: eval "$(taskcache completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(taskcache, {}, "taskcache", "_TASKCACHE_COMPLETE").source())
    return 0
