"""One .safetensors file = weights + JSON: it rebuilds a decoder with no dataset and no training code.

The JSON sits in the file's metadata: architecture, vocabulary, scaling, provenance, and a SHA-256 over all
of it and the weights, so that a damaged file is refused. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from possm.config import from_json, to_json
from possm.data.files import atomic_path
from possm.data.scaling import Scaling
from possm.data.vocabulary import Vocabulary
from possm.errors import CheckpointError, PossmError
from possm.model.decoder import Possm, PossmConfig

FORMAT = 1
"""Version of the file layout; a reader refuses what it does not know."""


@dataclass(frozen=True, eq=False)
class Decoder:
    """A trained decoder and all it needs to read a recording and to answer in physical units."""

    model: Possm
    vocabulary: Vocabulary
    scaling: dict[str, Scaling]
    """By behavior."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: training configuration, files, scores, versions. Free JSON."""

    @property
    def config(self) -> PossmConfig:
        """Its architecture."""
        return self.model.config

    @cached_property
    def hash(self) -> str:
        """SHA-256 over weights and description, hex."""
        return _digest(_weights(self.model), _description(self))


def save_decoder(decoder: Decoder, path: str | os.PathLike[str]) -> Path:
    """Write a decoder; a file that is already there stays whole until the new one is complete.

    Raises:
        CheckpointError: The disk refuses.
    """
    path = Path(path)
    weights, description = _weights(decoder.model), _description(decoder)
    metadata = {"possm": description, "sha256": _digest(weights, description)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            Path(temporary).write_bytes(save(weights, metadata))
    except OSError as error:
        raise CheckpointError(
            "cannot save the decoder", about=path, got=error, fix="free the disk or choose another folder"
        ) from error
    return path


def load_decoder(path: str | os.PathLike[str], *, device: str = "cpu") -> Decoder:
    """Read a decoder.

    Raises:
        CheckpointError: The file is missing, damaged, foreign, or of another version.
    """
    path = Path(path)
    metadata, weights = _read(path)
    description = metadata["possm"]
    if _digest(weights, description) != metadata.get("sha256"):
        raise CheckpointError("the file is damaged: its checksum is wrong", about=path, fix="copy it again")
    content = json.loads(description)
    if content["format"] != FORMAT:
        raise CheckpointError(
            "the file is of another version",
            about=path,
            got=f"format {content['format']}",
            wanted=f"format {FORMAT}",
            fix="install the version of possm that wrote it: " + str(content.get("possm_version")),
        )
    decoder = _rebuild(content, weights, path)
    decoder.model.to(device)
    return decoder


def _rebuild(content: Mapping[str, Any], weights: dict[str, Tensor], path: Path) -> Decoder:
    vocabulary = from_json(Vocabulary, content["vocabulary"])
    scaling = {name: from_json(Scaling, value) for name, value in content["scaling"].items()}
    try:
        config = from_json(PossmConfig, content["config"])
    except PossmError as error:
        raise CheckpointError("its configuration cannot be used", about=path, got=error) from error
    model = Possm(config, num_units=len(vocabulary.units), num_sessions=len(vocabulary.sessions))
    _fill(model, weights, path)
    return Decoder(model.eval(), vocabulary, scaling, content["provenance"])


def _fill(model: Possm, weights: dict[str, Tensor], path: Path) -> None:
    """Strict: every difference between file and architecture is named."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != got:
        differing = sorted(set(wanted.items()) ^ set(got.items()))
        lines = "; ".join(
            f"{name}: file {got.get(name)}, decoder {wanted.get(name)}" for name, _ in differing
        )
        raise CheckpointError("the weights do not fit the architecture", about=path, got=lines)
    dtype = next(iter(weights.values())).dtype
    model.to(dtype).load_state_dict(weights)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError("there is no such file", about=path, fix="check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError("the file is damaged or not a decoder", about=path, got=error) from error
    if "possm" not in metadata:
        raise CheckpointError("the file holds weights, but not of a possm decoder", about=path)
    return metadata, weights


def _weights(model: Possm) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _description(decoder: Decoder) -> str:
    from possm import __version__

    content = {
        "format": FORMAT,
        "possm_version": __version__,
        "config": to_json(decoder.config),
        "vocabulary": to_json(decoder.vocabulary),
        "scaling": {name: to_json(scaling) for name, scaling in decoder.scaling.items()},
        "provenance": decoder.provenance,
    }
    return json.dumps(content)


def _digest(weights: Mapping[str, Tensor], description: str) -> str:
    sha = hashlib.sha256(description.encode())
    for name in sorted(weights):
        tensor = weights[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
