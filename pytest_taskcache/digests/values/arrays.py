"""Reducers of numpy's arrays, scalars and dtypes: type, dtype, shape and the bytes in C order.

Memory layout, strides and whether an array is a view do not count. NaN and ``-0.0`` count by
their bits. Imported only when a value of numpy's is met.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from pytest_taskcache.digests.values.instances import class_term, of_class
from pytest_taskcache.digests.values.terms import (
    TERM,
    Reducer,
    Reduction,
    RefusedError,
    Scope,
    qualified_name,
    term,
)

_INLINE = 64
"""Arrays up to this many bytes are their own digest."""

_EXTENDED_BYTES = 10
"""Significant bytes of an x87 long double; the rest of its 12 or 16 is undefined."""


def _reduce_array(array: np.ndarray[Any, Any], scope: Scope) -> Reduction:
    cls, dtype = type(array), array.dtype
    if cls is not np.ndarray:
        state = None if isinstance(array, np.memmap) else getattr(array, "__dict__", None)
        return TERM, ("array subclass", class_term(cls, scope), np.asarray(array), state)
    # true of numpy's own strings of variable width, too, which are pointers as well
    if dtype.hasobject:
        return TERM, ("array of objects", dtype, array.shape, array.ravel(order="C").tolist())
    if dtype.names is not None:
        # field by field, since the padding between fields is undefined
        fields = [np.asarray(array[name]) for name in dtype.names]
        return TERM, ("structured array", dtype, array.shape, fields)
    return TERM, ("array", _code(dtype), array.shape, _content(array))


def _code(dtype: np.dtype[Any]) -> np.dtype[Any] | str:
    """The text that says all about one of numpy's plain dtypes; the dtype itself for others. Not by
    ``isbuiltin``: a dtype that was unpickled is another object than the built-in one, and
    ``longlong`` comes back as the ``int64`` that it is."""
    plain = dtype.kind in "biufcSUmM" and dtype.type.__module__ == "numpy"
    # an unpickled datetime64 of numpy 1 has metadata, which is empty
    return dtype.str if plain and not dtype.metadata else dtype


def _content(array: np.ndarray[Any, Any]) -> bytes | str:
    if array.dtype.char in "gG" and np.finfo(np.longdouble).nmant == 63:
        wide = array.dtype.itemsize // (2 if array.dtype.char == "G" else 1)
        parts = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, wide)
        array = parts[:, :_EXTENDED_BYTES]
    if array.nbytes <= _INLINE:
        return array.tobytes()
    contiguous = np.ascontiguousarray(array)
    # as plain bytes: not every dtype (datetime64, bfloat16) can be exported as a buffer
    return xxh3_128_hexdigest(contiguous.reshape(-1).view(np.uint8).data)


def _reduce_scalar(scalar: np.generic, scope: Scope) -> Reduction:
    array = np.asarray(scalar)
    # the array says the type of numpy's own, and longlong is int64 again after pickling
    cls = type(scalar)
    return TERM, ("scalar", None if cls.__module__ == "numpy" else class_term(cls, scope), array)


def _dtype(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    code = _code(dtype)
    if isinstance(code, str):
        return (code,)
    # what pickle keeps: fields with offsets, byte order, alignment, units, metadata
    reduced = dtype.__reduce__()
    kept = reduced if isinstance(reduced, str) else [*reduced[1:]]
    return qualified_name(type(dtype)), kept


def _ufunc(function: np.ufunc) -> tuple[str]:
    if getattr(np, function.__name__, None) is not function:
        raise RefusedError("numpy.ufunc", f"{function.__name__} is not one of numpy's own")
    return (function.__name__,)


REDUCERS: dict[type, Reducer] = {
    np.ma.MaskedArray: of_class(
        "masked array",
        lambda array: (
            np.asarray(np.ma.getdata(array)),
            np.asarray(np.ma.getmaskarray(array)),
            array.fill_value,
            array.hardmask,
        ),
    ),
    np.ndarray: _reduce_array,
    np.generic: _reduce_scalar,
    np.dtype: term("dtype", _dtype),
    np.ufunc: term("ufunc", _ufunc),
}
"""Reducers of classes that derive from numpy's data types; the first that fits."""
