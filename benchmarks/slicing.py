"""How long a one-second slice of a very large recording takes, from the disk, against numpy in memory.

    python benchmarks/slicing.py [--spikes 110000000] [--units 26000] [--folder /tmp] [--json FILE]

Writes a synthetic hour (about 16 bytes a spike), opens it lazily, slices at random places, and removes it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from possm.data.formats import load_recording, write_hdf5
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.series import Signal, Spikes

HOUR_S = 3600.0


class Synthetic:
    """An array made where it is read, so that writing a file larger than memory needs little of it."""

    def __init__(self, number: int, make: Callable[[np.ndarray], np.ndarray], dtype: type) -> None:
        self.shape, self.make, self.dtype = (number,), make, np.dtype(dtype)

    def __getitem__(self, rows: slice | int) -> np.ndarray:
        index = np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else np.asarray(rows)
        return self.make(index).astype(self.dtype)


def synthetic_recording(num_spikes: int, num_units: int) -> Recording:
    """An hour with so many spikes, one to each of as many equal slots of time; and a cursor at 250 Hz."""

    def times_s(row: np.ndarray) -> np.ndarray:
        jitter = (row * 2654435761 % 4096) / 4096
        return (row + jitter) * (HOUR_S / num_spikes)

    time = np.arange(int(HOUR_S * 250)) / 250
    cursor = np.stack([np.sin(time), np.cos(time)], axis=1).astype(np.float32)
    return Recording(
        session_id="synthetic",
        unit_ids=tuple(f"group_0/elec{k // 4}/unit_{k % 4}" for k in range(num_units)),
        domain=Intervals.of([(0.0, HOUR_S)]),
        spikes=Spikes(
            Synthetic(num_spikes, times_s, np.float64),
            Synthetic(num_spikes, lambda row: row * 48271 % num_units, np.int64),
        ),
        signals={"cursor.pos": Signal(cursor, rate_hz=250.0, unit="cm")},
    )


def timed_us(work: Callable[[float], object], starts_s: np.ndarray) -> np.ndarray:
    """Microseconds of one call at each place."""
    out = []
    for start_s in starts_s:
        before = time.perf_counter()
        work(float(start_s))
        out.append(1e6 * (time.perf_counter() - before))
    return np.array(out)


def row(name: str, took_us: np.ndarray, reference_us: float) -> dict[str, object]:
    """One line of the table."""
    p50, p99 = np.percentile(took_us, (50, 99))
    return {"what": name, "p50_us": float(p50), "p99_us": float(p99), "ratio": float(p50 / reference_us)}


def measure(path: Path, num_slices: int) -> list[dict[str, object]]:
    """Slices of the file at `path` in several ways."""
    starts = np.random.default_rng(0).uniform(0, HOUR_S - 1, num_slices)
    opening = timed_us(lambda _: load_recording(path).close(), starts[:5])
    with load_recording(path) as recording:
        spikes = recording.spikes
        assert spikes is not None
        part = recording.slice(0.0, HOUR_S / 10)
        assert part.spikes is not None
        times, unit = np.asarray(part.spikes.times_s), np.asarray(part.spikes.unit)

        def in_memory(start_s: float) -> tuple[np.ndarray, np.ndarray]:
            first, last = np.searchsorted(times, (start_s / 10, start_s / 10 + 1))
            return times[first:last].copy(), unit[first:last].copy()

        memory = timed_us(in_memory, starts)
        reference = float(np.median(memory))
        unindexed = replace(spikes, index_1s=None)
        loaded = part.spikes
        ways: dict[str, Callable[[float], object]] = {
            "Spikes.slice, in memory": lambda t: loaded.slice(t / 10, t / 10 + 1),
            "Spikes.slice, from the file": lambda t: spikes.slice(t, t + 1),
            "  without its index of seconds": lambda t: unindexed.slice(t, t + 1),
            "Recording.slice, from the file": lambda t: recording.slice(t, t + 1),
        }
        return [
            row("numpy searchsorted and copy, in memory", memory, reference),
            *(row(name, timed_us(work, starts), reference) for name, work in ways.items()),
            row("opening the file", opening, reference),
        ]


def main() -> None:
    """Write the file, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spikes", type=int, default=110_000_000)
    parser.add_argument("--units", type=int, default=26_000)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where to write the file for a while")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "synthetic.h5"
        write_hdf5(synthetic_recording(arguments.spikes, arguments.units), path)
        with h5py.File(path) as file:
            assert file["spikes/timestamps"].chunks is None
        size_gb = path.stat().st_size / 1e9
        rows = measure(path, arguments.slices)
    per_second = arguments.spikes / HOUR_S
    print(f"{arguments.spikes:,} spikes of {arguments.units:,} units in an hour, {size_gb:.2f} GB;")
    print(f"a slice is 1 s: {per_second:,.0f} spikes, at {arguments.slices} random places\n")
    print(f"{'':<40} {'p50 us':>9} {'p99 us':>9} {'ratio':>7}")
    for line in rows:
        print(f"{line['what']:<40} {line['p50_us']:9.0f} {line['p99_us']:9.0f} {line['ratio']:7.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
