"""Real-time neural decoding: a recording of spikes in, a live decoder out."""

__version__ = "0.1.0"
