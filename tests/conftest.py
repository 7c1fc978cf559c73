"""Fixtures that several test files share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before anything imports torch: processes that each use all cores wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from cli import Zygote

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of mvtec_ad/screw and magnetic_tile: $PADIM_DATA, or shared/data beside the clone."""
    folder = Path(os.environ.get("PADIM_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "mvtec_ad" / "screw").is_dir() or not (folder / "magnetic_tile").is_dir():
        pytest.skip(f"needs mvtec_ad/screw and magnetic_tile in {folder}; set PADIM_DATA")
    return folder


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs command lines of run.py without importing everything each time."""
    running = Zygote(tmp_path_factory.mktemp("zygote"))
    yield running
    running.close()
