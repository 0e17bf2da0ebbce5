"""Move a pretrained decoder to a new session with a little calibration data.

    finetune(decoder, [today], FinetuneConfig(mode="units", minutes=2), "runs/today")

The vocabulary gets rows for the new units and sessions; then `training.run` trains what the mode says. A run
is a folder as in `training.loop`, and goes on where it stopped. The sessions that the decoder knew keep their
rows: with mode "units" the decoder answers for them as before, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from possm.checkpoint import Decoder
from possm.config import to_json
from possm.data.calibration import calibration
from possm.data.caps import with_fitted_caps
from possm.data.collection import renamed
from possm.data.recording import Recording
from possm.data.scaling import Scaling
from possm.decoders import kind_of
from possm.errors import ConfigError
from possm.model.tokens import BLANK
from possm.training.config import Progress, TrainResult
from possm.training.distributed import joined
from possm.training.extend import Extended, extend_decoder
from possm.training.finetune_config import FinetuneConfig
from possm.training.lora import make_low_rank
from possm.training.memory import keep_freed_memory
from possm.training.optim import part_of
from possm.training.preflight import behavior_configs, check_run
from possm.training.run import Run
from possm.training.start import Phase, Start
from possm.training.starts import STARTS, Begun

__all__ = ["FinetuneConfig", "finetune"]


def finetune(
    decoder: Decoder,
    recordings: Sequence[Recording],
    config: FinetuneConfig,
    out: str | Path,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Adapt a decoder to new sessions.

    Args:
        decoder: Pretrained; it is not changed.
        recordings: Of the new sessions, each with a train split and the behaviors.
        config: How.
        out: Folder of the run; one that was interrupted there goes on.
        progress: Called after every step and validation; the first validation is of the untrained start.

    Raises:
        RecordingError: A recording lacks a split or behavior, or has nothing to learn from.
        ConfigError: The decoder knows a session already or a behavior as something else; the calibration is
            shorter than a window, or longer than the recording; the folder holds a run of other settings.
    """
    keep_freed_memory()
    with joined(config.device) as processes:
        return Run(adapted_start(decoder, recordings, config), Path(out), processes).run(progress)


def adapted_start(decoder: Decoder, recordings: Sequence[Recording], config: FinetuneConfig) -> Start:
    """What a run that adapts a decoder begins with; errors as of `finetune`."""
    recordings = renamed(recordings, decoder.renames, strict=False)
    recordings = renamed(recordings, [rule for rule in config.rename if rule not in decoder.renames])
    calibrated = [_calibration(recording, config) for recording in recordings]
    asked = config.behavior or tuple(decoder.config.behaviors)
    training = config.training(asked, decoder.config, renames=decoder.renames)
    check_run(calibrated, training, chunk_ms=decoder.config.chunk_ms, adapting=True)
    behaviors = behavior_configs(calibrated, training.behavior)
    torch.manual_seed(config.seed)
    extended = extend_decoder(
        decoder,
        calibrated,
        behaviors=behaviors,
        keep=config.keep,
        again=config.again,
        dropout=config.dropout,
    )
    known = decoder.vocabulary.sessions
    unknown = [recording for recording in calibrated if recording.session_id not in known]
    begun = STARTS[config.start](decoder, unknown, extended)
    extended.model.fit_inputs(calibrated, extended.vocabulary)
    vocabulary, capped = with_fitted_caps(
        extended.vocabulary,
        calibrated,
        chunk_ms=decoder.config.chunk_ms,
        percentile=config.cap_percentile,
    )
    scaling, own = _scalings(decoder, calibrated, extended, config, list(behaviors))
    phases = _phases(extended, config)
    return Start(
        recordings=calibrated,
        config=replace(training, decoder=extended.model.config),
        model=extended.model,
        vocabulary=vocabulary,
        scaling=scaling,
        session_scaling=own,
        unit_map=decoder.unit_map,
        phases=phases,
        steps=config.steps,
        score_first=True,
        patience=config.patience,
        anchor_decay=config.anchor_decay,
        provenance=_provenance(decoder, config, begun),
        settings={"finetune": to_json(config), "decoder_hash": decoder.hash},
        inputs=decoder.inputs,
        summary=_summary(extended, phases, begun) | capped,
    )


def _calibration(recording: Recording, config: FinetuneConfig) -> Recording:
    if config.minutes is not None:
        recording = calibration(recording, config.minutes, valid_share=config.valid_share)
    seconds = recording.split("train").total_s
    if seconds < config.window_s:
        raise ConfigError(
            "the calibration is shorter than a window",
            about=recording.name,
            got=f"{seconds:.3g} s to train on",
            wanted=f"{config.window_s:g} s or more",
            fix="use more minutes, or shorten window_s",
        )
    return recording


