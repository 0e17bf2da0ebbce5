"""How much memory the pretraining of the paper takes: 148 sessions, 26,032 units, 670 million spikes.

    python benchmarks/many_sessions.py [--sessions 4 12] [--seconds 2600] [--json FILE]

Writes simulated sessions as large as the paper's are on average (176 units at 10 Hz for 43 minutes), but
fewer, opens them as a run does, and makes some steps of the large model. What is held is measured after every
part, in a process of its own for each number of sessions; a line through them says what it is for 148. Memory
of a step grows with its batch, which is measured, too. Times are of the CPU, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SESSIONS, UNITS, SPIKES = 148, 26_032, 670e6
RATE_HZ = 10.0
UNITS_EACH = round(UNITS / SESSIONS)
SECONDS_EACH = SPIKES / UNITS / RATE_HZ
BATCH = 256
PARTS = ("imports", "opened", "checked", "model", "windows")
"""What is measured one after the other; steps come last."""


def write_sessions(folder: Path, *, sessions: int, seconds: float) -> None:
    """Random spikes and a random walk, with trials of 4 s."""
    from possm.data.formats import write_hdf5
    from possm.data.intervals import Intervals
    from possm.data.recording import Recording
    from possm.data.series import Signal, Spikes
    from possm.data.splits import chronological_split

    for number in range(sessions):
        rng = np.random.default_rng(number)
        spikes = rng.poisson(UNITS_EACH * RATE_HZ * seconds)
        starts_s = np.arange(0, seconds - 4, 4.0)
        velocity = rng.standard_normal((round(seconds * 100), 2))
        recording = Recording(
            session_id=f"s{number:03d}",
            unit_ids=tuple(f"group_0/elec{i}/unit_0" for i in range(UNITS_EACH)),
            spikes=Spikes(np.sort(rng.uniform(0, seconds, spikes)), rng.integers(0, UNITS_EACH, spikes)),
            signals={"cursor.vel": Signal(velocity, timestamps_s=np.arange(len(velocity)) / 100)},
            intervals={
                "trials": Intervals(starts_s, starts_s + 3.0, {"target_id": np.arange(len(starts_s))})
            },
            attributes={"brainset.id": f"lab{number % 4}"},
            domain=Intervals.of([(0.0, seconds)]),
        )
        write_hdf5(chronological_split(recording), folder / f"{recording.session_id}.h5")


def resident_mb(process: str = "self", *, field: str = "VmRSS") -> float:
    """Memory of a process, MB: now, or with "VmHWM" at its peak."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def run_in(folder: Path, *, batch: int, steps: int, workers: int) -> dict[str, float]:
    """Open the sessions and make some steps; memory after every part (MB) and times (s)."""
    import torch

    from possm.data.collection import open_recordings
    from possm.data.workers import Workers
    from possm.model.decoder import PossmConfig
    from possm.training.config import TrainConfig
    from possm.training.memory import keep_freed_memory
    from possm.training.preflight import gather
    from possm.training.run import Run
    from possm.training.start import fresh_start

    measured, begun = {}, time.process_time()

    def note(part: str) -> None:
        nonlocal begun
        measured[part] = resident_mb()
        measured[f"{part}_s"] = time.process_time() - begun
        begun = time.process_time()

    keep_freed_memory()
    note("imports")
    recordings = open_recordings(sorted(folder.glob("*.h5")))
    note("opened")
    config = TrainConfig(
        behavior=("cursor.vel",),
        decoder=PossmConfig.large(),
        window_s=1.0,
        batch_size=batch,
        epochs=1,
        scaling="dataset",
        balance="session",
        device="cpu",
    )
    recordings = gather(recordings, config)
    note("checked")
    run = Run(fresh_start(recordings, config), folder / "run")
    note("model")
    run.training_set.batch(0, 0)
    note("windows")
    measured["batches"] = run.training_set.num_batches
    with Workers(run.training_set, workers) as made:
        batches = made.batches(0)
        first = next(batches)
        if workers:
            measured["worker"] = resident_mb(str(made._processes[0].pid), field="VmHWM")
        for _ in range(steps):
            run._step(first.to(torch.from_numpy))
            first = next(batches)
    note("steps")
    measured["steps_s"] /= max(1, steps)
    measured["peak"] = resident_mb(field="VmHWM")
    return measured


