"""The fields of one MATLAB file, as a map sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from possm.data.faults import Findings
from possm.data.formats.mapping import list_maps
from possm.data.formats.matfile import find_field, load_matlab
from possm.data.formats.rules import MatlabMap
from possm.errors import RecordingError


@dataclass(frozen=True)
class Source:
    """The fields of one file under one map."""

    path: Path
    mapping: MatlabMap
    fields: Mapping[str, Any]
    findings: Findings

    def get(self, name: str) -> Any:
        """A field the map names; an error lists the fields there are."""
        value = find_field(self.fields, name)
        if value is None:
            raise RecordingError(
                f"the map '{self.mapping.name}' names a field that is missing or empty",
                about=self.path,
                got=", ".join(self.fields),
                wanted=name,
                fix="take another map, or write one for this file (docs/formats.md)",
            )
        return value

    def numbers(self, name: str) -> np.ndarray:
        """A numeric field."""
        value = np.asarray(self.get(name))
        if value.dtype.kind not in "fiub":
            raise RecordingError(
                "a mapped field holds no numbers", about=self.path, got=value.dtype, wanted=name
            )
        return value


def open_source(path: Path, mapping: MatlabMap, findings: Findings) -> Source:
    """Read a file and find the struct the map speaks of."""
    return Source(path, mapping, _root(load_matlab(path), mapping, path), findings)


def _root(content: Mapping[str, Any], mapping: MatlabMap, path: Path) -> Mapping[str, Any]:
    if not mapping.root:
        return content
    for name in mapping.root:
        found = find_field(content, name)
        if isinstance(found, Mapping):
            return found
    raise RecordingError(
        f"the map '{mapping.name}' finds no struct it knows",
        about=path,
        got=", ".join(content) or "an empty file",
        wanted=" or ".join(mapping.root),
        fix=f"take another map ({', '.join(list_maps())}), or write one (docs/formats.md)",
    )
