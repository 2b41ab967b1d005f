"""Where signing keys come from, and that they show up nowhere else."""

import pickle
import traceback

import pytest
from decorator_parts import KEY, make_variant

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.storage.memory import MemoryStorage
from pytest_taskcache.storage.remote.signed import VARIABLE, Signed, signing_keys


@pytest.mark.parametrize("separator", [",", "\n", " ,\r\n\n", ",,"])
def test_several_keys_are_separated_by_commas_or_newlines(separator: str) -> None:
    """Newest first; blank space around them does not count."""
    keys = signing_keys({VARIABLE: f" {'a' * 20}{separator}{'b' * 16} "})

    assert keys == (b"a" * 20, b"b" * 16)


@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}, {VARIABLE: " ,\n"}])
def test_without_the_variable_there_is_no_key(environ: dict[str, str]) -> None:
    """An unset secret, which many CI systems pass as an empty text, is no error."""
    assert signing_keys(environ) == ()


def test_a_short_key_is_refused_with_its_place_and_a_remedy() -> None:
    """The message helps to make a better one, and does not repeat the secret."""
    with pytest.raises(ConfigurationError) as caught:
        signing_keys({VARIABLE: f"{'a' * 32},tooshort"})

    assert caught.value.setting == VARIABLE
    assert "key 2 of 2 has 8 bytes" in str(caught.value)
    assert "secrets" in str(caught.value)
    assert "tooshort" not in str(caught.value)


def test_a_short_key_is_refused_however_it_comes() -> None:
    """Also one that did not come from the environment."""
    with pytest.raises(ConfigurationError):
        Signed(MemoryStorage(), [b"short"], namespace="main")


def test_no_text_form_shows_a_key() -> None:
    """Representations, errors, tracebacks with locals and records are free of it."""
    keys = signing_keys({VARIABLE: "correct-horse-battery-staple"})
    storage = Signed(MemoryStorage(), keys, namespace="main")
    storage.write_records([make_variant(1, inline=True)])
    (record,) = storage.read_records([make_variant(1).key]).values()
    try:
        raise RuntimeError(storage, keys)
    except RuntimeError as error:
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = [repr(keys), str(keys[0]), f"{keys[0]}", repr(storage), repr(vars(storage))]
    shown += [repr(record), "".join(told.format()), storage.describe()]
    shown += [repr(vars(value)) for value in vars(storage).values() if hasattr(value, "__dict__")]

    assert not [text for text in shown if "horse" in text]
    assert keys == (b"correct-horse-battery-staple",)


def test_a_storage_with_a_key_does_not_travel() -> None:
    """Nothing that holds a key can be pickled into a record or to another process by accident."""
    with pytest.raises(TypeError):
        pickle.dumps(Signed(MemoryStorage(), [KEY], namespace="main"))
