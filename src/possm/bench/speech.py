"""`possm bench speech`: attempted speech, simulated; POSSM and the GRU of strided windows side by side.

Every seed is a subject of its own, recorded on several days that drift. Decoders are causal, see the same
sentences as often (a first phase comes on top), and are scored on the held-out sentences of all days, each
decoded from an empty state by the best path, without a language model. Compared are POSSM with the GRU,
counts with counts and spike-band power, and one phase of training with two, of which the first reconstructs
bins and reads no transcript.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from possm.baselines.speech_gru import SpeechGruConfig
from possm.bench.classes import is_ok, job_name
from possm.bench.jobs import Job, Row, run_jobs
from possm.config import require
from possm.data.augment import AugmentConfig
from possm.data.files import atomic_path
from possm.data.normalize import NormalizeConfig
from possm.data.phonemes import PHONEMES, SILENCE
from possm.data.recording import Recording
from possm.data.sentences import usable_transcripts
from possm.data.series import Binned
from possm.data.speech import SpeechConfig, simulate_speech
from possm.data.transcripts import FrameClock, symbols_of
from possm.evaluation.score import evaluate
from possm.model.decoder import BehaviorConfig, PossmConfig
from possm.streaming.live import LiveDecoder
from possm.streaming.rehearsal import random_decoder
from possm.training.config import TrainConfig
from possm.training.loop import train
from possm.training.optim import OptimConfig

SAID = "trials.phonemes"
CHUNK_MS = 20
FIRST_PHASE = 0.2
"""Steps of the first of two phases, which reconstructs bins, as a share of those of the second."""
MEASURED = ("per", "parameters", "train_s")
"""What a row has only once it is done."""
WARMING = 50
"""Steps that are not counted when steps are timed."""
INPUTS = {"counts": ("counts",), "counts + power": ("counts", "power")}


@dataclass(frozen=True)
class Variant:
    """One line of the table."""

    decoder: str
    """"possm-gru" or "gru"."""
    inputs: str
    """A name in INPUTS."""
    start: str
    """"one phase" or "two phases"."""


VARIANTS = (
    Variant("gru", "counts", "one phase"),
    Variant("gru", "counts + power", "one phase"),
    Variant("possm-gru", "counts", "one phase"),
    Variant("possm-gru", "counts", "two phases"),
    Variant("possm-gru", "counts + power", "two phases"),
)


@dataclass(frozen=True, kw_only=True)
class SpeechBench:
    """What to compare, and how much of the machine to take."""

    seeds: tuple[int, ...] = (0, 1, 2)
    days: int = 3
    """Of every subject."""
    sentences: int = 100
    """Of a day; four fifths train, the rest selects weights and tests."""
    longest_s: float = 5.0
    """Longest sentence; the shortest takes 2 s."""
    channels: int = 256
    steps: int = 2000
    """Of training with transcripts; a first phase comes on top."""
    batch_size: int = 8
    """Sentences."""
    workers: int = 1
    """Decoders trained at a time."""

    def __post_init__(self) -> None:
        for name in ("days", "channels", "steps", "batch_size", "workers"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.sentences >= 10, "sentences", self.sentences, "10 or more")
        require(2.0 <= self.longest_s <= 18.0, "longest_s", self.longest_s, "2 to 18")
        require(bool(self.seeds) and min(self.seeds) >= 0, "seeds", self.seeds, "one or more, 0 or more")

    @classmethod
    def quick(cls) -> SpeechBench:
        """One day, few channels, short sentences: whether it runs, and about what it says."""
        return cls(seeds=(0,), days=1, sentences=60, longest_s=2.5, channels=48, steps=120)


@dataclass(frozen=True)
class SpeechReport:
    """Rows of recording, decoder, inputs, start, trials_per_class, seed, per, parameters, train_s, status."""

    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)
    """Lines under the table."""

    def text(self) -> str:
        """A line for each variant: mean phoneme error rate over seeds, that of each, size and time."""
        lines = [
            f"{'decoder':<10}  {'inputs':<14}  {'start':<10}  {'PER':>7}  parameters  train_s  each seed"
        ]
        for variant in dict.fromkeys((r["decoder"], r["inputs"], r["start"]) for r in self.rows):
            mine = [r for r in self.rows if (r["decoder"], r["inputs"], r["start"]) == variant]
            named = "{:<10}  {:<14}  {:<10}".format(*variant)
            lines.append(f"{named}  {_numbers([row for row in mine if is_ok(row)])}")
        failed = [f"{r['decoder']}, seed {r['seed']}: {r['status']}" for r in self.rows if not is_ok(r)]
        return "\n".join([*lines, *failed, *self.notes])

    __str__ = text

    def mean(self, **chosen: object) -> float:
        """Mean phoneme error rate of the rows with these values; NaN without one."""
        each = [r["per"] for r in self.rows if is_ok(r) and all(r.get(k) == v for k, v in chosen.items())]
        return float(np.mean(each)) if each else math.nan

    def write(self, path: Path) -> None:
        """The rows as JSON."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(list(self.rows), indent=1))


