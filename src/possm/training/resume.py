"""What an interrupted run needs to go on: tensors and JSON in one .safetensors file, no pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from possm.checkpoint import FORMAT, read_sealed, write_sealed
from possm.errors import CheckpointError, ConfigError

FILE = "resume.safetensors"


@dataclass(frozen=True)
class SavedRun:
    """A run as it was at its last validation."""

    tensors: dict[str, Tensor]
    progress: dict[str, Any]
    """Counters and metrics, plain JSON."""

    def restore(
        self, *, model: nn.Module, average: nn.Module, best: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Put weights, optimizer moments and the random state of dropout back.

        Raises:
            CheckpointError: There are moments of parameters that are not trained now.
        """
        for name, module in (("model", model), ("average", average), ("best", best)):
            module.load_state_dict(_part(self.tensors, name))
        _restore_optimizer(optimizer, _names(model, optimizer), _part(self.tensors, "optimizer"))
        torch.set_rng_state(self.tensors["random.cpu"])
        if "random.cuda" in self.tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.tensors["random.cuda"])


def save_run(
    folder: Path,
    settings: dict[str, Any],
    progress: dict[str, Any],
    *,
    model: nn.Module,
    average: nn.Module,
    best: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the run; the previous one stays whole until this one is complete.

    Raises:
        CheckpointError: The disk refuses.
    """
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for name, module in (("model", model), ("average", average), ("best", best)):
        tensors |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
    names = _names(model, optimizer)
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{key}": torch.as_tensor(v) for key, v in moments.items()}
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    description = {"format": FORMAT, "settings": settings, "progress": progress}
    write_sealed(folder / FILE, content, json.dumps(description))


def load_run(folder: Path, settings: dict[str, Any]) -> SavedRun | None:
    """The interrupted run of a folder, or None.

    Raises:
        ConfigError: It was started with other settings.
        CheckpointError: It cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        content, tensors = read_sealed(path)
        theirs, progress = content["settings"], content["progress"]
    except (CheckpointError, LookupError) as error:
        raise CheckpointError(
            "the interrupted run cannot be read", about=path, got=error, fix="delete it to start again"
        ) from error
    ours = json.loads(json.dumps(settings))
    if theirs != ours:
        raise ConfigError(
            "the folder holds a run with other settings",
            about=folder,
            got=_differences(theirs, ours),
            fix="use the same settings to go on with it, or another --out folder",
        )
    return SavedRun(tensors, progress)


def _differences(theirs: dict[str, Any], ours: dict[str, Any], prefix: str = "") -> str:
    lines = []
    for key in sorted(theirs.keys() | ours.keys()):
        left, right = theirs.get(key), ours.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            if left != right:
                lines.append(_differences(left, right, f"{prefix}{key}."))
        elif left != right:
            lines.append(f"{prefix}{key} was {left}, now {right}")
    return "; ".join(lines)


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Of the parameters, in the order of the optimizer, which depends on how they are grouped."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], moments: dict[str, Tensor]
) -> None:
    state = optimizer.state_dict()
    state["state"] = {}
    places = {name: index for index, name in enumerate(names)}
    for key, value in moments.items():
        name, moment = key.rsplit(".", 1)
        if name not in places:
            raise CheckpointError(
                "the interrupted run is of another version of possm",
                got=f"moments of {name}",
                fix=f"delete {FILE} in its folder to start again",
            )
        state["state"].setdefault(places[name], {})[moment] = value
    optimizer.load_state_dict(state)
