"""The picture cache gives the bits that decoding gives; and the check before the fit."""

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.cli import TINY
from _helpers.outcome import leftovers, require_one_clear_line, truncate
from _helpers.trees import build_tree, save_image, save_mask
from PIL import Image

from padim_lit.data import ELPV, Folder, cache, items
from padim_lit.data.cache import PictureCache
from padim_lit.data.items import Item, MaskState, prepare
from padim_lit.data.transform import ResizeCrop
from padim_lit.errors import InputError

VIEW = ResizeCrop(32, 24)
SMALL = {"image_size": 32, "crop_size": 24, "batch_size": 3, "num_workers": 0}


@pytest.fixture
def tree(tmp_path) -> Path:
    """A tree of two kinds."""
    return build_tree(tmp_path / "tree", test={"good": 2, "crack": 3})


def equal(a, b) -> bool:
    return np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def count_decodes(monkeypatch) -> list:
    seen = []

    def spy(item, view):
        seen.append(item.path)
        return prepare(item, view)

    monkeypatch.setattr(cache, "prepare", spy)
    return seen


def same_batches(a, b) -> bool:
    return all(
        torch.equal(v, y[k]) if torch.is_tensor(v) else v == y[k]
        for x, y in zip(a, b, strict=True)
        for k, v in x.items()
    )


# bits ------------------------------------------------------------------------------------------


def every_kind_of_item(folder: Path) -> list[Item]:
    path = save_image(folder / "a.png", (41, 33), seed=1)
    colour = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(colour).save(folder / "b.jpg")
    crack = save_mask(folder / "m.png", (41, 33))
    masks = {
        MaskState.EMPTY: save_mask(folder / "e.png", (41, 33), box=None),
        MaskState.LOST: save_mask(folder / "l.png", (41, 33), box=(0, 0, 2, 2)),
    }
    return [
        Item(path),
        Item(folder / "b.jpg"),
        Item(path, "crack", masks=(crack,), count_pixel=True),
        *(Item(path, "crack", masks=(m,)) for m in masks.values()),
        Item(path, "planted_spot", plant_seed=3, count_pixel=True),
        Item(path, "planted_crack", plant_seed=3, count_pixel=True),
        Item(path, "planted_crack", plant_seed=4, count_pixel=True),
    ]


@pytest.mark.parametrize(
    "seen", [ResizeCrop(32, 24), ResizeCrop([20, 30], None), ResizeCrop(64, [40, 24])]
)
def test_pictures_are_bitwise_the_same_the_first_and_the_second_time(tmp_path, monkeypatch, seen):
    all_items = every_kind_of_item(tmp_path)
    read = PictureCache(tmp_path / "cache")
    first = [read(item, seen) for item in all_items]
    decoded = count_decodes(monkeypatch)
    second = [PictureCache(tmp_path / "cache")(item, seen) for item in all_items]
    assert decoded == []
    for item, a, b in zip(all_items, first, second, strict=True):
        truth = prepare(item, seen)
        assert equal(a, truth) and equal(b, truth)
        assert b.pixels.dtype == np.uint8 and b.mask.dtype == bool
    assert len(entries(tmp_path / "cache")) == len(all_items)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_bitwise_the_same_with_a_cache(tree, tmp_path, workers):
    plain = Folder(tree, **SMALL)
    for _ in range(2):
        more = {"num_workers": workers, "picture_cache": tmp_path / "cache"}
        cached = Folder(tree, **{**SMALL, **more})
        assert cached.provenance == plain.provenance and cached.notes == plain.notes
        assert cached.test_items == plain.test_items
        for loader in ("train_dataloader", "test_dataloader"):
            assert same_batches(getattr(plain, loader)(), getattr(cached, loader)())


# which entry -----------------------------------------------------------------------------------


def test_copies_of_a_file_share_an_entry_and_need_no_decoding(tmp_path, monkeypatch):
    path = save_image(tmp_path / "a.png")
    read = PictureCache(tmp_path / "cache")
    made = read(Item(path), VIEW)
    (tmp_path / "elsewhere").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "elsewhere" / "b.png"))
    decoded = count_decodes(monkeypatch)
    assert equal(read(Item(copy), VIEW), made)
    assert decoded == [] and len(entries(tmp_path / "cache")) == 1


