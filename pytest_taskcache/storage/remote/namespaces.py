"""Namespaces in a storage: how one is named, and what its records are named there.

A name may have variables, such as ``ci/{branch}``. A record of a namespace has the key
``namespace/key``, both percent-encoded, so that nothing in a key or a namespace reaches into
another one. Results lie beside, shared by content: who may write them can replace them, which is
found out because a verified record states their SHA-256 (see ``signed``). Where that is not
enough, give each namespace a storage of its own: ``s3://bucket/cache/{branch}``.
"""

from __future__ import annotations

import hashlib
import string
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from pytest_taskcache.dataclass import replace
from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.key import Identity
from pytest_taskcache.model.record import Variant

REQUEST = "pr~"
"""Stands before the branch of a pull request. Whoever opens one chooses its branch's name, say
``main``; git allows no ``~`` in a branch, so this is never the name of another namespace."""

_LONGEST = 100

_REQUESTS = (
    "GITHUB_HEAD_REF",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
    "CHANGE_BRANCH",  # Jenkins
    "SYSTEM_PULLREQUEST_SOURCEBRANCH",  # Azure Pipelines
    "TRAVIS_PULL_REQUEST_BRANCH",
)
_FLAGS = ("BITBUCKET_PR_ID", "BUILDKITE_PULL_REQUEST", "CIRCLE_PR_NUMBER")
"""Say that what the variables below name belongs to a pull request."""
_BRANCHES = (
    "GITHUB_REF_NAME",
    "CI_COMMIT_REF_NAME",
    "BRANCH_NAME",  # Jenkins
    "BUILD_SOURCEBRANCH",  # Azure Pipelines, whole: refs/heads/topic/x
    "BUILD_SOURCEBRANCHNAME",  # Azure Pipelines, its last component
    "BITBUCKET_BRANCH",
    "CIRCLE_BRANCH",
    "BUILDKITE_BRANCH",
    "TRAVIS_BRANCH",
)
_USERS = ("LOGNAME", "USER", "LNAME", "USERNAME")


class Namespace:
    """The names that records of one namespace have in a storage, and back. Raises
    ConfigurationError where it has no name itself."""

    def __init__(self, name: str) -> None:
        if not name.strip():
            raise ConfigurationError("namespace", "it is empty", "name one, e.g. main")
        self.name = name
        # What a template has encoded is not encoded again.
        self.prefix = f"{encode(name, keep='%')}/"
        # Variant ids are unique over a storage, and one record may lie in several namespaces.
        self.suffix = f"-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"

    def key(self, key: str) -> str:
        """The key of a record in the storage."""
        return self.prefix + encode(key)

    def inner(self, variant: Variant) -> Variant:
        """The record as it lies in the storage."""
        file, name = variant.identity
        return replace(
            variant,
            id=variant.id + self.suffix,
            key=self.key(variant.key),
            identity=Identity(self.prefix + file, name),
        )

    def outer(self, variant: Variant) -> Variant | None:
        """The record as it was written; None if it is none of this namespace."""
        file, name = variant.identity
        prefixed = variant.key.startswith(self.prefix) and file.startswith(self.prefix)
        if not (variant.id.endswith(self.suffix) and prefixed):
            return None
        return replace(
            variant,
            id=variant.id.removesuffix(self.suffix),
            key=decode(variant.key.removeprefix(self.prefix)),
            identity=Identity(file.removeprefix(self.prefix), name),
        )


def encode(text: str, keep: str = "") -> str:
    """The text as one path component that is not hidden, ``.`` or ``..``; ``decode`` reverts it
    (without ``keep``, characters that stay as they are)."""
    quoted = quote(text, safe=keep, errors="surrogatepass")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


def decode(component: str) -> str:
    """The text that ``encode`` made this of."""
    return unquote(component, errors="surrogatepass")


def expand(
    template: str,
    *,
    environ: Mapping[str, str],
    root: Path,
    setting: str = "namespace",
    url: bool = False,
) -> str:
    """The template with ``{branch}``, ``{user}`` and ``{python}`` filled in.

    Each value becomes one path component: percent-encoded, cut and marked with a digest where it
    is long; encoded once more in a ``url``, whose reader decodes it. Raises ConfigurationError
    for any other variable, or one that has no value here.
    """
    python = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
    variables = {
        "branch": lambda: branch(environ, root),
        "user": lambda: component(_first(environ, _USERS)),
        "python": lambda: component(python),
    }
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        problem = f"{template!r} is no template: {error}"
        raise ConfigurationError(setting, problem, "write { and } as {{ and }}") from None
    text = ""
    for literal, name, spec, conversion in pieces:
        text += literal
        if name is None:
            continue
        if name not in variables or spec or conversion:
            problem = f"unknown variable {{{name}}} in {template!r}"
            known = ", ".join(f"{{{known}}}" for known in sorted(variables))
            raise ConfigurationError(setting, problem, f"use {known}")
        value = variables[name]()
        if not value:
            problem = f"{{{name}}} has no value here: no variable nor {root / '.git'} tells it"
            raise ConfigurationError(setting, problem, f"write a name instead of {{{name}}}")
        text += value.replace("%", "%25") if url else value
    return text


def component(value: str) -> str:
    """The value as one path component; different values give different ones."""
    safe = encode(value).replace("~", "%7E")
    if len(safe) > _LONGEST:
        # No whole name contains a "~".
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        safe = f"{safe[: _LONGEST - 17]}~{digest}"
    return safe


def branch(environ: Mapping[str, str], root: Path) -> str:
    """The branch that is tested, as a component: by the variables of the continuous integration,
    else by git's HEAD at or above ``root``; a pull request's alone begins with ``pr~``; "" if
    nothing tells it."""
    found = _first(environ, _BRANCHES)
    requested = _first(environ, _REQUESTS)
    if not requested and any((environ.get(flag) or "false") != "false" for flag in _FLAGS):
        requested = found
    name = (requested or found or _head(root)).removeprefix("refs/heads/")
    return (REQUEST if requested else "") + component(name)


def _head(root: Path) -> str:
    for directory in (root, *root.parents):
        git = directory / ".git"
        try:
            if git.is_file():  # a worktree or submodule: "gitdir: <where>"
                git = directory / git.read_text("utf-8").removeprefix("gitdir:").strip()
            head = (git / "HEAD").read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if head.startswith("ref:"):
            return head.removeprefix("ref:").strip()
        return f"commit-{head[:12]}" if head else ""
    return ""


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((environ[name] for name in names if environ.get(name)), "")
