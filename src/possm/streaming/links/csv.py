"""``csv:file.csv``: predictions into a table, or spikes out of one."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from possm.batch import Prediction
from possm.config import require
from possm.errors import StreamError
from possm.streaming.links.base import Message, options
from possm.streaming.links.packets import PacketConfig, Tokens, play

FACTS = ("chunk", "start_s", "end_s", "spikes", "late", "unknown", "compute_ms")
"""Columns after the values; see `possm.batch.Prediction`."""


@dataclass(frozen=True, kw_only=True)
class CsvConfig:
    """How predictions are written."""

    overwrite: bool = False
    """Replace a file that is already there; otherwise it is left alone, and the stream does not start."""
    flush_rows: int = 20
    """Rows after which they are handed to the operating system, so that others can read along."""

    def __post_init__(self) -> None:
        require(self.flush_rows >= 1, "flush_rows", self.flush_rows, "1 or more")


class CsvSink:
    """One row for each output time: ``time_s``, the values (``cursor.pos.0``, ...), then FACTS.

    Behaviors that answer at the same time share a row; where only some do, the cells of the others are empty.
    Rows go straight to the file, not to a temporary one: a running stream can be read along, and what was
    written before a crash is there.

    Args:
        path: The file.
        config: How to write.

    Raises:
        StreamError: The file is there already, or cannot be written.
    """

    def __init__(self, path: str | Path, config: CsvConfig | None = None) -> None:
        self.path, self.config = Path(path), config or CsvConfig()
        self._names: tuple[str, ...] = ()
        self._widths: Mapping[str, int] = {}
        self._pending: dict[str, Prediction] = {}
        self._rows = 0
        mode = "w" if self.config.overwrite else "x"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open(mode, newline="", encoding="utf-8")
        except OSError as error:
            if isinstance(error, FileExistsError) and self.path.is_file():
                fix = "choose another name, or csv:...?overwrite=yes"
                raise StreamError("the file is there already", about=path, fix=fix) from error
            raise self._refused(error) from error
        self._writer = csv.writer(self._file, lineterminator="\n")

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> CsvSink:
        """The file at a path, with options ``overwrite`` and ``flush_rows``."""
        return cls(address, options(CsvConfig, texts))

    def start(self, behaviors: Mapping[str, int]) -> None:
        """Write the header."""
        self._names, self._widths = tuple(behaviors), behaviors
        values = [f"{name}.{i}" for name, width in behaviors.items() for i in range(width)]
        self._write_rows([["time_s", *values, *FACTS]])

    def write(self, prediction: Prediction) -> None:
        """Add the rows of one prediction.

        Raises:
            StreamError: The disk refuses.
        """
        if self._pending and next(iter(self._pending.values())).end_s != prediction.end_s:
            self._write_chunk()
        self._pending[prediction.behavior] = prediction
        if len(self._pending) == len(self._names):
            self._write_chunk()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._file.closed:
            return
        try:
            self._write_chunk()
        finally:
            try:
                self._file.close()
            except OSError as error:
                raise self._refused(error) from error

    def _write_chunk(self) -> None:
        """The rows of all behaviors that answered after one chunk."""
        answers, self._pending = self._pending, {}
        if not answers:
            return
        some = next(iter(answers.values()))
        facts = [some.chunk, some.start_s, some.end_s, some.spikes, some.late, some.unknown]
        facts.append(round(1000 * some.compute_s, 4))
        cells = {name: _cells(answer) for name, answer in answers.items()}
        rows = []
        for time_s in sorted({time for table in cells.values() for time in table}):
            row: list[object] = [time_s]
            for name in self._names:
                row += cells.get(name, {}).get(time_s, [""] * self._widths[name])
            rows.append(row + facts)
        self._write_rows(rows)

    def _write_rows(self, rows: Sequence[Sequence[object]]) -> None:
        try:
            self._writer.writerows(rows)
            before, self._rows = self._rows, self._rows + len(rows)
            if before == 0 or before // self.config.flush_rows != self._rows // self.config.flush_rows:
                self._file.flush()
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> StreamError:
        return StreamError("cannot write", about=self.path, got=error, fix="free the disk or choose another")


def _cells(prediction: Prediction) -> dict[float, list[str]]:
    """Time -> values, each in as few digits as give it back exactly."""
    rows = [[str(value) for value in row] for row in prediction.values]
    return dict(zip(prediction.times_s.tolist(), rows, strict=True))


class CsvSource:
    """Spikes from a table with columns ``time_s``, ``unit`` and, for binned input, ``count``; in any order.

    The stream begins at the first whole packet before the first spike: at a multiple of `packet_ms`.

    Args:
        path: The file.
        config: In what packets, how fast.

    Raises:
        StreamError: The file cannot be read.
    """

    def __init__(self, path: str | Path, config: PacketConfig | None = None) -> None:
        self.config = config or PacketConfig()
        times_s, units, counts = _read_table(Path(path))
        names, rows = np.unique(units, return_inverse=True)
        order = np.argsort(times_s, kind="stable")
        self.session_id: str | None = None
        self.unit_ids: tuple[str, ...] | None = tuple(names.tolist())
        self._tokens = times_s[order], rows[order].astype(np.int64), counts[order]

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> CsvSource:
        """The file at a path, with options ``speed`` and ``packet_ms``."""
        return cls(address, options(PacketConfig, texts))

    def __iter__(self) -> Iterator[Message]:
        times_s, packet_s = self._tokens[0], self.config.packet_ms / 1000
        if not len(times_s):
            return iter(())
        start_s = float(np.floor(times_s[0] / packet_s) * packet_s)
        packets = np.floor((times_s[-1] - start_s) / packet_s) + 1
        return play([(start_s, start_s + packets * packet_s)], self._slice, self.config)

    def close(self) -> None:
        """Nothing to let go of."""

    def _slice(self, start_s: float, end_s: float) -> Tokens:
        first, last = np.searchsorted(self._tokens[0], (start_s, end_s))
        times_s, units, counts = self._tokens
        return times_s[first:last], units[first:last], counts[first:last]


def _no_unit(row: Mapping[str, str]) -> str:
    raise ValueError(f"the spike at {row['time_s']} s has no unit")


def _read_table(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            rows = list(table)
            if not {"time_s", "unit"} <= set(table.fieldnames or ()):
                raise ValueError(f"its columns are {table.fieldnames}")
            times_s = np.array([float(row["time_s"]) for row in rows])
            units = np.array([row["unit"] or _no_unit(row) for row in rows], np.str_)
            counts = np.array([float(row.get("count") or 1) for row in rows], np.float32)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise StreamError(
            "cannot read spikes from the table",
            about=path,
            got=error,
            wanted="columns time_s, unit and perhaps count, none empty but count",
        ) from error
    if not np.isfinite(times_s).all():
        raise StreamError("a spike has no time", about=path, got="NaN or infinity in time_s")
    return times_s, units, counts
