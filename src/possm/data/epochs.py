"""The batches of every epoch of a run, each made from nothing but the seed, the epoch and its number.

So it does not matter who makes one: this process or another, in this order or that, now or after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from possm.batch import Batch, Targets
from possm.config import require
from possm.data.chunks import Sample, collate
from possm.data.loader import SampleMaker
from possm.data.windows import Window, count_windows, random_windows
from possm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Random, augmented windows of the train split, in batches."""

    maker: SampleMaker
    window_s: float
    """Length of a window; rounded to whole chunks, and no longer than the longest interval."""
    batch_size: int
    """Windows in a batch; the last batch of an epoch may have fewer."""
    seed: int = 0
    balance: str = "time"
    """How an epoch is shared out, a name in BALANCES (`possm.data.windows`)."""
    part: tuple[int, int] = (0, 1)
    """(k, n): of every batch make the k-th of n parts only, where n processes train together."""

    def __post_init__(self) -> None:
        rank, parts = self.part
        require(0 <= rank < parts, "part", self.part, "(k, n) with 0 <= k < n")
        if not self.num_windows:
            raise ConfigError("the train split holds no window", fix="check the splits with `possm inspect`")

    @cached_property
    def num_chunks(self) -> int:
        """Chunks in a window."""
        lengths = [end - start for r in self.maker.recordings for start, end in r.split("train")]
        fitting = math.ceil(max(lengths, default=0.0) * 1000 / self.maker.chunk_ms - 1e-6)
        return max(1, min(round(self.window_s * 1000 / self.maker.chunk_ms), fitting))

    @cached_property
    def num_windows(self) -> int:
        """Windows in an epoch, the same in all."""
        return count_windows(self.maker.recordings, "train", self._length_s)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, the same in all."""
        return math.ceil(self.num_windows / self.batch_size)

    def batch(self, epoch: int, number: int) -> Batch:
        """One batch of one epoch, as numpy."""
        windows, (rank, parts) = self._epoch(epoch), self.part
        places = range(number * self.batch_size, min((number + 1) * self.batch_size, len(windows)))
        mine = places[rank::parts] or places[:1]  # every process takes part in every step
        batch = collate([self._sample(windows[place], epoch, place) for place in mine])
        return batch if len(places[rank::parts]) else _silent(batch)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All batches of an epoch."""
        return (self.batch(epoch, number) for number in range(self.num_batches))

    @property
    def _length_s(self) -> float:
        return self.num_chunks * self.maker.chunk_ms / 1000

    def _sample(self, window: Window, epoch: int, place: int) -> Sample:
        rng = np.random.default_rng([self.seed, epoch, 1 + place])  # a 0 at the end would count for nothing
        return self.maker.sample(window, num_chunks=self.num_chunks, rng=rng)

    def _epoch(self, epoch: int) -> list[Window]:
        if epoch not in self._windows:
            self._windows.clear()
            rng = np.random.default_rng([self.seed, epoch])
            self._windows[epoch] = random_windows(
                self.maker.recordings, "train", self._length_s, rng, balance=self.balance
            )
        return self._windows[epoch]

    @cached_property
    def _windows(self) -> dict[int, list[Window]]:
        """Those of the epoch that was asked for last."""
        return {}


def _silent(batch: Batch) -> Batch:
    """The batch with no weight in the loss."""
    targets = {
        name: replace(targets, weights=np.zeros_like(targets.weights))
        for name, targets in batch.targets.items()
        if isinstance(targets, Targets)
    }
    return replace(batch, targets=targets)
