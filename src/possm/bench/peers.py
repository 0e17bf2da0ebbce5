"""What others need for one prediction on the same spikes: POYO 1.3M of torch_brain, and a Wiener filter.

POYO keeps no state: it encodes its whole window of one second again for every prediction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from possm.baselines.wiener import WienerConfig, fit_wiener
from possm.bench.latency import SPIKES, UNITS, Case
from possm.data.recording import Intervals
from possm.data.simulate import SimulationConfig, simulate_session
from possm.data.splits import chronological_split
from possm.errors import StreamError

WINDOW_S = 1.0
POOL = 16
"""Different windows of random spikes."""
POYO_1_3M = {
    "sequence_length": WINDOW_S,
    "latent_step": 0.125,
    "num_latents_per_step": 16,
    "dim_out": 2,
    "dim": 64,
    "depth": 6,
    "dim_head": 64,
    "cross_heads": 2,
    "self_heads": 8,
}
"""The configuration released as POYO 1.3M; 128 latents."""


def all_peers(seed: int) -> Iterator[tuple[Case, Callable[[int], float]]]:
    """What to measure, and how to run its steps.

    Raises:
        StreamError: torch_brain is not installed.
    """
    yield Case(engine="poyo", backbone="transformer", size="1.3M"), poyo(seed)
    yield Case(engine="wiener", backbone="linear", size="10 lags"), wiener(seed)


def poyo(seed: int) -> Callable[[int], float]:
    """From the spikes of the last second to one prediction: tokenize, collate, forward."""
    try:
        from torch_brain.batching import collate
        from torch_brain.models import POYO
    except ImportError as error:
        raise StreamError(
            "torch_brain is not installed", got=error, fix='pip install "possm[peers]", or leave out --peers'
        ) from error
    torch.manual_seed(seed)
    model = POYO(**POYO_1_3M).eval()
    names = [f"unit{i}" for i in range(UNITS)]
    model.unit_emb.initialize_vocab(names)
    model.session_emb.initialize_vocab(["session"])
    rng = np.random.default_rng(seed)
    spikes = round(SPIKES * WINDOW_S / 0.05)
    windows = [
        SimpleNamespace(
            units=SimpleNamespace(id=np.array(names)),
            session=SimpleNamespace(id="session"),
            spikes=SimpleNamespace(
                timestamps=np.sort(rng.uniform(0, WINDOW_S, spikes)),
                unit_index=rng.integers(0, UNITS, spikes),
            ),
        )
        for _ in range(POOL)
    ]
    when: Any = torch.full((1, 1), WINDOW_S)

    def step(number: int) -> float:
        began_s = time.perf_counter()
        with torch.inference_mode():
            batch = collate([model.tokenize(windows[number % POOL])])
            model(**batch, output_timestamps=when, unpack_output=False).numpy()
        return time.perf_counter() - began_s

    return step


def wiener(seed: int) -> Callable[[int], float]:
    """From the spikes of the last second to one prediction: 10 lags of 50 ms, as the baseline decodes."""
    rate_hz = SPIKES / 0.05 / UNITS
    made = simulate_session(
        SimulationConfig(duration_s=60.0, num_units=UNITS, mean_rate_hz=rate_hz), seed=seed
    )
    recording = chronological_split(made)
    behavior = next(iter(recording.signals))
    filter_ = fit_wiener(recording, behavior, WienerConfig(lags=(10,), widths=(1,)))
    signal = recording.signals[behavior]
    period_s = 1 / (signal.rate_hz or 100.0)

    def step(number: int) -> float:
        end_s = 2.0 + number % 50
        began_s = time.perf_counter()
        window = recording.slice(end_s - WINDOW_S, end_s)
        filter_.decode(window, Intervals.of([(end_s - 1.5 * period_s, end_s)]))
        return time.perf_counter() - began_s

    return step
