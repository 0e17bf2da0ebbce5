"""The door to everything about the quality of recordings: preparing, checking and describing them."""

from possm.data.checks import check_recording
from possm.data.preparation import PrepareReport, prepare, prepare_release
from possm.data.summary import inspect

__all__ = ["PrepareReport", "check_recording", "inspect", "prepare", "prepare_release"]
