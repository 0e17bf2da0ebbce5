"""A file with its own SHA-256 at the end, so that one that was damaged or cut short is refused.

The seal is itself a piece of an ONNX file (one more entry of metadata, which may stand anywhere), so the
sealed file stays a plain ONNX file; checking it needs neither onnx nor the whole graph parsed.
"""

from __future__ import annotations

import hashlib

from possm.errors import CheckpointError

KEY = b"possm.sha256"
PRODUCER = b"possm"
_ENTRY = b"\x0a" + bytes([len(KEY)]) + KEY + b"\x12\x40"  # key, and a value of 64 characters to come
MARK = b"\x72" + bytes([len(_ENTRY) + 64]) + _ENTRY  # field 14 of a model: metadata
LENGTH = len(MARK) + 64


def seal(content: bytes) -> bytes:
    """The bytes of an ONNX model -> the bytes of the file."""
    return content + MARK + hashlib.sha256(content).hexdigest().encode()


def check_seal(content: bytes, about: object) -> None:
    """Refuse a file that is not to the bit what `seal` made.

    Raises:
        CheckpointError: It is of another program, damaged, or cut short.
    """
    body, end = content[:-LENGTH], content[-LENGTH:]
    if end.startswith(MARK) and hashlib.sha256(body).hexdigest().encode() == end[len(MARK) :]:
        return
    if PRODUCER not in content[:64]:
        raise CheckpointError(
            "the file is no decoder that possm exported",
            about=about,
            fix="make one with `possm export decoder.safetensors --out decoder.onnx`",
        )
    raise CheckpointError(
        "the file is damaged or cut short: its checksum is wrong", about=about, fix="export or copy it again"
    )
