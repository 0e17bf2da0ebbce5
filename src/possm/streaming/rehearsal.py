"""Decoders with random weights and spikes without meaning: to rehearse a rig, time a step or test a stream
before there is a trained decoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from possm.checkpoint import Decoder
from possm.data.features import InputConfig
from possm.data.scaling import Scaling
from possm.data.vocabulary import BLANK_UNIT, Vocabulary
from possm.decoders import build_decoder
from possm.model.contract import DecoderConfig
from possm.model.decoder import BehaviorConfig, PossmConfig

BEHAVIORS = {"cursor.pos": BehaviorConfig(num_dimensions=2)}


def random_decoder(
    config: DecoderConfig | None = None,
    *,
    num_units: int = 100,
    sessions: Sequence[str] = ("rehearsal",),
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Decoder:
    """A decoder that has learnt nothing, its scaling the identity.

    Every parameter is moved off its starting value, because zeros and ones at the start can hide that a
    parameter is not used, or not used alike by two paths; the sizes keep activations around 1.

    Args:
        config: Of any decoder; None is the small model on a two-dimensional behavior.
        num_units: Units of each session, named ``"0"``, ``"1"``, ...
        sessions: Sessions it knows.
        seed: Of the weights.
        dtype: Of the weights.
    """
    config = config or PossmConfig(behaviors=BEHAVIORS)
    names = tuple(f"{session}/{unit}" for session in sessions for unit in range(num_units))
    vocabulary = Vocabulary((BLANK_UNIT, *names), tuple(sessions))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_decoder(config, num_units=len(vocabulary.units), num_sessions=len(sessions))
    randomise(model, torch.Generator().manual_seed(seed))
    scaling = {
        name: Scaling((0.0,) * behavior.num_dimensions, (1.0,) * behavior.num_dimensions)
        for name, behavior in config.behaviors.items()
        if behavior.readout == "continuous"
    }
    rate_hz = None if config.inputs == ("spikes",) else 1000 / config.chunk_ms
    inputs = InputConfig(inputs=config.inputs, rate_hz=rate_hz)
    return Decoder(model.to(dtype).eval(), vocabulary, scaling, {"rehearsal": seed}, inputs=inputs)


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter: embeddings N(0, 1), matrices N(0, 1 / fan in), the rest near where it starts."""

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    linears = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in embeddings:
                parameter.copy_(normal(parameter))
            elif id(parameter) in linears:
                parameter.copy_(normal(parameter) * parameter.shape[1] ** -0.5)
            elif parameter.ndim > 1:  # recurrent weights: their own size decides whether they are stable
                parameter.add_(normal(parameter) * parameter.std() / 2)
            else:
                parameter.add_(normal(parameter) * 0.1)


def random_spikes(
    num_units: int, *, rate_hz: float, duration_s: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Poisson spikes of all units together: ascending times (s, from 0) and rows of the units."""
    rng = np.random.default_rng(seed)
    number = rng.poisson(num_units * rate_hz * duration_s)
    return np.sort(rng.uniform(0, duration_s, number)), rng.integers(0, num_units, number)
