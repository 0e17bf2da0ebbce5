"""What a training run is told, what it reports on the way, and what it ends with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from possm.checkpoint import Decoder
from possm.config import require
from possm.data.augment import AugmentConfig
from possm.data.normalize import NormalizeConfig
from possm.data.scaling import SCALED_BY
from possm.data.windows import BALANCES
from possm.model.contract import DecoderConfig
from possm.model.decoder import PossmConfig
from possm.training.optim import OptimConfig
from possm.training.preflight import check_names

DEFAULT_STEPS = 1000
DEFAULT_VALIDATIONS = 12
UNIT_STARTS = ("random", "components")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. The defaults are those of the study in docs/training.md."""

    behavior: tuple[str, ...]
    """Names of the signals to decode, such as "cursor.vel"."""
    decoder: DecoderConfig = PossmConfig(width=128)
    """Architecture; its behaviors are filled in from the recordings. Tokens are twice as wide as those of the
    paper's small model: with about as many numbers as there are units they tell these apart."""
    window_s: float = 4.0
    """Length of a training window."""
    batch_size: int = 16
    """Windows per step."""
    epochs: int | None = None
    """Passes over the training intervals; None is as many as make about 1,000 steps."""
    optim: OptimConfig = OptimConfig(token_rate=0.3)
    """Optimizer and schedule."""
    augment: AugmentConfig = AugmentConfig()
    """Changes to training windows."""
    interval_weights: dict[str, float] = field(default_factory=dict)
    """Loss weight of samples inside named intervals (paper: reach 5, hold 0.1, outliers 0)."""
    behavior_weights: dict[str, float] = field(default_factory=dict)
    """Loss weight of each behavior; 1 unless given."""
    dataset_weights: dict[str, float] = field(default_factory=dict)
    """Loss weight of each dataset, by its brainset id; 1 unless given."""
    balance: str = "time"
    """How an epoch is shared out: "time" takes all training intervals once, "session" as many windows of
    every recording, "dataset" as many of every brainset."""
    allow_missing_behaviors: bool = False
    """Whether a recording may lack some of the behaviors, and then trains the others."""
    rename: tuple[str, ...] = ()
    """Other names for behaviors, so that one thing has one name: old=new, or session:old=new."""
    skip_bad: bool = False
    """Whether to go on without recordings that are damaged; each is named in a warning."""
    scaling: str = "shared"
    """Whose mean and standard deviation behaviors are scaled by: "shared" of all recordings, "dataset" of
    those of one brainset, "session" of each."""
    normalize: NormalizeConfig = NormalizeConfig()
    """How values in bins are normalized, where the decoder reads some."""
    cap_percentile: float | None = None
    """No unit says more in a chunk than this percentile of its counts in the train split, and 1: bursts on
    all channels at once would ruin decoders made of little data. None caps nothing."""
    unit_start: str = "random"
    """What rows of units begin with: "random", as in the paper; "components", which of them go together
    (`possm.data.components`), for data so few that a decoder would learn them by heart."""
    reconstruct_steps: int = 0
    """Steps of a first phase, in which the encoder learns to tell each bin's values from its latents (paper,
    speech); 0 has none."""
    evaluate_within: str | None = None
    """Intervals whose samples count in validation; None counts all."""
    valid_every: int | None = None
    """Epochs between validations, which are also the points a run resumes from; None validates 12 times."""
    valid_s: float | None = None
    """Seconds of every recording that a validation decodes, spread over its valid split; None is all."""
    valid_sessions: int | None = None
    """Recordings that are validated, spread over the list; None is all."""
    workers: int | None = None
    """Processes that make batches; 0 makes them in the training process. None is 0 on a CPU, which has no
    core to spare, and up to 8 beside a GPU. The batches are the same however many there are."""
    seed: int = 0
    """Of weights, windows, augmentation and dropout."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA where there is one."""
    precision: str = "auto"
    """"float32", "bf16", or "auto": bf16 on CUDA."""

    def __post_init__(self) -> None:
        names = "one or more names, as a tuple"
        require(bool(self.behavior) and not isinstance(self.behavior, str), "behavior", self.behavior, names)
        require(self.window_s > 0, "window_s", self.window_s, "above 0")
        require(self.reconstruct_steps >= 0, "reconstruct_steps", self.reconstruct_steps, "0 or more")
        for name in ("batch_size", "epochs", "valid_every", "valid_sessions"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "1 or more")
        choices = ("auto", "float32", "bf16")
        require(self.precision in choices, "precision", self.precision, f"one of {choices}")
        require(self.workers is None or self.workers >= 0, "workers", self.workers, "0 or more")
        require(self.valid_s is None or self.valid_s > 0, "valid_s", self.valid_s, "above 0")
        require(self.balance in BALANCES, "balance", self.balance, f"one of {BALANCES}")
        require(self.unit_start in UNIT_STARTS, "unit_start", self.unit_start, f"one of {UNIT_STARTS}")
        require(self.scaling in SCALED_BY, "scaling", self.scaling, f"one of {SCALED_BY}")
        check_names("behavior_weights", self.behavior_weights, self.behavior)
        for name in ("interval_weights", "behavior_weights", "dataset_weights"):
            weights = getattr(self, name)
            require(all(0 <= w < math.inf for w in weights.values()), name, weights, "finite, 0 or more")


@dataclass(frozen=True)
class Progress:
    """What a run reports after every step, and after every validation with `valid_score`."""

    epoch: int
    epochs: int
    step: int
    total_steps: int
    loss: float
    eta_s: float
    valid_score: float | None = None
    measure: str = "r2"
    """What the score is, a name in `possm.evaluation.score.MEASURES`."""


@dataclass(frozen=True)
class TrainResult:
    """What a run ends with."""

    decoder: Decoder
    """The best by validation R2."""
    path: Path
    """Its file."""
    summary: dict[str, float]
    """As in summary.json: best_valid_r2 (or best_valid_accuracy), wall_s, cpu_s, windows_per_s, parameters,
    peak_memory_mb."""
