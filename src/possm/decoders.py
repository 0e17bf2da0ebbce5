"""Every decoder by name: how its config is called in a checkpoint, and what builds it.

A new decoder keeps the contract of model/contract.py and adds one line to DECODERS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from possm.baselines.kalman_decoder import KalmanConfig, KalmanDecoder, fit_kalman_decoder
from possm.baselines.mlp import MlpConfig, MlpDecoder
from possm.baselines.ndt2 import Ndt2, Ndt2Config
from possm.baselines.poyo import Poyo, PoyoConfig
from possm.baselines.recurrent import RecurrentConfig, RecurrentDecoder
from possm.baselines.speech_gru import SpeechGru, SpeechGruConfig
from possm.baselines.wiener_decoder import WienerDecoder, WienerDecoderConfig, fit_wiener_decoder
from possm.errors import ConfigError
from possm.model.contract import DecoderConfig, DecoderModel
from possm.model.decoder import Possm, PossmConfig


@dataclass(frozen=True)
class DecoderKind:
    """One kind of decoder."""

    config: type[DecoderConfig]
    model: type[DecoderModel]
    fit: Callable[[Any, Any], DecoderModel] | None = None
    """Fits a config to `possm.baselines.fitted.FitInputs` at once; None where it is trained by gradients."""


DECODERS: dict[str, DecoderKind] = {
    "possm": DecoderKind(PossmConfig, Possm),
    "recurrent": DecoderKind(RecurrentConfig, RecurrentDecoder),
    "mlp": DecoderKind(MlpConfig, MlpDecoder),
    "poyo": DecoderKind(PoyoConfig, Poyo),
    "ndt2": DecoderKind(Ndt2Config, Ndt2),
    "speech-gru": DecoderKind(SpeechGruConfig, SpeechGru),
    "wiener": DecoderKind(WienerDecoderConfig, WienerDecoder, fit_wiener_decoder),
    "kalman": DecoderKind(KalmanConfig, KalmanDecoder, fit_kalman_decoder),
}
"""By the name a checkpoint gives."""


def kind_of(config: DecoderConfig) -> str:
    """The name of a config's decoder.

    Raises:
        ConfigError: It is of no kind in DECODERS.
    """
    for name, kind in DECODERS.items():
        if type(config) is kind.config:
            return name
    raise ConfigError("no decoder has this config", got=type(config).__name__, wanted=", ".join(DECODERS))


def build_decoder(config: DecoderConfig, *, num_units: int, num_sessions: int) -> DecoderModel:
    """A decoder with random weights.

    Args:
        config: Which, and how.
        num_units: Rows of the unit vocabulary, the blank unit (row 0) included.
        num_sessions: Rows of the session vocabulary.
    """
    made = DECODERS[kind_of(config)].model
    return made(config, num_units=num_units, num_sessions=num_sessions)
