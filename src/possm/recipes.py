"""The published runs of POSSM (arXiv 2506.05320) as settings, and which sessions they are about.

    possm train c_20161013_center_out_reaching.h5 --recipe single-co --out runs/c_20161013
    possm train ~/brainsets/processed --recipe pretrain --out runs/foundation
    possm finetune runs/foundation/decoder.safetensors t_20130819.h5 --recipe full-co --out runs/t_20130819

The data comes from `brainsets` (``pip install torch_brain``), which downloads and converts it:

    brainsets config set --raw-dir RAW --processed-dir PROCESSED
    brainsets prepare perich_miller_population_2018 -c 4       # DANDI 000688: 13 GB, then 2.9 GB
    brainsets prepare odoherty_sabes_nonhuman_2017 -c 4        # Zenodo 3854034: 22 GB, then 26 GB
    brainsets prepare churchland_shenoy_neural_2012 -c 4       # DANDI 000070: 46 GB, then 25 GB
    brainsets prepare pei_pandarinath_nlb_2021                 # DANDI 000140: MC_Maze, 22 MB

Handwriting and speech come from Dryad: docs/clinical-data.md.

What the paper and its released code say is set as they say it; what they leave open, and where this package
differs, is said with the setting. In all recipes AdamW stands in for the LAMB of the released code, with the
same schedule, and targets are scaled by what is measured in each dataset, not by 20, 100, 200 and 800. The
output of the encoder is scaled on a first batch (`Encoder.spread`), and units of one electrode begin alike in
all sessions of an array; there is no token at rest.
None has been run on the published data here; the expected scores are those of the paper.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from possm.data.augment import AugmentConfig
from possm.data.recording import Recording
from possm.errors import ConfigError
from possm.model.decoder import PossmConfig
from possm.training.config import TrainConfig
from possm.training.finetune_config import FinetuneConfig
from possm.training.optim import OptimConfig

logger = logging.getLogger(__name__)

Settings = TypeVar("Settings", TrainConfig, FinetuneConfig)

VELOCITY, CHARACTER, PHONEMES = "cursor.vel", "trials.character", "trials.phonemes"
RENAME = ("hand.vel=cursor.vel",)
"""MC_Maze has no cursor: what the hand does is decoded as what the cursor does."""
UNIT_DROPOUT = AugmentConfig(unit_dropout=(60, 300, 1000))
HALF_CONSTANT: dict[str, Any] = {"warmup": 0.0, "hold": 0.5, "weight_decay": 1e-4}
CENTER_OUT = {
    "movement_phases.hold_period": 0.1,
    "movement_phases.reach_period": 5.0,
    "movement_phases.invalid": 0.1,
    "cursor_outlier_segments": 0.0,
}
"""Loss weights in Perich's center-out sessions; those of the random-target ones are among them."""
RANDOM_TARGET = {"movement_phases.hold_period": 0.1, "cursor_outlier_segments": 0.0}
SCORED = {
    "center_out": "movement_phases.reach_period",
    "random_target": "movement_phases.random_period",
    "all": "movement_phases.reach_period|movement_phases.random_period|nlb_eval_intervals|*",
}
"""Where R2 is measured: of several, in the first that a recording has; ``*`` is everything."""


@dataclass(frozen=True)
class Source:
    """Sessions of one brainset."""

    brainset: str
    """Folder of its files, and its id in them."""
    sessions: int
    """How many the paper has."""
    starts: tuple[str, ...] = ("",)
    """Session ids begin with one of these,"""
    left_out: tuple[str, ...] = ()
    """and with none of these."""

    def has(self, session_id: str) -> bool:
        """Whether a session is one of them."""
        return session_id.startswith(self.starts) and not session_id.startswith(self.left_out or ("\0",))


