"""From a computation to its key, or to the reason why it has none."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

import xxhash

from pytest_taskcache.code.function_source import is_of_a_module
from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.digests.values.digest import changed_argument, digest_value
from pytest_taskcache.engine.computation import Computation, Target
from pytest_taskcache.engine.routes import Payloads
from pytest_taskcache.engine.validity import GLOBAL, Circumstances
from pytest_taskcache.errors import ConfigurationError, UndigestableError, UnknownInputError
from pytest_taskcache.model.decision import Fault, Uncacheable
from pytest_taskcache.model.key import SCHEMA, Identity, Key, Part
from pytest_taskcache.policies.algebra import CachePolicy, Component, Declined, TaskContext
from pytest_taskcache.policies.parts import CacheKeyFnPolicy, key_function_digest


@dataclass(frozen=True, slots=True)
class Keyed:
    """A key, with what a validator will be told, and the target file if one is named."""

    key: Key
    present: Circumstances | None = None
    target: str = ""


_NO_MODULE = (
    "its globals are not those of a module in sys.modules, so that nothing tells what it reads "
    "there; import the module, or enter it there before it is executed"
)


def parts_of_globals(
    state: Mapping[str, object], anchors: Callable[[Path], str]
) -> tuple[tuple[Part, ...], str]:
    """A part for each global, by name, and why one has none; empty where all have."""
    parts, problem = [], ""
    for label, value in state.items():
        try:
            digest = digest_value(value, anchors=anchors)
        except UndigestableError as error:
            digest, problem = "", f"{label} has changed since collection ended, and {error}"
        parts.append(Part(GLOBAL + label, digest))
    return tuple(parts), problem


def key_of(
    computation: Computation, payloads: Payloads, clock: Callable[[], float]
) -> Keyed | Uncacheable | Fault:
    """The key of a computation, or why it has none.

    Raises ConfigurationError for what its author wrote and can mend (a target that leaves its
    directory, a key function that returns no text).
    """
    options, context, arguments = computation.options, computation.context, computation.arguments
    form = (Part("form", computation.form),) if computation.form else ()
    spec, target = options.serializer, ""
    try:
        name = payloads.default_name if spec is None else payloads.chosen(spec).name
        outright = Part("key", options.key) if options.key is not None else None
        if options.target is not None:
            now = datetime.fromtimestamp(clock())
            target = target_name(options.target, context, arguments, now)
            outright = Part("target", target)
        if outright is not None:  # shared by all who name it so
            key = _key((*_constant(name, None), outright, *form), context.identity, True)
        else:
            key_fn, policy = options.key_fn, options.policy
            policy = policy if key_fn is None else CacheKeyFnPolicy(key_fn)
            extra = (*computation.extra, *form)
            key = _derive(policy, context, arguments, name, extra)
        if not (key.vouched or is_of_a_module(context.function)):
            return Uncacheable("globals of no module", _NO_MODULE)
        present = _present(computation) if options.validator is not None else None
        return Keyed(key, present, target)
    except Declined as declined:
        return Uncacheable("no key by policy", str(declined))
    except UndigestableError as error:
        return Uncacheable("input cannot be digested", str(error))
    except ConfigurationError:
        raise
    except Exception as error:  # key functions and hashers are users' code; the call still runs
        where = f"the key of {context.identity}"
        return Fault("key not derived", f"{where}: {type(error).__name__}: {error}")


def _derive(
    policy: CachePolicy,
    context: TaskContext,
    arguments: Mapping[str, object],
    serializer: str,
    extra: Sequence[Part],
) -> Key:
    """The key of a computation under a policy.

    Every key covers the schema, the serializer and ``extra``. The identity is left out only
    where a key is meant to be shared by different functions: INPUTS alone, and key functions.

    Raises UndigestableError (an input, with the path to it) and Declined (the policy has no
    key for this).
    """
    if not policy.components:
        raise Declined("policy is NO_CACHE")
    parts = [*_constant(serializer, None if policy.shared else context.identity), *extra]
    named: list[tuple[Component, str]] = []
    for component in policy.components:
        found = component.parts(context, arguments, policy.excluded)
        if component.fn is None:
            parts += found
        else:
            named += [(component, text) for _, text in found]
    parts += _named(named)
    return _key(tuple(parts), context.identity, not policy.has("OBSERVED"))


def _named(named: Sequence[tuple[Component, str]]) -> list[Part]:
    """The parts of key functions. Of several, each one's part carries the function's name, or
    two could change places; and its digest where the names are the same."""
    if len(named) < 2:
        return [Part("key", text) for _, text in named]
    labels = [component.label for component, _ in named]
    parts = []
    for component, text in named:
        name = f"key {component.label}"
        if component.fn is not None and labels.count(component.label) > 1:
            name += f" {key_function_digest(component.fn)}"
        parts.append(Part(name, text))
    return parts


@functools.lru_cache(1024)
def _constant(serializer: str, identity: Identity | None) -> tuple[Part, ...]:
    parts = (Part("schema", str(SCHEMA)), Part("serializer", serializer))
    return parts if identity is None else (*parts, Part("identity", str(identity)))


# The same parts come again and again on warm runs: 0.5 µs instead of 4.
@functools.lru_cache(4096)
def _key(parts: tuple[Part, ...], identity: Identity, vouched: bool) -> Key:
    ordered = tuple(sorted(set(parts)))
    # With lengths, since names and key functions' texts may hold any separator.
    text = "".join([f"{len(name)},{len(digest)}:{name}{digest}" for name, digest in ordered])
    digest = xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
    return Key(digest, identity, ordered, vouched)


def _present(computation: Computation) -> Circumstances:
    """What a validator compares. An input that cannot be digested equals nothing, not even
    itself."""
    context = computation.context
    inputs: list[Part] = []
    for name, value in computation.arguments.items():
        try:
            inputs += context.digest_inputs({name: value}, computation.options.policy.excluded)
        except UndigestableError:
            inputs.append(Part(f"inputs.{name}", f"undigestable {os.urandom(16).hex()}"))
    parts = tuple(sorted(set(inputs)))
    return Circumstances(parts, context.digest_parameters(), computation.arguments)


def changed_input(computation: Computation, key: Key) -> str:
    """The name of an argument that the computation itself has changed since its key was
    derived; "" if there is none."""
    context, start = computation.context, "inputs."
    given = computation.options.policy.excluded | context.input_digests.keys()
    before = {
        name: part.digest
        for part in key.parts
        if part.name.startswith(start) and (name := part.name.removeprefix(start)) not in given
    }
    if not before:
        return ""
    anchors = context.fingerprints.name_of
    return changed_argument(computation.arguments, before, anchors=anchors)


_PLAIN = (int, float, bool, str, bytes, type(None))
_SECRET = re.compile("pass|secret|token|key|credential|auth", re.IGNORECASE)
_WIDTH = 60


def shown(arguments: Mapping[str, object]) -> tuple[tuple[str, str], ...]:
    """What arguments look like to people: those that are plain values (nobody's ``__repr__``
    runs), cut after 60 characters; none whose name sounds like a secret's."""
    return tuple(
        (name, repr(value if not isinstance(value, str | bytes) else value[:_WIDTH]))
        for name, value in arguments.items()
        if type(value) in _PLAIN and not _SECRET.search(name)
    )


