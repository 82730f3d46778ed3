"""JSON values into dataclasses, each value checked against the type of its field. No torch here."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin


def typed(kind: type[Any], values: Any, **ready: Any) -> Any:  # noqa: ANN401 - JSON in
    """Build a dataclass, and those that it holds, from JSON values.

    Args:
        kind: The dataclass; its fields are dataclasses, tuples, mappings, paths, literals, text,
            numbers, truth values, or one of these or None.
        values: A value for each field, as `json.loads` gives them.
        ready: Fields that are made already, by name; their JSON value is not looked at.

    Raises:
        TypeError: A key is unknown or missing, or a value is of the wrong kind.
    """
    if not isinstance(values, dict):
        raise TypeError(f"{kind.__name__} is not a table")
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(set(values) - set(known)):
        raise TypeError(f"{kind.__name__} has the unknown key {unknown[0][:60]!r}")
    missing = [n for n, f in known.items() if f.default is MISSING and n not in values]
    if missing:
        raise TypeError(f"{kind.__name__} lacks {missing[0]!r}")
    made = {
        name: _value(name, known[name].type, values[name]) for name in values if name not in ready
    }
    return kind(**made, **ready)


def _value(name: str, kind: Any, value: Any) -> Any:  # noqa: ANN401 - see typed
    """Return one JSON value as the type of its field."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        if value is None and NoneType in inner:
            return None
        (kind,) = (one for one in inner if one is not NoneType)
        return _value(name, kind, value)
    if is_dataclass(kind) and isinstance(kind, type):
        return typed(kind, value)
    if origin is tuple:
        return tuple(_value(name, inner[0], one) for one in _of(name, value, list))
    if origin is Literal:
        if value not in inner:
            raise TypeError(f"{name} is {str(value)[:60]!r}, not one of {inner}")
        return value
    if origin is Mapping:
        return _of(name, value, dict)
    if kind is Path:
        return Path(_of(name, value, str))
    if kind is float:
        return _finite(name, value)
    if kind in (str, bool, int):
        return _of(name, value, kind)
    raise ValueError(f"no JSON value is known for a field of type {kind}")


def _of(name: str, value: object, kind: type) -> Any:  # noqa: ANN401 - see typed
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{name} is {str(value)[:60]!r}, not {kind.__name__}")
    return value


def _finite(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(f"{name} is {str(value)[:60]!r}, not a number")
    return float(value)
