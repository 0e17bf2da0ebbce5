"""What others need for one prediction on the same spikes: POYO 1.3M of torch_brain, and our own baselines.

POYO keeps no state: it encodes its whole window of one second again for every prediction.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from possm.bench.latency_cases import SPIKES, UNITS, Case, num_parameters, runner
from possm.errors import StreamError
from possm.model.decoder import PossmConfig
from possm.streaming.engines import open_engine
from possm.streaming.rehearsal import BEHAVIORS, random_decoder
from possm.training.config import TrainConfig
from possm.training.presets import PRESETS

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
BASELINES = tuple(name for name in PRESETS if not name.startswith("possm"))
"""Presets of `possm train --decoder` that are not POSSM."""


def check_installed() -> None:
    """Whether the peers can run.

    Raises:
        StreamError: torch_brain is not installed.
    """
    if importlib.util.find_spec("torch_brain") is None:
        raise StreamError(
            "torch_brain is not installed", fix='pip install "possm[peers]", or leave out --peers'
        )


def all_peers(seed: int) -> Iterator[tuple[Case, Callable[[int], float]]]:
    """What to measure, and how to run its steps; each is made when its turn comes.

    Raises:
        StreamError: torch_brain is not installed.
    """
    check_installed()
    yield Case(engine="poyo", backbone="transformer", size="1.3M"), poyo(seed)
    for name in BASELINES:
        yield baseline(name, seed)


def poyo(seed: int) -> Callable[[int], float]:
    """From the spikes of the last second to one prediction: tokenize, collate, forward."""
    from torch_brain.batching import collate
    from torch_brain.models import POYO

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


def baseline(name: str, seed: int) -> tuple[Case, Callable[[int], float]]:
    """One of our own, as its preset makes it: random weights, on the torch engine, its state kept."""
    behavior = tuple(BEHAVIORS)
    train = TrainConfig(behavior=behavior, decoder=PossmConfig(behaviors=BEHAVIORS))
    decoder = random_decoder(PRESETS[name](train).decoder, num_units=UNITS, seed=seed)
    case = Case(engine="baseline", backbone=name, size=num_parameters(decoder.model))
    return case, runner(open_engine(decoder), case, seed).step