_DAYS = {"today": 0, "yesterday": -1, "tomorrow": 1}
_VARIABLES = ("date", *_DAYS, "task_name", "test_module", "test_name", "parameters")


def check_template(template: str, function: str, inputs: tuple[str, ...]) -> None:
    """Raises UnknownInputError for a variable that will never exist, ConfigurationError for a
    template that is malformed, absolute or leaves the target directory."""
    import string  # few have targets

    known = (*_VARIABLES, *inputs)
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigurationError(
            "target", f"{template!r} is no template: {error}", "double the braces meant as such"
        ) from None
    for field in fields:
        name = "" if field is None else re.split(r"[.\[]", field)[0]
        if field is not None and name not in known:
            raise UnknownInputError(function, name, known)
    _inside(template, template)


def target_name(
    template: Target, context: TaskContext, arguments: Mapping[str, object], now: datetime
) -> str:
    """The relative POSIX path a template or function names for this call. Raises
    ConfigurationError if it leaves the target directory, cannot be formatted or raises."""
    if callable(template):
        name = f"the target function of {context.task_name}"
        remedy = "return the name of a file inside the target directory"
        try:
            text = template(context, dict(arguments))
        except Exception as error:  # users' code
            problem = f"{name} raised {type(error).__name__}: {error}"
            raise ConfigurationError("target", problem, remedy) from error
        if not isinstance(text, str):
            raise ConfigurationError("target", f"{name} returned {text!r}", remedy)
        return _inside(text, name)
    days = {name: f"{now + timedelta(days=days):%Y-%m-%d}" for name, days in _DAYS.items()}
    values = {
        **arguments,
        **days,
        "date": now,
        "task_name": context.identity.name,
        "test_module": context.test_module,
        "test_name": context.test_name,
        "parameters": dict(context.parameters),
    }
    try:
        text = template.format(**values)
    except (KeyError, IndexError, AttributeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            "target", f"{template!r} cannot be filled in: {error}", "check its variables"
        ) from error
    return _inside(text, template)


def _inside(text: str, template: str) -> str:
    path = PurePosixPath(text.replace(os.sep, "/"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in text:
        raise ConfigurationError(
            "target", f"{template} names {text!r}", "name a file inside the target directory"
        )
    return str(path)
