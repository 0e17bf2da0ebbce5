"""An outside check of the table: the real POYO of torch_brain on the same split, scored by our code.

    python benchmarks/torch_brain_poyo.py RECORDING.h5 --behavior cursor.pos --out runs/torch_brain

Runs where `torch_brain` is installed (extra `peers`, an environment of its own) and possm can be imported.
Its model, tokenizer and collation are used as they are; training is AdamW with warm-up and cosine on random
windows of the train split, each asked for all samples of its second, or of its last `--answer-ms`; weights
are selected on the valid split. Prediction is causal: the window of one second steps by one chunk and only
the answers of its newest chunk are kept, at most `--lead-ms` after its end. Writes predictions.npz (times_s,
values, target) and score.json, whose R2 comes from `possm.evaluation.metrics`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from possm.data.formats import load_recording
from possm.data.recording import Recording
from possm.evaluation.metrics import r2_per_dimension

WINDOW_S = 1.0
SIZES = {"dim": 64, "depth": 6, "dim_head": 64, "cross_heads": 2, "self_heads": 8, "latent_step": 0.125}
"""Of POYO-1.3M, which has 16 latents per step."""
WARMUP = 0.05


@dataclass(frozen=True)
class Task:
    """A recording and what is asked of it."""

    recording: Recording
    behavior: str
    times_s: np.ndarray
    """(n,) of the samples that were measured."""
    values: np.ndarray
    """(n, d) scaled to mean 0 and standard deviation 1 over the train split."""
    mean: np.ndarray
    std: np.ndarray
    chunk_s: float
    lead_s: float
    answer_s: float
    """How much of a training window, counted from its end, is asked."""

    def spikes(self, start_s: float) -> SimpleNamespace:
        """What the tokenizer of POYO reads: one window, its clock at 0; a bin of k spikes is k spikes."""
        times_s, unit, count = self.recording.tokens(start_s, start_s + WINDOW_S)
        repeats = np.rint(count).astype(int)
        return SimpleNamespace(
            units=SimpleNamespace(id=np.array(self.recording.unit_ids)),
            session=SimpleNamespace(id=self.recording.session_id),
            spikes=SimpleNamespace(
                timestamps=np.repeat(times_s, repeats) - start_s, unit_index=np.repeat(unit, repeats)
            ),
        )

    def asked(self, start_s: float, answer_s: float) -> np.ndarray:
        """Rows of the samples that the window is asked: those of its last `answer_s`, shifted by the lead."""
        until_s = start_s + WINDOW_S + self.lead_s
        edges = np.array([until_s - answer_s, until_s]) - 1e-9
        return np.arange(*np.searchsorted(self.times_s, edges))


def task_of(arguments: argparse.Namespace) -> Task:
    """Read the recording; scale the behavior by its train split."""
    with load_recording(arguments.recording) as lazy:
        recording = lazy.load()
    signal = recording.behavior(arguments.behavior)
    values = np.asarray(signal.values[:], np.float64)
    measured = np.isfinite(values).all(axis=1)
    times_s, values = signal.times_s[measured], values[measured]
    train = values[recording.split("train").contains(times_s)]
    mean, std = train.mean(axis=0), train.std(axis=0)
    return Task(
        recording=recording,
        behavior=arguments.behavior,
        times_s=times_s,
        values=(values - mean) / std,
        mean=mean,
        std=std,
        chunk_s=arguments.chunk_ms / 1000,
        lead_s=(arguments.chunk_ms if arguments.lead_ms is None else arguments.lead_ms) / 1000,
        answer_s=arguments.answer_ms / 1000,
    )


def build(task: Task, latents_per_step: int) -> Any:
    """The model of torch_brain; its absence ends the program with a reason."""
    try:
        from torch_brain.models import POYO
    except ImportError as error:
        print(f'skipped: torch_brain is not installed ({error}); pip install "possm[peers]"', file=sys.stderr)
        raise SystemExit(3) from error
    sizes = {**SIZES, "num_latents_per_step": latents_per_step, "dim_out": task.values.shape[1]}
    model = POYO(sequence_length=WINDOW_S, **sizes)
    model.unit_emb.initialize_vocab(list(task.recording.unit_ids))
    model.session_emb.initialize_vocab([task.recording.session_id])
    return model


def batch_of(task: Task, model: Any, starts_s: np.ndarray, answer_s: float) -> tuple[dict, list[np.ndarray]]:
    """Windows as POYO collates them, output times and their mask; and which samples each is asked."""
    from torch_brain.batching import collate, pad8, track_mask8

    rows, windows = [], []
    for start_s in starts_s:
        asked = task.asked(start_s, answer_s)
        when = (task.times_s[asked] - start_s).astype(np.float32)
        tokens = model.tokenize(task.spikes(start_s))
        windows.append({**tokens, "output_timestamps": pad8(when), "output_mask": track_mask8(when)})
        rows.append(asked)
    batch = collate(windows)
    for name in ("input_timestamps", "latent_timestamps", "output_timestamps"):
        batch[name] = batch[name].float()
    return batch, rows


def answers(task: Task, model: Any, starts_s: np.ndarray, answer_s: float) -> tuple[torch.Tensor, np.ndarray]:
    """(Q, d) answers of some windows, and the rows of the samples they are about."""
    batch, rows = batch_of(task, model, starts_s, answer_s)
    mask = batch.pop("output_mask")
    return model(**batch)[mask], np.concatenate(rows)


def training_starts(task: Task, rng: np.random.Generator) -> np.ndarray:
    """One epoch: windows that tile the train split from a random offset, in random order."""
    starts: list[float] = []
    for begin_s, end_s in task.recording.split("train"):
        end_s -= task.lead_s
        spare_s = end_s - begin_s - WINDOW_S
        if spare_s > 0:
            first_s = begin_s + rng.uniform(0, min(WINDOW_S, spare_s))
            starts.extend(np.arange(first_s, end_s - WINDOW_S, WINDOW_S))
    return snapped(task.recording, rng.permutation(starts))


def snapped(recording: Recording, starts_s: np.ndarray) -> np.ndarray:
    """Windows of binned recordings begin on the edge of a bin."""
    binned = recording.binned
    if binned is None:
        return starts_s
    return binned.start_s + np.round((starts_s - binned.start_s) * binned.rate_hz) / binned.rate_hz


def causal_starts(task: Task, split: str) -> Iterator[np.ndarray]:
    """Windows that step by one chunk: every sample of a split is answered once, by the newest chunk."""
    origin_s = snapped(task.recording, np.array([task.recording.domain.start_s[0]]))[0]
    for begin_s, end_s in task.recording.split(split):
        first = math.floor((begin_s - origin_s - task.lead_s) / task.chunk_s + 1e-6)
        last = math.ceil((end_s - origin_s - task.lead_s) / task.chunk_s - 1e-6)
        yield origin_s + np.arange(first, last) * task.chunk_s + task.chunk_s - WINDOW_S


@torch.inference_mode()
def predict(task: Task, model: Any, split: str, batch_size: int = 64) -> dict[str, np.ndarray]:
    """Causal predictions of a split, in physical units, with the targets."""
    model.eval()
    times, values, targets = [], [], []
    inside = task.recording.split(split)
    for starts_s in causal_starts(task, split):
        for first in range(0, len(starts_s), batch_size):
            got, rows = answers(task, model, starts_s[first : first + batch_size], task.chunk_s)
            keep = inside.contains(task.times_s[rows])
            times.append(task.times_s[rows][keep])
            values.append(got.double().numpy()[keep] * task.std + task.mean)
            targets.append(task.values[rows][keep] * task.std + task.mean)
    joined = {"times_s": times, "values": values, "target": targets}
    return {name: np.concatenate(parts) for name, parts in joined.items()}


def train(task: Task, arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The weights with the best validation R2, and how the run went."""
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    model = build(task, arguments.latents_per_step)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.01)
    best, chosen, history, began = -math.inf, {}, [], time.process_time()
    for epoch in range(arguments.epochs):
        loss = train_epoch(task, model, optimizer, arguments=arguments, epoch=epoch, rng=rng)
        if (epoch + 1) % arguments.valid_every == 0 or epoch + 1 == arguments.epochs:
            valid = score(predict(task, model, "valid"))["r2"]
            row = {"epoch": epoch + 1, "train_loss": loss, "valid_r2": valid}
            history.append({**row, "cpu_s": time.process_time() - began})
            print(json.dumps(history[-1]), file=sys.stderr, flush=True)
            if valid > best:
                best = valid
                chosen = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    model.load_state_dict({**model.state_dict(), **chosen})
    parameters = sum(weight.numel() for weight in model.parameters())
    return model, {"best_valid_r2": best, "parameters": parameters, "history": history}


