"""An expensive fixture whose value is an object."""

from __future__ import annotations

from language import Model, train

from pytest_taskcache import cached_fixture


@cached_fixture(scope="session")
def model() -> Model:
    """A language model: it is pickled."""
    return train()
