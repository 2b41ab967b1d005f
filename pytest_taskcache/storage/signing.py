"""The bytes of a record that are signed, the keys, and the signatures (HMAC-SHA256, RFC 2104)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pytest_taskcache.errors import ConfigurationError
from pytest_taskcache.model.record import Variant
from pytest_taskcache.storage.records import encode_variant

VARIABLE = "PYTEST_TASKCACHE_SIGNING_KEY"
"""Name of the environment variable that holds the keys, newest first."""

MINIMUM = 16
"""Shortest key in bytes: 128 bits, if they are random."""


class SigningKey(bytes):
    """A key whose text never shows it, as it may stand in a traceback with its locals."""

    def __repr__(self) -> str:
        return "<signing key>"

    __str__ = __repr__


def signing_keys(environ: Mapping[str, str]) -> tuple[SigningKey, ...]:
    """The keys in PYTEST_TASKCACHE_SIGNING_KEY, separated by commas or newlines; none if unset.

    The first one signs, all verify: to rotate, put the new key in front and take the old one
    away when what it signed has expired. Raises ConfigurationError for a key under 16 bytes.
    """
    texts = environ.get(VARIABLE, "").replace("\r", "\n").replace(",", "\n").split("\n")
    keys = [SigningKey(text.strip().encode("utf-8", "surrogateescape")) for text in texts]
    keys = list(dict.fromkeys(key for key in keys if key))
    check_keys(keys)
    return tuple(keys)


def check_keys(keys: Sequence[bytes]) -> None:
    """Raises ConfigurationError if a key is too short to sign with."""
    for place, key in enumerate(keys, start=1):
        if len(key) < MINIMUM:
            raise ConfigurationError(
                VARIABLE,
                f"key {place} of {len(keys)} has {len(key)} bytes, fewer than {MINIMUM}",
                'use a random one: python -c "import secrets; print(secrets.token_hex(32))"',
            )


def canonical(variant: Variant, namespace: str) -> bytes:
    """The namespace and all of a record but its signature, as bytes that no other pair has.

    Raises TypeError, ValueError or AttributeError if a field has a type that no record has.
    """
    scope = namespace.encode("utf-8", "surrogatepass")
    record = encode_variant(replace(variant, signature=""))
    # The length in front keeps the end of the namespace and the start of the record apart.
    return b"pytest-taskcache record 1\n%d\n%b%b" % (len(scope), scope, record)


class Signer:
    """Signs records of one namespace with the first key, verifies them with any.

    The keys are kept only inside HMAC states, which have no text form. Thread-safe.
    """

    def __init__(self, keys: Sequence[bytes], namespace: str) -> None:
        check_keys(keys)
        self._states = tuple(hmac.new(key, digestmod=hashlib.sha256) for key in keys)
        self._namespace = namespace

    def sign(self, variant: Variant) -> str:
        """The signature of a record, by the first key."""
        return _mac(self._states[0], canonical(variant, self._namespace))

    def verify(self, variant: Variant) -> bool:
        """Whether the record carries the signature of any of the keys. Never raises."""
        try:
            data = canonical(variant, self._namespace)
            given = variant.signature.encode("ascii")
        except (TypeError, ValueError, AttributeError, RecursionError):
            # The bytes may come from anyone: fields of a wrong type are one more forgery.
            return False
        return any(
            hmac.compare_digest(_mac(state, data).encode("ascii"), given) for state in self._states
        )


def _mac(state: hmac.HMAC, data: bytes) -> str:
    copy = state.copy()
    copy.update(data)
    return f"hmac-sha256:{copy.hexdigest()}"
