"""Reducers of pandas's frames, series, indexes and extension arrays.

Content, dtypes, index, names, ``attrs`` and flags count; how the values are split into blocks
does not. Imported only when a value of pandas's is met.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from pytest_taskcache.digests.values.instances import of_class
from pytest_taskcache.digests.values.terms import Reducer, term


def _frame(frame: pd.DataFrame) -> tuple[Any, ...]:
    types = frame.dtypes.tolist()
    values: Any
    if types and all(dtype == types[0] and isinstance(dtype, np.dtype) for dtype in types):
        # one block, so no copy; .T gives it in the order it lies in memory
        values = frame.to_numpy().T
    else:
        values = [_values(frame.iloc[:, column]) for column in range(len(types))]
    return frame.columns, frame.index, values, _extras(frame)


def _extras(data: Any) -> list[Any]:
    declared = {name: getattr(data, name, None) for name in data._metadata if name != "_name"}
    return [data.attrs, data.flags.allows_duplicate_labels, declared]


def _values(data: Any) -> Any:
    return data.to_numpy() if isinstance(data.dtype, np.dtype) else data.array


def _array(array: Any) -> tuple[Any, ...]:
    dtype = array.dtype
    if isinstance(dtype, pd.DatetimeTZDtype) or (
        isinstance(dtype, np.dtype) and dtype.kind in "mM"
    ):
        return "times", str(dtype), getattr(array, "freqstr", None), array.asi8
    if isinstance(dtype, np.dtype):
        return "wrapped", array.to_numpy()
    plain = getattr(dtype, "numpy_dtype", None)
    if plain is not None and plain.kind in "biufc":
        # what lies under the mask is undefined
        filled = array.to_numpy(dtype=plain, na_value=plain.type(0))
        return "nullable", str(dtype), np.asarray(array.isna()), filled
    return "extension", str(dtype), repr(dtype), np.asarray(array, dtype=object)


REDUCERS: dict[type, Reducer] = {
    pd.DataFrame: of_class("frame", _frame),
    pd.Series: of_class(
        "series", lambda each: (each.index, each.name, _values(each), _extras(each))
    ),
    pd.MultiIndex: of_class(
        "multi index",
        lambda each: ([*each.names], [*each.levels], [np.asarray(code) for code in each.codes]),
    ),
    pd.RangeIndex: of_class("range index", attrgetter("name", "start", "stop", "step")),
    pd.Index: of_class(
        "index", lambda each: (each.name, getattr(each, "freqstr", None), _values(each))
    ),
    pd.Categorical: of_class("categorical", attrgetter("codes", "categories", "ordered")),
    pd.api.extensions.ExtensionArray: of_class("array", _array),
    pd.CategoricalDtype: term("categories", attrgetter("categories", "ordered")),
}
"""Reducers of classes that derive from pandas's containers; the first that fits."""