def bench_speech(
    out: Path, config: SpeechBench | None = None, *, progress: Callable[[str], object] = id
) -> SpeechReport:
    """Simulate, train and score; a bench that was interrupted goes on.

    Args:
        out: Folder of runs and results.
        config: What to compare.
        progress: Told a line about every decoder that is done.
    """
    config = config or SpeechBench()
    jobs = [_job(variant, seed, config) for variant in VARIANTS for seed in config.seeds]
    rows = run_jobs(jobs, train_and_score, out, workers=config.workers, progress=progress)
    note = f"{config.days} days of {config.sentences} sentences, {config.steps} steps with transcripts, "
    note += f"two phases after {round(FIRST_PHASE * config.steps)} without; a seed is a subject"
    return SpeechReport(rows, (note, time_steps(channels=config.channels)))


def time_steps(*, channels: int, steps: int = 500, seed: int = 0) -> str:
    """How long the small model takes for a push of one 20 ms bin of counts and power, on one thread."""
    config, _, _ = _decoder(Variant("possm-gru", "counts + power", "one phase"))
    symbols = (*PHONEMES, SILENCE)
    said = BehaviorConfig(num_dimensions=len(symbols) + 1, readout="sequence", classes=symbols)
    threads, rng = torch.get_num_threads(), np.random.default_rng(seed)
    torch.set_num_threads(1)
    try:
        live = LiveDecoder(random_decoder(replace(config, behaviors={SAID: said}), num_units=channels))
        took_s = [_push(live, number, channels, rng) for number in range(steps)]
    finally:
        torch.set_num_threads(threads)
    median, most = np.percentile(np.array(took_s[WARMING:]) * 1000, (50, 99))
    took = f"{median:.2f} ms, 99 % in {most:.2f} ms"
    return f"a {CHUNK_MS} ms step of the small model, {channels} channels: {took}"


def _push(live: LiveDecoder, number: int, channels: int, rng: np.random.Generator) -> float:
    """Push one bin; the seconds until phonemes are there."""
    step_s = CHUNK_MS / 1000
    counts = rng.poisson(0.4, channels)
    units = np.flatnonzero(counts)
    times_s = np.full(len(units), (number + 0.5) * step_s)
    power = Binned(rng.gamma(3.0, 10.0, (1, channels)), number * step_s, 1 / step_s)
    began_s = time.perf_counter()
    live.push(times_s, units, (number + 1) * step_s, counts[units], features={"power": power})
    return time.perf_counter() - began_s


def train_and_score(job: Job, folder: Path) -> Sequence[Mapping[str, Any]]:
    """One decoder of one subject."""
    config, variant, seed = (job.parameters[name] for name in ("config", "variant", "seed"))
    recordings = simulate_days(config, seed)
    settings = speech_settings(variant, config, recordings, seed=seed)
    result = train(recordings, settings, folder)
    scores = [evaluate(result.decoder, r, split="test")[1][SAID].sequences for r in recordings]
    wrong = sum(s.error_rate() * s.num_symbols for s in scores if s is not None)
    said = sum(s.num_symbols for s in scores if s is not None)
    done = {"parameters": int(result.summary["parameters"]), "train_s": result.summary["wall_s"]}
    return [{**job.expected[0], "per": wrong / said, **done}]


