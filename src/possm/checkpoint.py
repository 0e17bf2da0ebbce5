"""One .safetensors file = weights + JSON: it rebuilds a decoder with no dataset and no training code.

The JSON sits in the file's metadata: architecture, vocabulary, scaling, provenance, and a SHA-256 over all
of it and the weights, so that a damaged file is refused. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from possm.config import from_json, to_json
from possm.data.features import InputConfig
from possm.data.files import atomic_path
from possm.data.labels import softmax
from possm.data.scaling import Scaling, scaling_of
from possm.data.tuning import UnitMap
from possm.data.vocabulary import Vocabulary
from possm.decoders import DECODERS, build_decoder, kind_of
from possm.errors import CheckpointError, PossmError
from possm.model.contract import DecoderModel

FORMAT = 1
"""Version of the file layout; a reader refuses what it does not know."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A trained decoder and all it needs to read a recording and to answer in physical units."""

    model: DecoderModel
    vocabulary: Vocabulary
    scaling: dict[str, Scaling]
    """By behavior; for sessions without one of their own."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: training configuration, files, scores, versions. Free JSON."""
    session_scaling: dict[str, dict[str, Scaling]] = field(default_factory=dict)
    """Session -> behavior -> scaling, where a session has its own."""
    inputs: InputConfig = InputConfig()
    """What it reads, and how values in bins are normalized."""
    unit_map: UnitMap | None = None
    """From how a unit is tuned to where its row may begin; of decoders pretrained on several sessions."""

    def __post_init__(self) -> None:
        if self.inputs.inputs != self.config.inputs:
            raise CheckpointError(
                "what is known of the inputs is not of this decoder",
                got=", ".join(self.inputs.inputs),
                wanted=", ".join(self.config.inputs),
            )

    @property
    def config(self) -> Any:
        """Its architecture: a `DecoderConfig`."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(itertools.chain(self.model.parameters(), self.model.buffers())).device

    @property
    def renames(self) -> tuple[str, ...]:
        """What it called behaviors when it was trained, ``old=new``; for `data.collection.renamed`."""
        return tuple(self.provenance.get("training", {}).get("rename", ()))

    def scaling_of(self, session_id: str) -> dict[str, Scaling]:
        """By behavior, for one session."""
        return scaling_of(session_id, self.scaling, self.session_scaling)

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """By category behavior: names of the classes, in the order of its answers."""
        behaviors = self.config.behaviors.items()
        return {name: b.classes for name, b in behaviors if b.readout == "category"}

    @property
    def sequences(self) -> dict[str, tuple[str, ...]]:
        """By behavior that is a sequence: its symbols, from answer 1 on; answer 0 is the blank."""
        behaviors = self.config.behaviors.items()
        return {name: b.classes for name, b in behaviors if b.readout == "sequence"}

    def physical(self, session_id: str, behavior: str, answers: np.ndarray) -> np.ndarray:
        """Answers of the model, (Q, D) scaled, in the physical unit of the behavior; of a category or
        sequence, logits as probabilities."""
        if behavior in self.classes or behavior in self.sequences:
            return softmax(answers)
        return self.scaling_of(session_id)[behavior].invert(answers)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over weights and description, hex."""
        return _digest(_weights(self.model), _description(self))


def save_decoder(decoder: Decoder, path: str | os.PathLike[str]) -> Path:
    """Write a decoder; a file that is already there stays whole until the new one is complete.

    Raises:
        CheckpointError: The disk refuses.
    """
    write_sealed(path, _weights(decoder.model), _description(decoder))
    return Path(path)


