"""What finetuning is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from possm.config import require
from possm.data.augment import AugmentConfig
from possm.data.caps import CAP_PERCENTILE
from possm.model.contract import DecoderConfig
from possm.training.config import TrainConfig
from possm.training.optim import OptimConfig
from possm.training.starts import STARTS

MODES = ("units", "full", "lora")
SCALINGS = ("auto", "own", "decoder")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One adaptation. The architecture is the decoder's."""

    mode: str = "units"
    """What is trained: "units", the rows of new units and sessions; "lora", the same, units as a product of
    low rank; "full", rows first, then all weights. A readout for a behavior the decoder does not know is
    trained in every mode."""
    minutes: float | None = None
    """Use the first minutes of the train split only, the end of them to select weights by; None uses the
    train and valid splits as they are."""
    valid_share: float = 0.2
    """Of these minutes, the share at their end that selects weights."""
    start: str = "random"
    """What rows start from: "random", as in the paper; "electrode", the unit on the same electrode in the
    nearest earlier session of the subject, where there is one; "tuning", where the decoder's map from tuning
    to rows puts them (`training.unit_map`); "components", which of the units go together, no label
    asked."""
    behavior: tuple[str, ...] = ()
    """What to train; none named is all that the decoder decodes."""
    rename: tuple[str, ...] = ()
    """``old=new``, or ``session:old=new``: names of behaviors, in a new session and in the decoder. What it
    was told when it was trained holds without being said again."""
    again: bool = False
    """Take sessions that the decoder knows already, and train their rows further."""
    keep: bool = True
    """Whether the decoder still knows its old sessions afterwards."""
    scaling: str = "auto"
    """Of behaviors in a new session: "decoder", the decoder's; "own", fitted on the calibration; "auto", its
    own where it is of another physical unit, twice as wide or narrow, or a deviation away."""
    cap_percentile: float | None = CAP_PERCENTILE
    """No new unit says more in a chunk than this percentile of its counts in the calibration, and 1: bursts
    on all channels at once ruin what is made of minutes. None caps nothing."""
    steps: int = 300
    """About how many to make."""
    units_share: float = 0.2
    """Of the steps of mode "full", the share that trains rows only (paper: 100 of 500 epochs)."""
    keep_encoder: bool = False
    """Mode "full" leaves the encoder as it is: what a unit may say to a latent was learnt from many, and only
    who says what is learnt from few (docs/classification.md)."""
    dropout: float | None = None
    """Of the adapted decoder; None keeps the decoder's own."""
    full_rate: float = 0.25
    """Learning rate of the weights that only mode "full" trains, as a multiple of that of the rows."""
    rank: int = 16
    """Of mode "lora"."""
    anchor_decay: float = 0.0
    """How much weights are pulled back to where they started (L2-SP), in the sense of weight decay."""
    patience: int | None = None
    """Validations without a better score after which to stop; None makes all steps."""
    window_s: float = 4.0
    """Length of a training window."""
    batch_size: int = 16
    """Windows per step."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule, which begins anew where all weights start to be trained."""
    augment: AugmentConfig = AugmentConfig()
    """Changes to training windows."""
    interval_weights: dict[str, float] = field(default_factory=dict)
    """Loss weight of samples inside named intervals."""
    behavior_weights: dict[str, float] = field(default_factory=dict)
    """Loss weight of each behavior; 1 unless given."""
    evaluate_within: str | None = None
    """Intervals whose samples count in validation; None counts all."""
    seed: int = 0
    """Of new rows, windows, augmentation and dropout."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA where there is one."""
    precision: str = "auto"
    """"float32", "bf16", or "auto": bf16 on CUDA."""

    def __post_init__(self) -> None:
        for name, choices in (("mode", MODES), ("start", tuple(STARTS)), ("scaling", SCALINGS)):
            value = getattr(self, name)
            require(value in choices, name, value, f"one of {', '.join(choices)}")
        require(self.minutes is None or 0 < self.minutes < math.inf, "minutes", self.minutes, "above 0")
        require(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "0 or more, below 1")
        require(0 < self.valid_share < 1, "valid_share", self.valid_share, "above 0, below 1")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(0 <= self.units_share < 1, "units_share", self.units_share, "0 or more, below 1")
        lora = self.mode == "lora" and self.optim.centre_units
        require(not lora, "centre_units", True, 'False with mode "lora", which moves rows by a product')
        require(self.rank >= 1, "rank", self.rank, "1 or more")
        require(self.full_rate > 0, "full_rate", self.full_rate, "above 0")
        require(self.anchor_decay >= 0, "anchor_decay", self.anchor_decay, "0 or more")
        require(self.patience is None or self.patience >= 1, "patience", self.patience, "1 or more")

    def training(
        self, behavior: tuple[str, ...], decoder: DecoderConfig, *, renames: tuple[str, ...] = ()
    ) -> TrainConfig:
        """The settings that a run shares with training from scratch; renames are the decoder's own."""
        return TrainConfig(
            behavior=behavior,
            rename=tuple(dict.fromkeys((*renames, *self.rename))),
            decoder=decoder,
            window_s=self.window_s,
            batch_size=self.batch_size,
            optim=self.optim,
            augment=self.augment,
            interval_weights=self.interval_weights,
            behavior_weights=self.behavior_weights,
            evaluate_within=self.evaluate_within,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
        )
