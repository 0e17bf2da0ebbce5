"""Honest scores and the report."""
