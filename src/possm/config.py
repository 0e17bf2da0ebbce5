"""Frozen dataclass configs to JSON and back; an unknown key is an error, never ignored."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from possm.errors import ConfigError

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as plain dicts, lists, numbers and strings."""
    return dataclasses.asdict(config)


def from_json(config_class: type[T], values: Mapping[str, Any]) -> T:
    """Build a config dataclass from what `to_json` made.

    Raises:
        ConfigError: A key is unknown or missing, or the class refuses a value.
    """
    hints = typing.get_type_hints(config_class)
    names = [f.name for f in dataclasses.fields(config_class)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            raise ConfigError(
                f"{config_class.__name__} has no setting {key!r}",
                wanted=f"one of {', '.join(names)}",
                fix=f"did you mean {near[0]!r}?" if near else "remove it",
            )
    made = {key: _value(hints[key], value) for key, value in values.items()}
    try:
        return config_class(**made)
    except TypeError as error:  # a setting is missing, or a word where a number belongs
        raise ConfigError(f"{config_class.__name__} cannot be made of this", got=error) from error


def _value(hint: Any, value: Any) -> Any:
    """Rebuild nested configs and tuples, which JSON knows as objects and lists."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next((h for h in typing.get_args(hint) if h is not type(None)), hint)
    arguments = typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_json(typing.cast(type, hint), value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item) for item in value)
    if typing.get_origin(hint) is dict and isinstance(value, Mapping):
        return {key: _value(arguments[1], item) for key, item in value.items()}
    return value


def require(ok: bool, name: str, got: object, wanted: str) -> None:
    """Check one setting in `__post_init__`.

    Raises:
        ConfigError: `ok` is false.
    """
    if not ok:
        raise ConfigError(f"{name} is out of range", got=got, wanted=wanted)
