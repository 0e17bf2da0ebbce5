"""Real-time neural decoding: a recording of spikes in, a live decoder out.

    recording = possm.load_recording("day.h5")
    result = possm.train([recording], possm.TrainConfig(behavior=("cursor.vel",)), "runs/day")
    decoder = possm.load_decoder(result.path)
    scores = decoder.evaluate(recording)
    live = decoder.live()
    predictions = live.push(spike_times_s, unit_ids, until_s=0.05)

The names below are imported when they are first used: `import possm` loads neither torch nor numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load_recording": "possm.data.formats",
    "Recording": "possm.data.recording",
    "SimulationConfig": "possm.data.simulate",
    "simulate_session": "possm.data.simulate",
    "PossmConfig": "possm.model.decoder",
    "TrainConfig": "possm.training.loop",
    "train": "possm.api",
    "FinetuneConfig": "possm.training.finetune_config",
    "finetune": "possm.api",
    "Decoder": "possm.api",
    "load_decoder": "possm.api",
    "LiveDecoder": "possm.streaming.live",
    "Prediction": "possm.batch",
    "PossmError": "possm.errors",
}

__all__ = [
    "Decoder",
    "FinetuneConfig",
    "LiveDecoder",
    "PossmConfig",
    "PossmError",
    "Prediction",
    "Recording",
    "SimulationConfig",
    "TrainConfig",
    "finetune",
    "load_decoder",
    "load_recording",
    "simulate_session",
    "train",
]

if TYPE_CHECKING:
    from possm.api import Decoder, finetune, load_decoder, train
    from possm.batch import Prediction
    from possm.data.formats import load_recording
    from possm.data.recording import Recording
    from possm.data.simulate import SimulationConfig, simulate_session
    from possm.errors import PossmError
    from possm.model.decoder import PossmConfig
    from possm.streaming.live import LiveDecoder
    from possm.training.finetune_config import FinetuneConfig
    from possm.training.loop import TrainConfig


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'possm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
