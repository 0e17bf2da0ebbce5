"""The content of a MATLAB file, version 5 (scipy) or 7.3 (HDF5), as dicts, lists, arrays and strings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from possm.errors import RecordingError


def load_matlab(path: str | Path) -> dict[str, Any]:
    """The variables of a file; structs are dicts, cells and struct arrays are lists, single axes are dropped.

    Raises:
        RecordingError: No such file, not a MATLAB file, or it is damaged; or scipy is missing.
    """
    path = Path(path)
    if not path.exists():
        raise RecordingError("there is no such file", about=path)
    try:
        return _load_73(path) if h5py.is_hdf5(path) else _load_5(path)
    except RecordingError:
        raise
    except Exception as error:  # both libraries raise a dozen kinds of error on a damaged file
        raise RecordingError(
            "the MATLAB file is not readable",
            about=path,
            got=f"{type(error).__name__}: {error}",
            wanted="version 5 to 7.3",
            fix="copy it again, or save it again in MATLAB",
        ) from error


def _load_5(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise RecordingError(
            "reading this MATLAB file needs scipy", about=path, fix="pip install 'possm[matlab]'"
        ) from error
    content = loadmat(path, simplify_cells=True)
    return {name: value for name, value in content.items() if not name.startswith("__")}


def _load_73(path: Path) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        return {name: _convert(item, file) for name, item in file.items() if not name.startswith("#")}


def _convert(item: h5py.Group | h5py.Dataset, file: h5py.File) -> Any:
    if isinstance(item, h5py.Group):
        return _struct({name: _convert(part, file) for name, part in item.items()}, item)
    kind = _class(item)
    if item.attrs.get("MATLAB_empty", 0):
        return "" if kind == "char" else [] if kind in ("cell", "struct") else np.zeros(0)
    values = item[()].T  # MATLAB lays arrays out column by column
    if kind == "char":
        return _text(np.atleast_2d(values))
    if values.dtype == h5py.ref_dtype:
        return [_convert(file[reference], file) for reference in values.ravel(order="F")]
    return np.squeeze(values)


def _class(item: h5py.Group | h5py.Dataset) -> str:
    name = item.attrs.get("MATLAB_class", "")
    return name.decode() if isinstance(name, bytes) else str(name)


def _text(codes: np.ndarray) -> str | list[str]:
    """A char array: one string, or one for each row."""
    rows = ["".join(map(chr, row)) for row in codes]
    return rows[0] if len(rows) == 1 else [row.rstrip() for row in rows]


def _struct(parts: dict[str, Any], group: h5py.Group) -> dict[str, Any] | list[dict[str, Any]]:
    """A struct; when its fields are lists of references, an array of structs."""
    refers = [isinstance(part, h5py.Dataset) and part.dtype == h5py.ref_dtype for part in group.values()]
    if refers and all(refers) and not any(_class(part) for part in group.values()):
        return [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
    return parts


def find_field(content: Mapping[str, Any], name: str) -> Any:
    """A field by its dotted name (``targets.corners``), or None when it is missing or empty."""
    value: Any = content
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    empty = value.size == 0 if isinstance(value, np.ndarray) else isinstance(value, (list, str)) and not value
    return None if empty else value


def describe(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each field, to write a map by."""
    lines = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            lines += describe(value, f"{prefix}{name}.")
        elif isinstance(value, np.ndarray):
            lines.append(f"{prefix}{name}: {value.dtype} {value.shape}")
        elif isinstance(value, list):
            inside = (
                f" of structs with {', '.join(value[0])}" if value and isinstance(value[0], Mapping) else ""
            )
            lines.append(f"{prefix}{name}: list of {len(value)}{inside}")
        else:
            lines.append(f"{prefix}{name}: {str(value)[:60]}")
    return lines
