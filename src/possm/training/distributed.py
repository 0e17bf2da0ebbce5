"""What torchrun needs, and nothing else: which process this is, whose gradients are averaged, who writes.

    torchrun --nproc-per-node 4 -m possm train data/*.h5 --out runs/foundation

The engine is PyTorch's: `torch.distributed` and DistributedDataParallel. Every process makes its own share
of each batch; the losses, and so the weights, are those of one process that makes the whole batch. Only the
first process scores and writes. docs/distributed.md has the commands for several machines.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, distributed, nn

from possm.errors import PossmError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of one run; this one is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that scores and writes."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """Its share of a batch, as `TrainingSet.part`."""
        return self.rank, self.size

    def parallel(self, model: nn.Module, *, all_used: bool) -> nn.Module:
        """The model with gradients averaged over the processes; made anew when what is trained changes.

        Every process holds the whole table of units: 26,032 units of width 256 and their moments take 80 MB,
        so there is no need to shard it.

        Args:
            model: Whose parameters that require a gradient are trained.
            all_used: Whether every batch uses all; in one that lacks a behavior, its readout has none.
        """
        if self.size == 1 or not any(p.requires_grad for p in model.parameters()):
            return model
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=not all_used)

    def shares(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What to multiply each loss of this process by, so that their mean is the loss of the whole batch.

        A loss is a mean over its own part, of weight w; of the whole it is the share n w / sum of w.

        Args:
            weights: Behavior -> scalar w, in the same order in all processes.
        """
        if self.size == 1 or not weights:
            return {}
        own = torch.stack([weight.detach().double() for weight in weights.values()])
        total = own.clone()
        distributed.all_reduce(total)
        return dict(zip(weights, self.size * own / total.clamp(min=torch.finfo(own.dtype).tiny), strict=True))

    def mean(self, value: Tensor) -> float:
        """Of one number in all processes."""
        value = value.detach().double().clone()  # of the same type it would be the loss itself
        if self.size > 1:
            distributed.all_reduce(value)
        return float(value) / self.size

    def agree(self, value: T) -> T:
        """What the first process says."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        distributed.broadcast_object_list(box)
        return box[0]


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that torchrun has started, joined; this one alone where it has not.

    Args:
        device: "cpu", "cuda" or "auto", as of a run.

    Raises:
        PossmError: Another process is gone, or the processes do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Processes()
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    before = signal.signal(signal.SIGTERM, _ended)  # what torchrun sends when another process has died
    try:
        distributed.init_process_group("nccl" if on_cuda else "gloo")
        yield Processes(distributed.get_rank(), size)
    except RuntimeError as error:
        if not _of_a_collective(error):
            raise  # a fault of this process, which says so itself; the others will find it gone
        raise _gone(str(error).splitlines()[0]) from error
    finally:
        signal.signal(signal.SIGTERM, before)
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _of_a_collective(error: RuntimeError) -> bool:
    """Whether it is about another process. What gloo raises has no type of its own, but names its source."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _ended(number: int, frame: object) -> NoReturn:
    del number, frame
    raise _gone("a signal to end (SIGTERM)")


def _gone(got: str) -> PossmError:
    return PossmError(
        "the processes of this run have lost each other: one of them is gone",
        about=f"process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}",
        got=got,
        fix="look for its own message; the same command goes on from the last validation",
    )
