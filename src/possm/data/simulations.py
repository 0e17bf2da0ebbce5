"""Every task that can be simulated, by name: its configuration, and what makes recordings of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from possm.data.handwriting import HandwritingConfig, simulate_handwriting_dataset
from possm.data.reaching import TASKS
from possm.data.recording import Recording
from possm.data.simulate import SimulationConfig, simulate_dataset
from possm.data.speech import SpeechConfig, simulate_speech_dataset


@dataclass(frozen=True)
class Simulation:
    """One kind of simulation."""

    config: type
    """Its configuration; ``config.task`` is the name of the task."""
    dataset: Callable[..., Iterator[Recording]]
    """``(config, *, num_subjects, num_sessions, seed)`` -> recordings, one after the other."""


SIMULATIONS: dict[str, Simulation] = {
    **dict.fromkeys(TASKS, Simulation(SimulationConfig, simulate_dataset)),
    "handwriting": Simulation(HandwritingConfig, simulate_handwriting_dataset),
    "speech": Simulation(SpeechConfig, simulate_speech_dataset),
}
"""By the name of the task; a further one is one line."""