PRETRAINING = (
    Source("perich_miller_population_2018", 93, ("c_", "m_"), ("c_20161013", "c_20161021", "m_20150512")),
    Source(
        "odoherty_sabes_nonhuman_2017",
        44,
        ("indy_", "loco_"),
        ("loco_20170214_02", "loco_20170216_02", "loco_20170217_02"),
    ),
    Source("churchland_shenoy_neural_2012", 10),
    Source("pei_pandarinath_nlb_2021", 1),
)
"""148 sessions, 26,032 units, more than 670 M spikes."""
_PERICH = "perich_miller_population_2018"
HELD_OUT = {
    "C-CO 2016": Source(_PERICH, 2, ("c_20161013", "c_20161021")),
    "T-CO": Source(_PERICH, 6, tuple(f"t_20130{d}" for d in (819, 821, 823, 903, 905, 909))),
    "T-RT": Source(_PERICH, 6, tuple(f"t_20130{d}" for d in (820, 822, 830, 904, 906, 910))),
}
"""Sessions that no pretraining sees, by column of the paper's table 1. Its C-CO 2010 and H-CO are left out:
which sessions they are is not known."""


def single_session(task: str = "center_out") -> TrainConfig:
    """A small decoder of one session, from scratch ("SS").

    Data: one file of `HELD_OUT`. Expected test R2 (mean and SD over sessions, with a GRU): C-CO 2016
    0.9549 +- 0.0012, T-CO 0.8863 +- 0.0222, T-RT 0.7687 +- 0.0669; with S4D T-CO 0.8838. Cost in the paper:
    under 30 min of one RTX 8000.

    The released code trains a session with the large model under these settings, the paper says the small
    one; `decoder=PossmConfig.large(lead_ms=0, rest=0.0)` is the other.

    Args:
        task: "center_out" or "random_target".
    """
    weights = _weights(task)
    return TrainConfig(
        behavior=(VELOCITY,),
        decoder=PossmConfig(lead_ms=0, rest=0.0),
        window_s=1.0,
        batch_size=128,
        epochs=1000,
        valid_every=10,
        optim=OptimConfig(learning_rate=4e-3, **HALF_CONSTANT),
        augment=UNIT_DROPOUT,
        interval_weights=weights,
        evaluate_within=SCORED[task],
        seed=42,
    )


def pretrain() -> TrainConfig:
    """The large decoder of 148 sessions ("o-POSSM"): Perich 93, O'Doherty 44, Churchland 10, MC_Maze 1.

    Data: `pretraining_files` of the folder of brainsets. Cost in the paper: 36 h of four H100. It gives no
    score for the pretrained sessions; what it is good for is finetuning.

    Batch 256 is the paper's largest; its learning rate and number of epochs are not published. The rate here
    is an AdamW rate for a model of this size. Validation takes 20 s of every session, every fifth epoch.
    """
    return TrainConfig(
        behavior=(VELOCITY,),
        decoder=PossmConfig.large(lead_ms=0, rest=0.0),
        window_s=1.0,
        batch_size=256,
        epochs=100,
        valid_every=5,
        valid_s=20.0,
        optim=OptimConfig(learning_rate=1e-3, **HALF_CONSTANT),
        augment=UNIT_DROPOUT,
        interval_weights=CENTER_OUT,
        scaling="dataset",
        rename=RENAME,
        evaluate_within=SCORED["all"],
        seed=42,
    )


def foundation() -> TrainConfig:
    """Many sessions of one's own arrays, to be adapted to the next one; not a run of the paper.

    Data: days, animals and labs as there are; name what is decoded (``behavior``). It is what `possm bench
    transfer` pretrains with, velocity at a loss weight of 0.3 beside position, found on thirteen days of one
    array (docs/transfer.md): 23 epochs are about 300 steps for every quarter of an hour. Rows of units are as
    fast as the backbone and centred, so that they come to say who is who. Cost there: 22 minutes of a thread.
    """
    return TrainConfig(
        behavior=("cursor.pos", VELOCITY),
        decoder=PossmConfig(width=128, rest=0.0),
        epochs=23,
        optim=OptimConfig(
            learning_rate=1.5e-3, weight_decay=0.1, token_rate=0.3, unit_rate=1.0, centre_units=True
        ),
    )


