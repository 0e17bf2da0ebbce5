"""What a person at the command line may say about a stream, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from possm.streaming.host import HostConfig
from possm.streaming.live import LiveConfig
from possm.streaming.run import RunConfig
from possm.streaming.stale import StaleConfig

LONGEST_GAP_S = 10.0
"""When a rig is back after a longer pause, a stream that may follow does: to decode all the empty chunks in
between would take longer than the next answer can wait."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """A few settings of `LiveConfig`, `StaleConfig` and `HostConfig`; `docs/faults.md` explains them all."""

    wait_ms: float = 0.0
    """Wait this long for late spikes, on the clock of the input; answers come later by as much."""
    on_jump: Literal["follow", "hold", "restart", "refuse"] = "follow"
    """When the clock of the input jumps: go on at the new time, drop what comes until the clock is back,
    begin anew, or end with an error."""
    stale: Literal["hold", "decay", "zero"] | None = None
    """While no input comes, repeat the last answer, let it decay to 0, or answer 0, marked as such; left out,
    nothing is written meanwhile."""
    stale_ms: float = 200.0
    """How long without input is too long."""
    realtime: bool = False
    """Ask the system for real-time priority and locked memory; needs rights."""
    core: int | None = None
    """Stay on this core."""
    keep_warm: bool = True
    """Rehearse the step while nothing comes, so that the next answer is not late; takes up to a tenth of a
    core."""

    def __post_init__(self) -> None:
        self.live(), self.run()  # which check what is said here

    def live(self) -> LiveConfig:
        """How input is treated."""
        if self.on_jump == "refuse":
            return LiveConfig(wait_ms=self.wait_ms)
        return LiveConfig(wait_ms=self.wait_ms, on_jump=self.on_jump, max_gap_s=LONGEST_GAP_S)

    def run(self) -> RunConfig:
        """How the stream is run."""
        stale = StaleConfig(action=self.stale or "hold", after_ms=self.stale_ms)
        host = HostConfig(realtime=self.realtime, core=self.core, keep_warm=self.keep_warm)
        return RunConfig(stale=stale if self.stale else None, host=host)
