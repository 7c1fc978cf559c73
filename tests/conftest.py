"""Fixtures that several test files share."""

import atexit
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before anything imports torch: processes that each use all cores wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _helpers.browser import CHROMIUM, Browser
from _helpers.cli import Zygote
from _helpers.server import server  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[1]


def pytest_configure() -> None:
    # What is imported stays: looking for cycles in it takes seconds, see padim_lit/system/start.py.
    gc.disable()
    atexit.register(gc.freeze)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    until = float(os.environ.get("PADIM_LONG_TESTS_UNTIL", "inf"))  # seconds, as `time.time` counts
    if item.get_closest_marker("slow") and time.time() > until:
        pytest.skip("a long test, and the time for these is over")


@pytest.fixture(autouse=True)
def drawn_from_one_seed() -> None:
    """What a test draws is the same each time: one that fails today also failed yesterday."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of mvtec_ad/screw and magnetic_tile: $PADIM_DATA, or shared/data beside the clone."""
    folder = Path(os.environ.get("PADIM_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "mvtec_ad" / "screw").is_dir() or not (folder / "magnetic_tile").is_dir():
        pytest.skip(f"needs mvtec_ad/screw and magnetic_tile in {folder}; set PADIM_DATA")
    return folder


@pytest.fixture(scope="session")
def resnet50v2_weights() -> Path:
    """ImageNet weights of ResNet50-v2: weights/ of the folder that `real_data` is."""
    folder = Path(os.environ.get("PADIM_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "weights" / "resnet50v2_stages123.safetensors"
    if not path.is_file():
        pytest.skip(f"needs {path}; set PADIM_DATA to the folder that weights/ lies in")
    return path


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs command lines of run.py without importing everything each time."""
    running = Zygote(tmp_path_factory.mktemp("zygote"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs chromium on PATH (Debian: apt-get install chromium)")
    running = Browser(tmp_path_factory.mktemp("browser"))
    yield running
    running.close()


@pytest.fixture
def opened(browser):
    """Opens addresses, and closes what it opened."""
    pages = []

    def open(url, **media):
        pages.append(browser.open(url, **media))
        return pages[-1]

    yield open
    for one in pages:
        one.close()
