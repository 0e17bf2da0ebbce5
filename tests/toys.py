"""Small recordings and decoders with a known answer, for tests of what is built on top of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from possm.batch import Batch, Queries
from possm.checkpoint import Decoder
from possm.data.chunks import Sample, chunk_edges_s, chunk_tokens, collate, query_chunks
from possm.data.intervals import Intervals
from possm.data.recording import Recording
from possm.data.scaling import Scaling
from possm.data.series import Binned, Signal, Spikes
from possm.data.splits import chronological_split
from possm.data.vocabulary import Vocabulary
from possm.model.decoder import BehaviorConfig, Possm, PossmConfig

TINY = {"width": 16, "hidden": 24, "head_width": 16, "num_rotary_pairs": 4}
"""Sizes at which a decoder has about 12,000 parameters."""


def smooth(rng: np.random.Generator, samples: int, *, rate_hz: float, tau_s: float = 0.4) -> np.ndarray:
    """Two independent Gaussian processes of standard deviation 1: (samples, 2)."""
    kernel = np.exp(
        -0.5 * (np.arange(-4 * tau_s * rate_hz, 4 * tau_s * rate_hz + 1) / (tau_s * rate_hz)) ** 2
    )
    noise = rng.standard_normal((samples + len(kernel) - 1, 2))
    path = np.stack([np.convolve(noise[:, d], kernel, "valid") for d in range(2)], axis=1)
    return path / np.sqrt(np.square(kernel).sum())


def recording(
    *,
    session: str = "toy",
    seconds: float = 40.0,
    units: int = 20,
    seed: int = 0,
    rate_hz: float = 100.0,
    bin_ms: int | None = None,
    split: bool = True,
) -> Recording:
    """Linear-Gaussian movement, units whose rates are linear in it; as spike times, or as counts in bins."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * rate_hz)
    movement = smooth(rng, samples, rate_hz=rate_hz)
    tuning = rng.standard_normal((2, units))
    rates_hz = np.maximum(25 + 12 * movement @ tuning, 0.5)
    counts = rng.poisson(rates_hz / rate_hz)
    row, unit = np.nonzero(counts)
    row, unit = (np.repeat(x, counts[row, unit]) for x in (row, unit))
    times_s = (row + rng.random(len(row))) / rate_hz
    order = np.argsort(times_s, kind="stable")
    made = Recording(
        session_id=session,
        subject_id="toy-animal",
        unit_ids=tuple(f"u{i}" for i in range(units)),
        spikes=Spikes(times_s[order], unit[order].astype(np.int64)),
        signals={"vel": Signal(5 + 3 * movement, rate_hz=rate_hz, unit="cm/s")},
        domain=Intervals.of([(0.0, seconds)]),
    )
    if bin_ms is not None:
        made = in_bins(made, bin_ms, seconds)
    return chronological_split(made, gap_s=0.5) if split else made


def in_bins(of: Recording, bin_ms: int, seconds: float) -> Recording:
    """The same recording as counts."""
    values = np.zeros((round(seconds * 1000 / bin_ms), of.num_units))
    np.add.at(values, ((of.spikes.times_s * 1000 / bin_ms).astype(int), of.spikes.unit), 1)
    return replace(of, spikes=None, binned=Binned(values, 0.0, 1000 / bin_ms))


def tiny_config(**changes) -> PossmConfig:
    """A tiny architecture that decodes the behavior of `recording`."""
    return PossmConfig(**{**TINY, "behaviors": {"vel": BehaviorConfig(num_dimensions=2)}, **changes})


def random_weights(model: torch.nn.Module, *, seed: int = 0, std: float = 0.2) -> torch.nn.Module:
    """Every parameter drawn at random: initial zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std)
    return model.eval()


def decoder_for(*recordings: Recording, seed: int = 0, **changes) -> Decoder:
    """An untrained decoder with random weights that knows these recordings."""
    config = tiny_config(**changes)
    vocabulary = Vocabulary.of(recordings)
    scaling = {name: Scaling.fit(recordings, name) for name in config.behaviors}
    model = Possm(config, num_units=len(vocabulary.units), num_sessions=len(vocabulary.sessions))
    return Decoder(random_weights(model, seed=seed), vocabulary, scaling, {"made": "for a test"})


def random_sample(
    *,
    num_chunks: int,
    units: int,
    seed: int = 0,
    tokens: int = 60,
    lead_s: float = 0.05,
    behaviors: dict[str, float] | None = None,
    empty: tuple[int, ...] = (),
) -> Sample:
    """Random tokens of units 1..units-1 and, for each behavior, queries at its rate (Hz)."""
    rng = np.random.default_rng(seed)
    edges_s = chunk_edges_s(3.0, first=0, count=num_chunks, chunk_ms=50)
    times_s = np.sort(rng.uniform(edges_s[0], edges_s[-1], tokens))
    for chunk in empty:
        times_s = times_s[(times_s < edges_s[chunk]) | (times_s >= edges_s[chunk + 1])]
    unit, count = rng.integers(1, units, len(times_s)), rng.integers(1, 4, len(times_s))
    queries = {}
    for name, rate_hz in (behaviors or {"vel": 100.0}).items():
        asked_s = edges_s[0] + lead_s + 1e-4 + np.arange(round(num_chunks * 0.05 * rate_hz)) / rate_hz
        queries[name] = Queries(*query_chunks(asked_s, edges_s, lead_s=lead_s))
    return Sample(chunk_tokens(times_s, unit, count.astype(np.float32), edges_s), seed % 2, queries)


def to_torch(batch: Batch, dtype: torch.dtype = torch.float32) -> Batch:
    """As tensors; floats in one dtype."""

    def convert(array):
        tensor = torch.from_numpy(array)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return batch.to(convert)


def batch_of(*samples: Sample, dtype: torch.dtype = torch.float32) -> Batch:
    """Collated, as tensors."""
    return to_torch(collate(samples), dtype)
