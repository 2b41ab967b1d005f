"""Reducers of pandas's frames, series, indexes and extension arrays.

Content, dtypes, index, names, ``attrs`` and flags count; how the values are split into blocks
does not. Imported only when a value of pandas's is met.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pytest_taskcache.digests.values.instances import class_term
from pytest_taskcache.digests.values.terms import TERM, Reducer, Reduction, Scope


def _reduce_frame(frame: pd.DataFrame, scope: Scope) -> Reduction:
    types = frame.dtypes.tolist()
    values: Any
    if types and all(dtype == types[0] and isinstance(dtype, np.dtype) for dtype in types):
        # one block, so no copy; .T gives it in the order it lies in memory
        values = frame.to_numpy().T
    else:
        values = [_values(frame.iloc[:, column]) for column in range(len(types))]
    return TERM, (
        "frame",
        class_term(type(frame), scope),
        frame.columns,
        frame.index,
        values,
        _extras(frame),
    )


def _reduce_series(series: pd.Series[Any], scope: Scope) -> Reduction:
    return TERM, (
        "series",
        class_term(type(series), scope),
        series.index,
        series.name,
        _values(series),
        _extras(series),
    )


def _extras(data: Any) -> list[Any]:
    """``attrs``, flags, and the attributes that a subclass declares to be kept."""
    declared = {name: getattr(data, name, None) for name in data._metadata if name != "_name"}
    return [data.attrs, data.flags.allows_duplicate_labels, declared]


def _values(data: Any) -> Any:
    return data.to_numpy() if isinstance(data.dtype, np.dtype) else data.array


def _reduce_index(index: pd.Index[Any], scope: Scope) -> Reduction:
    frequency = getattr(index, "freqstr", None)
    return TERM, ("index", class_term(type(index), scope), index.name, frequency, _values(index))


def _reduce_multi_index(index: pd.MultiIndex, scope: Scope) -> Reduction:
    return TERM, (
        "multi index",
        class_term(type(index), scope),
        list(index.names),
        list(index.levels),
        [np.asarray(codes) for codes in index.codes],
    )


def _reduce_range_index(index: pd.RangeIndex, scope: Scope) -> Reduction:
    cls = class_term(type(index), scope)
    return TERM, ("range index", cls, index.name, index.start, index.stop, index.step)


def _reduce_array(array: Any, scope: Scope) -> Reduction:
    cls = class_term(type(array), scope)
    if isinstance(array, pd.Categorical):
        return TERM, ("categorical", cls, array.codes, array.categories, array.ordered)
    dtype = array.dtype
    if isinstance(dtype, pd.DatetimeTZDtype) or (
        isinstance(dtype, np.dtype) and dtype.kind in "mM"
    ):
        frequency = getattr(array, "freqstr", None)
        return TERM, ("times", cls, str(dtype), frequency, array.asi8)
    if isinstance(dtype, np.dtype):
        return TERM, ("wrapped array", cls, array.to_numpy())
    missing = np.asarray(array.isna())
    plain = getattr(dtype, "numpy_dtype", None)
    if plain is not None and plain.kind in "biufc":
        # what lies under the mask is undefined
        filled = array.to_numpy(dtype=plain, na_value=plain.type(0))
        return TERM, ("nullable array", cls, str(dtype), missing, filled)
    return TERM, ("extension array", cls, str(dtype), repr(dtype), np.asarray(array, dtype=object))


def _reduce_categories(dtype: pd.CategoricalDtype, scope: Scope) -> Reduction:
    return TERM, ("categories", dtype.categories, dtype.ordered)


_REDUCERS: dict[type, Reducer] = {
    pd.DataFrame: _reduce_frame,
    pd.Series: _reduce_series,
    pd.MultiIndex: _reduce_multi_index,
    pd.RangeIndex: _reduce_range_index,
    pd.Index: _reduce_index,
    pd.api.extensions.ExtensionArray: _reduce_array,
    pd.CategoricalDtype: _reduce_categories,
}


def reducer_for(cls: type) -> Reducer | None:
    """The reducer of a class that derives from one of pandas's containers; None for others."""
    return next((reducer for kind, reducer in _REDUCERS.items() if issubclass(cls, kind)), None)
