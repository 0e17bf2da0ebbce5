"""What many tests need: where the real recordings are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("possm", deadline=None)  # a busy machine is no error
settings.load_profile("possm")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of the real recordings (POSSM_RECORDINGS); they may not be redistributed, so may be absent."""
    folder = Path(os.environ.get("POSSM_RECORDINGS", REPOSITORY.parent / "shared" / "recordings"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real recordings at {folder}; set POSSM_RECORDINGS to a folder that has them")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread, for files whose trainings are too small to divide."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
