"""A saved decoder: bitwise the same, alone in a new process, and refused in any state but whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import toys
from possm import checkpoint
from possm.checkpoint import Decoder, load_decoder, read_sealed, save_decoder
from possm.data.scaling import Scaling
from possm.errors import CheckpointError
from possm.evaluation.score import decode

RECORDING = toys.recording(seconds=10, units=5)
MINIMAL = {"width": 2, "hidden": 2, "head_width": 2, "num_rotary_pairs": 1, "num_context": 2}
FLIPS = 2000


@pytest.fixture
def decoder() -> Decoder:
    return toys.decoder_for(RECORDING)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Decoder, Path]:
    """A decoder of a few hundred bytes of weights, and its file."""
    torch.manual_seed(0)
    made = toys.decoder_for(RECORDING, **MINIMAL)
    return made, save_decoder(made, tmp_path_factory.mktemp("small") / "small.safetensors")


def same(one: Decoder, other: Decoder) -> bool:
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return (
        one.config == other.config
        and one.vocabulary == other.vocabulary
        and one.scaling == other.scaling
        and one.provenance == other.provenance
        and ours.keys() == theirs.keys()
        and all(a.dtype == theirs[k].dtype and torch.equal(a, theirs[k]) for k, a in ours.items())
    )


def rewritten(path: Path, out: Path, *, tensors=None, **changes: str) -> Path:
    """A copy of a file with other tensors or metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
        tensors = tensors or {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, out, {key: value for key, value in metadata.items() if value is not None})
    return out


def resealed(path: Path, out: Path, **changes) -> Path:
    """A copy whose description says something else, under a checksum that is right."""
    content, tensors = read_sealed(path)
    checkpoint.write_sealed(out, tensors, json.dumps({**content, **changes}))
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_bitwise(decoder, dtype, tmp_path):
    decoder.model.to(dtype)
    path = save_decoder(decoder, tmp_path / "new" / "folder" / "d.safetensors")
    again = load_decoder(path)
    assert same(decoder, again)
    assert again.hash == decoder.hash
    assert not again.model.training
    before, after = (decode(d, RECORDING, RECORDING.domain)["vel"].values for d in (decoder, again))
    np.testing.assert_array_equal(before, after)
    assert before.std() > 0
    assert list(path.parent.iterdir()) == [path]  # no temporary file stays


def test_scalings_of_sessions_are_kept(decoder, tmp_path):
    own = {"toy": {"vel": Scaling((1.0, 2.0), (3.0, 4.0), "mm/s")}}
    again = load_decoder(save_decoder(replace(decoder, session_scaling=own), tmp_path / "d.safetensors"))
    assert again.session_scaling == own
    assert again.scaling_of("toy") == own["toy"]
    assert again.scaling_of("other") == decoder.scaling
    assert again.hash != decoder.hash


def test_a_file_from_before_sessions_had_scalings(small, tmp_path):
    content, tensors = read_sealed(small[1])
    del content["session_scaling"]
    checkpoint.write_sealed(tmp_path / "old.safetensors", tensors, json.dumps(content))
    assert load_decoder(tmp_path / "old.safetensors").session_scaling == {}


def test_the_hash_tells_decoders_apart(decoder):
    changed = replace(decoder, provenance={"made": "otherwise"})
    assert changed.hash != decoder.hash
    other = toys.decoder_for(RECORDING)
    assert other.hash == decoder.hash
    with torch.no_grad():
        other.model.session.weight[0, 0] += 1e-6
    assert replace(other).hash != decoder.hash


