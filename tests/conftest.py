"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with mvtec_ad/screw and magnetic_tile: $PADIM_DATA, or shared/data beside the clone."""
    folder = Path(os.environ.get("PADIM_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "mvtec_ad" / "screw").is_dir() or not (folder / "magnetic_tile").is_dir():
        pytest.skip(f"needs mvtec_ad/screw and magnetic_tile in {folder}; set PADIM_DATA")
    return folder
