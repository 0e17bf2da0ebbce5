"""Tensors only: no files, no optimizer."""
