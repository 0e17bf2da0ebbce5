"""A decoder with rows for new sessions: the weights it has keep their values, and rows their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from possm.checkpoint import Decoder
from possm.data.recording import Recording
from possm.data.vocabulary import Vocabulary
from possm.decoders import DECODERS, build_decoder, kind_of
from possm.errors import ConfigError
from possm.model.contract import BehaviorConfig, DecoderConfig, DecoderModel


@dataclass(frozen=True, eq=False)
class Extended:
    """A model that knows new sessions, whose rows are random yet."""

    model: DecoderModel
    vocabulary: Vocabulary
    unit_rows: np.ndarray
    """(n,) int64: rows of all units of the new sessions."""
    session_rows: np.ndarray
    """(n,) int64: rows of the new sessions."""
    tables: dict[str, str]
    """Weights with a row for each unit or session, by name: "units" or "sessions"."""
    fresh: frozenset[str]
    """Parameters that the old model did not have at all: those of a new readout."""


def extend_decoder(
    decoder: Decoder,
    recordings: Sequence[Recording],
    *,
    behaviors: dict[str, BehaviorConfig],
    keep: bool = True,
    again: bool = False,
    dropout: float | None = None,
) -> Extended:
    """Add rows for the units and sessions of recordings, and readouts for behaviors.

    Args:
        decoder: Is not changed.
        recordings: Of sessions it does not know.
        behaviors: What shall be decoded; those it does not know get a readout with random weights.
        keep: Whether the sessions it knows stay.
        again: Take sessions that it knows, too: their rows keep their values, and units it does not know are
            added.
        dropout: Of the new model; None is the decoder's.

    Raises:
        ConfigError: It knows a session already, two recordings are of one session, a behavior has another
            size in the decoder, or the decoder is not one that is trained by steps.
    """
    if DECODERS[kind_of(decoder.config)].fit is not None:
        raise ConfigError(
            "this decoder is fitted in one go, not by steps, so there is nothing to adapt",
            got=kind_of(decoder.config),
            fix="train it anew on the new sessions",
        )
    known = [r for r in recordings if r.session_id in decoder.vocabulary.sessions]
    if known and not again:
        raise ConfigError(
            "the decoder already knows this session",
            about=known[0].name,
            got=known[0].session_id,
            fix="--again to train its rows further, or evaluate it as it is",
        )
    _check_once(recordings)
    config = _with_behaviors(decoder.config, behaviors)
    if dropout is not None:
        config = replace(config, dropout=dropout)  # type: ignore[call-arg]  # all that learn by steps have it
    stay = decoder.vocabulary.sessions if keep else tuple(r.session_id for r in known)
    vocabulary, unit_rows, session_rows = decoder.vocabulary.only(stay)
    vocabulary = vocabulary.extend([r for r in recordings if r not in known]).with_units(known)
    sizes = {"num_units": len(vocabulary.units), "num_sessions": len(vocabulary.sessions)}
    model = build_decoder(config, **sizes).to(decoder.device)
    tables = table_names(config)
    weights = {name for name, _ in model.named_parameters()}
    trained = {name: kind for name, kind in tables.items() if name in weights}
    rows = {"units": unit_rows, "sessions": session_rows}
    fresh = _copy(decoder.model, model, {name: rows[kind] for name, kind in tables.items()})
    new_units = np.concatenate([vocabulary.unit_rows(recording) for recording in recordings])
    new_sessions = np.array([vocabulary.session_row(r.session_id) for r in recordings], np.int64)
    return Extended(model, vocabulary, new_units, new_sessions, trained, fresh)


def table_names(config: DecoderConfig) -> dict[str, str]:
    """The weights and buffers with a row for each unit or session, by name: "units" or "sessions".

    They are those whose first axis grows with the vocabulary, whatever the kind of decoder.
    """

    def shapes(num_units: int, num_sessions: int) -> dict[str, torch.Size]:
        with torch.device("meta"):  # shapes without memory
            model = build_decoder(config, num_units=num_units, num_sessions=num_sessions)
        return {name: tensor.shape for name, tensor in model.state_dict().items()}

    small, units, sessions = shapes(2, 3), shapes(4, 3), shapes(2, 5)
    grown = {name: "units" for name in small if units[name] != small[name]}
    grown |= {name: "sessions" for name in small if sessions[name] != small[name]}
    return {name: kind for name, kind in grown.items() if small[name][0] == {"units": 2, "sessions": 3}[kind]}


@torch.no_grad()
def _copy(old: DecoderModel, new: DecoderModel, rows: dict[str, np.ndarray]) -> frozenset[str]:
    """Tensors of the same name, and of tables the rows that stay, to the first rows; returns what is new."""
    there = old.state_dict()
    new.to(next(iter(there.values())).dtype)
    fresh = []
    for name, tensor in new.state_dict().items():
        if name not in there:
            fresh.append(name)
        elif name in rows:
            kept = torch.from_numpy(rows[name]).to(tensor.device)
            tensor[: len(kept)] = there[name][kept]
        else:
            tensor.copy_(there[name])
    return frozenset(fresh)


def _with_behaviors(config: DecoderConfig, behaviors: dict[str, BehaviorConfig]) -> DecoderConfig:
    """A behavior that is known stays as it is; of the classes of a category, a calibration may lack some."""
    for name, behavior in behaviors.items():
        known = config.behaviors.get(name, behavior)
        fits = behavior.readout == known.readout and (
            set(behavior.classes) <= set(known.classes)
            if known.classes
            else behavior.num_dimensions == known.num_dimensions
        )
        if not fits:
            raise ConfigError(
                f"the decoder knows '{name}' as something else",
                got=behavior,
                wanted=known,
                fix="rename it in the recording, to decode it with a readout of its own",
            )
    return replace(config, behaviors={**config.behaviors, **behaviors, **config.behaviors})


def _check_once(recordings: Sequence[Recording]) -> None:
    sessions = [recording.session_id for recording in recordings]
    for recording in recordings:
        if sessions.count(recording.session_id) > 1:
            raise ConfigError(
                "two recordings are of the same session",
                about=recording.name,
                got=recording.session_id,
                fix="list every session once, or rename one of them",
            )
