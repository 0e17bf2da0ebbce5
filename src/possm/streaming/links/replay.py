"""``replay:recording.h5``: a recording, as though it were recorded now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from possm.data.formats import load_recording
from possm.data.recording import Intervals, Recording
from possm.data.windows import snap_to_bins
from possm.streaming.links.base import Message, options
from possm.streaming.links.packets import PacketConfig, play


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(PacketConfig):
    """What is played, and how."""

    split: str | None = None
    """``train``, ``valid`` or ``test``; None plays the whole domain."""


class ReplaySource:
    """Plays a recording. Every interval is a stretch of its own: at a cut the stream begins anew, and the
    time between two intervals is not waited for. Each begins on an edge of a bin, as in batch decoding.

    Args:
        recording: What to play; it is read as it is played if it is lazy.
        config: Which part, in what packets, how fast.

    Raises:
        RecordingError: There is no such split.
    """

    def __init__(self, recording: Recording, config: ReplayConfig | None = None) -> None:
        self.config = config or ReplayConfig()
        self.recording = recording
        self.session_id: str | None = recording.session_id
        self.unit_ids: tuple[str, ...] | None = recording.unit_ids
        split = self.config.split
        part = recording.domain if split is None else recording.split(split)
        self._stretches = part | Intervals.of([])  # overlapping ones merge, touching ones stay apart

    @classmethod
    def open(cls, address: str, texts: Mapping[str, str]) -> ReplaySource:
        """The file at a path, with options ``speed``, ``packet_ms`` and ``split``."""
        config = options(ReplayConfig, texts)
        recording = load_recording(address)
        try:
            return cls(recording, config)
        except BaseException:
            recording.close()
            raise

    def __iter__(self) -> Iterator[Message]:
        stretches = [(snap_to_bins(self.recording, start), end) for start, end in self._stretches]
        return play([pair for pair in stretches if pair[0] < pair[1]], self.recording.tokens, self.config)

    def close(self) -> None:
        """Close the recording's file."""
        self.recording.close()
