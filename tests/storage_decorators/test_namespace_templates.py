"""Names of namespaces and storages with variables of the continuous integration."""

import platform
import sys
from pathlib import Path

import pytest

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.storage.remote.namespaces import branch, component, expand

PUSHES = [
    {"GITHUB_REF_NAME": "topic/x"},
    {"GITHUB_REF_NAME": "topic/x", "GITHUB_HEAD_REF": ""},
    {"CI_COMMIT_REF_NAME": "topic/x"},
    {"BRANCH_NAME": "topic/x"},
    {"BUILD_SOURCEBRANCH": "refs/heads/topic/x", "BUILD_SOURCEBRANCHNAME": "x"},
    {"BITBUCKET_BRANCH": "topic/x"},
    {"CIRCLE_BRANCH": "topic/x"},
    {"BUILDKITE_BRANCH": "topic/x", "BUILDKITE_PULL_REQUEST": "false"},
    {"TRAVIS_BRANCH": "topic/x", "TRAVIS_PULL_REQUEST_BRANCH": ""},
]
REQUESTS = [
    {"GITHUB_HEAD_REF": "topic/x", "GITHUB_REF_NAME": "12/merge"},
    {"GITHUB_HEAD_REF": "topic/x", "GITHUB_REF_NAME": "main"},  # pull_request_target
    {"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "topic/x", "CI_COMMIT_REF_NAME": "topic/x"},
    {"CHANGE_BRANCH": "topic/x", "BRANCH_NAME": "PR-12"},
    {"SYSTEM_PULLREQUEST_SOURCEBRANCH": "refs/heads/topic/x", "BUILD_SOURCEBRANCHNAME": "merge"},
    {"BITBUCKET_PR_ID": "12", "BITBUCKET_BRANCH": "topic/x"},
    {"BUILDKITE_PULL_REQUEST": "12", "BUILDKITE_BRANCH": "topic/x"},
    {"TRAVIS_PULL_REQUEST_BRANCH": "topic/x", "TRAVIS_BRANCH": "main"},
]


@pytest.mark.parametrize("environ", PUSHES)
def test_the_branch_of_a_push(environ: dict[str, str], tmp_path: Path) -> None:
    """As each CI system tells it, whole."""
    assert branch(environ, tmp_path) == "topic%2Fx"


@pytest.mark.parametrize("environ", REQUESTS)
def test_the_branch_of_a_pull_request_is_marked(environ: dict[str, str], tmp_path: Path) -> None:
    """Its author chooses the name, so it must never be that of a pushed branch."""
    assert branch(environ, tmp_path) == "pr~topic%2Fx"


def test_a_pull_request_from_a_branch_called_main_does_not_write_mains(tmp_path: Path) -> None:
    """The oldest trick: fork, name your branch main, open a pull request."""
    forged = expand("{branch}", environ={"GITHUB_HEAD_REF": "main"}, root=tmp_path)
    real = expand("{branch}", environ={"GITHUB_REF_NAME": "main"}, root=tmp_path)
    named = expand("{branch}", environ={"GITHUB_REF_NAME": "pr~main"}, root=tmp_path)

    assert real == "main"
    assert len({forged, real, named}) == 3


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("ref: refs/heads/topic/x\n", "topic%2Fx"),
        ("1234567890abcdef1234567890abcdef12345678\n", "commit-1234567890ab"),
    ],
)
def test_without_ci_git_tells_the_branch(head: str, expected: str, tmp_path: Path) -> None:
    """From .git/HEAD, at the root or above it; git itself is not run."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(head)
    below = tmp_path / "packages" / "one"
    below.mkdir(parents=True)

    assert branch({}, tmp_path) == expected
    assert branch({}, below) == expected


@pytest.mark.parametrize("absolute", [True, False])
def test_a_worktree_has_a_branch_of_its_own(absolute: bool, tmp_path: Path) -> None:
    """Its .git is a file that says where HEAD is."""
    gitdir = tmp_path / "main" / ".git" / "worktrees" / "w"
    gitdir.mkdir(parents=True)
    (gitdir / "HEAD").write_text("ref: refs/heads/side\n")
    worktree = tmp_path / "w"
    worktree.mkdir()
    where = gitdir if absolute else Path("../main/.git/worktrees/w")
    (worktree / ".git").write_text(f"gitdir: {where}\n")

    assert branch({}, worktree) == "side"


def test_all_variables_are_filled_in(tmp_path: Path) -> None:
    """Text around them stays as it is."""
    environ = {"GITHUB_REF_NAME": "main", "USER": "ada"}
    python = f"{platform.python_implementation().lower()}-{sys.version_info[0]}."

    text = expand("s3://b/{branch}/{user}/{python}{{x}}", environ=environ, root=tmp_path)

    assert text.startswith(f"s3://b/main/ada/{python}")
    assert text.endswith("{x}")


@pytest.mark.parametrize(
    "template", ["{brunch}", "{}", "{0}", "{branch.x}", "{branch!r}", "{branch:>9}", "{{branch}}}"]
)
def test_an_unknown_variable_is_refused_with_the_known_ones(template: str, tmp_path: Path) -> None:
    """A misspelt one would put everyone into one namespace."""
    with pytest.raises(ConfigurationError) as caught:
        expand(template, environ={"GITHUB_REF_NAME": "main"}, root=tmp_path, setting="--x")

    assert caught.value.setting == "--x"
    assert "{" in caught.value.remedy


def test_a_variable_without_a_value_is_refused(tmp_path: Path) -> None:
    """Nothing falls back to a shared namespace without a word."""
    with pytest.raises(ConfigurationError, match=r"\{user\} has no value"):
        expand("{user}", environ={}, root=tmp_path)


@pytest.mark.parametrize(
    "value",
    ["../../main", "..", ".", "/etc", "a/b", "pr~../x", "a\\b", "a b", "\n", "%2e%2e", "é" * 500],
)
def test_no_value_escapes_its_place(value: str) -> None:
    """Whatever a branch is called, it is one component of a path."""
    text = component(value)

    assert not set(text) & set('/\\: \n?#*"<>|')
    assert text not in {".", ".."}
    assert not text.startswith(".")
    assert len(text) <= 110


def test_different_values_stay_different() -> None:
    """Also where they are cut, quoted already, or pretend to be another's result."""
    long = "x" * 200
    values = ["a/b", "a%2Fb", "a%2fb", "A/b", "pr~a", "pr%7Ea", "~a", long, long + "y"]
    values += [component(long), component("pr~a"), component("a/b")]

    assert len({component(value) for value in values}) == len(set(values)) == len(values) - 2
