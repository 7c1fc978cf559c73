"""Files and folders that a user may not read or write: one line that says so, nothing changed."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from _helpers.rights import without_rights
from _helpers.trees import save_image

from padim_lit.analysis.result_files import find
from padim_lit.checkpoint.format import read
from padim_lit.data.files import find_images, list_images
from padim_lit.data.images import read_size
from padim_lit.deploy.folder_watcher import Watcher
from padim_lit.model.weights import load_weights


@pytest.fixture
def folder():
    """Everybody's, unlike pytest's own."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o777)
    yield made
    for top, _, _ in os.walk(made, topdown=True):
        Path(top).chmod(0o777)
    shutil.rmtree(made)


def below(folder: Path, mode: int) -> Path:
    """A folder with a picture in it, of that mode."""
    save_image(folder / "sub" / "a.png")
    (folder / "sub").chmod(mode)
    return folder / "sub"


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o311])
def test_a_watch_of_what_it_may_not_read_ends_at_once(folder, mode):
    sub = below(folder, mode)
    assert f"images={sub}: may not be read" in without_rights(
        lambda: Watcher(sub, 0, set().__contains__).rested()
    )


def test_a_watch_looks_once_below_and_goes_on_with_what_comes_later(folder):
    sub = below(folder, 0o000)
    watcher = Watcher(folder, 0, set().__contains__)
    assert f"{sub} cannot be read (Permission denied)" in without_rights(watcher.rested)
    watcher.rested()
    assert without_rights(watcher.rested) == "[]"


@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_results_that_may_not_be_read_are_not_left_out(folder, mode):
    sub = below(folder, mode)
    said = without_rights(lambda: find([folder], "metrics.json"))
    assert said.startswith(f"error: {sub}") and "Permission denied; check its path" in said


def test_a_picture_names_itself_and_its_rights(folder):
    sub = below(folder, 0o644)
    said = without_rights(lambda: read_size(sub / "a.png"))
    assert said == (
        f"error: {sub / 'a.png'} cannot be read (Permission denied); check its path and rights, "
        "and where it leads if it is a link"
    )


def test_any_other_file_does_so_too(folder):
    sub = below(folder, 0o644)
    said = without_rights(lambda: list_images(sub))
    assert said == f"error: {sub / 'a.png'}: Permission denied; check its path and rights"


def test_a_folder_below_that_may_not_be_read_is_named(folder):
    sub = below(folder, 0o000)
    assert f"{sub} cannot be read" in without_rights(lambda: find_images(str(folder)))


@pytest.mark.parametrize("inside", [True, False])
def test_a_checkpoint_is_not_called_broken(folder, inside):
    file = folder / "sub" / "model.ckpt"
    file.parent.mkdir()
    file.write_bytes(b"PK")
    (file.parent if inside else file).chmod(0o000)
    assert without_rights(lambda: read(file, "learnt_from")) == (
        f"error: learnt_from={file}: cannot be read (Permission denied); check its rights"
    )


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_nor_are_weights(folder, name):
    file = folder / name
    file.write_bytes(b"PK")
    file.chmod(0o000)
    assert without_rights(lambda: load_weights("resnet18", str(file), 0)) == (
        f"error: backbone.weights={file}: cannot be read (Permission denied); check its rights"
    )
