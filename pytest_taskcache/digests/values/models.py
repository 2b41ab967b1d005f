"""The reducer of pydantic models: what ``model_dump()`` gives, so custom serializers are honoured.

A dump turns nested models and dataclasses into dicts, and leaves out what a subclass adds to the
declared type. So nested ones are digested by themselves, too, wherever the dump kept their shape,
and what a serializer left out or rewrote counts by its type. Private attributes count unless the
model has a serializer of its own, which then says what makes the model. Imported only when a
model is met.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, RootModel

from pytest_taskcache.digests.values.instances import of_class
from pytest_taskcache.digests.values.terms import Reducer, qualified_name

_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_ABSENT = object()


def _model(model: BaseModel) -> tuple[Any, ...]:
    dump = model.model_dump(warnings=False)
    shown = {"root": dump} if isinstance(model, RootModel) else dump
    decorators = type(model).__pydantic_decorators__
    private = None if decorators.model_serializers else model.__pydantic_private__
    return dump, _nested_in_dict(vars(model), shown), private or None


def _nested(value: Any, shown: Any) -> Any:
    """The models and dataclasses in a value, in its shape, as far as its dump shows them; the
    names of other types; None where nothing but native scalars is."""
    cls = type(value)
    if cls in _PLAIN:
        return None
    if isinstance(value, RootModel):
        # its dump is that of its root
        return value if type(shown) is type(value.root) else qualified_name(cls)
    if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        return value if type(shown) is dict else qualified_name(cls)
    if cls is dict and type(shown) is dict:
        return _nested_in_dict(value, shown)
    if cls in (list, tuple) and type(shown) is cls and len(shown) == len(value):
        found = [_nested(*pair) for pair in zip(value, shown, strict=True)]
        return found if any(part is not None for part in found) else None
    if cls in (set, frozenset):
        names = (qualified_name(type(item)) for item in value if type(item) not in _PLAIN)
        return sorted(names) or None
    return qualified_name(cls)


def _nested_in_dict(value: dict[Any, Any], shown: Any) -> dict[Any, Any] | None:
    kept = shown if isinstance(shown, dict) else {}
    found = {key: _nested(item, kept.get(key, _ABSENT)) for key, item in value.items()}
    return {key: part for key, part in found.items() if part is not None} or None


REDUCERS: dict[type, Reducer] = {BaseModel: of_class("pydantic", _model)}
"""The reducer of model classes."""
