"""From a file of another format to a native one, with splits, and a report of what was found and dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from possm.data.checks import check_recording
from possm.data.faults import Dropped, Findings
from possm.data.formats import write_hdf5
from possm.data.formats.matlab import read_matlab
from possm.data.formats.releases import RELEASES
from possm.data.recording import SPLITS, Recording
from possm.data.splits import chronological_split
from possm.data.summary import summarize
from possm.errors import ConfigError, RecordingError

MAPPED: dict[str, Callable[..., Recording]] = {".mat": read_matlab}
"""Readers that need a map, by file suffix; each takes (path, map, findings=)."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did to one recording."""

    source: Path
    out: Path
    how: str
    """What it was read by: a map, or the reader of a release."""
    session_id: str
    found: tuple[str, ...]
    """What is in the recording, line by line."""
    dropped: tuple[Dropped, ...]
    """What was left out and why; the same second may fall under several."""
    warnings: tuple[str, ...]
    """What is odd but kept."""
    total_s: float
    """From the first to the last second of the recording."""
    kept_s: float
    """In the domain."""
    splits_s: dict[str, float]
    """Seconds of train, valid and test."""

    def text(self) -> str:
        """The report to read."""
        lines = [
            f"{self.source.name} -> {self.out}  ({self.how})",
            *("  " + line for line in self.found),
        ]
        lost_s = self.total_s - self.kept_s
        lines.append(f"dropped {lost_s:.1f} of {self.total_s:.1f} s" + (":" if self.dropped else ""))
        lines += [f"  {item}" for item in self.dropped]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    __str__ = text


def prepare(path: str | Path, *, map_name: str | Path, out: str | Path) -> PrepareReport:
    """Read a recording through a map, mask its faults, split it 70/10/20 in time unless the file has splits
    of its own, and write it natively.

    Args:
        path: The file to read (``.mat``).
        map_name: A shipped map, or the path of one (`docs/formats.md`).
        out: The ``.h5`` file to write; an earlier one is replaced only when all went well.

    Raises:
        RecordingError: The file cannot be read, used or written.
        ConfigError: There is no such map, it is not valid, or `out` is no ``.h5`` file.
    """
    path, out = Path(path), Path(out)
    if out.suffix.lower() not in (".h5", ".hdf5"):
        raise ConfigError("prepared recordings are HDF5 files", got=out, wanted="a path that ends with .h5")
    if path.suffix.lower() not in MAPPED:
        raise RecordingError(
            "no map is needed or known for this kind of file",
            about=path,
            got=path.suffix or "no suffix",
            wanted=" ".join(MAPPED),
            fix="an .h5 file of the brainsets layout is used as it is",
        )
    findings = Findings()
    recording = MAPPED[path.suffix.lower()](path, map_name, findings=findings)
    if "test_domain" not in recording.intervals:
        recording = chronological_split(recording)
    return _write(recording, findings, source=path, out=out, how=f"map {map_name}")


def prepare_release(
    path: str | Path, *, release: str, out: str | Path, config: Any = None
) -> Iterator[PrepareReport]:
    """Read the sessions of a public release, with splits of its own, and write each natively.

    Args:
        path: A file or folder of the release, as `docs/clinical-data.md` describes it.
        release: A name in `RELEASES`.
        out: Folder for the files, called after their sessions.
        config: What to read, of the class `RELEASES[release].config`; left out, its defaults.

    Raises:
        RecordingError: A session cannot be read, used or written.
        ConfigError: There is no such release.
    """
    if release not in RELEASES:
        raise ConfigError("there is no such format", got=release, wanted=" or ".join(RELEASES))
    reader = RELEASES[release]
    path = Path(path)
    if not path.exists():
        raise RecordingError("there is no such file or folder", about=path)
    for source in reader.sessions(path):
        findings = Findings()
        recording = reader.read(source, config or reader.config(), findings=findings)
        file = Path(out) / f"{recording.session_id}.h5"
        yield _write(recording, findings, source=source, out=file, how=release)


def _write(recording: Recording, findings: Findings, *, source: Path, out: Path, how: str) -> PrepareReport:
    """Check a recording, write it, and report what is in it."""
    warnings = check_recording(recording)
    write_hdf5(recording, out)
    splits_s = {name: recording.split(name).total_s for name in SPLITS}
    return PrepareReport(
        source=source,
        out=out,
        how=how,
        session_id=recording.session_id,
        found=tuple(summarize(recording) + findings.noticed),
        dropped=tuple(findings.dropped),
        warnings=tuple(warnings),
        total_s=_total_s(recording),
        kept_s=recording.domain.total_s,
        splits_s=splits_s,
    )


def _total_s(recording: Recording) -> float:
    if recording.binned is not None:
        start_s, end_s = recording.binned.span_s
        return end_s - start_s
    return float(recording.domain.end_s.max() - recording.domain.start_s[0])
