"""The decoders a user would pick instead."""
