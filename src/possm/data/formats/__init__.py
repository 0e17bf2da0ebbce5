"""One module per file format. Each has one function that reads a file of it into a `Recording`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from possm.data.formats.hdf5 import read_hdf5, write_hdf5
from possm.data.recording import Recording
from possm.errors import RecordingError

__all__ = ["READERS", "load_recording", "read_hdf5", "write_hdf5"]


def _needs_map(path: str | Path, lazy: bool = True) -> Recording:
    raise RecordingError(
        "a MATLAB file does not say which field is what",
        about=path,
        fix=f"possm prepare {path} --map MAP --out NAME.h5 (docs/formats.md lists the maps, "
        "and how to write one), then use NAME.h5",
    )


READERS: dict[str, Callable[..., Recording]] = {".h5": read_hdf5, ".hdf5": read_hdf5, ".mat": _needs_map}
"""By file suffix; each reader takes (path, lazy)."""


def load_recording(path: str | Path, lazy: bool = True) -> Recording:
    """Open a recording file; the suffix says which format it is.

    Args:
        path: The file.
        lazy: Read from the file what is sliced, instead of all at once (see `Recording.close`).

    Raises:
        RecordingError: No such file, an unknown suffix, or a damaged file.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise RecordingError(
            "unknown kind of file",
            about=path,
            got=path.suffix or "no suffix",
            wanted=" ".join(sorted(READERS)),
        )
    return READERS[path.suffix.lower()](path, lazy=lazy)
