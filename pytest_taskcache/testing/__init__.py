"""Conformance suites for the ports, for adapters of one's own."""

import pytest

pytest.register_assert_rewrite(
    "pytest_taskcache.testing.locks",
    "pytest_taskcache.testing.serializers",
    "pytest_taskcache.testing.storages",
)
