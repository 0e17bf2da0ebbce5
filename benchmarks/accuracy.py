"""Single-session POSSM-GRU against a tuned Wiener filter, one decoder a recording.

    python benchmarks/accuracy.py --out runs/accuracy            all recordings, two at a time
    python benchmarks/accuracy.py --out runs/accuracy --only spike_201209

Chronological 70/10/20 split, weights selected on the 10 %, R2 on the last 20 %, strictly causal. Goes on
where it stopped. The recordings are found by POSSM_RECORDINGS (default ../shared/recordings); they may not be
redistributed, and neither may what was trained on them. Writes accuracy.json and prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BAD_DAYS = ("07-20", "07-24", "08-07", "09-12")
"""Days of monkey_spike_wrist whose recording broke (README of the recordings)."""


CURSOR = ("cursor.pos", "cursor.vel"), (("cursor.vel", 0.3),)
HAND = ("hand.pos", "hand.vel"), (("hand.vel", 0.3),)
"""Velocity beside position, at a third of its weight: it helps position too (docs/training.md)."""


@dataclass(frozen=True)
class Job:
    """One recording and how it is decoded."""

    path: Path
    map_name: str
    behavior: tuple[str, ...]
    behavior_weights: tuple[tuple[str, float], ...] = ()
    chunk_ms: int = 50
    group: str = ""


def jobs(folder: Path) -> Iterator[Job]:
    """All recordings of the table."""
    for path in sorted((folder / "monkey_spike_wrist").glob("*.mat")):
        if not any(day in path.name for day in BAD_DAYS):
            yield Job(path, "limblab-binned", *CURSOR, group="monkey_spike_wrist")
    for path in (folder / "monkey_nick_reach").glob("*.mat"):
        yield Job(path, "limblab-binned", *CURSOR, group="monkey_nick_reach")
    for path in (folder / "reach_contdata95").glob("*.mat"):
        yield Job(path, "contdata95", *HAND, chunk_ms=100, group="reach_contdata95")
    for path in (folder / "rat_place_cells").glob("*.mat"):
        yield Job(path, "place-cells", ("rat.pos",), group="rat_place_cells")


def run(job: Job, out: Path, seed: int, threads: int) -> list[dict[str, object]]:
    """Prepare, train, score; the rows of the table."""
    import torch

    from possm.data.formats import load_recording
    from possm.data.quality import prepare
    from possm.evaluation.assess import assess, write_assessment
    from possm.model.decoder import PossmConfig
    from possm.training.loop import TrainConfig, train

    torch.set_num_threads(threads)
    name = job.path.stem
    done = out / f"{name}-seed{seed}" / "row.json"
    if done.exists():
        return json.loads(done.read_text())
    native = out / "data" / f"{name}.h5"
    if not native.exists():
        prepare(job.path, map_name=job.map_name, out=native)
    with load_recording(native) as lazy:
        recording = lazy.load()
    config = TrainConfig(
        behavior=job.behavior,
        behavior_weights=dict(job.behavior_weights),
        decoder=PossmConfig(chunk_ms=job.chunk_ms),
        seed=seed,
    )
    result = train([recording], config, done.parent)
    scored = assess(result.decoder, [recording])
    write_assessment(scored, done.parent, decoder=result.decoder, recording=recording)
    rows = [
        {"recording": name, "group": job.group, "seed": seed, **score.to_json(), **result.summary}
        for score in scored.scores
    ]
    done.write_text(json.dumps(rows))
    return rows


def table(rows: list[dict]) -> str:
    """Markdown: a line per recording and behavior, then the means of groups with several recordings."""
    lines = [
        "| recording | behavior | POSSM-GRU | Wiener | difference | training s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(_line(row["recording"], [row]))
    for group, behavior in dict.fromkeys((row["group"], row["behavior"]) for row in rows):
        part = [row for row in rows if (row["group"], row["behavior"]) == (group, behavior)]
        if len({row["recording"] for row in part}) > 1:
            lines.append(_line(f"**{group}, mean of {len(part)}**", part))
    return "\n".join(lines)


def _line(name: str, rows: list[dict]) -> str:
    ours, theirs = (np.array([row[key] for row in rows], float) for key in ("r2", "r2_wiener"))
    spread = f" ± {ours.std():.3f}" if len(rows) > 1 else ""
    return (
        f"| {name} | {rows[0]['behavior']} | {ours.mean():.3f}{spread} | {theirs.mean():.3f} | "
        f"{(ours - theirs).mean():+.3f} | {np.mean([row['wall_s'] for row in rows]):.0f} |"
    )


def main() -> int:
    """Run everything that is not done yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="recordings whose file name contains this")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="recordings at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    arguments = parser.parse_args()
    folder = Path(os.environ.get("POSSM_RECORDINGS", Path(__file__).parents[2] / "shared" / "recordings"))
    wanted = [job for job in jobs(folder) if arguments.only in job.path.name]
    if not wanted:
        print(f"no recordings in {folder}; set POSSM_RECORDINGS", file=sys.stderr)
        return 2
    rows: list[dict] = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = [
            pool.submit(run, job, arguments.out, seed, arguments.threads)
            for seed in arguments.seeds
            for job in wanted
        ]
        for future in as_completed(futures):
            rows += future.result()
            print(_line(future.result()[0]["recording"], future.result()[:1]), file=sys.stderr, flush=True)
    rows.sort(
        key=lambda row: (str(row["group"]), str(row["recording"]), str(row["behavior"]), int(row["seed"]))
    )
    (arguments.out / "accuracy.json").write_text(json.dumps(rows, indent=1))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
