"""Where a run starts from and what it may change: random weights, or a decoder that is adapted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from possm.data.caps import with_fitted_caps
from possm.data.components import NUM_COMPONENTS, component_loadings
from possm.data.features import InputConfig, input_config
from possm.data.recording import Recording
from possm.data.scaling import Scaling, fit_scalings
from possm.data.tuning import UnitMap
from possm.data.vocabulary import Vocabulary
from possm.decoders import build_decoder, kind_of
from possm.errors import ConfigError
from possm.model.contract import DecoderModel
from possm.model.decoder import Possm
from possm.training.config import DEFAULT_STEPS, TrainConfig
from possm.training.extend import table_names
from possm.training.neighbours import find_neighbours
from possm.training.preflight import behavior_configs

COMPONENT_SIZE, REMAINDER = 2.0, 0.1
"""Rows that begin by components vary by these twice as much as at random, and by chance a tenth as much."""


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with its own trained weights and its own learning-rate schedule."""

    name: str
    share: float = 1.0
    """Of the epochs of the run."""
    trained: frozenset[str] | None = None
    """Names of the parameters that change; None is all."""
    rows: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Parameter -> (n,) int64 the rows of it that change; all of a parameter that is not here."""
    rate: float = 1.0
    """Learning rate of everything but tables, as a multiple of the run's."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Everything a run begins with."""

    recordings: Sequence[Recording]
    config: TrainConfig
    """With the behaviors of the decoder filled in."""
    model: DecoderModel
    vocabulary: Vocabulary
    scaling: dict[str, Scaling]
    """By behavior, of the whole decoder, but for categories; `config.behavior` names what this run trains."""
    session_scaling: dict[str, dict[str, Scaling]] = field(default_factory=dict)
    inputs: InputConfig = InputConfig()
    """What the decoder reads."""
    unit_map: UnitMap | None = None
    """Of the decoder that is adapted; None is made anew where there are sessions enough."""
    phases: tuple[Phase, ...] = (Phase("all"),)
    steps: int = DEFAULT_STEPS
    """About how many a run without `config.epochs` makes."""
    see_first: bool = False
    """Whether the weights are random and brought to the scale of a first batch."""
    score_first: bool = False
    """Whether the weights of the start are validated, and so may be the best."""
    patience: int | None = None
    """Validations without a better score after which the last phase ends early; None never does."""
    anchor_decay: float = 0.0
    """How much trained weights are pulled back to where they started, see `RowAdamW`."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Goes into that of the decoder."""
    summary: dict[str, float] = field(default_factory=dict)
    """Goes into that of the run."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else must be the same for an interrupted run to go on."""


def fresh_start(recordings: Sequence[Recording], config: TrainConfig) -> Start:
    """Random weights for these recordings, which have been checked.

    Raises:
        RecordingError: A behavior is missing, or has no scaling.
        ConfigError: A behavior differs in size between recordings, or a session is there twice.
    """
    allow_missing = config.allow_missing_behaviors
    behaviors = behavior_configs(recordings, config.behavior, allow_missing=allow_missing)
    config = replace(config, decoder=replace(config.decoder, behaviors=behaviors))
    vocabulary, summary = with_fitted_caps(
        Vocabulary.of(recordings),
        recordings,
        chunk_ms=config.decoder.chunk_ms,
        percentile=config.cap_percentile,
    )
    scaled = [name for name, behavior in behaviors.items() if behavior.readout == "continuous"]
    scaling, session_scaling = fit_scalings(recordings, scaled, by=config.scaling)
    torch.manual_seed(config.seed)
    sizes = {"num_units": len(vocabulary.units), "num_sessions": len(vocabulary.sessions)}
    model = build_decoder(config.decoder, **sizes)
    model.fit_inputs(recordings, vocabulary)
    if config.unit_start == "components":
        begin_by_components(model, vocabulary, recordings)
    if isinstance(model, Possm):
        share_electrodes(model.token.unit.weight, recordings)
    return Start(
        recordings=recordings,
        config=config,
        model=model,
        vocabulary=vocabulary,
        scaling=scaling,
        session_scaling=session_scaling,
        see_first=True,
        summary=summary,
        inputs=input_config(recordings, config.decoder.inputs, config.normalize),
    )


@torch.no_grad()
def begin_by_components(model: DecoderModel, vocabulary: Vocabulary, recordings: Sequence[Recording]) -> None:
    """Let units begin apart by which of them go together, instead of at random.

    The rows of a unit, in every table that has some, are random directions, the same ones in all sessions,
    times its loadings on the principal components of its session's counts; a tenth of the random rows stays.
    `share_electrodes` comes after it: where an earlier session has the electrode, that one's row is taken.
    So the first step sees what units share, a few signals with little noise, and not a hundred units.
    The paper starts all rows at random.

    Args:
        model: With random weights; changed in place.
        vocabulary: Where the rows of these recordings are.
        recordings: Whose units begin.

    Raises:
        ConfigError: The model has no rows of units.
        RecordingError: A recording is too short.
    """
    kinds = table_names(model.config)
    tables = [p for name, p in model.named_parameters() if kinds.get(name) == "units"]
    if not tables:
        raise ConfigError(
            "the decoder has no rows of units to begin",
            got=kind_of(model.config),
            fix="--unit-start random",
        )
    chunk_ms = model.config.chunk_ms
    loadings = [torch.from_numpy(component_loadings(each, chunk_ms=chunk_ms)) for each in recordings]
    for table in tables:
        width, size = table[0].numel(), COMPONENT_SIZE * float(table.std())
        number = min(NUM_COMPONENTS, width)
        directions = torch.linalg.qr(torch.randn(width, number))[0].T * math.sqrt(width / number)
        for recording, found in zip(recordings, loadings, strict=True):
            rows, number = vocabulary.unit_rows(recording), min(len(directions), found.shape[1])
            made = found[:, :number].to(directions) @ directions[:number]
            table[rows] = REMAINDER * table[rows] + size * made.view(-1, *table.shape[1:]).to(table)


@torch.no_grad()
def share_electrodes(rows: torch.Tensor, recordings: Sequence[Recording]) -> None:
    """Let units of one electrode, in sessions of one subject, begin alike.

    On an implanted array they are often the same neurons. With random rows of its own, every session would
    have to be learnt anew, as if the array had been moved. The paper starts all rows at random.

    Args:
        rows: (units, width) of the vocabulary of these recordings, changed in place.
        recordings: In the order of the vocabulary.
    """
    known = Vocabulary()
    for recording in recordings:
        neighbours = find_neighbours(recording, known)
        known = known.extend([recording])
        mine = known.rows_of(recording.session_id, recording.unit_ids)
        for row, same in zip(mine.tolist(), neighbours.units, strict=True):
            if len(same):
                rows[row] = rows[int(same[0])]
