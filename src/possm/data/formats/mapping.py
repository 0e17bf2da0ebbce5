"""Maps of MATLAB fields: the shipped ones, and reading one from TOML. `docs/formats.md` explains them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from possm.data.formats.rules import (
    BinsRule,
    ColumnRule,
    CutsRule,
    FrozenRule,
    MatlabMap,
    OffScaleRule,
    PhaseRule,
    QualityRule,
    RastersRule,
    SessionRule,
    SignalRule,
    SpikesRule,
    TrialsRule,
    UnitsRule,
    WordsRule,
)
from possm.errors import ConfigError

Rule = TypeVar("Rule")


def list_maps() -> dict[str, str]:
    """The maps that come with possm: name -> what they read."""
    return {name: load_map(name).about for name in _shipped()}


def load_map(name: str | Path) -> MatlabMap:
    """A map by the name of a shipped one, or by the path of a ``.toml`` file of your own.

    Raises:
        ConfigError: There is no such map, or the file is not a valid map.
    """
    shipped = resources.files("possm.data.formats").joinpath("maps", f"{name}.toml")
    source = Path(name) if str(name).endswith(".toml") else shipped
    if not source.is_file():
        raise ConfigError(
            "there is no such map", got=name, wanted=" ".join(_shipped()) + ", or a path NAME.toml"
        )
    try:
        table = tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("the map is not valid TOML", about=name, got=error) from error
    return parse_map(table, Path(source.name).stem)


def _shipped() -> list[str]:
    folder = resources.files("possm.data.formats").joinpath("maps")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def parse_map(table: Mapping[str, Any], name: str) -> MatlabMap:
    """A map from a TOML table; unknown and missing keys are errors that say where."""
    parts = {key: _part(key, value, name) for key, value in table.items()}
    return _build(MatlabMap, {"name": name, **parts}, name)


ONE: dict[str, type] = {
    "bins": BinsRule,
    "spikes": SpikesRule,
    "rasters": RastersRule,
    "units": UnitsRule,
    "words": WordsRule,
    "cuts": CutsRule,
}
MANY: dict[str, type] = {"session": SessionRule, "signals": SignalRule, "phases": PhaseRule}


def _part(key: str, value: Any, name: str) -> Any:
    where = f"{name}: [{key}]"
    if key in ONE:
        return _build(ONE[key], value, where)
    if key in MANY:
        return tuple(_build(MANY[key], item, where) for item in value)
    if key == "trials":
        return tuple(_trials(item, where) for item in value)
    if key == "quality":
        rules: dict[str, type] = {"frozen": FrozenRule, "off_scale": OffScaleRule}
        built = {k: _build(rules[k], v, f"{where} {k}") if k in rules else v for k, v in value.items()}
        return _build(QualityRule, built, where)
    return _frozen(value)


def _trials(table: Mapping[str, Any], where: str) -> TrialsRule:
    columns = {}
    for name, value in table.get("columns", {}).items():
        rule = value if isinstance(value, dict) else {"column": value}
        if isinstance(rule.get("column"), int):
            rule = {**rule, "column": [rule["column"]]}
        columns[name] = _build(ColumnRule, rule, f"{where} column '{name}'")
    return _build(TrialsRule, {**table, "columns": columns}, where)


def _build(rule: type[Rule], table: Any, where: str) -> Rule:
    if not isinstance(table, Mapping):
        raise ConfigError("a map is wrong here", about=where, got=table, wanted="a table")
    known = {part.name: part for part in fields(rule)}  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(known))
    needed = [
        key
        for key, part in known.items()
        if part.default is MISSING and part.default_factory is MISSING and key not in table
    ]
    if unknown or needed:
        got = f"unknown {', '.join(unknown) or 'none'}; missing {', '.join(needed) or 'none'}"
        raise ConfigError("keys of a map", about=where, got=got, wanted=", ".join(known))
    return rule(**{key: _frozen(value) for key, value in table.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value


def who(mapping: MatlabMap, stem: str) -> tuple[str, str | None, dict[str, str]]:
    """Session id, subject id and attributes of a file by its name without the suffix."""
    for rule in mapping.session:
        match = re.search(rule.file, stem)
        if match:
            filled = {key: text.format(**match.groupdict()) for key, text in rule.attributes.items()}
            subject = None if rule.subject is None else rule.subject.format(**match.groupdict())
            return rule.id.format(**match.groupdict()), subject, {**mapping.attributes, **filled}
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem), None, dict(mapping.attributes)
