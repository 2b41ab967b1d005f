"""Plugins that are known to be right, or refused: each runs, and the list in the documentation
says what was seen. They are in the extra ``plugins``, for an environment of its own:
``nox -s plugins``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from projects import Project

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


class Case(NamedTuple):
    """A plugin by its name on the index and its module, a test file that uses it, and how often the
    body is to run in two runs: 1 is a replay."""

    name: str
    module: str
    suite: str
    runs: int = 1
    args: tuple[str, ...] = ()
    reason: str = ""
    needs: str = ""

    def plugins(self) -> tuple[str, ...]:
        """What ``-p`` is to load: all that it and the plugin that it needs bring."""
        found = map(importlib.metadata.distribution, filter(None, (self.name, self.needs)))
        return tuple(
            one for each in found for one in each.entry_points.select(group="pytest11").names
        )


MOCK = """
def test_it(mocker):
    count("body")
    import json
    mocker.patch("json.dumps", return_value="x")
    assert json.dumps(1) == "x"
"""
TIMEOUT = """
@pytest.mark.timeout(20)
def test_it():
    count("body")
"""
ORDER = """
@pytest.mark.order(2)
def test_second():
    count("second")

@pytest.mark.order(1)
def test_it():
    count("body")
"""
BENCHMARK = """
def test_it(benchmark):
    benchmark.pedantic(lambda: count("body"), rounds=1, iterations=1)
"""
REGRESSIONS = """
def test_it(data_regression):
    count("body")
    data_regression.check({"a": 1})
"""
INLINE = """
from inline_snapshot import snapshot

def test_it():
    count("body")
    assert 1 + 1 == snapshot(2)
"""
APPROVAL = """
from approvaltests import verify
from approvaltests.core.options import Options

def test_it():
    count("body")
    verify("hello")
"""
BDD = """
from pytest_bdd import given, scenario, then

@scenario("it.feature", "It works")
def test_it():
    pass

@given("a number", target_fixture="number")
def number():
    count("body")
    return 2

@then("it is two")
def check(number):
    assert number == 2
"""
CHECK = """
from pytest_check import check

def test_it():
    count("body")
    with check:
        assert 1
"""
HTTPSERVER = """
import urllib.request

def test_it(httpserver):
    count("body")
    httpserver.expect_request("/x").respond_with_data("y")
    assert urllib.request.urlopen(httpserver.url_for("/x")).read() == b"y"
"""
ENV = """
import os

def test_it():
    count("body")
    assert os.environ["FROM_INI"] == "1"
"""
FREEZER = """
import time

def test_it(freezer):
    count("body")
    freezer.move_to("2020-01-01")
    assert time.gmtime().tm_year == 2020
"""
DATADIR = """
def test_it(shared_datadir):
    count("body")
    assert (shared_datadir / "a.txt").read_text() == "a"
"""
REPEAT = """
@pytest.mark.repeat(2)
def test_it():
    count("body")
"""
LAZY = """
from pytest_lazy_fixtures import lf

@pytest.fixture
def one():
    return 1

@pytest.mark.parametrize("n", [lf("one")])
def test_it(n):
    count("body")
    assert n == 1
"""
SOCKET = """
import socket
import pytest_socket

@pytest.mark.disable_socket
def test_it():
    count("body")
    with pytest.raises(pytest_socket.SocketBlockedError):
        socket.socket()
"""
RECORDED = """
interactions:
- request: {body: null, headers: {}, method: GET, uri: "http://127.0.0.1:9/x"}
  response: {body: {string: hello}, headers: {}, status: {code: 200, message: OK}}
version: 1
"""
CASSETTE = """
import requests

@pytest.mark.vcr
def test_it():
    count("body")
    assert requests.get("http://127.0.0.1:9/x").text == "hello"
"""
DESCRIBE = """
def describe_it():
    def works():
        count("body")
"""
FACTORYBOY = """
import factory
from pytest_factoryboy import register

class Author:
    def __init__(self, name):
        self.name = name

@register
class AuthorFactory(factory.Factory):
    class Meta:
        model = Author
    name = "Charles"

def test_it(author):
    count("body")
    assert author.name == "Charles"
"""
TIME_MACHINE = """
import time
import time_machine

@time_machine.travel("2012-01-14 12:00")
def test_it():
    count("body")
    assert time.gmtime().tm_year == 2012
"""
VARIABLES = """
def test_it(variables):
    count("body")
    assert variables == {"host": "near"}
"""
STEPS = """
from pytest_steps import test_steps

@test_steps("one", "two")
def test_it():
    count("body")
    yield
    yield
