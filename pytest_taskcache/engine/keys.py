"""From a computation to its key, or to the reason why it has none."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime

from pytest_taskcache.dataclass import dataclass
from pytest_taskcache.digests.values.digest import changed_arguments
from pytest_taskcache.engine.computation import Computation
from pytest_taskcache.engine.payloads import Payloads
from pytest_taskcache.engine.targets import target_name
from pytest_taskcache.engine.validators import Present
from pytest_taskcache.errors import ConfigurationError, UndigestableError
from pytest_taskcache.model.decision import Fault, Uncacheable
from pytest_taskcache.model.key import Key, Part
from pytest_taskcache.policies.algebra import Declined
from pytest_taskcache.policies.custom import CacheKeyFnPolicy
from pytest_taskcache.policies.derivation import derive, name_outright


@dataclass(frozen=True, slots=True)
class Keyed:
    """A key, with what a validator will be told, and the target file if one is named."""

    key: Key
    present: Present | None = None
    target: str = ""


def key_of(
    computation: Computation, payloads: Payloads, clock: Callable[[], float]
) -> Keyed | Uncacheable | Fault:
    """The key of a computation, or why it has none.

    Raises ConfigurationError for what its author wrote and can mend (a target that leaves its
    directory, a key function that returns no text).
    """
    options = computation.options
    try:
        spec = options.serializer
        name = payloads.default_name if spec is None else payloads.chosen(spec).name
        return _keyed(computation, name, clock)
    except Declined as declined:
        return Uncacheable("no key by policy", str(declined))
    except UndigestableError as error:
        return Uncacheable("input cannot be digested", str(error))
    except ConfigurationError:
        raise
    except Exception as error:  # key functions and hashers are users' code; the call still runs
        where = f"the key of {computation.context.identity}"
        return Fault("key not derived", f"{where}: {type(error).__name__}: {error}")


def _keyed(computation: Computation, serializer: str, clock: Callable[[], float]) -> Keyed:
    options, context, arguments = computation.options, computation.context, computation.arguments
    form = (Part("form", computation.form),) if computation.form else ()
    target = ""
    if options.target is not None:
        now = datetime.fromtimestamp(clock())
        target = target_name(options.target, context, arguments, now)
        key = name_outright(target, context, serializer=serializer, part="target", extra=form)
    elif options.key is not None:
        key = name_outright(options.key, context, serializer=serializer, extra=form)
    else:
        policy = options.policy
        if options.key_fn is not None:
            policy = CacheKeyFnPolicy(options.key_fn)
        extra = (*computation.extra, *form)
        key = derive(policy, context, arguments, serializer=serializer, extra=extra)
    present = _present(computation) if options.validator is not None else None
    return Keyed(key, present, target)


def _present(computation: Computation) -> Present:
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
    return Present(parts, context.digest_parameters(), computation.arguments)


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
