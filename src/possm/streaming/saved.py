"""All that a live decoder remembers, in one .safetensors file: arrays and JSON, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from possm.batch import State
from possm.data.files import atomic_path
from possm.errors import StreamError
from possm.streaming.clock import StreamClock
from possm.streaming.inbox import Arrivals, StreamCounts

FORMAT = 1
"""Version of the file layout; a reader refuses what it does not know."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Saved:
    """A stream between two chunks."""

    decoder_hash: str
    """The decoder whose hidden state this is; it means nothing to another one."""
    config: dict[str, Any]
    """JSON of the live decoder's configuration."""
    session: str
    behaviors: tuple[str, ...]
    unit_ids: tuple[str, ...]
    output_rate_hz: float | None
    output_times_s: dict[str, np.ndarray] | None
    """Where the stream answers at given times."""
    clock: StreamClock
    counts: StreamCounts
    state: State
    waiting: Arrivals
    values: dict[str, np.ndarray] = field(default_factory=dict)
    """Of a decoder that reads values: running means, and bins that wait."""


def write_saved(saved: Saved, path: str | os.PathLike[str]) -> Path:
    """Write a stream; a file that is already there stays whole until the new one is complete.

    Raises:
        StreamError: The disk refuses.
    """
    path = Path(path)
    arrays, text = _arrays(saved), json.dumps(_json(saved))
    content = save(arrays, {"possm_stream": text, "sha256": _digest(arrays, text)})
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise StreamError(
            "cannot save the stream", about=path, got=error, fix="free the disk or choose another folder"
        ) from error
    return path


def read_saved(path: str | os.PathLike[str]) -> Saved:
    """Read what `write_saved` wrote.

    Raises:
        StreamError: The file is missing, damaged, foreign, or of another version.
    """
    path = Path(path)
    metadata, arrays = _read(path)
    text = metadata.get("possm_stream")
    if text is None:
        raise StreamError("the file is not a saved stream", about=path)
    if _digest(arrays, text) != metadata.get("sha256"):
        raise StreamError("the file is damaged: its checksum is wrong", about=path)
    content = json.loads(text)
    if content.pop("format") != FORMAT:
        raise StreamError("the saved stream is of another version", about=path, wanted=f"format {FORMAT}")
    backbone = tuple(arrays[f"backbone.{i}"] for i in range(content.pop("num_backbone")))
    asked = content.pop("output_behaviors")
    return Saved(
        state=State(backbone, arrays["recent"], arrays["seen"]),
        waiting=Arrivals(*(arrays[f"waiting.{f.name}"] for f in fields(Arrivals))),
        output_times_s=None if asked is None else {name: arrays[f"output.{name}"] for name in asked},
        values={n.removeprefix("values."): a for n, a in arrays.items() if n.startswith("values.")},
        clock=StreamClock(**content.pop("clock")),
        counts=StreamCounts(**content.pop("counts")),
        behaviors=tuple(content.pop("behaviors")),
        unit_ids=tuple(content.pop("unit_ids")),
        **content,
    )


def _json(saved: Saved) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "decoder_hash": saved.decoder_hash,
        "config": saved.config,
        "session": saved.session,
        "behaviors": saved.behaviors,
        "unit_ids": saved.unit_ids,
        "output_rate_hz": saved.output_rate_hz,
        "output_behaviors": None if saved.output_times_s is None else list(saved.output_times_s),
        "clock": asdict(saved.clock),
        "counts": asdict(saved.counts),
        "num_backbone": len(saved.state.backbone),
    }


def _arrays(saved: Saved) -> dict[str, np.ndarray]:
    arrays = {f"backbone.{i}": array for i, array in enumerate(saved.state.backbone)}
    arrays |= {"recent": saved.state.recent, "seen": saved.state.seen}
    arrays |= {f"waiting.{f.name}": getattr(saved.waiting, f.name) for f in fields(Arrivals)}
    arrays |= {f"output.{name}": array for name, array in (saved.output_times_s or {}).items()}
    arrays |= {f"values.{name}": array for name, array in saved.values.items()}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    if not path.is_file():
        raise StreamError("there is no such file", about=path, fix="check the path")
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            return file.metadata() or {}, {name: np.array(file.get_tensor(name)) for name in names}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise StreamError("the file is damaged or not a saved stream", about=path, got=error) from error


def _digest(arrays: dict[str, np.ndarray], text: str) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name} {array.dtype} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
