"""The same picture twice is found by content, said with its number, and fitted once."""

import shutil

import numpy as np
import pytest
from _helpers.trees import build_tree
from PIL import Image

from padim_lit.data import Folder
from padim_lit.data.check import same_files
from padim_lit.errors import InputError

SMALL = {"image_size": 32, "crop_size": None, "num_workers": 0}


def counts(data) -> dict[str, int]:
    keys = ("train_repeats", "test_repeats", "test_in_train", "good_and_defective")
    return {key: data.provenance[key] for key in keys if key in data.provenance}


full_checks = pytest.mark.parametrize("full_check", [2000, 0], ids=["decoded", "headers alone"])


@full_checks
def test_without_repeats_nothing_is_said(tmp_path, full_check):
    data = Folder(build_tree(tmp_path), **SMALL, full_check=full_check)
    assert counts(data) == {} and data.notes == []


@pytest.mark.parametrize("broken", [1, 3, 7])
def test_all_bad_files_are_named_at_once(tmp_path, broken):
    root = build_tree(tmp_path, train=9)
    files = sorted((root / "train/good").glob("*.png"))
    for path in files[:broken]:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError) as error:
        Folder(root, **SMALL)
    said = str(error.value)
    assert said.startswith(f"cannot read {files[0]}") and "\n" not in said
    assert ("more cannot be used" in said) == (broken > 1)
    assert broken == 1 or f"; {broken - 1} more cannot be used: {files[1]}, {files[2]}" in said
    assert said.endswith(", …") == (broken == 7)


@full_checks
def test_a_training_set_that_is_there_twice_is_fitted_once(tmp_path, full_check):
    root = build_tree(tmp_path, train=6)
    once = Folder(root, **SMALL, full_check=full_check).train_items
    for path in (root / "train/good").glob("*.png"):
        shutil.copy(path, path.with_name(f"z{path.name}"))
    data = Folder(root, **SMALL, full_check=full_check)
    assert data.train_items == once and data.provenance["train_images"] == 6
    assert counts(data) == {"train_repeats": 6}
    (note,) = data.notes
    assert "same picture as another one: 6, such as" in note and "z000.png" in note


@full_checks
def test_images_in_train_and_test_and_under_two_labels(tmp_path, full_check):
    root = build_tree(tmp_path)
    shutil.copy(root / "train/good/000.png", root / "test/good/x.png")
    shutil.copy(root / "train/good/001.png", root / "test/good/y.png")
    shutil.copy(root / "test/good/001.png", root / "test/crack/002.png")
    data = Folder(root, **SMALL, full_check=full_check)
    assert counts(data) == {"test_repeats": 1, "test_in_train": 2, "good_and_defective": 1}
    assert len(data.train_items) == 4 and len(data.test_items) == 7 and len(data.notes) == 3
    assert any("One of the labels is wrong" in n and "crack/002.png" in n for n in data.notes)


def test_the_same_picture_in_another_format_is_the_same(tmp_path):
    root = build_tree(tmp_path)
    Image.open(root / "train/good/000.png").convert("RGB").save(root / "train/good/x.bmp")
    assert counts(Folder(root, **SMALL)) == {"train_repeats": 1}


def test_links_and_a_cache_change_nothing(tmp_path):
    root = build_tree(tmp_path / "data")
    (root / "train/good/x.png").symlink_to("000.png")
    for _ in range(2):
        data = Folder(root, **SMALL, picture_cache=tmp_path / "cache")
        assert counts(data) == {"train_repeats": 1}


def test_files_of_the_same_bytes(tmp_path):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, 50_000, dtype=np.uint8)
    middle = base.copy()
    middle[25_000] ^= 1  # same size, same ends
    files = [tmp_path / str(n) for n in range(7)]
    for file, content in zip(
        files, (base, middle, base, base[:9], base[:9], base[:0], base[1:]), strict=True
    ):
        file.write_bytes(content.tobytes())
    found = same_files(files)
    assert [found.index(one) for one in found] == [0, 1, 0, 3, 3, 5, 6]
    assert same_files([]) == []