@pytest.mark.parametrize("change", ["image", "mask"])
@pytest.mark.parametrize("keeps_mtime", [False, True])
def test_a_changed_file_is_decoded_anew(tmp_path, change, keeps_mtime):
    item = Item(save_image(tmp_path / "a.bmp"), "crack", masks=(save_mask(tmp_path / "m.bmp"),))
    read = PictureCache(tmp_path / "cache")
    before = read(item, VIEW)
    time.sleep(0.02)  # more than a tick of the file system
    path = item.path if change == "image" else item.masks[0]
    size, times = path.stat().st_size, path.stat()
    if change == "image":
        save_image(path, seed=9)
    else:
        save_mask(path, box=(10, 10, 30, 30))
    if keeps_mtime:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == size
    after = read(item, VIEW)
    assert equal(after, prepare(item, VIEW)) and not equal(after, before)


def test_a_file_that_changes_while_it_is_decoded_is_not_kept(tmp_path, monkeypatch):
    item = Item(save_image(tmp_path / "a.png"))

    def meanwhile(item, view):
        made = prepare(item, view)
        time.sleep(0.02)
        save_image(item.path, seed=5)
        return made

    monkeypatch.setattr(cache, "prepare", meanwhile)
    PictureCache(tmp_path / "cache")(item, VIEW)
    assert entries(tmp_path / "cache") == []


def test_the_view_the_plant_and_the_code_are_part_of_the_key(tmp_path, monkeypatch):
    path = save_image(tmp_path / "a.png")
    views = [
        ResizeCrop(32, 24),
        ResizeCrop(32, 25),
        ResizeCrop(33, 24),
        ResizeCrop([32, 32], 24),
        ResizeCrop(32, None),
    ]
    read = PictureCache(tmp_path / "cache")
    for count, seen in enumerate(views, start=1):
        assert equal(read(Item(path), seen), prepare(Item(path), seen))
        assert len(entries(tmp_path / "cache")) == count
    monkeypatch.setattr(cache, "_making", lambda: ["other code"])
    read(Item(path), views[0])
    assert len(entries(tmp_path / "cache")) == len(views) + 1


