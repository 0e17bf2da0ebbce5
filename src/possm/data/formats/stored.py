"""Arrays that stay in their HDF5 file: a slice is read when it is asked for, and few files are held open.

An array of the brainsets layout is contiguous and uncompressed, so a slice of it is one read at a known
place, which takes a fraction of the time of the HDF5 library; anything else is read through h5py. However
many recordings there are, the file least recently used is closed, and opened again when it is needed. All of
it can be pickled, so that other processes can read, too.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from possm.errors import RecordingError

MAX_OPEN = 64
"""Files open at once in a process; some systems allow 256 in all."""


@dataclass(eq=False)
class StoredFile:
    """A file whose arrays are read a slice at a time."""

    path: Path
    stamp: tuple[int, int]
    """Size and time of its last change when it was first read: a file that was replaced is not misread."""
    closed: bool = False

    @classmethod
    def of(cls, path: Path) -> StoredFile:
        """A file as it is now."""
        return cls(path.absolute(), _stamp(path))

    def array(self, dataset: h5py.Dataset) -> StoredArray:
        """A dataset of the file, which h5py has open."""
        place = _place(dataset)
        return StoredArray(self, dataset.name, dataset.shape, dataset.dtype, place)

    def close(self) -> None:
        """Read nothing more of it."""
        self.closed = True
        _POOL.drop(self.path)

    def check(self) -> None:
        """Raise a RecordingError unless it can be read, and is what it was."""
        if self.closed:
            raise RecordingError("the recording is closed", about=self.path, fix="load it again")
        if _stamp(self.path) != self.stamp:
            raise RecordingError(
                "the file was changed while it was in use",
                about=self.path,
                fix="start again with the new one",
            )


@dataclass(frozen=True, eq=False)
class StoredArray:
    """An array in a file: rows and slices of rows are read, `len`, `shape` and `dtype` are as of numpy."""

    file: StoredFile
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    place: int | None
    """Byte of the file where it begins; None where only h5py can read it."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        if not isinstance(rows, slice):
            row = range(len(self))[rows]
            return self[row : row + 1][0]
        first, last, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("a stored array is read without a step")
        return self._read(first, max(first, last))

    def _read(self, first: int, last: int) -> np.ndarray:
        if self.place is None:
            return np.asarray(_POOL.use(self.file, lambda opened: opened.h5[self.name][first:last]))
        out = np.empty((last - first, *self.shape[1:]), self.dtype)
        if not out.nbytes:
            return out
        begin = self.place + first * (out.nbytes // len(out))
        if _POOL.use(self.file, lambda opened: opened.fill(out, begin)) < out.nbytes:
            raise RecordingError(
                f"it ends inside '{self.name[1:]}'", about=self.file.path, fix="fetch it again"
            )
        return out


class _Opened:
    """One open file, and the same through h5py once that is needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.raw = open(path, "rb", buffering=0)  # noqa: SIM115
        self._h5: h5py.File | None = None

    @property
    def h5(self) -> h5py.File:
        if self._h5 is None:
            self._h5 = h5py.File(self.path, "r")
        return self._h5

    def fill(self, out: np.ndarray, begin: int) -> int:
        """Read from a byte on until an array is full; returns how many bytes there were."""
        self.raw.seek(begin)
        buffer = out.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(buffer):  # one read is cut off at 2 GB
            number = self.raw.readinto(buffer[done:])
            if not number:
                break
            done += number
        return done

    def close(self) -> None:
        self.raw.close()
        if self._h5 is not None:
            self._h5.close()


class _Pool:
    """The open files of this process, most recently used last."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew: a forked process shares the place in a file with its parent, and may not read there."""
        self.opened: OrderedDict[Path, _Opened] = OrderedDict()
        self.lock = threading.Lock()

    def use(self, file: StoredFile, read: Callable[[_Opened], Any]) -> Any:
        """What `read` makes of the open file.

        Raises:
            RecordingError: It is closed, gone, changed, or cannot be read.
        """
        with self.lock:
            try:
                return read(self._open(file))
            except OSError as error:  # h5py's error on a damaged file is one, too
                raise RecordingError("the file cannot be read", about=file.path, got=error) from error

    def drop(self, path: Path) -> None:
        """Close a file."""
        with self.lock:
            if path in self.opened:
                self.opened.pop(path).close()

    def _open(self, file: StoredFile) -> _Opened:
        if file.closed or file.path not in self.opened:
            file.check()
            while len(self.opened) >= MAX_OPEN:
                self.opened.popitem(last=False)[1].close()
            self.opened[file.path] = _Opened(file.path)
        self.opened.move_to_end(file.path)
        return self.opened[file.path]


_POOL = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.forget)


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _place(dataset: h5py.Dataset) -> int | None:
    """Where a plain array begins; None if it is compressed, elsewhere, or not of native numbers."""
    properties = dataset.id.get_create_plist()
    whole = properties.get_layout() == h5py.h5d.CONTIGUOUS and not properties.get_external_count()
    numbers = dataset.dtype.kind in "iuf" and dataset.dtype.isnative
    offset = dataset.id.get_offset() if whole and numbers and not dataset.file.userblock_size else None
    return None if offset is None else int(offset)