def train_epoch(
    task: Task, model: Any, optimizer: Any, *, arguments: argparse.Namespace, epoch: int, rng: Any
) -> float:
    """One pass over the train split: the mean loss."""
    model.train()
    starts_s, size, losses = training_starts(task, rng), arguments.batch_size, []
    for first in range(0, len(starts_s), size):
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * rate((epoch + first / len(starts_s)) / arguments.epochs)
        got, rows = answers(task, model, starts_s[first : first + size], task.answer_s)
        loss = (got - torch.from_numpy(task.values[rows]).float()).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))


def rate(done: float) -> float:
    """Share of the highest learning rate: linear warm-up, then half a cosine."""
    return min(1.0, done / WARMUP + 1e-3) if done < WARMUP else 0.5 * (1 + math.cos(math.pi * done))


def score(predicted: dict[str, np.ndarray]) -> dict[str, Any]:
    """R2 as everywhere in possm."""
    each = r2_per_dimension(predicted["target"], predicted["values"])
    return {"r2": float(each.mean()), "r2_per_dimension": each.tolist(), "samples": len(predicted["target"])}


def main() -> int:
    """Train, predict the test split, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path, help="native HDF5 file with train, valid and test splits")
    parser.add_argument("--behavior", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--latents-per-step", type=int, default=16, help="16 is POYO-1.3M")
    parser.add_argument("--answer-ms", type=int, default=1000, help="of each training window, from its end")
    parser.add_argument("--chunk-ms", type=int, default=50)
    parser.add_argument("--lead-ms", type=int, help="default: chunk-ms, strictly causal; 0 is the paper's")
    parser.add_argument("--valid-every", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    task = task_of(arguments)
    model, report = train(task, arguments)
    predicted = predict(task, model, "test")
    arguments.out.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = dict(predicted)
    np.savez_compressed(arguments.out / "predictions.npz", **arrays)
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(arguments).items()}
    result = {"decoder": "torch_brain POYO", **score(predicted), **report, "settings": settings}
    (arguments.out / "score.json").write_text(json.dumps(result, indent=1))
    name = f"{task.recording.session_id} {task.behavior}"
    print(f"{name}: test R2 {result['r2']:.4f}, valid {result['best_valid_r2']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
