"""A decoder in a graph of ezmsg: a unit that plays counts, the decoder, a unit that prints.

python examples/link_ezmsg.py decoder.safetensors
"""

import asyncio
import sys

import ezmsg.core as ez
import numpy as np
from ezmsg.util.messages.axisarray import AxisArray

from possm.streaming.links.ezmsg import Decode, DecodeSettings

UNITS, RATE_HZ, BIN_S = 40, 20.0, 0.05


class Rig(ez.Unit):
    """Counts of random spikes, one bin at a time."""

    OUTPUT = ez.OutputStream(AxisArray)

    @ez.publisher(OUTPUT)
    async def play(self):
        """Ten seconds."""
        rng = np.random.default_rng(0)
        for number in range(200):
            await asyncio.sleep(BIN_S)
            time = AxisArray.LinearAxis(unit="s", gain=BIN_S, offset=number * BIN_S)
            counts = rng.poisson(RATE_HZ * BIN_S, (1, UNITS))
            yield self.OUTPUT, AxisArray(counts, dims=["time", "ch"], axes={"time": time})
        raise ez.NormalTermination


class Print(ez.Unit):
    """Says what was decoded."""

    INPUT = ez.InputStream(AxisArray)

    @ez.subscriber(INPUT)
    async def show(self, message):
        """One prediction."""
        print(
            f"chunk {message.attrs['chunk']:4d}  {message.key}",
            *(f"{value:8.3f}" for value in message.data[-1]),
        )


if __name__ == "__main__":
    rig, decode, show = Rig(), Decode(DecodeSettings(decoder=sys.argv[1])), Print()
    connections = ((rig.OUTPUT, decode.INPUT_SPIKES), (decode.OUTPUT_PREDICTION, show.INPUT))
    ez.run(RIG=rig, DECODE=decode, SHOW=show, connections=connections, force_single_process=True)
