"""Settings that suit each decoder, by the name `possm train --decoder` takes.

A preset keeps what the user decided (what is decoded and scored, the clock, the seed, the machine) and sets
the decoder, the optimizer, the windows and the batch. How the numbers were found:
docs/baselines.md and docs/training.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from possm.baselines.kalman_decoder import KalmanConfig
from possm.baselines.mlp import MlpConfig
from possm.baselines.ndt2 import Ndt2Config
from possm.baselines.poyo import PoyoConfig
from possm.baselines.recurrent import RecurrentConfig
from possm.baselines.wiener_decoder import WienerDecoderConfig
from possm.model.contract import DecoderConfig
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig
from possm.training.optim import OptimConfig

Preset = Callable[[TrainConfig], TrainConfig]


def _preset(
    config: TrainConfig,
    *,
    decoder: type[DecoderConfig],
    settings: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    **changes: Any,
) -> TrainConfig:
    """A run's config with the decoder and optimizer of these settings, on the clock it has."""
    clock = {name: getattr(config.decoder, name) for name in ("chunk_ms", "lead_ms", "behaviors")}
    chosen = decoder(**clock, **(settings or {}))
    return replace(config, decoder=chosen, optim=OptimConfig(**(optim or {})), **changes)


def _possm(backbone: str, **optim: Any) -> Preset:
    settings = {"backbone": backbone, "width": 128}
    return partial(_preset, decoder=PossmConfig, settings=settings, optim={"token_rate": 0.3, **optim})


def _counts(backbone: str, *, optim: dict[str, Any], **settings: Any) -> Preset:
    settings = {"backbone": backbone, **settings}
    return partial(_preset, decoder=RecurrentConfig, settings=settings, optim=optim)


PRESETS: dict[str, Preset] = {
    "possm-gru": _possm("gru"),
    "possm-s4d": _possm("s4d", learning_rate=1e-3),
    "possm-mamba": _possm("mamba", learning_rate=1e-3),
    "poyo": partial(_preset, decoder=PoyoConfig, batch_size=8),
    "ndt2": partial(_preset, decoder=Ndt2Config, optim={"learning_rate": 1e-3}, batch_size=8),
    "gru": _counts("gru", optim={"learning_rate": 4e-3}),
    "s4d": _counts("s4d", optim={"learning_rate": 1e-2}),
    "mamba": _counts("mamba", optim={"learning_rate": 2e-3}),
    "mlp": partial(_preset, decoder=MlpConfig, optim={"learning_rate": 4e-3}),
    "wiener": partial(_preset, decoder=WienerDecoderConfig),
    "kalman": partial(_preset, decoder=KalmanConfig),
}
"""By name; each takes a run's config and returns it as it suits the decoder."""
