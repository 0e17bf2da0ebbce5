"""The datagrams of the UDP link: a fixed little-endian layout, both ways.

A datagram is a head, then its body (all little-endian, no padding; float64 times in seconds)::

    head    4s  "PSSM"    u8  version 1    u8  kind (1 spikes, 2 prediction)    u16 flags    u32 sender
            u64 number
    spikes  f64 start_s   f64 until_s      u32 n
            f64[n] times_s    i32[n] units     and with flag 1  f32[n] counts
            flags: 1 counts, 2 the stream begins anew, 4 the stream ends
    prediction
            f64 start_s   f64 end_s   u64 chunk   u32 spikes   u64 late   u64 unknown   f64 compute_s
            u64 dropped   u64 jumps   u16 status (0 ok, 1 held, 2 decayed, 3 zeroed)
            f64 input_delay_s   32s decoder hash (SHA-256)   u16 Q   u16 D   u16 length of the name
            behavior's name (UTF-8)   f64[Q] times_s   f32[Q, D] values

`number` counts the datagrams of one `sender` (any number, another at every start) up by 1: gaps are counted
as lost, repeats as duplicates. `start_s` and `until_s` are NaN where they are not known. More spikes than fit
into one datagram go into several that state the mark of the one before, and the last states their own.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import numpy as np

from possm.batch import Prediction
from possm.streaming.links.base import Message
from possm.streaming.links.horizon import Packet

HEAD = struct.Struct("<4sBBHIQ")
SPIKES = struct.Struct("<ddI")
ANSWER = struct.Struct("<ddQIQQdQQHd32sHHH")
STATUS = ("ok", "held", "decayed", "zeroed")
MAGIC, VERSION = b"PSSM", 1
KIND_SPIKES, KIND_PREDICTION = 1, 2
COUNTS, BEGINS, ENDS = 1, 2, 4
LARGEST = 65507
"""Bytes that a datagram over IPv4 can have."""


def pack_spikes(
    message: Message,
    *,
    sender: int,
    number: int,
    before_s: float = math.nan,
    ends: bool = False,
    max_bytes: int = 1400,
) -> Iterator[bytes]:
    """The datagrams of one message, numbered from `number`.

    Args:
        message: Units are numbers. Its `start_s` says that the stream begins anew.
        sender: Who sends.
        number: Of the first datagram.
        before_s: The mark of the message before.
        ends: The stream ends with this.
        max_bytes: Largest datagram.
    """
    each = 12 + 4 * (message.counts is not None)
    room = max(1, (max_bytes - HEAD.size - SPIKES.size) // each)
    total = len(message.spike_times_s)
    parts = max(1, math.ceil(total / room))
    begin_s = before_s if message.start_s is None else message.start_s
    for part in range(parts):
        rows, last = slice(part * room, (part + 1) * room), part == parts - 1
        flags = COUNTS * (message.counts is not None)
        flags |= BEGINS * (message.start_s is not None and part == 0) | ENDS * (ends and last)
        until_s = message.until_s if last else begin_s
        arrays = [np.asarray(message.spike_times_s[rows], "<f8"), np.asarray(message.units[rows], "<i4")]
        if message.counts is not None:
            arrays.append(np.asarray(message.counts[rows], "<f4"))
        head = HEAD.pack(MAGIC, VERSION, KIND_SPIKES, flags, sender, number + part)
        facts = SPIKES.pack(begin_s, until_s, len(arrays[0]))
        yield b"".join([head, facts, *(array.tobytes() for array in arrays)])


def unpack_spikes(data: bytes, *, received_s: float = math.nan) -> Packet:
    """The packet in a datagram.

    Raises:
        ValueError: It is no such datagram, or not whole.
    """
    flags, sender, number = _head(data, KIND_SPIKES)
    at = HEAD.size + SPIKES.size
    if len(data) < at:
        raise ValueError(f"a datagram of spikes of {len(data)} bytes, fewer than {at}")
    start_s, until_s, n = SPIKES.unpack_from(data, HEAD.size)
    wanted = at + n * (12 + 4 * bool(flags & COUNTS))
    if len(data) != wanted:
        raise ValueError(f"a datagram of {n} spikes of {len(data)} bytes, not {wanted}")
    counts = np.frombuffer(data, "<f4", n, at + 12 * n) if flags & COUNTS else None
    return Packet(
        times_s=np.frombuffer(data, "<f8", n, at),
        units=np.frombuffer(data, "<i4", n, at + 8 * n),
        counts=counts,
        start_s=start_s,
        until_s=until_s,
        sender=sender,
        number=number,
        begins=bool(flags & BEGINS),
        ends=bool(flags & ENDS),
        received_s=received_s,
    )


def pack_prediction(prediction: Prediction, *, sender: int, number: int) -> bytes:
    """The datagram of one prediction."""
    name, values = prediction.behavior.encode(), np.asarray(prediction.values, "<f4")
    facts = ANSWER.pack(
        prediction.start_s,
        prediction.end_s,
        prediction.chunk,
        prediction.spikes,
        prediction.late,
        prediction.unknown,
        prediction.compute_s,
        prediction.dropped,
        prediction.jumps,
        STATUS.index(prediction.status),
        prediction.input_delay_s,
        _digest(prediction.decoder_hash),
        *values.shape,
        len(name),
    )
    head = HEAD.pack(MAGIC, VERSION, KIND_PREDICTION, 0, sender, number)
    return b"".join([head, facts, name, np.asarray(prediction.times_s, "<f8").tobytes(), values.tobytes()])


def unpack_prediction(data: bytes) -> tuple[int, Prediction]:
    """The number and the prediction in a datagram.

    Raises:
        ValueError: It is no such datagram, or not whole.
    """
    _, _, number = _head(data, KIND_PREDICTION)
    at = HEAD.size + ANSWER.size
    if len(data) < at:
        raise ValueError(f"a prediction of {len(data)} bytes, fewer than {at}")
    facts = ANSWER.unpack_from(data, HEAD.size)
    *_, status, delay_s, digest, rows, width, length = facts
    if status >= len(STATUS) or len(data) != at + length + 8 * rows + 4 * rows * width:
        raise ValueError(f"a prediction of {len(data)} bytes, which is not what it says")
    times_s = np.frombuffer(data, "<f8", rows, at + length)
    values = np.frombuffer(data, "<f4", rows * width, at + length + 8 * rows).reshape(rows, width)
    start_s, end_s, chunk, spikes, late, unknown, compute_s, dropped, jumps = facts[:9]
    return number, Prediction(
        behavior=data[at : at + length].decode(),
        times_s=times_s,
        values=values,
        chunk=chunk,
        start_s=start_s,
        end_s=end_s,
        spikes=spikes,
        late=late,
        unknown=unknown,
        compute_s=compute_s,
        dropped=dropped,
        jumps=jumps,
        status=STATUS[status],
        input_delay_s=delay_s,
        decoder_hash=digest.hex() if any(digest) else "",
    )


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _head(data: bytes, kind: int) -> tuple[int, int, int]:
    if len(data) < HEAD.size:
        raise ValueError(f"a datagram of {len(data)} bytes, fewer than its head")
    magic, version, got, flags, sender, number = HEAD.unpack_from(data)
    if (magic, version, got) != (MAGIC, VERSION, kind):
        raise ValueError(f"a datagram of magic {magic!r}, version {version}, kind {got}")
    return flags, sender, number
