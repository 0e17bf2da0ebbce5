"""One module per transport: sources and sinks."""