def test_alone_in_a_new_process(decoder, tmp_path):
    """No dataset, no training code: only the file."""
    path = save_decoder(decoder, tmp_path / "d.safetensors")
    code = f"""
import sys
from possm.checkpoint import load_decoder
decoder = load_decoder({str(path)!r})
print(decoder.hash, decoder.vocabulary.sessions[0], sum(p.sum().item() for p in decoder.model.parameters()))
rooms = ("possm.training", "possm.evaluation", "possm.data.formats", "h5py")
sys.exit(len([module for module in sys.modules if module.startswith(rooms)]))
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    total = sum(p.sum().item() for p in decoder.model.parameters())
    assert shown.stdout.split() == [decoder.hash, "toy", str(total)]


def test_loads_no_pickle(decoder, tmp_path):
    path = tmp_path / "d.safetensors"
    torch.save(decoder.model.state_dict(), path)
    with pytest.raises(CheckpointError, match="damaged or not a decoder"):
        load_decoder(path)


def test_truncated(small, tmp_path):
    _, path = small
    whole = path.read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in np.linspace(0, len(whole) - 1, 64).astype(int):
        cut.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            load_decoder(cut)


def test_longer_than_it_should_be(small, tmp_path):
    _, path = small
    long = tmp_path / "long.safetensors"
    long.write_bytes(path.read_bytes() + b"\0" * 8)
    with pytest.raises(CheckpointError):
        load_decoder(long)


def test_flipped_bits(small, tmp_path):
    """Every single flipped bit is refused, or changes nothing; never other weights or another error."""
    decoder, path = small
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    bits = np.concatenate(
        [
            np.arange(64),  # the length of the header
            rng.integers(64, header * 8, FLIPS // 2),
            rng.integers(header * 8, len(whole) * 8, FLIPS // 2),
        ]
    )
    flipped, refused = tmp_path / "flipped.safetensors", 0
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        flipped.write_bytes(damaged)
        try:
            assert same(load_decoder(flipped), decoder), f"bit {bit} changed the decoder unnoticed"
        except CheckpointError as error:
            assert str(flipped) in str(error)
            refused += 1
    assert refused > 0.99 * len(bits)


def test_another_version(small, tmp_path):
    """Told before the checksum: another version may compute it in another way."""
    _, path = small
    content, _ = read_sealed(path)
    text = json.dumps({**content, "format": 99, "possm_version": "9.9.0"})
    other = rewritten(path, tmp_path / "v99.safetensors", possm=text, sha256="another way")
    with pytest.raises(CheckpointError, match="another version") as caught:
        load_decoder(other)
    assert caught.value.got == "format 99"
    assert caught.value.wanted == "format 1"
    assert "9.9.0" in str(caught.value.fix)


@pytest.mark.parametrize(
    "change", [{"possm": None}, {"sha256": None}, {"possm": "{}"}, {"possm": "not JSON"}, {"possm": "[1]"}]
)
def test_foreign_metadata(small, tmp_path, change):
    with pytest.raises(CheckpointError):
        load_decoder(rewritten(small[1], tmp_path / "f.safetensors", **change))


def test_a_foreign_safetensors_file(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "f.safetensors")
    with pytest.raises(CheckpointError, match="not of a possm decoder"):
        load_decoder(tmp_path / "f.safetensors")


@pytest.mark.parametrize("name", ["absent.safetensors", "."])
def test_no_such_file(tmp_path, name):
    with pytest.raises(CheckpointError, match="no such file"):
        load_decoder(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vocabulary": None}, "not a decoder"),
        ({"scaling": {"vel": {"mean": [0.0], "std": [0.0]}}}, "not a decoder"),
        ({"config": {"backbone": "quantum", "behaviors": {"vel": {"num_dimensions": 2}}}}, "quantum"),
        ({"config": {"colour": "red"}}, "no setting 'colour'"),
        ({"config": {}}, "nothing to decode"),
    ],
)
def test_a_description_that_makes_no_decoder(small, tmp_path, change, says):
    with pytest.raises(CheckpointError, match=says):
        load_decoder(resealed(small[1], tmp_path / "d.safetensors", **change))


def test_strict_loading_names_what_differs(small, tmp_path):
    """Weights of another size, one too few and one too many, all under a right checksum."""
    content, tensors = read_sealed(small[1])
    tensors["session.weight"] = torch.zeros(3, 2)
    del tensors["encoder.latent"]
    tensors["encoder.extra"] = torch.zeros(1)
    path = tmp_path / "d.safetensors"
    checkpoint.write_sealed(path, tensors, json.dumps(content))
    with pytest.raises(CheckpointError, match="do not fit the architecture") as caught:
        load_decoder(path)
    got = str(caught.value.got)
    assert "session.weight: file (3, 2), decoder (1, 2)" in got
    assert "encoder.latent: file None, decoder (1, 2)" in got
    assert "encoder.extra: file (1,), decoder None" in got
    assert "to_query" not in got


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", [(Path, "write_bytes"), (os, "replace"), (os, "fsync"), (Path, "mkdir")])
def test_a_full_disk_keeps_the_old_file(decoder, tmp_path, monkeypatch, where):
    path = save_decoder(decoder, tmp_path / "d.safetensors")
    before = path.read_bytes()
    monkeypatch.setattr(*where, full_disk)
    with pytest.raises(CheckpointError, match="cannot be saved") as caught:
        save_decoder(replace(decoder, provenance={"new": True}), path)
    assert "No space left" in str(caught.value)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert same(load_decoder(path), decoder)
    assert list(tmp_path.iterdir()) == [path]


def test_interrupted_while_writing_keeps_the_old_file(decoder, tmp_path, monkeypatch):
    path = save_decoder(decoder, tmp_path / "d.safetensors")
    real = Path.write_bytes

    def half(self, data):
        real(self, data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        save_decoder(replace(decoder, provenance={"new": True}), path)
    monkeypatch.undo()
    assert same(load_decoder(path), decoder)
    assert list(tmp_path.iterdir()) == [path]