def simulate_days(config: SpeechBench, seed: int) -> list[Recording]:
    """All days of one subject."""
    made = SpeechConfig(
        num_sentences=config.sentences, max_sentence_s=config.longest_s, num_units=config.channels
    )
    return [simulate_speech(made, subject=seed, session=day, seed=seed) for day in range(config.days)]


def speech_settings(
    variant: Variant, config: SpeechBench, recordings: Sequence[Recording], *, seed: int
) -> TrainConfig:
    """A run of about `config.steps` steps with transcripts, after the first phase if there is one."""
    decoder, optim, augment = _decoder(variant)
    settings = TrainConfig(
        behavior=(SAID,),
        decoder=decoder,
        batch_size=config.batch_size,
        optim=optim,
        augment=augment,
        normalize=NormalizeConfig(past_s=60.0),
        reconstruct_steps=_reconstruct_steps(variant, config),
        seed=seed,
    )
    epochs = max(1, round(config.steps / _steps_per_epoch(settings, recordings)))
    return replace(settings, epochs=epochs, valid_every=math.ceil(epochs / 8))


def _decoder(variant: Variant) -> tuple[Any, OptimConfig, AugmentConfig]:
    """Architecture, optimizer and augmentation that suit each."""
    inputs = INPUTS[variant.inputs]
    noise = AugmentConfig(value_noise=0.8, value_offset=0.2)
    if variant.decoder == "gru":
        gru = SpeechGruConfig(chunk_ms=CHUNK_MS, inputs=inputs, hidden=256, num_layers=2, kernel=14)
        return gru, OptimConfig(learning_rate=2e-3, ema=0.98), noise
    # with tokens of 64 the latents of the paper find much the same 64 numbers at first
    possm = PossmConfig(
        chunk_ms=CHUNK_MS,
        inputs=inputs,
        width=128,
        num_latents=2,
        latent_layers=1,
        day_layer=True,
        hidden=256,
        dropout=0.4,
    )
    return possm, OptimConfig(learning_rate=1e-3, token_rate=0.03, ema=0.98), noise


def _reconstruct_steps(variant: Variant, config: SpeechBench) -> int:
    return round(FIRST_PHASE * config.steps) if variant.start == "two phases" else 0


def _steps_per_epoch(settings: TrainConfig, recordings: Sequence[Recording]) -> int:
    symbols = symbols_of(recordings, SAID)
    clock = FrameClock(CHUNK_MS, settings.decoder.frame_chunks)
    usable = [usable_transcripts(r, SAID, symbols, clock, split="train") for r in recordings]
    return math.ceil(sum(len(u.trials) for u in usable) / settings.batch_size)


def _numbers(rows: Sequence[Row]) -> str:
    if not rows:
        return "failed"
    each = [100 * float(row["per"]) for row in rows]
    size, seconds = (np.mean([row[name] for row in rows]) for name in ("parameters", "train_s"))
    seeds = "  ".join(f"{value:.1f}" for value in each)
    return f"{np.mean(each):5.1f} %  {size / 1e6:9.2f}M  {seconds:7.0f}  {seeds}"


def _job(variant: Variant, seed: int, config: SpeechBench) -> Job:
    sentences = config.days * config.sentences
    row: Row = {"recording": f"speech-s{seed:02d}", "decoder": variant.decoder, "inputs": variant.inputs}
    row |= {"start": variant.start, "trials_per_class": sentences, "seed": seed, **dict.fromkeys(MEASURED)}
    first = _reconstruct_steps(variant, config)
    return Job(
        name=job_name(variant.decoder, variant.inputs, variant.start, f"seed{seed}"),
        parameters={
            "variant": variant,
            "made": _decoder(variant),
            "seed": seed,
            "config": replace(config, workers=1, seeds=(seed,)),
            **({"reconstruct_steps": first} if first else {}),
        },
        expected=(row,),
    )
