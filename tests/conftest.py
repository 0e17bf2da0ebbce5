"""What many tests need: where the real recordings are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
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
