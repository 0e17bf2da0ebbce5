"""A clock that jumps: what counts as a jump, and how a stream goes on after one.

The clocks of rigs do jump: a stream of the Lab Streaming Layer is synchronised anew, a system clock is set.
Steps of 200,000 s either way have been seen.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Literal

from possm.data.chunks import EDGE_TOLERANCE_S
from possm.streaming.clock import StreamClock
from possm.streaming.inbox import Inbox

log = logging.getLogger(__name__)

OnJump = Literal["refuse", "hold", "follow", "restart"]
ON_JUMP = ("refuse", "hold", "follow", "restart")
"""What `LiveConfig.on_jump` may say."""
Verdict = Literal["next", "behind", "jump"]


def judge(clock: StreamClock, until_s: float, *, max_gap_s: float, max_back_s: float) -> Verdict:
    """What the end of a push says: it is the next one, one that others have overtaken, or from a clock that
    has jumped (or has no time at all)."""
    before_s = clock.origin_s if clock.until_s is None else clock.until_s
    ahead_s = until_s - before_s
    if not ahead_s <= max_gap_s:  # NaN is not
        return "jump"
    if clock.until_s is None or ahead_s >= -EDGE_TOLERANCE_S:
        return "next"
    return "behind" if ahead_s >= -max_back_s else "jump"


def follow(clock: StreamClock, inbox: Inbox, until_s: float) -> None:
    """Move a stream to the new time of its clock: the chunk that is being filled, and the spikes that wait
    in it, move along, and chunk numbers go on.

    A push is taken to span as much time as the ordinary one before it did, so that nothing is lost or counted
    twice if the clock alone has jumped.
    """
    first = clock.until_s is None
    before_s = clock.origin_s + clock.chunk_ms / 1000 if clock.until_s is None else clock.until_s
    shift_s = until_s - before_s - clock.stride_s
    # Two steps of a float earlier: were the edges rounded to just after the ends of the pushes, every chunk
    # from now on would wait for one push more.
    clock.origin_s += shift_s - 2 * math.ulp(until_s)
    clock.until_s = None if first else before_s + shift_s
    inbox.shift(shift_s)
    if not first:
        _say(inbox, f"by {shift_s:+.3f} s; the stream follows and keeps its hidden state")


def settle(
    clock: StreamClock,
    inbox: Inbox,
    until_s: float,
    *,
    on_jump: OnJump,
    max_gap_s: float,
    max_back_s: float,
    restart: Callable[[float], None],
) -> bool:
    """Decide about the end of a push, count what is wrong with it, and go along with a jump if so configured.

    Args:
        clock: Of the stream; changed where it follows.
        inbox: Its counters and waiting spikes.
        until_s: The end of the push.
        on_jump: What to do, but for "refuse".
        max_gap_s: See `LiveConfig`.
        max_back_s: See `LiveConfig`.
        restart: Begins the stream anew at a time.

    Returns:
        Whether the push is to be taken; False for one from a clock that is away.
    """
    verdict = judge(clock, until_s, max_gap_s=max_gap_s, max_back_s=max_back_s)
    if verdict == "jump":
        return _jump(clock, inbox, until_s, on_jump=on_jump, restart=restart)
    if clock.away:
        log.info("the clock is back at %.3f s; the stream goes on", until_s)
        clock.away = False
    inbox.counts.behind += verdict == "behind"
    return True


def _jump(
    clock: StreamClock, inbox: Inbox, until_s: float, *, on_jump: OnJump, restart: Callable[[float], None]
) -> bool:
    # A stream that has not begun has no clock to jump: it begins where its first push is.
    inbox.counts.jumps += clock.until_s is not None and not clock.away
    if on_jump == "hold" or not math.isfinite(until_s):
        if not clock.away:
            _say(inbox, f"to {until_s:.3f} s; what comes is dropped until it is back")
        clock.away = True
        return False
    clock.away = False
    if on_jump == "follow":
        follow(clock, inbox, until_s)
    else:
        _say(inbox, f"to {until_s:.3f} s; the stream begins anew there")
        restart(until_s - (clock.stride_s or clock.chunk_ms / 1000))
    return True


def _say(inbox: Inbox, what: str) -> None:
    number = inbox.counts.jumps
    if number & (number - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
        log.warning("the clock jumped %s (jump %d)", what, number)
