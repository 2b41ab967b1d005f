"""What a policy may look at when it derives a key."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_taskcache.dataclass import dataclass, field
from pytest_taskcache.digests.values.digest import digest_arguments
from pytest_taskcache.model.event import Subject
from pytest_taskcache.model.key import Identity, Part
from pytest_taskcache.ports import Fingerprints


@dataclass(frozen=True, slots=True)
class TaskContext:
    """One computation about to be looked up; also what a key function gets as its first argument.

    ``parameters`` are those of the running test (empty outside one), ``test_name`` and
    ``test_module`` name it. ``input_digests`` holds inputs that count by a digest already known
    (a handle of pytest's by its name, a cached upstream fixture by its result) instead of by
    value.
    """

    subject: Subject
    identity: Identity
    function: Callable[..., object]
    run_id: str
    fingerprints: Fingerprints
    parameters: Mapping[str, object] = field(default_factory=dict)
    test_name: str = ""
    test_module: str = ""
    input_digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def task_name(self) -> str:
        """The qualified name of the function, fixture or test."""
        return self.identity.name

    def digest_inputs(
        self, arguments: Mapping[str, object], excluded: frozenset[str] = frozenset()
    ) -> tuple[Part, ...]:
        """A part per input that is not excluded. Raises UndigestableError."""
        known = self.input_digests
        if not arguments and not known:
            return ()
        if not known and not excluded:
            digests = digest_arguments(arguments, anchors=self.fingerprints.name_of)
            return tuple(sorted([Part(f"inputs.{name}", each) for name, each in digests.items()]))
        values = {
            name: value
            for name, value in arguments.items()
            if name not in excluded and name not in known
        }
        digests = digest_arguments(values, anchors=self.fingerprints.name_of)
        parts = [Part(f"inputs.{name}", digest) for name, digest in digests.items()]
        parts += [
            Part(f"inputs.{name}", digest) for name, digest in known.items() if name not in excluded
        ]
        parts.sort()
        return tuple(parts)

    def digest_parameters(self) -> tuple[Part, ...]:
        """A part per parameter of the running test. Raises UndigestableError."""
        digests = digest_arguments(self.parameters, anchors=self.fingerprints.name_of)
        return tuple(sorted(Part(f"parameters.{name}", value) for name, value in digests.items()))
