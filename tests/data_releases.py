"""Writes MATLAB files of the layout of public releases, versions 5 and 7.3, to test their readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import savemat


def cell(parts: list[Any], *, column: bool) -> np.ndarray:
    """A MATLAB cell array, one row or one column."""
    made = np.empty((len(parts), 1) if column else (1, len(parts)), object)
    for k, part in enumerate(parts):
        made.flat[k] = part
    return made


def save(path: Path, fields: dict[str, Any], version: str = "5") -> Path:
    """Numbers, char matrices (lists of strings) and cell arrays (object arrays) as a ``.mat`` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if version == "5":
        padded = {name: np.array(part) if isinstance(part, list) else part for name, part in fields.items()}
        savemat(path, padded, oned_as="column")
        return path
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, part in fields.items():
            _write(file, name, part, file)
    with path.open("r+b") as stream:  # MATLAB's own header before the HDF5 part
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def _write(group: h5py.Group, name: str, part: Any, file: h5py.File) -> h5py.Dataset:
    if isinstance(part, str):
        part = [part]
    if isinstance(part, list):
        width = max(map(len, part), default=0)
        codes = np.array([[ord(c) for c in row.ljust(width)] for row in part], np.uint16).reshape(
            len(part), width
        )
        return _dataset(group, name, codes, "char")
    part = np.atleast_2d(part)
    if part.dtype == object:
        refs = file.require_group("#refs#")
        inside = [_write(refs, f"{name}_{k}", one, file).ref for k, one in enumerate(part.ravel())]
        made = np.array(inside, h5py.ref_dtype).reshape(part.shape)
        dataset = group.create_dataset(name, data=made.T, dtype=h5py.ref_dtype)
        dataset.attrs["MATLAB_class"] = np.bytes_("cell")
        return dataset
    return _dataset(
        group, name, part, {"u": f"uint{8 * part.itemsize}", "f": "double"}.get(part.dtype.kind, "int64")
    )


def _dataset(group: h5py.Group, name: str, values: np.ndarray, kind: str) -> h5py.Dataset:
    if values.size:
        dataset = group.create_dataset(name, data=values.T)
    else:  # MATLAB stores the shape of what is empty
        dataset = group.create_dataset(name, data=np.array(values.shape[::-1], np.uint64))
        dataset.attrs["MATLAB_empty"] = np.uint8(1)
    dataset.attrs["MATLAB_class"] = np.bytes_(kind)
    return dataset
