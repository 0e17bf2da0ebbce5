"""Which recordings a bench is given: native files, folders of them, and the public recordings of our tables.

Public recordings come as MATLAB files in folders of their own (docs/benchmarks.md names them). They may not
be redistributed, so whoever has them names the folder of these folders, and the bench prepares them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from possm.data.formats import load_recording
from possm.data.preparation import prepare
from possm.data.recording import Recording
from possm.errors import ConfigError

MAPS = {
    "monkey_spike_wrist": "limblab-binned",
    "monkey_nick_reach": "limblab-binned",
    "reach_contdata95": "contdata95",
    "rat_place_cells": "place-cells",
}
"""Folder of a public data set -> the map that reads its files."""
BAD_DAYS = ("07-20", "07-24", "08-07", "09-12")
"""Days of monkey_spike_wrist on which the recording broke: artefacts in every third bin, or few spikes."""
CHUNK_MS = 50
"""Step of the decoders, as far as the bins of a recording allow."""
SAME_CLOCK = 1e-5
"""Relative error up to which a bin is of whole milliseconds."""
BEHAVIORS = {"place-cells": ("rat.pos",)}
"""Map -> what is decoded, where it is not position and velocity."""
VELOCITY_WEIGHT = 0.3
"""Loss weight of velocity beside position: it helps position too (docs/training.md)."""


@dataclass(frozen=True)
class Source:
    """What has to be known of a recording before it is trained on."""

    path: Path
    name: str
    """Its session."""
    group: str
    """Recordings are averaged by subject."""
    behaviors: tuple[str, ...]
    bin_ms: float | None
    """None for spike times."""
    digest: str
    """Of the file."""

    def takes(self, chunk_ms: int) -> bool:
        """Whether such a chunk holds whole bins."""
        if self.bin_ms is None:
            return True
        bins = chunk_ms / self.bin_ms
        return round(bins) >= 1 and abs(bins - round(bins)) < SAME_CLOCK * bins

    @property
    def chunk_ms(self) -> int:
        """The chunk that its bins allow nearest to CHUNK_MS, which training refuses if there is none."""
        fitting = [length for length in range(1, 1001) if self.takes(length)]
        return min(fitting, key=lambda length: abs(length - CHUNK_MS), default=CHUNK_MS)


def sources(
    paths: Sequence[str | Path],
    prepared: Path,
    *,
    behavior: tuple[str, ...] = (),
    progress: Callable[[str], object] = id,
) -> list[Source]:
    """The recordings that some paths stand for.

    Args:
        paths: As in `native_files`, and `prepared` and `progress` too.
        behavior: What to decode; nothing named is `behaviors_of` each.

    Raises:
        ConfigError: There is none, one stands for nothing, or two are of the same session.
        RecordingError: One cannot be read.
    """
    if not paths:
        raise ConfigError("no recording given", wanted="one or more files or folders")
    found = [_source(path, behavior) for path in native_files(paths, prepared, progress=progress)]
    names = [source.name for source in found]
    for source in found:
        if names.count(source.name) > 1:
            raise ConfigError("two recordings are of the same session", about=source.path, got=source.name)
    return found


def native_files(
    paths: Iterable[str | Path], prepared: Path, *, progress: Callable[[str], object] = id
) -> list[Path]:
    """The native files that some paths stand for.

    Args:
        paths: Native files; folders of native files; MATLAB files of a folder in MAPS; folders of such
            folders, from which bad days are left out.
        prepared: Folder where MATLAB files are written as native ones, unless they are there already.
        progress: Told a line about each that is prepared.

    Raises:
        ConfigError: A path stands for no recording.
        RecordingError: A file cannot be prepared.
    """
    found = []
    for path in map(Path, paths):
        files = list(_inside(path)) if path.is_dir() else [path]
        if not files:
            wanted = f".h5 files, or the folders {', '.join(MAPS)}"
            raise ConfigError("there is no recording in this folder", about=path, wanted=wanted)
        found += [_native(file, prepared, progress) for file in files]
    return list(dict.fromkeys(found))


def behaviors_of(recording: Recording) -> tuple[str, ...]:
    """What is decoded unless a user says so: positions and velocities, else all there is.

    Raises:
        ConfigError: There is nothing.
    """
    names = tuple(recording.signals)
    known = BEHAVIORS.get(str(recording.attributes.get("possm_map")))
    if known is not None and set(known) <= set(names):
        return known
    if not names:
        raise ConfigError("there is nothing to decode", about=recording.name, fix="record a behavior")
    return tuple(name for name in names if name.endswith((".pos", ".vel"))) or names


def behavior_weights(names: Iterable[str]) -> dict[str, float]:
    """Loss weights, the same for every decoder: a velocity whose position is decoded too counts less."""
    names = set(names)
    lesser = {f"{name.removesuffix('.pos')}.vel" for name in names if name.endswith(".pos")}
    return dict.fromkeys(sorted(lesser & names), VELOCITY_WEIGHT)


def _source(path: Path, behavior: tuple[str, ...]) -> Source:
    with load_recording(path) as recording, path.open("rb") as file:
        binned = recording.binned
        return Source(
            path=path,
            name=recording.session_id,
            group=recording.subject_id or recording.session_id,
            behaviors=behavior or behaviors_of(recording),
            bin_ms=None if binned is None else 1000 / binned.rate_hz,
            digest=hashlib.file_digest(file, "sha256").hexdigest(),
        )


def _inside(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.h5"))
    for part in (folder, *(folder / name for name in MAPS)):
        if part.name in MAPS:
            yield from (f for f in sorted(part.glob("*.mat")) if not any(day in f.name for day in BAD_DAYS))


def _native(path: Path, prepared: Path, progress: Callable[[str], object]) -> Path:
    """The path itself, or that of the native file made of it."""
    map_name = MAPS.get(path.absolute().parent.name)
    if path.suffix.lower() != ".mat" or map_name is None:
        return path
    native = prepared / f"{path.stem}.h5"
    if not native.exists():
        progress(f"preparing {path.name}")
        prepare(path, map_name=map_name, out=native)
    return native
