"""Policies add and subtract like values, and refuse what cannot be meant."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_taskcache import (
    DEFAULT,
    ENV,
    FILES,
    INPUTS,
    NO_CACHE,
    OBSERVED,
    PACKAGES,
    PYTHON,
    RUN_ID,
    TASK_SOURCE,
    TEST_PARAMETERS,
    CacheKeyFnPolicy,
    CachePolicy,
    ConfigurationError,
    IsolationLevel,
    MemoryLockManager,
    MemoryStorage,
    PolicyConflictError,
    UnknownInputError,
    UserPolicy,
    cached,
)


def one(context, arguments):
    return "one"


def two(context, arguments):
    return "two"


STORAGE, OTHER = MemoryStorage(), MemoryStorage()
LOCKS = MemoryLockManager()
atoms = st.sampled_from(
    [
        TASK_SOURCE,
        INPUTS,
        OBSERVED,
        RUN_ID,
        TEST_PARAMETERS,
        NO_CACHE,
        PYTHON,
        FILES("*.csv"),
        ENV("TZ", "LANG"),
        PACKAGES("numpy"),
        CacheKeyFnPolicy(one),
        CacheKeyFnPolicy(two),
        CacheKeyFnPolicy(lambda context, arguments: "a"),
        CacheKeyFnPolicy(lambda context, arguments: "b"),
        DEFAULT,
        INPUTS - "x",
        CachePolicy(key_storage="records"),
        CachePolicy(key_storage=Path("records")),
        CachePolicy(key_storage=STORAGE),
        CachePolicy(result_storage=OTHER),
        CachePolicy(isolation_level="serializable"),
        CachePolicy(isolation_level=IsolationLevel.READ_COMMITTED),
        CachePolicy(lock_manager=LOCKS),
    ]
)
policies = st.lists(atoms, min_size=1, max_size=4).map(lambda parts: total(*parts))


def total(*parts):
    """The sum, or the name of the field that the parts disagree about."""
    result = parts[0]
    for part in parts[1:]:
        if isinstance(result, str) or isinstance(part, str):
            return result if isinstance(result, str) else part
        try:
            result = result + part
        except PolicyConflictError as error:
            return error.field
    return result


@given(policies, policies)
def test_addition_is_commutative(left, right):
    """The order in which policies are added makes no difference, errors included."""
    there, back = total(left, right), total(right, left)
    if isinstance(there, str) or isinstance(back, str):
        assert isinstance(there, str)
        assert isinstance(back, str)
    else:
        assert there == back


@given(policies, policies, policies)
def test_addition_is_associative(first, second, third):
    """Neither does the way they are grouped."""
    left, right = total(total(first, second), third), total(first, total(second, third))
    if isinstance(left, str) or isinstance(right, str):
        assert isinstance(left, str)
        assert isinstance(right, str)
    else:
        assert left == right


@given(policies)
def test_adding_a_policy_to_itself_or_to_no_cache_changes_nothing(policy):
    """Addition is idempotent, and NO_CACHE is its neutral element."""
    if not isinstance(policy, str):
        assert policy + policy == policy
        assert policy + NO_CACHE == policy


def test_two_key_functions_of_one_name_both_count():
    """Two lambdas are two components, though both are called ``<lambda>``."""
    a = CacheKeyFnPolicy(lambda context, arguments: "a")
    b = CacheKeyFnPolicy(lambda context, arguments: "b")
    assert len((a + b).components) == 2


@pytest.mark.parametrize(
    ("field", "left", "right"),
    [
        ("key_storage", "one", "two"),
        ("result_storage", Path("one"), "two"),
        ("isolation_level", "SERIALIZABLE", "READ_COMMITTED"),
        ("lock_manager", MemoryLockManager(), MemoryLockManager()),
    ],
)
def test_two_settings_of_one_field_conflict(field, left, right):
    """The error names the field, both settings and the remedy."""
    with pytest.raises(PolicyConflictError, match=rf"{field}.*\.configure\({field}=") as caught:
        INPUTS.configure(**{field: left}) + TASK_SOURCE.configure(**{field: right})
    assert caught.value.field == field


def test_a_path_and_its_text_are_the_same_setting():
    """``Path("x")`` and ``"x"`` name one directory."""
    assert INPUTS.configure(key_storage=Path("x")) == INPUTS.configure(key_storage="x")


def test_configure_returns_a_new_policy():
    """The policy it is called on stays as it was; further settings add up."""
    policy = INPUTS.configure(key_storage="a").configure(isolation_level="serializable")
    assert INPUTS.key_storage is None
    assert policy.key_storage == "a"
    assert policy.isolation_level is IsolationLevel.SERIALIZABLE
    assert policy.components == INPUTS.components


def test_an_object_is_used_as_it_is():
    """A storage or a lock manager given as an object is that object."""
    policy = CachePolicy(key_storage=STORAGE, lock_manager=LOCKS)
    assert (INPUTS + policy).key_storage is STORAGE
    assert (INPUTS + policy).lock_manager is LOCKS


@pytest.mark.parametrize("level", ["sometimes", "", 3])
def test_an_unknown_isolation_level_is_refused(level):
    """The error lists the levels there are."""
    with pytest.raises(ConfigurationError, match="AUTO, READ_COMMITTED, SERIALIZABLE"):
        INPUTS.configure(isolation_level=level)


@pytest.mark.parametrize("place", [b"bytes", 3, ""])
def test_a_storage_that_names_no_place_is_refused(place):
    """Bytes, numbers and the empty text are neither path, URL nor object."""
    with pytest.raises(ConfigurationError, match="key_storage"):
        INPUTS.configure(key_storage=place)


@pytest.mark.parametrize("factory", [FILES, ENV, PACKAGES])
@pytest.mark.parametrize("names", [(), ("",), (3,)])
def test_a_declaration_needs_names(factory, names):
    """``FILES()`` would declare nothing."""
    with pytest.raises(ConfigurationError, match="at least one name"):
        factory(*names)


def test_leaving_out_an_unknown_input_is_an_error_when_decorating():
    """It says which inputs the function has."""
    with pytest.raises(UnknownInputError, match="'z'; its inputs are: x, y"):

        @cached(policy=INPUTS - "z")
        def f(x, y): ...


def test_only_names_can_be_subtracted_and_only_policies_added():
    """Anything else is a TypeError of Python's own."""
    with pytest.raises(TypeError):
        INPUTS - 3
    with pytest.raises(TypeError):
        INPUTS + "x"


def test_a_policy_shows_what_it_is_made_of():
    """Its repr can be read by people, and pasted."""
    assert repr(INPUTS + TASK_SOURCE - "x") == "INPUTS + TASK_SOURCE - 'x'"
    assert repr(NO_CACHE) == "NO_CACHE"
    assert "isolation_level=" in repr(INPUTS.configure(isolation_level="auto"))


@dataclass(frozen=True, repr=False)
class Prefixed(UserPolicy):
    prefix: str = ""

    def compute_key(self, context, inputs):
        return f"{self.prefix}-{inputs['x']}"


def test_a_users_policy_keeps_its_own_fields():
    """Two instances of a user's policy are two components; a changed copy computes by its own
    fields; it adds like any policy."""
    policy = Prefixed(prefix="a")
    assert len((policy + Prefixed(prefix="b")).components) == 2
    changed = replace(policy, prefix="c")
    assert changed.components[0].fn.__self__.prefix == "c"
    assert (policy + INPUTS).has("INPUTS")
    assert policy.labels


def test_a_key_function_must_be_callable():
    """A string is not."""
    with pytest.raises(ConfigurationError, match="cannot be called"):
        CacheKeyFnPolicy("static")
