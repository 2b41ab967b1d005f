"""What a cached fixture is given, and so what its key is made of."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

from pytest_taskcache.decorator import Spec
from pytest_taskcache.digests.values.digest import digest_value
from pytest_taskcache.errors import SerializationError, UndigestableError
from pytest_taskcache.model.key import Part
from pytest_taskcache.model.record import Result
from pytest_taskcache.plugin.attribute_reads import reads_of, reads_of_self
from pytest_taskcache.plugin.pytest_private import active_definition, is_async, is_handle
from pytest_taskcache.plugin.requests import HARMLESS, WATCHED, RequestRecorder, is_plain_value
from pytest_taskcache.plugin.running import Instance
from pytest_taskcache.ports import Fingerprints
from pytest_taskcache.serializers.catalog import serializer_for
from pytest_taskcache.serializers.trees import scan

_TREE = "tree"


class FixtureInputs:
    """Gathers the inputs of one set-up.

    ``arguments`` are to be digested by value but for those that ``digests`` names. ``parts`` are
    of the key whatever the policy says. ``attributes`` are the names of what the fixture is known
    to read from its request: part of the key from the start, rather than compared afterwards.
    ``sees_request`` and ``sees_options``: whether it has a request that counts, and whether it
    can reach pytest's options.
    """

    def __init__(self, spec: Spec, fixturedef: Any, request: Any) -> None:
        self._spec = spec
        self._fixturedef = fixturedef
        self._request = request
        self._excluded = spec.options.policy.excluded
        self._function: FunctionType | None = None
        if isinstance(spec.function, FunctionType) and not hasattr(spec.function, "__wrapped__"):
            self._function = spec.function  # else a decorator between may read what it likes
        self.arguments: dict[str, object] = {}
        self.digests: dict[str, str] = {}
        self.parts: list[Part] = []
        self.sees_options = "pytestconfig" in fixturedef.argnames
        self.attributes: frozenset[str] = frozenset()
        self.sees_request = "request" in fixturedef.argnames and "request" not in self._excluded
        if self.sees_request:
            reads = reads_of(self._function, "request") if self._function is not None else None
            if reads is None or not {_plain(name) for name in reads} <= HARMLESS:
                self.sees_options = True
            firsts = {name.partition(".")[0] for name in reads or ()}
            self.attributes = frozenset(firsts) & frozenset(WATCHED)

    def gather(self, recorder: RequestRecorder, digest_of: Callable[[str], str]) -> None:
        """Fills everything. What has no digest stays without one: whether that matters is for
        the policy to say."""
        self._add_owner()
        by_value = self._spec.options.policy.has("INPUTS")
        for name in self._names():
            self.arguments[name] = self._request.getfixturevalue(name)
            if by_value and name not in self._excluded:
                with suppress(UndigestableError):
                    self.digests[name] = digest_of(name)
        if hasattr(self._request, "param"):
            self.arguments["param"] = self._request.param
        for name in sorted(self.attributes):
            recorder.look(name)
            self.arguments[f"request.{name}"] = recorder.shown(name)

    # ------------------------------------------------------------------------ internals

    def _names(self) -> Iterator[str]:
        names = self._fixturedef.argnames
        yield from names
        if (
            "anyio_backend" not in names
            and is_async(self._fixturedef.func)
            and "anyio_backend" in self._request.fixturenames
        ):
            yield "anyio_backend"  # which event loop it runs in, though it does not say so

    def _add_owner(self) -> None:
        """For a method: its class, and what it may read from itself."""
        bound = getattr(self._fixturedef.func, "__self__", None)
        if bound is None or inspect.ismodule(bound):
            return
        if inspect.isclass(bound):
            cls, state = bound, {}
        else:
            present = self._request.instance
            owner = present if isinstance(present, type(bound)) else bound
            cls = type(owner)
            state = _state_of(owner)
        self.parts.append(Part("class", f"{cls.__module__}.{cls.__qualname__}"))
        if "self" in self._excluded or "cls" in self._excluded:
            return
        names = reads_of_self(self._function, cls) if self._function is not None else None
        for name, value in _readable(cls, state, names):
            self.arguments[f"self.{name}"] = value


class Upstream:
    """How the values of other fixtures count as inputs.

    A handle of pytest's counts by its name. The value of a cached fixture counts by its result
    while nobody else can have changed it, or it is seen to be unchanged. A path below the run's
    temporary directory counts by what lies there, since its name says nothing. Everything else
    counts by value.
    """

    def __init__(
        self,
        fingerprints: Fingerprints,
        temporary: Callable[[], Path | None],
        instances: Mapping[Any, Instance],
    ) -> None:
        self._fingerprints = fingerprints
        self._temporary = temporary
        self._instances = instances

    def digest(self, request: Any, name: str, *, by: Any, attempt: str) -> str:
        """What the value of a fixture counts by as an input of ``by``, a fixture definition that
        is set up in an attempt at a test. Sets it up if need be. Raises UndigestableError."""
        definition = active_definition(request, name)
        if definition is None or is_handle(definition):
            return f"handle {name}"
        value = request.getfixturevalue(name)
        instance = self._instances.get(definition)
        if instance is None or instance.variant is None:
            return self.by_value(value, name)
        result = instance.variant.result
        as_stored = f"{result.serializer} {result.digest}"
        if instance.handed_to <= {by, attempt}:
            return as_stored
        if result.serializer == _TREE and self._is_unchanged(value, result):
            return as_stored
        present = self.by_value(value, name)
        return as_stored if present == instance.digest else present

    def by_value(self, value: object, name: str) -> str:
        """The digest of a value as it is now. Raises UndigestableError."""
        return digest_value(value, path=name, anchors=self._name_of)

    def _is_unchanged(self, value: object, result: Result) -> bool:
        try:
            payload = serializer_for(_TREE).dump(value)
        except SerializationError:
            return False
        return _digest_of(payload.chunks) == result.digest

    def _name_of(self, path: str | Path) -> str:
        temporary = self._temporary()
        text = os.path.abspath(path)
        if temporary is None or not Path(text).is_relative_to(temporary):
            return self._fingerprints.name_of(path)
        try:
            manifest, _ = scan(text)
        except (ValueError, OSError) as error:
            if os.path.lexists(text):
                raise UndigestableError("", "pathlib.Path", f"{text}: {error}") from error
            return "<tmp> absent"
        entries = [(e.path, str(e.kind), e.mode, e.digest, e.target) for e in manifest.entries]
        return f"<tmp> {digest_value([manifest.name, entries])}"


def _plain(name: str) -> str:
    """A name as it stands in `HARMLESS`: of attributes of attributes only those of nodes count."""
    return name if name.startswith("node.") else name.partition(".")[0]


def _digest_of(chunks: Any) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _state_of(instance: object) -> dict[str, object]:
    state = dict(vars(instance)) if hasattr(instance, "__dict__") else {}
    unittest: Any = sys.modules.get("unittest.case")
    if unittest is not None and isinstance(instance, unittest.TestCase):
        for name in vars(unittest.TestCase()):
            state.pop(name, None)
    return state


def _readable(
    cls: type, state: Mapping[str, object], names: frozenset[str] | None
) -> Iterator[tuple[str, object]]:
    """What a method reads from its instance and its classes, by name; everything that it could
    read where ``names`` is None."""
    found: dict[str, object] = {}
    for owner in reversed(cls.__mro__):
        if owner.__module__ in ("builtins", "unittest.case"):
            continue
        found.update((n, v) for n, v in vars(owner).items() if is_plain_value(n, v))
    found.pop("pytestmark", None)
    found.update(state)
    for name, value in sorted(found.items()):
        if names is None or name in names:
            yield name, value
