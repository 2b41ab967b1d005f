"""From a computation to its key, or to the reason why it has none."""

from __future__ import annotations

import os
import re
import string
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

from pytest_taskcache.code.function_source import is_of_a_module
from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.digests.values.digest import changed_arguments, digest_value
from pytest_taskcache.engine.computation import Computation, Target
from pytest_taskcache.engine.routes import Payloads
from pytest_taskcache.engine.validity import Circumstances
from pytest_taskcache.errors import ConfigurationError, UndigestableError, UnknownInputError
from pytest_taskcache.model.decision import Fault, Uncacheable
from pytest_taskcache.model.key import Key, Part
from pytest_taskcache.policies.algebra import Declined, TaskContext
from pytest_taskcache.policies.derivation import derive, name_outright
from pytest_taskcache.policies.parts import CacheKeyFnPolicy


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

GLOBAL = "global "
"""First word of the name of a part that says what a global held: of a record, not of a key."""


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
        if options.target is not None:
            now = datetime.fromtimestamp(clock())
            target = target_name(options.target, context, arguments, now)
            key = name_outright(target, context, serializer=name, part="target", extra=form)
        elif options.key is not None:
            key = name_outright(options.key, context, serializer=name, extra=form)
        else:
            key_fn, policy = options.key_fn, options.policy
            policy = policy if key_fn is None else CacheKeyFnPolicy(key_fn)
            extra = (*computation.extra, *form)
            key = derive(policy, context, arguments, serializer=name, extra=extra)
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


def _present(computation: Computation) -> Circumstances:
    """What a validator compares. An input that cannot be digested equals nothing, not even
    itself."""
    context = computation.context
    inputs: list[Part] = []
    for name, value in computation.arguments.items():
        try:
            inputs += context.digest_inputs({name: value}, computation.options.policy.excluded)
        except UndigestableError:
            inputs.append(Part(f"inputs.{name}", f"undigestable {uuid.uuid4().hex}"))
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
    return next(iter(changed_arguments(computation.arguments, before, anchors=anchors)), "")


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
