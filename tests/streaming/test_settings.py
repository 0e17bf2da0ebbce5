import dataclasses

import pytest
import tyro

from possm.errors import ConfigError
from possm.streaming.settings import StreamSettings


def read(*words):
    return tyro.cli(StreamSettings, args=list(words))


def test_by_default_a_stream_waits_for_nothing_and_follows_its_clock():
    live, run = read().live(), read().run()
    assert (live.wait_ms, live.on_jump, live.max_gap_s) == (0.0, "follow", 10.0)
    assert run.stale is None and not run.host.realtime and run.host.core is None


def test_what_is_said_arrives():
    words = "--wait-ms 30 --on-jump hold --stale decay --stale-ms 120 --realtime --core 1 --no-keep-warm"
    live, run = read(*words.split()).live(), read(*words.split()).run()
    assert (live.wait_ms, live.on_jump) == (30.0, "hold")
    assert (run.stale.action, run.stale.after_ms) == ("decay", 120.0)
    assert dataclasses.astuple(run.host) == (True, 1, False)


def test_jumps_can_be_refused():
    assert read("--on-jump", "refuse").live().max_gap_s == 3600.0


@pytest.mark.parametrize("words", [("--wait-ms", "-1"), ("--stale-ms", "0"), ("--core", "-2")])
def test_what_is_out_of_range(words):
    with pytest.raises(ConfigError, match="out of range"):
        read(*words)