# damage, limits, company -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("state", ["with a mask", "without"])
def test_every_damaged_bit_or_byte_is_noticed_and_made_good(tmp_path, state):
    masks = (save_mask(tmp_path / "m.png"),) if state == "with a mask" else ()
    item = Item(save_image(tmp_path / "a.png"), "crack", masks=masks)
    read = PictureCache(tmp_path / "cache")
    made = read(item, VIEW)
    (entry,) = entries(tmp_path / "cache")
    whole = entry.read_bytes()
    ends = [*range(300), *range(len(whole) - 600, len(whole))]  # names, sizes, dates
    flips = [n for n in ends if n % 3 == 0] + list(range(300, len(whole) - 600, 97))
    damages = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in flips]
    damages += [b"", whole[:10], whole[:-1], whole[: len(whole) // 2], whole + b"x", bytes(99)]
    for damaged in damages:
        entry.write_bytes(damaged)
        assert equal(read(item, VIEW), made)
        # Bits that mean nothing, such as an npz file's dates, may stay.
        assert equal(read(item, VIEW), made) and len(entries(tmp_path / "cache")) == 1


def test_a_cache_that_can_no_longer_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    read = PictureCache(tmp_path / "cache")

    def full(path, content, lasting):
        raise InputError(f"{path} cannot be written (No space left on device)")

    monkeypatch.setattr(cache, "write_bytes", full)
    for n in range(3):
        item = Item(save_image(tmp_path / f"{n}.png", seed=n))
        assert equal(read(item, VIEW), prepare(item, VIEW))


class Readers(torch.utils.data.Dataset):
    """How often a picture was wrong, one item a process: each reads all, and damages some."""

    def __init__(self, folder: Path, paths: list[Path]):
        self.folder, self.paths = folder, paths

    def __len__(self) -> int:
        return 2

    def __getitem__(self, seed: int) -> int:
        read, wrong = PictureCache(self.folder), 0
        rng = np.random.default_rng(seed)
        for n in rng.permutation(5 * len(self.paths)):
            item = Item(self.paths[n % len(self.paths)])
            wrong += not equal(read(item, VIEW), prepare(item, VIEW))
            if rng.random() < 0.1 and (found := entries(self.folder)):
                entry = found[rng.integers(len(found))]
                # The other process takes a damaged one away at any time.
                with suppress(FileNotFoundError):
                    if not entry.name.endswith(".tmp"):
                        entry.write_bytes(entry.read_bytes()[:900])
        return wrong


def test_several_processes_at_once_see_only_whole_pictures(tmp_path):
    paths = [save_image(tmp_path / f"{n}.png", seed=n) for n in range(12)]
    readers = Readers(tmp_path / "cache", paths)
    assert list(torch.utils.data.DataLoader(readers, batch_size=None, num_workers=2)) == [0] * 2
    assert not [p for p in entries(tmp_path / "cache") if p.name.endswith(".tmp")]


def test_a_limit_that_makes_no_sense(tree):
    with pytest.raises(InputError, match="full_check=-1"):
        Folder(tree, **SMALL, full_check=-1)


def test_a_cache_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"picture_cache=.*file/cache cannot be written"):
        PictureCache(tmp_path / "file" / "cache")


def test_bad_files_have_the_same_errors_with_a_cache(tree, tmp_path):
    truncate(tree / "test" / "crack" / "001.png")
    with pytest.raises(InputError) as plain:
        Folder(tree, **SMALL)
    with pytest.raises(InputError) as cached:
        Folder(tree, **SMALL, picture_cache=tmp_path / "cache")
    assert str(plain.value) == str(cached.value)


# the check before the fit ----------------------------------------------------------------------


def test_beyond_the_limit_no_image_without_a_mask_is_decoded(tree, monkeypatch, caplog):
    caplog.set_level("INFO")
    plain = Folder(tree, **SMALL)
    assert "headers" not in caplog.text
    decoded, read = [], items.read_image
    monkeypatch.setattr(items, "read_image", lambda path: decoded.append(path) or read(path))
    data = Folder(tree, **SMALL, full_check=8)
    assert data.test_items == plain.test_items and data.provenance == plain.provenance
    assert sorted(decoded) == [item.path for item in data.test_items if item.masks]
    assert "more than full_check=8 images" in caplog.text
    decoded.clear()
    Folder(tree, **SMALL, full_check=9)
    assert len(decoded) == 9


@pytest.mark.slow
def test_planted_defects_are_judged_beyond_the_limit_too():
    data = ELPV(num_workers=0, full_check=0)
    whole = ELPV(num_workers=0)
    assert data.provenance == whole.provenance and data.test_items == whole.test_items


@pytest.mark.parametrize("content", [b"", b"no image"])
def test_files_without_a_header_are_found_beyond_the_limit(tree, content):
    (tree / "train" / "good" / "002.png").write_bytes(content)
    with pytest.raises(InputError, match=r"002\.png"):
        Folder(tree, **SMALL, full_check=0)


def test_a_mask_of_another_size_is_found_beyond_the_limit(tree):
    save_mask(tree / "ground_truth" / "crack" / "001_mask.png", (32, 40))
    with pytest.raises(InputError, match="both must have one size"):
        Folder(tree, **SMALL, full_check=0)


# the command line ------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path) -> Path:
    build_tree(tmp_path / "data", train=4, test={"good": 2, "crack": 2})
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("part", "left"), [("train", []), ("test", ["model.ckpt"])])
def test_a_file_broken_behind_its_header_is_one_line_beyond_the_limit(
    zygote, here, part, left, workers, cached
):
    # The fit was over when a test image turned out broken: the model is whole, and stays.
    path = here / "data" / part / "good" / "001.png"
    truncate(path)
    more = ["full_check=0", f"num_workers={workers}", *(["picture_cache=cache"] * cached)]
    result = zygote.run([*TINY, *more], here)
    require_one_clear_line(result, (f"cannot read data/{part}/good/001.png", "truncated"))
    assert leftovers(here / "run") == left
    assert "full_check=0" in result.out


@pytest.mark.slow
def test_a_run_with_a_cache_gives_the_same_numbers(zygote, here):
    scores = []
    for run, more in enumerate(([], ["picture_cache=cache"], ["picture_cache=cache"])):
        result = zygote.run([*TINY, f"hydra.run.dir=run{run}", *more], here)
        assert result.code == 0, result.err
        scores.append((here / f"run{run}" / "predictions.csv").read_text())
        metrics = json.loads((here / f"run{run}" / "metrics.json").read_text())
        assert metrics["test/image_auroc"] is not None
    assert scores[0] == scores[1] == scores[2]
    assert len(entries(here / "cache")) == 8


def test_a_cache_that_cannot_be_is_one_clear_line(zygote, here):
    result = zygote.run([*TINY, "picture_cache=data/train/good/000.png/x"], here)
    require_one_clear_line(result, ("picture_cache=data/train", "writable folder"))
    assert leftovers(here) == []
