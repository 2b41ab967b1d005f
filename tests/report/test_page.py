"""The page about a run, looked at in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from servers import missing, unavailable

from pytest_taskcache.model.dependency import Dependency, Kind, Trace
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.record import Result, Variant
from pytest_taskcache.report.history import History, PastRun
from pytest_taskcache.report.page import write_page
from pytest_taskcache.report.tally import Tally, TallyEntry

CHROMIUM = "/usr/bin/chromium"
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-sync",
]  # fmt: skip
EVIL = "test_x.py::test_it[<script>document.title='owned'</script>]"
SHOTS = os.environ.get("TASKCACHE_SCREENSHOTS")


class Shelf:
    def read(self, section: str) -> dict[str, bytes]:
        return {}

    def write(self, section: str, items: object) -> None:
        pass


def _entries(number: int) -> list[TallyEntry]:
    entries = [
        TallyEntry(
            "test", f"tests/test_module_{n // 50}.py::test_number_{n}[{n}]", "", "reused",
            "committed", 1000 + n / 100, f"gw{n % 4}", 0.01 + n % 7 / 100,
        )
        for n in range(number)
    ]  # fmt: skip
    entries[1] = TallyEntry(
        "test", EVIL, "", "computed", "file changed: </script><img src=x onerror=alert(1)>",
        1000.5, "gw0", 3.5, 0.5, changes=[["file", "</script><img src=x>", "1", "2"]],
    )  # fmt: skip
    entries[2] = TallyEntry(
        "test", "test_y.py::test_child", "", "refused", "never computed", 1001, "gw1", 2.0,
        detail="subprocess (git); allow={'subprocess'} accepts it",
    )  # fmt: skip
    entries[3] = TallyEntry(
        "function", "a.py::f", "test_y.py::t", "computed", "expired", 1002, "gw2", 9
    )
    return entries


def _records(number: int) -> tuple[Variant, ...]:
    def record(n: int, name: Identity) -> Variant:
        trace = Trace(
            (
                Dependency(Kind.FILE, "data/<b>rates</b>.csv", "1"),
                *(Dependency(Kind.STAT, f"data/m{n % 97}/f{k}", "1") for k in range(10)),
            ),
            str(n),
        )
        result = Result("d" * 32, 1000, "json")
        return Variant(str(n), "k", name, (), trace, result, 1000.0, None, 1.0, "p")

    file, _, name = EVIL.partition("::")
    return (
        record(0, Identity(file, name)),
        *(
            record(n, Identity(f"tests/test_module_{n // 50}.py", f"test_number_{n}[{n}]"))
            for n in range(4, number)
        ),
    )


def _page(path: Path, number: int) -> Path:
    tally = Tally(entries=_entries(number), saved=500.0)
    tally.reused["test"] = number - 3
    tally.computed["test"] = 2
    run = PastRun("run", 1000.0, 1000.0 + number / 100, tally)
    history = History(Shelf(), lambda name: path / name)
    local: Any = SimpleNamespace(
        scan=lambda: _records(number), size=lambda: 123_456_789, read_result=lambda *_: None
    )
    history.runs = lambda: [run] * 5  # type: ignore[method-assign]
    write_page(path / "page.html", run, history, local, 5_000_000_000)
    return path / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium; see `servers` for where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        unavailable(str(error))
    if not Path(CHROMIUM).exists():
        missing("chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about 300 computations."""
    return _page(tmp_path_factory.mktemp("page"), 300)


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Any]:
    """The page, opened; no test may leave an error in its console, or ask for the network."""
    with browser.new_context(viewport={"width": 1100, "height": 900}) as context:
        page = context.new_page()
        errors: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        yield page
        _shoot(page)
        assert errors == []
        assert asked == [file.as_uri()]


def _shoot(page: Any) -> None:
    if SHOTS:
        name = re.sub(r"\W+", "_", os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2])
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def _await_rows(page: Any, number: int) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#rows > tr")).to_have_count(number)


