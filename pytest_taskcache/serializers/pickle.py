"""Values as pickles, with large buffers beside the stream so that they can be mapped in place."""

from __future__ import annotations

import gc
import pickle
import sys
from dataclasses import dataclass

from pytest_taskcache.errors import SerializationError
from pytest_taskcache.ports import Payload, Restore
from pytest_taskcache.serializers import frame, origins

NAME = f"pickle/{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
"""Pickles of functions hold byte code, so only the same Python version reads them back."""

_OUT_OF_BAND = 4096  # bytes; below a page, a buffer of its own costs more than the copy it saves


@dataclass(frozen=True, slots=True)
class PickleSerializer:
    """Pickles of protocol 5; anything that pickle or cloudpickle can write.

    *What goes by name.* Importable classes and functions are stored by reference, first-party
    ones too: a value that comes back has the very class that the test compares it with, and
    that the code behind it is unchanged is what the trace verifies. Lambdas and closures are
    stored by value. A class that cannot be found by name (local to a function, say) is refused,
    since a copy of it would be another type; named tuples are excepted. ``__main__`` and
    ``conftest`` are names of many files, so a value that refers to them loads only where they
    are the same file.

    *Memory.* Buffers of 4 KiB and more (numpy arrays, Arrow tables) are not copied when stored:
    the chunks alias them. When loaded from writable bytes (a private mapping) they are views of
    these bytes, which from then on belong to the value; from read-only bytes they are copied,
    so that what was writable is writable again. What was read-only comes back read-only. Arrays
    that have no such buffers (strided views, numpy's dates) are part of the stream.
    """

    @property
    def name(self) -> str:
        """``pickle/`` and the interpreter, e.g. ``pickle/cpython-3.12``."""
        return NAME

    @property
    def executes(self) -> bool:
        """True: unpickling calls what the bytes name."""
        return True

    def dump(self, value: object) -> Payload:
        """The payload, laid out as `pytest_taskcache.serializers.frame` says.

        Raises SerializationError.
        """
        buffers: list[memoryview] = []

        def keep_in_band(buffer: pickle.PickleBuffer) -> bool:
            view = buffer.raw()
            if view.nbytes < _OUT_OF_BAND:
                return True
            buffers.append(view)
            return False

        try:
            stream = pickle.dumps(value, 5, buffer_callback=keep_in_band)
        except Exception:
            # A value's own methods may raise anything. Whether it is a fault shows below.
            stream = b""
        if stream and not origins.may_mention(stream):
            return Payload(frame.pack(stream, buffers, b""))

        from pytest_taskcache.serializers import by_value

        buffers.clear()
        try:
            stream, ambiguous = by_value.dumps(value, keep_in_band)
        except Exception as error:  # as above
            raise SerializationError(NAME, _type_name(value), _reason(error)) from error
        return Payload(frame.pack(stream, buffers, origins.encode(ambiguous)))

    def load(self, data: memoryview, restore: Restore) -> object:
        """A new value. Writable ``data`` is the value's own from now on. Raises SerializationError.

        The garbage collector pauses meanwhile: everything built here is alive, and looking
        through it again and again takes two thirds of the time of a large load.
        """
        if data.format != "B" or data.ndim != 1:
            data = data.cast("B")
        try:
            parts = frame.unpack(data)
        except frame.FrameError as error:
            raise SerializationError(NAME, "", str(error)) from error
        if parts.origins and (moved := origins.mismatch(parts.origins)):
            raise SerializationError(NAME, "", moved)
        given = [bytearray(b) for b in parts.buffers] if data.readonly else parts.buffers
        buffers = iter(given)
        collecting = gc.isenabled()
        gc.disable()
        try:
            value: object = pickle.loads(parts.stream, buffers=buffers)
        except Exception as error:
            # Unpickling imports modules and calls constructors, which may raise anything.
            raise SerializationError(NAME, "", _reason(error)) from error
        finally:
            if collecting:
                gc.enable()
        if given and next(buffers, None) is not None:
            raise SerializationError(NAME, "", "the stream names fewer buffers than there are")
        return value


def _type_name(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
