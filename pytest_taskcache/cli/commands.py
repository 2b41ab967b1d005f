"""The verbs of the ``taskcache`` command."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pytest_taskcache.cli import FOUND, UNUSABLE, transfer
from pytest_taskcache.cli.doctor import examine
from pytest_taskcache.cli.place import Place, Removed
from pytest_taskcache.errors import StorageError, TaskCacheError
from pytest_taskcache.model import __version__
from pytest_taskcache.model.record import Variant
from pytest_taskcache.report.contents import Held
from pytest_taskcache.report.explanation import explain as explained
from pytest_taskcache.report.page import Holdings, write_page
from pytest_taskcache.report.tally import Entry
from pytest_taskcache.report.terminal import summary_line
from pytest_taskcache.report.wording import age, counted, duration, harmless, size, wrapped

T = TypeVar("T")
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UPLOAD_SECONDS = 600.0
_NAMED = 20


class Span(click.ParamType):  # type: ignore[type-arg] # no generic before 8.3
    """A span of time, in seconds."""

    name = "span"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """``12h``, ``7d``, ``2w`` as seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value).strip().lower())
        if match is None:
            self.fail(f"{value!r} is no span of time; write e.g. 12h, 7d, 2w", param, ctx)
        return float(match[1]) * _SPANS[match[2]]


class Size(click.ParamType):  # type: ignore[type-arg] # no generic before 8.3
    """A number of bytes."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """``500MB``, ``5GB`` as bytes."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?b?)", str(value).strip().lower())
        unit = match[2] if match else "?"
        unit = unit if unit in _UNITS else f"{unit}b"
        if match is None or unit not in _UNITS:
            self.fail(f"{value!r} is no size; write e.g. 500MB, 5GB", param, ctx)
        return int(float(match[1]) * _UNITS[unit])


class Name(click.ParamType):  # type: ignore[type-arg] # no generic before 8.3
    """A test's id, a function's name, or a part of one."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The names of what is cached."""
        try:
            with closing(Place.find(Path.cwd()).open()) as cache:
                names = {each.name for each in cache.held()}
        except (TaskCacheError, OSError):
            return []
        return [CompletionItem(name) for name in sorted(names) if incomplete in name]


# ---------------------------------------------------------------------------- what is shared