def _phases(extended: Extended, config: FinetuneConfig) -> tuple[Phase, ...]:
    """Mode "units": new rows, and readouts that did not exist. Mode "lora": the same, units as a product.
    Mode "full": new rows first, then everything."""
    device = next(extended.model.parameters()).device
    rows = {"units": extended.unit_rows, "sessions": extended.session_rows}
    trained = {name: torch.from_numpy(rows[kind]).to(device) for name, kind in extended.tables.items()}
    if config.mode == "lora":
        return (_low_rank_phase(extended, config, trained),)
    units = Phase("units", trained=frozenset(extended.tables) | extended.fresh, rows=trained)
    if config.mode == "units":
        return (units,)
    encoder = {n for n, _ in extended.model.named_parameters() if n.startswith("encoder.")}
    if config.keep_encoder and not encoder:
        raise ConfigError(
            "the decoder has no encoder to keep",
            got=kind_of(extended.model.config),
            wanted="a POSSM decoder",
            fix="--no-keep-encoder",
        )
    first = [replace(units, share=config.units_share)] if config.units_share > 0 else []
    later = frozenset(
        name
        for name, _ in extended.model.named_parameters()
        if name in extended.tables or part_of(name) == "other"
    )
    whole = later if config.keep_encoder else None
    return (*first, Phase("full", share=1 - config.units_share, trained=whole, rate=config.full_rate))


def _low_rank_phase(extended: Extended, config: FinetuneConfig, rows: dict[str, Tensor]) -> Phase:
    names = set(extended.fresh)
    for name, kind in extended.tables.items():
        if kind == "sessions":
            names.add(name)
            continue
        table = extended.model.get_parameter(name).detach()
        others = torch.ones(len(table), dtype=torch.bool, device=table.device)
        others[rows[name]] = False
        others[BLANK] = False
        known = table[others] if others.any() else table
        names.update(make_low_rank(extended.model, name, rows[name], known=known, rank=config.rank))
    return Phase("lora", trained=frozenset(names), rows={n: rows[n] for n in names if n in rows})


def _scalings(
    decoder: Decoder,
    recordings: Sequence[Recording],
    extended: Extended,
    config: FinetuneConfig,
    behaviors: Sequence[str],
) -> tuple[dict[str, Scaling], dict[str, dict[str, Scaling]]]:
    """The decoder's, with each behavior that is new; and the sessions' own, where of another scale."""
    scaling, known = dict(decoder.scaling), extended.vocabulary.sessions
    own = {session: dict(table) for session, table in decoder.session_scaling.items() if session in known}
    for name in behaviors:
        if extended.model.config.behaviors[name].readout != "continuous":
            continue
        if name not in scaling:
            scaling[name] = Scaling.fit(recordings, name)
        for recording in recordings:
            fitted = Scaling.fit([recording], name)
            present = {**scaling, **own.get(recording.session_id, {})}[name]
            if config.scaling == "own" or (config.scaling == "auto" and _differ(fitted, present)):
                own.setdefault(recording.session_id, {})[name] = fitted
    return scaling, own


def _differ(one: Scaling, other: Scaling) -> bool:
    """Whether a behavior is of another physical unit or scale: twice as wide, or a deviation away."""
    width = np.asarray(one.std) / np.asarray(other.std)
    shift = np.abs(np.asarray(one.mean) - np.asarray(other.mean)) / np.asarray(other.std)
    return one.unit != other.unit or bool((width > 2).any() or (width < 0.5).any() or (shift > 1).any())


def _provenance(decoder: Decoder, config: FinetuneConfig, begun: Begun) -> dict[str, Any]:
    return {
        "finetune": to_json(config),
        "adapted_from": {"hash": decoder.hash, "provenance": decoder.provenance},
        "started_from": begun.sessions,
    }


def _summary(extended: Extended, phases: Sequence[Phase], begun: Begun) -> dict[str, float]:
    """How many weights the last phase trains, and where units started from."""
    last = phases[-1]
    sizes = {
        name: len(last.rows[name]) * p[0].numel() if name in last.rows else p.numel()
        for name, p in extended.model.named_parameters()
        if last.trained is None or name in last.trained
    }
    units = {f"units_from_{source}": float(number) for source, number in begun.units.items()}
    return {"trained_parameters": float(sum(sizes.values())), **units}