def unit_identification(task: str = "center_out") -> FinetuneConfig:
    """A pretrained decoder moved to a new session: new unit and session embeddings only ("UI").

    Data: a decoder of `pretrain` and one file of `HELD_OUT`. Expected test R2: o-POSSM-S4D T-CO 0.8739 +-
    0.0138; o-POSSM-GRU T-RT 0.7464 +- 0.0692, with 15.6 K trained parameters on average. Its cost is not
    published; a step costs what one of `pretrain` with half the batch does.

    500 epochs of the paper are about 5,000 steps of a session of 20 minutes.

    Args:
        task: "center_out" or "random_target".
    """
    return FinetuneConfig(
        mode="units",
        interval_weights=_weights(task),
        scaling="own",
        cap_percentile=None,
        steps=5000,
        window_s=1.0,
        batch_size=128,
        optim=OptimConfig(learning_rate=4e-3, **HALF_CONSTANT),
        augment=UNIT_DROPOUT,
        evaluate_within=SCORED["all"],
        seed=42,
    )


def full_finetuning(task: str = "center_out") -> FinetuneConfig:
    """A pretrained decoder moved to a new session: embeddings for 100 epochs, then all weights ("FT").

    Data: a decoder of `pretrain` and one file of `HELD_OUT`. Expected test R2 of o-POSSM with S4D, GRU and
    Mamba: C-CO 2016 0.9609, 0.9614, 0.9595; T-CO 0.9068, 0.9024, 0.8921; T-RT 0.7605, 0.7741, 0.7464. Cost:
    as `unit_identification`.

    Args:
        task: "center_out" or "random_target".
    """
    return replace(unit_identification(task), mode="full", units_share=0.2, full_rate=0.25)


def handwriting() -> TrainConfig:
    """Characters of imagined handwriting, from scratch: one of 31 in a trial of 1.6 s.

    Data: the nine sessions of Willett et al. 2021 with ten trials of each character, prepared with
    ``--format willett-handwriting`` (docs/clinical-data.md), one or all of them. Scored causally over the
    whole trial, trained on windows of 1 s. Cost in the paper: one RTX 8000; its score is not at hand.

    The paper's rate is 1e-5 x 256; 600 or 1000 epochs (which of the two is for this run is not known). How
    counts became tokens is not published: a bin of count k is one token of multiplicity k here.
    """
    return TrainConfig(
        behavior=(CHARACTER,),
        decoder=PossmConfig(lead_ms=0, rest=0.0),
        window_s=1.0,
        batch_size=256,
        epochs=1000,
        valid_every=10,
        optim=OptimConfig(learning_rate=2.56e-3, **HALF_CONSTANT),
        seed=42,
    )


def handwriting_from_reaching() -> FinetuneConfig:
    """Imagined handwriting with a decoder that was pretrained on reaching monkeys.

    Data: a decoder of `pretrain`, and sessions as in `handwriting`. New unit and session embeddings and the
    new readout first, then all weights. The paper's rate is 3.125e-5 x 256; 600 or 1000 epochs of about 10
    batches. Its score is not at hand; cost as `handwriting`.
    """
    return FinetuneConfig(
        mode="full",
        behavior=(CHARACTER,),
        scaling="own",
        cap_percentile=None,
        steps=6000,
        window_s=1.0,
        batch_size=256,
        optim=OptimConfig(learning_rate=8e-3, **HALF_CONSTANT),
        seed=42,
    )