def _json(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def _dry_run(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--dry-run", is_flag=True, help="Only say what would be done.")(function)


def _pattern(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("pattern", type=Name(), default="", metavar="[PATTERN]")(function)


def _place(context: click.Context) -> Place:
    given: Mapping[str, str] = context.find_root().params
    start = Path(given["directory"] or ".").resolve()
    return Place.find(start, given["cache"] or "")


def _console() -> Console:
    """A console that leaves lines whole where a program or a file reads them."""
    asked = os.environ.get("COLUMNS", "").isdigit()
    width = None if sys.stdout.isatty() or asked else 10_000
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for title in titles:
        right = title in ("size", "took", "records")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    _console().print(table)


def _lines(lines: Iterable[str]) -> None:
    console = _console()
    width = console.width if console.width < 10_000 else 0
    for line in lines:
        for piece in wrapped(harmless(line), width):
            click.echo(piece)


def _watched(steps: Iterable[T], label: str, count: Callable[[T], str]) -> T | None:
    """The last of the steps, told on a terminal's error output once it takes over a second."""
    started, last, shown = time.monotonic(), None, False
    for last in steps:
        if sys.stderr.isatty() and time.monotonic() - started > 1:
            shown = True
            click.echo(f"\r{label} {count(last)}\033[K", nl=False, err=True)
    if shown:
        click.echo("\r\033[K", nl=False, err=True)
    return last


def _numbered(items: Iterable[T]) -> Iterator[tuple[int, T]]:
    return enumerate(items, start=1)


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


# -------------------------------------------------------------------------------- the verbs


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


@taskcache.command()
@_pattern
@click.option("--sort", type=click.Choice(["name", "size", "age", "used", "took"]), default="name")
@click.option("--limit", type=click.IntRange(1), help="Only so many.")
@_json
@click.pass_context
def ls(context: click.Context, pattern: str, sort: str, limit: int | None, as_json: bool) -> int:
    """List what is cached; PATTERN is a part of a name, or has a * in it."""
    with closing(_place(context).open()) as cache:
        used = cache.used()
        records = [_plain(each, used) for each in cache.held(pattern)]
    orders: dict[str, Callable[[dict[str, Any]], Any]] = {
        "name": lambda each: (each["name"], -each["created"]),
        "size": lambda each: -each["size"],
        "age": lambda each: -each["created"],
        "used": lambda each: -each["used"],
        "took": lambda each: -each["seconds"],
    }
    records.sort(key=orders[sort])
    records = records[:limit]
    if as_json:
        _print_json(records)
        return 0
    if not records:
        return _nothing(pattern)
    now = time.time()
    _table(
        ("name", "kind", "size", "took", "made", "used"),
        [
            (
                each["name"],
                each["kind"],
                size(each["size"]),
                duration(each["seconds"]),
                age(now - each["created"]),
                age(now - each["used"]),
            )
            for each in records
        ],
    )
    return 0


@taskcache.command()
@click.argument("pattern", type=Name(), metavar="NAME")
@_json
@click.pass_context
def show(context: click.Context, pattern: str, as_json: bool) -> int:
    """Show the records of NAME: what they rest on, what they hold, who made them."""
    with closing(_place(context).open()) as cache:
        used, found = cache.used(), []
        for each in cache.held(pattern):
            grounds = cache.contents.grounds(each.trace)
            found.append(
                {
                    **_plain(each, used),
                    "inputs": dict(cache.history.inputs(each.record.key)),
                    "parts": {part.name: part.digest for part in each.record.parts},
                    "rests_on": [[str(one.kind), one.name] for one in grounds.rests_on],
                    "ran": [*grounds.ran],
                }
            )
    if as_json:
        _print_json(found)
        return 0 if found else FOUND
    if not found:
        return _nothing(pattern)
    for plain in found:
        _lines(_shown(plain))
    return 0


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


@taskcache.command()
@click.argument("pattern", type=Name(), metavar="NAME")
@click.option("--runs", type=click.IntRange(1), default=1, help="Of the last so many runs.")
@_json
@click.pass_context
def explain(context: click.Context, pattern: str, runs: int, as_json: bool) -> int:
    """Say why NAME (a test or a function) ran when it last did, or was not kept."""
    now = time.time()
    with closing(_place(context).open()) as cache:
        found = []
        for run in cache.history.runs():
            struck = [
                each
                for each in run.tally.entries
                if each.status != "reused" and _is_named(each, pattern)
            ]
            found += [explained(each, cache.history, now) for each in struck]
            runs -= bool(struck)
            if runs <= 0:
                break
        records = cache.held(pattern) if not found else []
    if as_json:
        _print_json([each.to_plain() for each in found])
        return 0 if found or records else FOUND
    for explanation in found:
        _lines(explanation.lines(everything=True))
    for record in records:
        _lines(
            [
                f"{record.name}: recorded {age(now - record.created)}; it did not run since "
                "in any run that is remembered"
            ]
        )
    return 0 if found or records else _nothing(pattern)


def _is_named(entry: Entry, pattern: str) -> bool:
    if "::" in pattern and "*" not in pattern and entry.identity == pattern:
        return True
    return pattern in entry.identity or (bool(entry.test) and entry.test == pattern)


@taskcache.command()
@_json
@click.pass_context
def stats(context: click.Context, as_json: bool) -> int:
    """Say how much is cached, and what the last runs did."""
    place = _place(context)
    with closing(place.open()) as cache:
        counts = cache.local.statistics()
        kinds: dict[str, list[int]] = {}
        for held in cache.held():
            each = kinds.setdefault(held.kind, [0, 0])
            each[0] += 1
            each[1] += held.size
        runs = cache.history.runs()
    if as_json:
        _print_json(
            {
                "directory": str(place.directory),
                "bytes": counts.bytes,
                "max_bytes": place.settings.max_size,
                "records": counts.variants,
                "results": counts.results,
                "staged": counts.staged,
                "index_bytes": counts.index_bytes,
                "kinds": {kind: {"records": n, "bytes": b} for kind, (n, b) in kinds.items()},
                "runs": [
                    {
                        "id": run.id,
                        "started": run.started,
                        "seconds": run.ended - run.started,
                        "saved": run.tally.saved,
                        "reused": dict(run.tally.reused),
                        "computed": dict(run.tally.computed),
                        "refused": dict(run.tally.refused),
                        "faults": dict(run.tally.faults),
                    }
                    for run in runs
                ],
            }
        )
        return 0
    _lines(
        [
            f"{place.directory}: {size(counts.bytes)} of {size(place.settings.max_size)}, "
            f"{counted(counts.variants, 'record')}, index {size(counts.index_bytes)}"
        ]
    )
    _table(("kind", "records", "size"), [(kind, str(n), size(b)) for kind, (n, b) in kinds.items()])
    now = time.time()
    _lines(
        f"{age(now - run.started)}: {summary_line(run.tally).removeprefix('taskcache: ')}"
        for run in runs
    )
    return 0


@taskcache.command()
@_pattern
@click.option("--remove", is_flag=True, help="Forget the damaged records.")
@_dry_run
@_json
@click.pass_context
def verify(context: click.Context, pattern: str, remove: bool, dry_run: bool, as_json: bool) -> int:
    """Read every value and compare its digest; exit code 1 if one is lost or damaged."""
    with closing(_place(context).open(readonly=not remove or dry_run)) as cache:
        bad: list[tuple[Variant, str]] = []

        def steps() -> Iterator[int]:
            for number, pair in _numbered(transfer.damaged(cache.scan(pattern), cache.local)):
                if pair[1]:
                    bad.append(pair)
                yield number

        total = _watched(steps(), "verifying", str) or 0
        if remove and bad and not dry_run:
            cache.local.remove_records({record.id for record, _ in bad})
            cache.local.prune(full=True)
    if as_json:
        damage = [{"name": str(each.identity), "id": each.id, "problem": why} for each, why in bad]
        _print_json({"records": total, "damaged": damage, "removed": remove and not dry_run})
    else:
        _lines(f"{record.identity}: {why}" for record, why in bad)
        removed = " and forgotten" if remove and bad and not dry_run else ""
        told = f"{counted(len(bad), 'record')} damaged{removed}" if bad else "all whole"
        _lines([f"{counted(total, 'record')} verified, {told}"])
        if bad and not remove:
            _lines(["taskcache verify --remove forgets them; what they hold is then computed anew"])
    return FOUND if bad else 0


@taskcache.command()
@click.option("--older-than", type=Span(), help="Made so long ago, e.g. 30d.")
@click.option("--unused", type=Span(), help="Not of use for so long, e.g. 7d.")
@click.option("--max-size", type=Size(), help="Least recently used ones beyond it, e.g. 500MB.")
@_dry_run
@_json
@click.pass_context
def prune(
    context: click.Context,
    older_than: float | None,
    unused: float | None,
    max_size: int | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove what is expired, too old, unused or too much (by default: beyond the setting)."""
    place = _place(context)
    limit = place.settings.max_size if max_size is None else max_size
    with closing(place.open(readonly=dry_run)) as cache:
        removed = cache.removing(
            lambda each: each.local.prune(
                max_size=limit, older_than=older_than, unused=unused, full=True
            ),
            dry_run=dry_run,
        )
    return _told_removed(removed, dry_run, as_json)


@taskcache.command()
@_pattern
@click.option("--yes", is_flag=True, help="Do not ask.")
@_dry_run
@_json
@click.pass_context
def clear(context: click.Context, pattern: str, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Forget what matches PATTERN, or everything."""
    with closing(_place(context).open(readonly=dry_run)) as cache:
        number = len(cache.held(pattern))
        if pattern and not number:
            return _nothing(pattern)
        if not (pattern or yes or dry_run):
            if not sys.stdin.isatty():
                raise click.UsageError("this forgets everything; say --yes, or give a PATTERN")
            click.confirm(f"Forget all {counted(number, 'result')}?", abort=True)
        removed = cache.removing(
            lambda each: each.forget(pattern) if pattern else each.local.clear(), dry_run=dry_run
        )
    return _told_removed(removed, dry_run, as_json)


def _told_removed(removed: Removed, dry_run: bool, as_json: bool) -> int:
    if as_json:
        _print_json({"dry_run": dry_run, "removed": removed.names, "bytes": removed.bytes})
        return 0
    if dry_run or len(removed.names) <= _NAMED:
        _lines(removed.names)  # a pattern may fit more than was meant
    verb = "would be removed" if dry_run else "removed"
    _lines([f"{counted(len(removed.names), 'result')} {verb}, {size(removed.bytes)}"])
    return 0


@taskcache.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_pattern
@_json
@click.pass_context
def export_(context: click.Context, file: Path, pattern: str, as_json: bool) -> int:
    """Write what is cached to one FILE, e.g. for a CI cache."""
    with closing(_place(context).open()) as cache:
        steps = transfer.export(cache.scan(pattern), cache.local, file, os.environ)
        done = _watched(steps, "exporting", lambda each: str(each.records))
    return _told_carried(done, "exported", as_json)


@taskcache.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--trust", is_flag=True, help="The file is mine: take it in without a seal.")
@_dry_run
@_json
@click.pass_context
def import_(context: click.Context, file: Path, trust: bool, dry_run: bool, as_json: bool) -> int:
    """Add what a FILE holds that 'taskcache export' wrote."""
    with closing(_place(context).open(readonly=False, create=True)) as cache:
        steps = transfer.take_in(file, cache.local, os.environ, vouched=trust, dry_run=dry_run)
        done = _watched(steps, "importing", lambda each: str(each.records))
    return _told_carried(done, "would be imported" if dry_run else "imported", as_json)


@taskcache.command()
@click.argument("storage", default="", metavar="[STORAGE]")
@click.option("--only", "pattern", default="", type=Name(), help="Only what matches.")
@_dry_run
@_json
@click.pass_context
def push(context: click.Context, storage: str, pattern: str, dry_run: bool, as_json: bool) -> int:
    """Copy what is cached here to another STORAGE (default: the one that is set)."""
    with closing(_place(context).open(readonly=dry_run)) as cache:
        records = cache.scan(pattern)
        if dry_run:
            number = sum(1 for _ in records)
            return _told_carried(transfer.Carried(number), "would be pushed", as_json)
        faults: list[str] = []
        far = cache.far(storage, faults.append)
        steps = transfer.copy(records, cache.local, far)
        done = _watched(steps, "pushing", lambda each: str(each.records))
        faults += cache.drain(_UPLOAD_SECONDS, lambda here, total: None)
    return _told_carried(done, "pushed", as_json, faults)


@taskcache.command()
@click.argument("storage", default="", metavar="[STORAGE]")
@_dry_run
@_json
@click.pass_context
def pull(context: click.Context, storage: str, dry_run: bool, as_json: bool) -> int:
    """Copy what another STORAGE holds (default: the one that is set) to here."""
    with closing(_place(context).open(readonly=dry_run, create=True)) as cache:
        faults: list[str] = []
        far = cache.far(storage, faults.append)
        if dry_run:
            number = sum(1 for _ in far.scan())
            return _told_carried(transfer.Carried(number), "would be pulled", as_json)
        steps = transfer.copy(far.scan(), far, cache.local)
        done = _watched(steps, "pulling", lambda each: str(each.records))
    return _told_carried(done, "pulled", as_json, faults)


def _told_carried(
    done: transfer.Carried | None, verb: str, as_json: bool, faults: Sequence[str] = ()
) -> int:
    done = done or transfer.Carried()
    if as_json:
        _print_json(
            {
                "records": done.records,
                "present": done.present,
                "lost": done.lost,
                "faults": list(faults),
            }
        )
    else:
        present = f", {done.present} there already" if done.present else ""
        lost = f", {done.lost} left out because their value is lost" if done.lost else ""
        _lines([f"{counted(done.records, 'record')} {verb}{present}{lost}", *faults])
    return UNUSABLE if faults else 0


@taskcache.command()
@click.argument(
    "file", type=click.Path(dir_okay=False, path_type=Path), default="taskcache-report.html"
)
@_json
@click.pass_context
def report(context: click.Context, file: Path, as_json: bool) -> int:
    """Write a page about the last run that is remembered, its reasons, and the cache."""
    place = _place(context)
    with closing(place.open()) as cache:
        runs = cache.history.runs()
        if not runs:
            raise StorageError(
                str(place.directory), "report", "no run is remembered yet; run pytest once more"
            )
        local = cache.local
        holdings = Holdings(
            tuple(local.scan()), local.size(), place.settings.max_size, local.read_result
        )
        write_page(file, runs[0], runs, cache.history, holdings)
    if as_json:
        _print_json({"file": str(file), "run": runs[0].id})
    else:
        _lines([f"{file}: the run that began {age(time.time() - runs[0].started)}"])
    return 0


@taskcache.command()
@_json
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> int:
    """Say what is wrong with this set-up, in plain words."""
    findings = list(examine(_place(context)))
    problems = [each for each in findings if each.problem]
    if as_json:
        _print_json([{"what": f.what, "problem": f.problem, "remedy": f.remedy} for f in findings])
        return FOUND if problems else 0
    for each in findings:
        if not each.problem:
            _lines([f"ok       {each.what}"])
        else:
            _lines([f"problem  {each.what} {each.problem}", f"         -> {each.remedy}"])
    _lines([counted(len(problems), "problem") if problems else "nothing is wrong"])
    return FOUND if problems else 0


@taskcache.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the completion script of a SHELL: eval "$(taskcache completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(taskcache, {}, "taskcache", "_TASKCACHE_COMPLETE").source())
    return 0


def _nothing(pattern: str) -> int:
    about = f"nothing is known of {pattern!r}" if pattern else "nothing is cached"
    click.echo(f"taskcache: {harmless(about)}; taskcache ls lists what there is", err=True)
    return FOUND
