"""What the rows of new units and sessions start from, by the name `FinetuneConfig.start` gives.

A new way is one function and one line in STARTS; it changes the rows of new sessions in `extended.model` and
says how many came from where.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from possm.checkpoint import Decoder
from possm.data.components import NUM_COMPONENTS, component_loadings
from possm.data.recording import Recording
from possm.decoders import kind_of
from possm.errors import ConfigError
from possm.model.tokens import BLANK
from possm.training.extend import Extended
from possm.training.neighbours import find_neighbours
from possm.training.unit_map import MIN_SESSIONS, rows_from_tuning


@dataclass(frozen=True)
class Begun:
    """Where the rows of new sessions came from."""

    units: dict[str, int] = field(default_factory=dict)
    """How many units: from "electrode", "id" (the same unit id, electrodes unknown), "tuning",
    "components", "random"."""
    sessions: dict[str, str] = field(default_factory=dict)
    """New session -> the known session it started from, or "mean" of all."""


def random_start(decoder: Decoder, recordings: Sequence[Recording], extended: Extended) -> Begun:
    """As in the paper: N(0, 0.02^2), which is how the rows were made; nothing is changed."""
    del decoder, recordings
    return Begun({"random": len(extended.unit_rows)})


@torch.no_grad()
def electrode_start(decoder: Decoder, recordings: Sequence[Recording], extended: Extended) -> Begun:
    """Units from those on the same electrode in the nearest earlier session of the subject, and the session
    from that session. Units without one stay random; a session without one starts at the mean of all."""
    old, new = dict(decoder.model.named_parameters()), dict(extended.model.named_parameters())
    units, sessions = Counter[str](), {}
    for recording in recordings:
        near = find_neighbours(recording, decoder.vocabulary)
        sessions[recording.session_id] = near.session or "mean"
        units.update(electrode=near.by_electrode, id=near.found - near.by_electrode)
        units.update(random=len(near.units) - near.found)
        rows = extended.vocabulary.unit_rows(recording)
        for name in (name for name, kind in extended.tables.items() if kind == "units"):
            for row, sources in zip(rows, near.units, strict=True):
                if len(sources):
                    new[name][row] = old[name][torch.from_numpy(sources)].mean(dim=0).to(new[name])
        row = extended.vocabulary.session_row(recording.session_id)
        like = slice(None) if near.session is None else [decoder.vocabulary.session_row(near.session)]
        for name in (name for name, kind in extended.tables.items() if kind == "sessions"):
            new[name][row] = old[name][like].mean(dim=0).to(new[name])
    return Begun(dict(units), sessions)


@torch.no_grad()
def tuning_start(decoder: Decoder, recordings: Sequence[Recording], extended: Extended) -> Begun:
    """Units from how they are tuned to behavior in the calibration data, by the decoder's map from tuning to
    rows (possm.data.tuning); sessions at the mean of all. Not in the paper."""
    if decoder.unit_map is None:
        raise ConfigError(
            "the decoder has no map from tuning to rows",
            wanted=f"a decoder pretrained on {MIN_SESSIONS} sessions or more",
            fix="--start electrode or --start random",
        )
    new = dict(extended.model.named_parameters())
    units = 0
    for recording in recordings:
        rows = torch.from_numpy(extended.vocabulary.unit_rows(recording))
        for name, values in rows_from_tuning(decoder.unit_map, recording).items():
            new[name][rows] = torch.from_numpy(values).to(new[name])
        units += len(rows)
    return Begun({"tuning": units}, _sessions_at_the_mean(decoder, recordings, extended))


@torch.no_grad()
def components_start(decoder: Decoder, recordings: Sequence[Recording], extended: Extended) -> Begun:
    """Units from which of them go together: the loadings of each on the first principal components of the
    calibration counts (possm.data.components) become coordinates along the first principal axes of the rows
    that are known, as far out as these are. No label is needed and no behavior shared with pretraining; which
    component falls on which axis is arbitrary. Sessions at the mean of all. Not in the paper; for subjects
    whose units have nothing to do with those known (docs/classification.md)."""
    old, new = dict(decoder.model.named_parameters()), dict(extended.model.named_parameters())
    units = {name for name, kind in extended.tables.items() if kind == "units"}
    if not units:
        raise ConfigError(
            "the decoder has no rows of units to begin",
            got=kind_of(decoder.config),
            fix="--start random",
        )
    axes = {name: _principal_axes(old[name][BLANK + 1 :]) for name in units}
    begun = 0
    for recording in recordings:
        rows = torch.from_numpy(extended.vocabulary.unit_rows(recording))
        begun += len(rows)
        chunk_ms = decoder.config.chunk_ms
        found = torch.from_numpy(component_loadings(recording, chunk_ms=chunk_ms))
        for name, (mean, axis) in axes.items():
            number = min(len(axis), found.shape[1])
            made = mean + found[:, :number] @ axis[:number]
            new[name][rows] = made.view(len(rows), *new[name].shape[1:]).to(new[name])
    return Begun({"components": begun}, _sessions_at_the_mean(decoder, recordings, extended))


def _sessions_at_the_mean(
    decoder: Decoder, recordings: Sequence[Recording], extended: Extended
) -> dict[str, str]:
    """Begin rows of new sessions at the mean of all that are known; what `Begun.sessions` says of that."""
    old, new = dict(decoder.model.named_parameters()), dict(extended.model.named_parameters())
    rows = [extended.vocabulary.session_row(recording.session_id) for recording in recordings]
    for name in (name for name, kind in extended.tables.items() if kind == "sessions"):
        new[name][rows] = old[name].mean(dim=0).to(new[name])
    return {recording.session_id: "mean" for recording in recordings}


def _principal_axes(table: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of rows, and at most NUM_COMPONENTS of their principal axes, each as long as rows deviate along
    it, with a positive third moment: the sign of an axis is arbitrary."""
    rows = table.flatten(1).double().cpu()
    mean = rows.mean(dim=0)
    _, size, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    axes = axes[:NUM_COMPONENTS] * size[:NUM_COMPONENTS, None] / math.sqrt(len(rows))
    skew = ((rows - mean) @ axes.T).pow(3).sum(dim=0)
    return mean, torch.where(skew < 0, -1.0, 1.0)[:, None] * axes


STARTS: dict[str, Callable[[Decoder, Sequence[Recording], Extended], Begun]] = {
    "random": random_start,
    "electrode": electrode_start,
    "tuning": tuning_start,
    "components": components_start,
}
"""Each takes the pretrained decoder, the calibration recordings of sessions it does not know, and the decoder
that is extended by them."""