def window_ms(folder: Path, *, windows: int = 1500) -> float:
    """What it takes to make one window of a batch."""
    from possm.data.collection import open_recordings
    from possm.data.epochs import TrainingSet
    from possm.data.loader import SampleMaker
    from possm.data.scaling import Scaling
    from possm.data.vocabulary import Vocabulary

    recordings = open_recordings(sorted(folder.glob("*.h5")))
    maker = SampleMaker(
        recordings=recordings,
        vocabulary=Vocabulary.of(recordings),
        scaling={"cursor.vel": Scaling((0.0, 0.0), (1.0, 1.0))},
        chunk_ms=50,
        lead_ms=50,
    )
    made = TrainingSet(maker=maker, window_s=1.0, batch_size=64)
    made.batch(0, 0)
    done, begun = 0, time.process_time()
    while done < windows:
        done += len(made.batch(0, done // 64 % made.num_batches).session)
    return (time.process_time() - begun) / done * 1000


def in_a_process(folder: Path, *, batch: int, steps: int, workers: int = 0) -> dict[str, float]:
    """`run_in` in a process of its own."""
    arguments = [
        "--inside",
        str(folder),
        "--batch",
        str(batch),
        "--steps",
        str(steps),
        "--workers",
        str(workers),
    ]
    made = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def measure(numbers: list[int], *, seconds: float, steps: int) -> Iterator[dict[str, float]]:
    """A row for every number of sessions; of the first also with a larger batch, and one of the loader."""
    for sessions in numbers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_sessions(folder, sessions=sessions, seconds=seconds)
            first = sessions == numbers[0]
            for batch in (8, 32) if first else (8,):
                row = in_a_process(folder, batch=batch, steps=steps)
                yield {"sessions": sessions, "seconds": seconds, "batch": batch, **row}
            if first:
                worker = in_a_process(folder, batch=BATCH, steps=0, workers=1)["worker"]
                yield {"sessions": sessions, "worker": worker, "window_ms": window_ms(folder)}


def projected(rows: list[dict[str, float]], part: str) -> float:
    """Memory of a part (MB) for all of the paper's sessions: a line through what was measured."""
    pairs = [(row["sessions"], row[part]) for row in rows if row.get("batch") == 8]
    x, y = np.array(pairs).T
    slope, start = np.polyfit(x, y, 1)
    return float(start + slope * SESSIONS)


def report(rows: list[dict[str, float]]) -> None:
    """What follows for the paper's pretraining."""
    small, large = rows[0], rows[1]
    a_window = (large["peak"] - small["peak"]) / (large["batch"] - small["batch"])
    loader = next(row for row in rows if "worker" in row)
    parts = {part: projected(rows, part) for part in (*PARTS, "peak")}
    print(
        f"\n{SESSIONS} sessions of {SECONDS_EACH / 60:.0f} min, {UNITS} units, {SPIKES / 1e6:.0f} M spikes:"
    )
    print("  " + ", ".join(f"{part} {mb:.0f}" for part, mb in parts.items()) + " MB, with a batch of 8")
    total = parts["peak"] + a_window * (BATCH - small["batch"])
    print(f"  a window of a batch takes {a_window:.1f} MB more (on a GPU, of its memory)")
    print(f"  with a batch of {BATCH} on a CPU: {total / 1024:.1f} GB")
    print(f"  a process that makes such batches of {loader['sessions']} sessions: {loader['worker']:.0f} MB")
    check_s = rows[-1]["checked_s"] / rows[-1]["sessions"] * SESSIONS
    print(f"  looking through all files at the start: {check_s:.0f} s of the CPU")
    print(f"  making a window: {loader['window_ms']:.2f} ms of the CPU")


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, nargs="+", default=[4, 12])
    parser.add_argument("--seconds", type=float, default=SECONDS_EACH)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=8, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        print(json.dumps(run_in(given.inside, batch=given.batch, steps=given.steps, workers=given.workers)))
        return
    rows = []
    print("memory of the process, MB, after each part\n")
    print(f"{'sessions':>8} {'batch':>5}", *(f"{part:>8}" for part in (*PARTS, "peak")), "  s/step")
    for row in measure(given.sessions, seconds=given.seconds, steps=given.steps):
        rows.append(row)
        if "peak" in row:
            memory = (f"{row[part]:8.0f}" for part in (*PARTS, "peak"))
            print(f"{row['sessions']:8d} {row['batch']:5d}", *memory, f"{row['steps_s']:8.2f}", flush=True)
    report(rows)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