def _names(page: Any) -> list[str]:
    names: list[str] = page.locator("#rows td.name button").all_inner_texts()
    return names


def test_search_narrows_and_clears(opened: Any) -> None:
    """Every word counts, in names and in reasons; Escape shows all again; / goes there."""
    opened.keyboard.press("/")
    opened.keyboard.type("script changed")
    _await_rows(opened, 1)
    assert _names(opened) == [EVIL]
    opened.keyboard.press("Escape")
    _await_rows(opened, 200)


def test_sorting_by_time_goes_both_ways(opened: Any) -> None:
    """Slowest first, then fastest first; assistive technology is told."""
    opened.get_by_role("button", name="took").click()
    assert _names(opened)[0] == "a.py::f"
    head = opened.locator("th[data-key=seconds]")
    assert head.get_attribute("aria-sort") == "descending"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert _names(opened)[0] != "a.py::f"


def test_a_row_opens_with_its_explanation_by_keyboard(opened: Any) -> None:
    """Enter on a name shows why, and what it rests on as a tree; Enter again closes it."""
    opened.get_by_label("Search names and reasons").fill("script")
    _await_rows(opened, 1)
    opened.locator("#rows td.name button").focus()
    opened.keyboard.press("Enter")
    detail = opened.locator("tr.detail")
    assert "1 thing changed since" in detail.inner_text()
    detail.get_by_text("Rests on 11 things").click()
    detail.get_by_text("file (1)").click()
    assert "data/<b>rates</b>.csv" in detail.inner_text()
    _shoot(opened)
    opened.locator("#rows td.name button").focus()
    opened.keyboard.press("Enter")
    assert detail.count() == 0


def test_what_strangers_wrote_stays_text(opened: Any) -> None:
    """A test named ``<script>`` is shown by that name, and no element comes of it."""
    opened.get_by_label("Search names and reasons").fill("script")
    _await_rows(opened, 1)
    opened.locator("#rows td.name button").click()
    assert _names(opened) == [EVIL]
    assert opened.title() == "pytest-taskcache: what ran, and why"
    assert opened.locator("img").count() == 0
    assert opened.locator("script").count() == 2


def test_dark_mode_follows_the_system_and_the_button(opened: Any) -> None:
    """Dark where the system is, and where it is asked for; the ground changes with it."""
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(ground)
    opened.get_by_role("button", name="Dark").click()
    dark = opened.evaluate(ground)
    assert dark != light
    opened.get_by_role("button", name="Light").click()
    assert opened.evaluate(ground) == light
    opened.emulate_media(color_scheme="dark")
    opened.wait_for_selector("html[data-theme=dark]")
    assert opened.evaluate(ground) == dark


def test_the_status_filter_and_the_remedy(opened: Any) -> None:
    """What was not kept can be singled out, and says what to write."""
    opened.get_by_label("Which of them").select_option("refused")
    opened.locator("#rows td.name button").click()
    assert "allow={'subprocess'} accepts it" in opened.locator("tr.detail").inner_text()


def test_the_timeline_has_a_lane_for_each_worker(opened: Any) -> None:
    """Drawn, and told in words to those who cannot see it."""
    told = opened.locator("#timeline").get_attribute("aria-label")
    assert "300 computations on 4 workers" in told
    drawn = opened.evaluate(
        "(() => { const c = document.getElementById('timeline');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(new Uint32Array(d.buffer)).size; })()"
    )
    assert drawn > 4


def test_a_phone_sees_it_without_scrolling_sideways(opened: Any) -> None:
    """Only tables scroll, within themselves."""
    opened.set_viewport_size({"width": 360, "height": 700})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360


def test_ten_thousand_tests_fit(browser: Any, tmp_path: Path) -> None:
    """Under 5 MB, all of them found by the search."""
    file = _page(tmp_path, 10_000)
    assert file.stat().st_size < 5_000_000
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    page.get_by_label("Search names and reasons").fill("test_number_9999[")
    _await_rows(page, 1)
    page.close()