def load_decoder(path: str | os.PathLike[str], *, device: str = "cpu") -> Decoder:
    """Read a decoder.

    Raises:
        CheckpointError: The file is missing, damaged, foreign, or of another version.
    """
    path = Path(path)
    content, weights = read_sealed(path)
    try:
        decoder = _rebuild(content, weights, path)
    except CheckpointError:
        raise
    except (PossmError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError("what the file describes is not a decoder", about=path, got=error) from error
    decoder.model.to(device)
    return decoder


def _rebuild(content: Mapping[str, Any], weights: dict[str, Tensor], path: Path) -> Decoder:
    vocabulary = from_json(Vocabulary, content["vocabulary"])
    scaling = _scalings(content["scaling"])
    own = {session: _scalings(table) for session, table in content.get("session_scaling", {}).items()}
    inputs = from_json(InputConfig, content.get("inputs", {}))
    config = from_json(DECODERS[content["kind"]].config, content["config"])
    model = build_decoder(config, num_units=len(vocabulary.units), num_sessions=len(vocabulary.sessions))
    _fill(model, weights, path)
    found = content.get("unit_map")
    unit_map = None if found is None else from_json(UnitMap, found)
    return Decoder(model.eval(), vocabulary, scaling, content["provenance"], own, inputs, unit_map)


def _scalings(content: Mapping[str, Any]) -> dict[str, Scaling]:
    return {name: from_json(Scaling, value) for name, value in content.items()}


def _fill(model: DecoderModel, weights: dict[str, Tensor], path: Path) -> None:
    """Strict: every difference between file and architecture is named."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != got:
        differing = sorted(set(wanted.items()) ^ set(got.items()))
        lines = "; ".join(
            f"{name}: file {got.get(name)}, decoder {wanted.get(name)}" for name, _ in differing
        )
        raise CheckpointError("the weights do not fit the architecture", about=path, got=lines)
    dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
    model.to(dtype).load_state_dict(weights)


def write_sealed(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], description: str) -> None:
    """Write tensors and JSON under one checksum; what is there stays whole until the new file is complete.

    Raises:
        CheckpointError: The disk refuses.
    """
    metadata = {"possm": description, "sha256": _digest(tensors, description)}
    try:
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(save(dict(tensors), metadata))
    except OSError as error:
        raise CheckpointError(
            "cannot be saved", about=path, got=error, fix="free the disk or choose another folder"
        ) from error


def read_sealed(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors of a file that `write_sealed` made.

    Raises:
        CheckpointError: The file is missing, damaged, foreign, or of another version.
    """
    if not Path(path).is_file():
        raise CheckpointError("there is no such file", about=path, fix="check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, LookupError) as error:
        raise CheckpointError("the file is damaged or not a decoder", about=path, got=error) from error
    if "possm" not in metadata:
        raise CheckpointError("the file holds weights, but not of a possm decoder", about=path)
    damaged = CheckpointError("the file is damaged: its checksum is wrong", about=path, fix="copy it again")
    try:
        content = json.loads(metadata["possm"])
        version = content["format"]
    except (ValueError, LookupError, TypeError) as error:
        raise damaged from error
    if version != FORMAT:
        raise CheckpointError(
            "the file is of another version",
            about=path,
            got=f"format {version}",
            wanted=f"format {FORMAT}",
            fix=f"install the version of possm that wrote it: {content.get('possm_version')}",
        )
    if _digest(tensors, metadata["possm"]) != metadata.get("sha256"):
        raise damaged
    return content, tensors


def _weights(model: DecoderModel) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _description(decoder: Decoder) -> str:
    from possm import __version__

    content = {
        "format": FORMAT,
        "possm_version": __version__,
        "kind": kind_of(decoder.config),
        "config": to_json(decoder.config),
        "vocabulary": to_json(decoder.vocabulary),
        "scaling": {name: to_json(scaling) for name, scaling in decoder.scaling.items()},
        "session_scaling": {
            session: {name: to_json(scaling) for name, scaling in table.items()}
            for session, table in decoder.session_scaling.items()
        },
        "inputs": to_json(decoder.inputs),
        "unit_map": None if decoder.unit_map is None else to_json(decoder.unit_map),
        "provenance": decoder.provenance,
    }
    return json.dumps(content)


def _digest(weights: Mapping[str, Tensor], description: str) -> str:
    sha = hashlib.sha256(description.encode())
    for name in sorted(weights):
        tensor = weights[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