"""
PLAIN = """
def test_it():
    count("body")
"""

KNOWN = [
    Case("pytest-mock", "pytest_mock", MOCK),
    Case("pytest-timeout", "pytest_timeout", TIMEOUT),
    Case("pytest-order", "pytest_order", ORDER),
    Case("pytest-benchmark", "pytest_benchmark", BENCHMARK, 2, reason="uses benchmark"),
    Case("pytest-regressions", "pytest_regressions", REGRESSIONS, needs="pytest-datadir"),
    Case("inline-snapshot", "inline_snapshot", INLINE),
    Case("approvaltests", "approvaltests", APPROVAL, 2, reason="approvaltests"),
    Case("pytest-bdd", "pytest_bdd", BDD),
    Case("pytest-check", "pytest_check", CHECK),
    Case("pytest-httpserver", "pytest_httpserver", HTTPSERVER),
    Case("pytest-env", "pytest_env", ENV),
    Case("pytest-freezer", "pytest_freezer", FREEZER),
    Case("pytest-datadir", "pytest_datadir", DATADIR),
    Case("pytest-repeat", "pytest_repeat", REPEAT),
    Case("pytest-lazy-fixtures", "pytest_lazy_fixtures", LAZY),
    Case("pytest-socket", "pytest_socket", SOCKET),
    Case("pytest-reportlog", "pytest_reportlog", PLAIN, args=("--report-log=log.json",)),
    Case(
        "pytest-json-report",
        "pytest_jsonreport",
        PLAIN,
        2,
        args=("--json-report",),
        reason="cannot do with its replay",
    ),
    Case("pytest-split", "pytest_split", PLAIN, args=("--splits=1", "--group=1")),
    Case("pytest-recording", "pytest_recording", CASSETTE),
    Case("pytest-describe", "pytest_describe", DESCRIBE),
    Case("pytest-factoryboy", "pytest_factoryboy", FACTORYBOY),
    Case("pytest-random-order", "random_order", PLAIN, args=("--random-order",)),
    Case("time-machine", "time_machine", TIME_MACHINE),
    Case("pytest-variables", "pytest_variables", VARIABLES, args=("--variables=it.json",)),
    Case("pytest-steps", "pytest_steps", STEPS, 2, reason="uses ________step_name_"),
    Case("allure-pytest", "allure_pytest", PLAIN, 2, ("--alluredir=out",), "wants it to run"),
    Case("pytest-profiling", "pytest_profiling", PLAIN, 2, ("--profile",), "wants it to run"),
]


@pytest.mark.parametrize("case", KNOWN, ids=[case.name for case in KNOWN])
def test_a_plugin_is_what_the_list_says(project: Project, case: Case) -> None:
    """Its second run tells the same as its first; the body runs again only where it is refused, and
    the reason is told."""
    if importlib.util.find_spec(case.module) is None:
        pytest.skip(f"{case.name} is not installed")
    project.write("pytest.ini", "[pytest]\nenv = FROM_INI=1\npythonpath = .\n")
    project.write("data/a.txt", "a")
    project.write("it.json", '{"host": "near"}')
    project.write("cassettes/test_suite/test_it.yaml", RECORDED)
    project.write("it.feature", "Feature: It\n    Scenario: It works\n        Given a number\n"
                  "        Then it is two\n")  # fmt: skip
    project.write("test_suite/test_data.yml", "")
    project.write("test_suite/test_it.yml", "a: 1\n")
    project.write("test_suite.test_it.approved.txt", "hello\n")
    project.write("test_suite.py", f"import pytest\nfrom counter import count\n{case.suite}")
    args = ("--cache-tests=all", "-W", "ignore", *case.args)
    cold = project.run(*args, plugins=case.plugins()).parseoutcomes()
    once = project.counted("body")
    warm = project.run(*args, "-v", plugins=case.plugins())
    assert cold == warm.parseoutcomes()
    assert set(cold) == {"passed"}
    assert project.counted("body") == once * case.runs
    assert case.reason in warm.stdout.str()


def test_the_list_names_them_all() -> None:
    """Each plugin stands in the list under what was seen of it."""
    listed = {
        name: section
        for section, names in re.findall(r"## (\w+)\n(.*?)(?=\n## |\Z)", PAGE.read_text(), re.S)
        for cell in re.findall(r"^\| ([\w, -]+) \|", names, re.M)
        for name in cell.split(", ")
    }
    for case in KNOWN:
        assert listed.get(case.name) == ("Right" if case.runs == 1 else "Refused"), case.name