def speech(*, offline: bool = False) -> TrainConfig:
    """Phonemes of attempted speech, 24 days at once.

    Data: Willett et al. 2023, prepared with ``--format willett-speech`` (docs/clinical-data.md). Phoneme
    error rate on the test partition, without a language model; the score is not at hand. Cost in the paper:
    one A100 of 80 GB.

    Published: normalized counts as values, four latents in a bin of 20 ms, one layer of self-attention of two
    heads, width 64, a strided convolution, batch 16. Five layers of 1024 with a layer for every day make the
    published 32 M parameters, twice as wide in two directions the published 86 M. Open: rate and schedule
    (cross-validated there), kernel and stride (the input of the baseline had these), epochs. The first of
    the paper's two phases, in which counts are reconstructed, is a run of its own.

    Args:
        offline: Two directions, as in the paper's appendix: better, but nothing for a stream.
    """
    decoder = PossmConfig(
        rest=0.0,
        chunk_ms=20,
        backbone="bigru" if offline else "gru",
        inputs=("counts",),
        num_latents=4,
        latent_layers=1,
        hidden=2048 if offline else 1024,
        num_layers=5,
        day_layer=True,
        sequence_kernel=14,
        sequence_stride=4,
    )
    optim = OptimConfig(learning_rate=1e-3)
    return TrainConfig(
        behavior=(PHONEMES,), decoder=decoder, batch_size=16, epochs=100, valid_every=2, optim=optim, seed=42
    )


def _weights(task: str) -> dict[str, float]:
    weights = {"center_out": CENTER_OUT, "random_target": RANDOM_TARGET}
    if task not in weights:
        raise ConfigError("there is no such task", got=task, wanted=" or ".join(weights))
    return weights[task]


TRAINING: dict[str, Callable[[], TrainConfig]] = {
    "single-co": single_session,
    "single-rt": partial(single_session, "random_target"),
    "pretrain": pretrain,
    "foundation": foundation,
    "handwriting": handwriting,
    "speech": speech,
    "speech-offline": partial(speech, offline=True),
}
"""What `possm train --recipe` takes."""
FINETUNING: dict[str, Callable[[], FinetuneConfig]] = {
    "units-co": unit_identification,
    "units-rt": partial(unit_identification, "random_target"),
    "full-co": full_finetuning,
    "full-rt": partial(full_finetuning, "random_target"),
    "handwriting": handwriting_from_reaching,
}
"""What `possm finetune --recipe` takes."""


def suited(config: Settings, recordings: Sequence[Recording]) -> Settings:
    """A recipe for recordings that are not those it was made for: without its loss weights, evaluation inside
    intervals and renames that are for what none of them has. What is left out is logged; what the user added
    stays.

    Args:
        config: Of a recipe, perhaps changed.
        recordings: That are to be trained on.
    """
    there = {name for recording in recordings for name in recording.intervals}
    foreign = [name for name in config.interval_weights if name in CENTER_OUT and name not in there]
    within = config.evaluate_within
    if foreign:
        logger.warning("no recording has %s: not weighted as in the recipe", ", ".join(foreign))
    if within is not None and within in SCORED.values() and not (there | {"*"}) & set(within.split("|")):
        logger.warning("no recording has %s: all of a split is scored", within)
        within = None
    weights = {name: weight for name, weight in config.interval_weights.items() if name not in foreign}
    signals = {name for recording in recordings for name in recording.signals}
    renames = tuple(r for r in config.rename if r not in RENAME or signals & set(r.split("=")))
    return replace(config, interval_weights=weights, evaluate_within=within, rename=renames)


def pretraining_files(folder: str | Path) -> list[Path]:
    """The sessions of `pretrain` in the folder of processed brainsets; the held-out ones stay out.

    Raises:
        ConfigError: A brainset has no session there.
    """
    return files_of(folder, PRETRAINING)


def files_of(folder: str | Path, sources: Iterable[Source]) -> list[Path]:
    """Files of some sources, ``folder/BRAINSET/SESSION.h5``; a number other than the paper's is logged.

    Raises:
        ConfigError: A brainset has no session there.
    """
    found: list[Path] = []
    for source in sources:
        files = sorted(p for p in (Path(folder) / source.brainset).glob("*.h5") if source.has(p.stem))
        if not files:
            raise ConfigError(
                "a dataset of the recipe is not there",
                about=folder,
                got=source.brainset,
                fix=f"brainsets prepare {source.brainset}",
            )
        if len(files) != source.sessions:
            about = (source.brainset, len(files), source.sessions)
            logger.warning("%s: %d sessions, the paper has %d", *about)
        found += files
    return found
