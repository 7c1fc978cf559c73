import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.trees import build_magnetic_tile, build_tree, save_image, save_mask
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper
from PIL import Image
from torch.utils.data import DataLoader, Subset

from padim_lit.data import ELPV, AnomalyData, Folder, MagneticTile, MVTec
from padim_lit.data.datamodule import Split, default_workers
from padim_lit.data.files import find_images
from padim_lit.data.items import Item, ItemDataset
from padim_lit.data.loaders import rank_batches, require_sizes, sizes_of
from padim_lit.data.split import derived_seed, hold_out
from padim_lit.data.transform import ResizeCrop
from padim_lit.errors import InputError
from padim_lit.system.atomic import run_folder

SMALL = {"image_size": 32, "crop_size": 24, "batch_size": 3, "num_workers": 0}


def said(data) -> list[str]:
    """The notes, but for those on the crop and the licence."""
    known = ("The model sees", "The images' licence")
    return [note for note in data.notes if not note.startswith(known)]


@dataclass(eq=False)
class Given(AnomalyData):
    """Items that are known already."""

    split: Split

    def read(self):
        return self.split


def mvtec(root, **kwargs):
    return MVTec(root, "screw", **{**SMALL, **kwargs})


def mvtec_tree(root, **kwargs):
    build_tree(root / "screw", **kwargs)
    return root


def batches(loader):
    return list(loader)


def column(loader, key):
    return [value for batch in loader for value in batch[key]]


@pytest.fixture(scope="module")
def elpv():
    return ELPV(num_workers=0)


# batches ---------------------------------------------------------------------------------------


def test_batch_has_the_agreed_keys_shapes_and_types(tmp_path):
    batch = next(iter(mvtec(mvtec_tree(tmp_path)).test_dataloader()))
    shapes = {k: (tuple(v.shape), v.dtype) for k, v in batch.items() if torch.is_tensor(v)}
    assert shapes == {
        "image": ((3, 3, 24, 24), torch.float32),
        "mask": ((3, 24, 24), torch.bool),
        "label": ((3,), torch.int64),
        "count_image": ((3,), torch.bool),
        "count_pixel": ((3,), torch.bool),
        "index": ((3,), torch.int64),
        "digest": ((3, 16), torch.uint8),
    }
    assert all(isinstance(p, str) and Path(p).is_file() for p in batch["path"])
    assert set(batch["kind"]) <= {"good", "crack"}


def test_pixels_are_rgb_in_0_to_1_without_normalisation(tmp_path):
    root = mvtec_tree(tmp_path)
    colour = np.full((32, 40, 3), (255, 51, 0), dtype=np.uint8)
    Image.fromarray(colour).save(root / "screw/train/good/000.png")
    image = next(iter(mvtec(root).train_dataloader()))["image"][0]
    assert torch.allclose(image.mean(dim=(1, 2)), torch.tensor([1.0, 0.2, 0.0]))


def test_mask_and_image_share_one_geometry(tmp_path):
    root = mvtec_tree(tmp_path, test={"crack": 1})
    mask = np.zeros((32, 40), dtype=np.uint8)
    mask[8:22, 11:29] = 255
    Image.fromarray(mask).save(root / "screw/ground_truth/crack/000_mask.png")
    Image.fromarray(mask).save(root / "screw/test/crack/000.png")
    batch = next(iter(mvtec(root).test_dataloader()))
    assert torch.equal(batch["image"][0, 0] > 0.5, batch["mask"][0])


def test_every_image_comes_once_and_in_order_with_its_last_short_batch(tmp_path):
    data = mvtec(mvtec_tree(tmp_path, train=7))
    loader = data.train_dataloader()
    assert [int(i) for i in column(loader, "index")] == list(range(7))
    assert column(loader, "path") == sorted(column(loader, "path"))
    assert [len(b["index"]) for b in batches(loader)] == [3, 3, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_number_of_workers_changes_no_bit(tmp_path, workers):
    root = mvtec_tree(tmp_path, train=5)
    alone, several = mvtec(root), mvtec(root, num_workers=workers)
    for loader in ("train_dataloader", "test_dataloader", "predict_dataloader"):
        pairs = zip(getattr(alone, loader)(), getattr(several, loader)(), strict=True)
        for a, b in pairs:
            for key, value in a.items():
                same = torch.equal(value, b[key]) if torch.is_tensor(value) else value == b[key]
                assert same, key


def test_default_workers_leave_two_cores_to_the_backbone(monkeypatch):
    for cores, expected in ((1, 0), (2, 0), (4, 2), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: range(n), raising=False)
        assert default_workers() == expected


# ranks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [7, 12])
def test_ranks_cover_each_index_once_in_as_many_batches(length, world, batch_size):
    ranks = [rank_batches(length, rank, world, batch_size) for rank in range(world)]
    assert sorted(i for batches in ranks for batch in batches for i in batch) == list(range(length))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(0 < len(batch) <= batch_size + 1 for batches in ranks for batch in batches)


def test_fewer_images_than_ranks_are_refused():
    with pytest.raises(InputError, match=r"1 image\(s\) cannot be spread over 2 devices"):
        rank_batches(1, 0, 2, 32)


def test_rank_batches_are_used_once_torch_distributed_is_initialised(tmp_path, monkeypatch):
    data = mvtec(mvtec_tree(tmp_path, train=7))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    indices = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        indices.append([int(i) for i in column(data.train_dataloader(), "index")])
    assert indices == [[0, 2, 4, 6], [1, 3, 5]]
    # As Lightning does to predict; for a list it failed.
    assert list(_IndexBatchSamplerWrapper(data.test_dataloader().batch_sampler))


def test_a_fit_at_other_sizes_is_told_apart(tmp_path):
    """Images of the same shape, of which the model sees another part."""
    loader = mvtec(mvtec_tree(tmp_path)).test_dataloader()
    for fitted_with in ({}, {"image_size": 32, "crop_size": [24, 24]}):
        require_sizes(loader, fitted_with)
    part = DataLoader(Subset(loader.dataset, [0]))
    for loaders in (loader, [part], {"first": loader, "second": part}):
        with pytest.raises(InputError, match=r"was fitted with .'image_size': 48, 'crop_size': 24"):
            require_sizes(loaders, {"image_size": 48, "crop_size": 24})


@pytest.mark.parametrize("given", [(64, 48), ([64, 80], [48, 40]), (64, None), ([64, 80], None)])
def test_sizes_of_a_loader_make_the_same_transform(given):
    transform = ResizeCrop(*given)
    assert sizes_of(DataLoader(ItemDataset([], transform))) == transform.size
    assert ResizeCrop(**transform.size) == transform


# split -----------------------------------------------------------------------------------------


def test_names_that_are_no_utf8_are_held_out_too():
    names = ["a", "caf\udce9", "b"]  # as a Latin-1 name on disk arrives
    kept, held = hold_out(names, names, 1, seed=0)
    assert sorted([*kept, *held]) == sorted(names) and len(held) == 1


def test_an_image_that_changes_sides_changes_the_content(tmp_path):
    data = Folder(build_tree(tmp_path), **SMALL)
    before = data.content()
    data.test_items = [data.train_items.pop(), *data.test_items]
    assert data.content() != before


def test_the_digest_says_which_images_and_not_where_they_lie(tmp_path):
    here, there = (build_tree(tmp_path / name) for name in "ab")
    shutil.copytree(here, there, dirs_exist_ok=True)
    sha256 = Folder(here, **SMALL).sha256
    assert len(sha256) == 12 and Folder(there, **SMALL).sha256 == sha256
    assert Folder(here, **SMALL, full_check=3).sha256 is None  # it costs no reading of its own
    save_image(next((there / "test").rglob("*.png")), seed=99)
    assert Folder(there, **SMALL).sha256 != sha256


def test_hold_out_is_a_seeded_partition_that_keeps_the_order():
    names = [f"{n:03}" for n in range(100)]
    kept, held = hold_out(names, names, 40, seed=0)
    assert len(held) == 40 and sorted(kept + held) == names
    assert kept == sorted(kept) and held == sorted(held)
    assert hold_out(names, names, 40, seed=0) == (kept, held)
    assert hold_out(names, names, 40, seed=1) != (kept, held)


def test_hold_out_does_not_depend_on_the_order_of_the_listing():
    names = [f"{n:03}" for n in range(100)]
    _, held = hold_out(names, names, 40, seed=0)
    _, again = hold_out(names[::-1], names[::-1], 40, seed=0)
    assert sorted(again) == held


def test_hold_out_keeps_groups_whole_and_refuses_the_impossible():
    names = [f"{n:03}" for n in range(60)]
    groups = [n // 6 for n in range(60)]
    kept, held = hold_out(names, names, 18, 0, groups)
    assert len(held) == 18
    assert not {int(n) // 6 for n in kept} & {int(n) // 6 for n in held}
    with pytest.raises(InputError, match=r"19 of 60 images in 10 groups .*another number"):
        hold_out(names, names, 19, 0, groups)
    with pytest.raises(InputError, match=r"150 of 60 images .*choose another data\.test_good"):
        hold_out(names, names, 150, 0, count_key="data.test_good")


def test_derived_seeds_are_fixed_for_all_time():
    assert derived_seed(0, "cell0001.png") == 5198649995307322536  # from sha256sum
    assert derived_seed(1, "cell0001.png") != derived_seed(0, "cell0001.png")


# mvtec and folder ------------------------------------------------------------------------------


def test_mvtec_counts_labels_and_record(tmp_path):
    data = mvtec(mvtec_tree(tmp_path, test={"good": 2, "crack": 3, "scratch": 1}))
    assert data.name == "mvtec/screw" and data.image_shape == (24, 24) and said(data) == []
    assert data.provenance["train_images"] == 4
    assert data.provenance["test_good"] == 2 and data.provenance["test_defective"] == 4
    assert data.provenance["split"] == "the folders' own, as MVTec AD has it"
    assert json.loads(json.dumps(data.provenance)) == data.provenance
    labels = dict(
        zip(
            column(data.test_dataloader(), "kind"),
            column(data.test_dataloader(), "label"),
            strict=True,
        )
    )
    assert labels == {"good": 0, "crack": 1, "scratch": 1}
    assert all(column(data.test_dataloader(), "count_pixel"))


def test_root_may_be_relative_or_start_with_a_tilde(tmp_path, monkeypatch):
    mvtec_tree(tmp_path / "sets")
    monkeypatch.chdir(tmp_path)
    assert len(mvtec("sets").train_items) == 4
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(mvtec("~/sets").train_items) == 4


def test_folder_accepts_all_mask_names_and_any_image_extension(tmp_path):
    root = build_tree(tmp_path / "parts", test={"good": 1, "crack": 2}, masks=False)
    save_mask(root / "ground_truth/crack/000_mask.bmp")
    save_mask(root / "ground_truth/crack/001.TIF")
    save_image(root / "test/crack/002.png", seed=9)
    save_mask(root / "ground_truth/crack/002_GT.png")
    data = Folder(root, **SMALL)
    assert data.name == "folder/parts"
    assert all(column(data.test_dataloader(), "count_pixel")) and said(data) == []
    assert all(
        m.any()
        for m, label in zip(
            column(data.test_dataloader(), "mask"),
            column(data.test_dataloader(), "label"),
            strict=True,
        )
        if label
    )


def test_folder_without_ground_truth_has_no_pixel_truth(tmp_path):
    data = Folder(build_tree(tmp_path, masks=False), **SMALL)
    assert not any(column(data.test_dataloader(), "count_pixel"))
    assert all(column(data.test_dataloader(), "count_image"))
    assert any("pixel metrics cannot be computed" in note for note in data.notes)


def test_a_folder_without_defects_says_so_once(tmp_path):
    data = Folder(build_tree(tmp_path, test={"good": 2}, masks=False), **SMALL)
    assert said(data) == ["No defective test images: only false alarms can be counted."]


def test_masks_beside_the_folders_of_their_kinds_are_told_of(tmp_path):
    root = build_tree(tmp_path, test={"good": 1, "crack": 1})
    (root / "ground_truth/crack/000_mask.png").rename(root / "ground_truth/000_mask.png")
    with pytest.raises(InputError, match=r"lie where none .*masks in ground_truth/KIND"):
        Folder(root, **SMALL)


def test_folder_kind_without_masks_leaves_the_pixel_metrics(tmp_path):
    root = build_tree(tmp_path, test={"good": 1, "crack": 1})
    save_image(root / "test/dent/000.png")
    data = Folder(root, **SMALL)
    counted = dict(
        zip(
            column(data.test_dataloader(), "kind"),
            column(data.test_dataloader(), "count_pixel"),
            strict=True,
        )
    )
    assert counted == {"good": True, "crack": True, "dent": False}
    assert any("dent" in note for note in data.notes)


@pytest.mark.parametrize(
    ("test", "word"), [({"good": 2}, "No defective test images"), ({"crack": 2}, "No healthy test")]
)
def test_one_sided_test_sets_are_allowed_and_noted(tmp_path, test, word):
    data = Folder(build_tree(tmp_path, test=test), **SMALL)
    assert any(word in note for note in data.notes)


@pytest.mark.parametrize("name", ["Good", "OK", "normal"])
def test_folders_of_good_images_are_known_by_their_names_in_any_case(tmp_path, name):
    root = build_tree(tmp_path)
    (root / "test/good").rename(root / "test/x")
    (root / "test/x").rename(root / "test" / name)
    data = Folder(root, **SMALL)
    assert (data.provenance["test_good"], data.provenance["test_defective"]) == (2, 3)
    assert f"test/{name} was taken for good images, by its name." in data.notes


def test_what_a_crop_leaves_out_is_said_and_own_folders_have_none(tmp_path):
    root = build_tree(tmp_path, train=4)
    (crop,) = set(Folder(root, **SMALL).notes) - set(said(Folder(root, **SMALL)))
    # 32 of 40 columns remain after the resize to 40×32, then 24 × 24 of these.
    name = root / "train/good/000.png"
    assert crop.startswith(f"The model sees 45% of an image ({name}, 40×32 pixels): its centre")
    long = save_image(root / "train/good/long.png", (400, 32), seed=9)
    data = Folder(root, **SMALL)
    least = f"sees as little as 4% of an image ({long}, 400×32 pixels)"
    assert any(least in note for note in data.notes)
    whole = Folder(root)
    assert whole.image_shape == (224, 224) and whole.resize_crop.crop is None
    (squeezed,) = whole.notes
    assert squeezed.startswith(
        "Photos have different proportions, from 40×32 to 400×32 pixels, and each is resized to "
        "224×224: the same thing looks wider in one than in another."
    )
    save_image(long, (48, 32), seed=9)
    assert Folder(root).notes == []


def test_further_pages_of_photos_are_told(tmp_path):
    root = build_tree(tmp_path)
    first, second = Image.open(root / "train/good/000.png"), Image.new("L", (40, 32), 9)
    first.save(root / "train/good/pages.tif", save_all=True, append_images=[second])
    (root / "train/good/000.png").unlink()
    assert Folder(root).notes == [
        f"{root}/train/good/pages.tif has several pages or frames; the first is read."
    ]


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_images_of_a_few_bits_in_more_are_told_of(tmp_path, caplog, bits):
    root = build_tree(tmp_path)
    for n, path in enumerate(sorted((root / "train/good").iterdir())):
        values = np.random.default_rng(n).integers(0, 2**bits, (32, 40), dtype=np.uint16)
        values[0, 0] = 2**bits - 1
        Image.fromarray(values if bits > 8 else values.astype(np.uint8)).save(path)
    said = [note for note in Folder(root, **SMALL).notes if "nearly black" in note]
    assert [record.getMessage() for record in caplog.records] == said
    assert (len(said) == 1) == (bits == 12)
    if said:
        assert "in 4 of them is 4095, where 65535 is white" in said[0] and "stretch" in said[0]


def test_good_images_alone_need_no_test_folder(tmp_path):
    root = build_tree(tmp_path / "parts", train=4)
    for name in ("logo.png", "val/a.png"):  # are not read
        save_image(root / name, seed=7)
    assert len(Folder(root).train_items) == 4 and Folder(root).test_items
    left = f"Images beside train and test, not read: 2, such as {root / 'logo.png'}."
    assert left in Folder(root).notes
    shutil.rmtree(root / "test")
    for folder in (root, root / "train/good"):
        data = Folder(folder)
        assert len(data.train_items) == 4 and data.test_items == []
        assert any(note.startswith("No test images") for note in data.notes)
        with pytest.raises(InputError, match="has no test images"):
            data.require_test()


@pytest.mark.parametrize("masks", ["mask", "Masks", "ground_truth"])
@pytest.mark.parametrize("good", ["good", "OK"])
def test_good_and_kinds_may_lie_side_by_side(tmp_path, masks, good):
    root = build_tree(tmp_path / "parts", train=11, test={"crack": 3, "dent": 1})
    (root / "train/good").rename(root / good)
    (root / "test/crack").rename(root / "crack")
    (root / "test/dent").rename(root / "Dent")
    (root / "ground_truth").rename(root / masks)
    (root / masks / "dent").rename(root / masks / "good")  # as some sets have it
    shutil.rmtree(root / "test")
    (root / "train").rmdir()
    (root / "notes").mkdir()
    with run_folder(root / "outputs" / "run", ["heatmaps"]):
        save_image(root / "outputs/run/heatmaps/0.png")
    data, again, other = (Folder(root, **SMALL, split_seed=seed) for seed in (0, 0, 1))
    known = {"train_images": 9, "test_good": 2, "test_defective": 4, "split_seed": 0}
    assert known.items() <= data.provenance.items()
    assert data.provenance["split"] == "2 of 11 good images held out; ours"
    assert {item.kind for item in data.test_items} == {"good", "crack", "Dent"}
    assert f"{good}: 9 to fit, 2 held out for the test; Dent, crack: defects." in data.notes
    assert "No masks for Dent: not counted in pixel metrics." in data.notes
    assert data.train_items == again.train_items != other.train_items
    for name in ("crack", "Dent", masks):
        shutil.rmtree(root / name)
    alone = Folder(root, **SMALL)
    assert len(alone.train_items) == 11 and not alone.test_items
    assert f"{good}: 11 to fit." in alone.notes and alone.provenance["split_seed"] is None


def test_a_drawn_split_tells_of_parts_with_several_photos(tmp_path):
    for n in range(10):
        save_image(tmp_path / "good" / f"p{n // 2}_{n % 2}.png", seed=n)
    save_image(tmp_path / "crack" / "p0.png", seed=100)
    drawn = Folder(tmp_path, **SMALL)
    (tmp_path / "good").rename(tmp_path / "parts")
    (tmp_path / "train").mkdir()
    (tmp_path / "parts").rename(tmp_path / "train/good")
    for data, told in ((drawn, True), (Folder(tmp_path, **SMALL), False)):
        assert any("photo by photo" in note for note in data.notes) == told


@pytest.mark.parametrize("mask", ["000_mask.png", "000_GT.jpg", "000.bmp", "Mask/000.png"])
@pytest.mark.parametrize("where", ["train/good", "test/good", "test/crack", "train/good/day 1"])
def test_masks_among_photos_are_no_photos(tmp_path, mask, where):
    root = build_tree(tmp_path, masks=False)
    photo = save_image(root / where / "000.png", seed=9)
    save_mask(root / where / mask)
    pair = f"{where}/000.* and .*/000" if "/" not in mask else f"{where}/{mask};"
    said = rf"1 image\(s\) in .* look like masks among photos, such as .*{pair}"
    with pytest.raises(InputError, match=said) as error:
        Folder(root, **SMALL)
    assert "masks belong in ground_truth/KIND" in str(error.value)
    for given in (root, root / where):
        with pytest.raises(InputError, match=said):
            find_images(str(given))
    assert find_images(str(photo)) == [photo]


def test_the_masks_of_a_data_set_are_scored_where_they_are_given_alone(tmp_path):
    root = build_tree(tmp_path)
    with pytest.raises(InputError, match=r"3 image\(s\) in .*, such as .*ground_truth/crack/000"):
        find_images(str(root))
    assert len(find_images(str(root / "ground_truth"))) == 3
    assert len(find_images(str(root / "test"))) == 5


@pytest.mark.parametrize("linked", [False, True])
def test_photos_and_their_masks_may_lie_in_folders_by_date(tmp_path, linked):
    root = build_tree(tmp_path / "parts")
    for folder in (root / "train/good", root / "test/crack", root / "ground_truth/crack"):
        day = folder / "2024-01-01" / "shift 2"
        day.mkdir(parents=True)
        for name in ("000", "000_mask"):
            if (file := folder / f"{name}.png").exists():
                shutil.copy(file, day / f"{name}.png")  # two of one name, with a mask each
        (day / "back").symlink_to(folder)
        if linked:
            (root / "store" / folder.parent.name).mkdir(parents=True)
            target = root / "store" / folder.parent.name / folder.name
            (folder / "2024-01-01").rename(target)
            (folder / "2024-01-01").symlink_to(target)
    data = Folder(root, **SMALL)
    assert data.provenance["train_repeats"] == 1 == data.provenance["test_repeats"]
    assert data.provenance["train_images"] == 4 and data.provenance["test_defective"] == 4
    tested = [item for item in data.test_items if item.label]
    assert {item.kind for item in tested} == {"crack"} and all(i.count_pixel for i in tested)
    for item in tested:
        (mask,) = item.masks
        where = item.path.relative_to(root / "test")
        assert mask == root / "ground_truth" / where.with_name(f"{where.stem}_mask.png")


def test_masks_of_no_image_are_counted_and_named(tmp_path):
    root = build_tree(tmp_path)
    save_mask(root / "ground_truth/crack/007_mask.png")
    (note,) = said(Folder(root, **SMALL))
    assert "belong to no image in test/crack: 1, such as 007_mask.png" in note


def test_empty_mask_means_unknown_pixel_truth(tmp_path):
    root = mvtec_tree(tmp_path, test={"good": 1, "crack": 2})
    save_mask(root / "screw/ground_truth/crack/001_mask.png", box=None)
    data = mvtec(root)
    assert column(data.test_dataloader(), "count_pixel") == [True, False, True]
    assert data.provenance["masks_empty"] == 1
    assert any("empty mask: 1" in note for note in data.notes)


def test_mask_outside_the_crop_is_counted_and_said(tmp_path):
    root = mvtec_tree(tmp_path, test={"good": 1, "crack": 2})
    save_mask(root / "screw/ground_truth/crack/001_mask.png", box=(0, 0, 3, 3))
    data = mvtec(root)
    assert data.provenance["masks_lost"] == 1 and "planted_masks_lost" not in data.provenance
    (note,) = said(data)
    assert note.startswith("Defective test images") and "crop_size=null" in note
    whole = mvtec(root, crop_size=None)
    assert whole.provenance["masks_lost"] == 0 and said(whole) == []


def test_mask_that_vanishes_in_the_resize_is_not_called_outside_the_crop(tmp_path):
    root = mvtec_tree(tmp_path, test={"good": 1, "crack": 1})
    save_mask(root / "screw/ground_truth/crack/000_mask.png", box=(16, 12, 17, 13))
    data = mvtec(root, image_size=8, crop_size=None)
    assert (data.provenance["masks_lost"], data.provenance["masks_vanished"]) == (0, 1)
    assert column(data.test_dataloader(), "count_pixel") == [False, True]


def test_planted_defects_outside_the_crop_are_not_called_defective_images(tmp_path, monkeypatch):
    def in_the_corner(image, kind, seed):
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[:3, :3] = True
        return image, mask

    monkeypatch.setattr("padim_lit.data.items.plant", in_the_corner)
    train = [Item(save_image(tmp_path / f"{n}.png", seed=n)) for n in range(3)]
    planted = Item(train[0].path, "planted_spot", plant_seed=0, count_image=False, count_pixel=True)
    lost = Item(train[0].path, "crack", masks=(save_mask(tmp_path / "m.png", box=(0, 0, 3, 3)),))
    data = Given(Split("x", train, [train[1], planted, planted, lost]), **SMALL)
    assert (data.provenance["masks_lost"], data.provenance["planted_masks_lost"]) == (1, 2)
    assert "planted_masks_empty" not in data.provenance and data.provenance["masks_empty"] == 0
    assert any("Planted defects" in n and "outside the crop: 2." in n for n in data.notes)
    assert any("Defective test images" in n and "outside the crop: 1." in n for n in data.notes)


# magnetic tile ---------------------------------------------------------------------------------


def test_magnetic_tile_keeps_the_shots_of_a_tile_together(tmp_path):
    data = MagneticTile(build_magnetic_tile(tmp_path), test_good=9, num_workers=0)
    tile = lambda item: int(item.path.stem.split("_")[-1]) // 1000  # noqa: E731
    train = {tile(i) for i in data.train_items}
    test = {tile(i) for i in data.test_items if i.kind == "good"}
    assert not train & test and len(train | test) == 10
    assert data.provenance["train_images"] == 21 and data.provenance["test_good"] == 9
    assert data.provenance["test_defective"] == 4
    assert {i.kind for i in data.test_items} == {"good", "crack", "uneven"}
    # Their intervals draw whole tiles.
    tiles = {(i.group, tile(i)) for i in data.test_items if i.kind == "good"}
    assert len(tiles) == len({group for group, _ in tiles}) == len(test)
    assert data.provenance["test_groups"] == len({i.group for i in data.test_items})
    assert data.image_shape == (224, 224)


def test_magnetic_tile_split_follows_its_seed(tmp_path):
    root = build_magnetic_tile(tmp_path)
    options = {"test_good": 9, "num_workers": 0}
    a, b, c = (MagneticTile(root, split_seed=s, **options).train_items for s in (0, 0, 1))
    assert a == b != c


# elpv ------------------------------------------------------------------------------------------


def test_elpv_mono_counts(elpv):
    assert elpv.name == "elpv/mono"
    assert elpv.provenance["train_images"] == 352
    assert elpv.provenance["test_good"] == 236
    assert elpv.provenance["test_defective"] == 313
    assert elpv.provenance["test_planted"] == 236
    assert "173" in elpv.provenance["split"] and "1/3" in elpv.provenance["split"]
    assert elpv.provenance["pixel_truth"] == "planted defects"
    assert any("planted" in note for note in elpv.notes)


def test_elpv_counts_real_cells_in_image_and_planted_ones_in_pixel_metrics(elpv):
    kinds = Counter(item.kind for item in elpv.test_items)
    assert kinds == {
        "good": 236,
        "defective": 313,
        "planted_crack": 79,
        "planted_finger": 79,
        "planted_spot": 78,
    }
    for item in elpv.test_items:
        planted = item.kind.startswith("planted_")
        assert (item.count_image, item.count_pixel) == (not planted, planted)


def test_elpv_plants_on_each_held_out_healthy_cell_once_and_on_no_training_cell(elpv):
    train = {i.path for i in elpv.train_items}
    good = {i.path for i in elpv.test_items if i.kind == "good"}
    broken = {i.path for i in elpv.test_items if i.kind == "defective"}
    planted = [i.path for i in elpv.test_items if i.plant_seed is not None]
    assert len(train) == 352 and not train & good and not train & broken and not good & broken
    assert sorted(planted) == sorted(good)


def test_elpv_split_follows_its_seed(elpv):
    how = {"num_workers": 0, "full_check": 0}
    same, other = (ELPV(split_seed=s, **how) for s in (0, 1))
    assert same.train_items == elpv.train_items != other.train_items
    assert len(other.train_items) == 352


def test_elpv_planted_copy_differs_from_its_cell_where_the_mask_says(elpv):
    for item in [i for i in elpv.test_items if i.plant_seed is not None][:6]:
        planted, mask = (np.asarray(x) for x in item.load())
        real = np.asarray(Item(item.path).load()[0])
        assert np.array_equal((planted != real).any(axis=2) & mask, mask)
        change = np.abs(planted.astype(int) - real).max(axis=2)
        assert change[~mask].max() <= 4 < change[mask].min()


# real trees ------------------------------------------------------------------------------------


def test_real_screw_counts(real_data):
    data = MVTec(real_data / "mvtec_ad", "screw", num_workers=0)
    kinds = Counter(item.kind for item in data.test_items)
    assert kinds == {
        "good": 41,
        "manipulated_front": 24,
        "scratch_head": 24,
        "scratch_neck": 25,
        "thread_side": 23,
        "thread_top": 23,
    }
    assert data.provenance["train_images"] == 320 and data.provenance["masks_empty"] == 0


@pytest.mark.slow
def test_real_magnetic_tile_counts(real_data):
    data = MagneticTile(real_data / "magnetic_tile", num_workers=0)
    kinds = Counter(item.kind for item in data.test_items)
    assert kinds == {
        "good": 150,
        "blowhole": 115,
        "break": 85,
        "crack": 57,
        "fray": 32,
        "uneven": 103,
    }
    assert data.provenance["train_images"] == 802
    assert data.provenance["masks_empty"] == 4 and data.provenance["masks_lost"] == 0
    unknown = [i for i in data.test_items if i.label and not i.count_pixel]
    assert len(unknown) == 4 + data.provenance["masks_vanished"]


# errors ----------------------------------------------------------------------------------------


def remove(root, pattern):
    for path in root.glob(pattern):
        path.unlink()
    return root


def write(path, data=b""):
    path.write_bytes(data)


def _missing_root(tmp):
    mvtec(tmp / "nowhere")


def _unknown_category(tmp):
    build_tree(tmp / "bottle")
    MVTec(mvtec_tree(tmp), "nut", **SMALL)


def _category_of_a_category(tmp):
    MVTec(build_tree(tmp), "screw", **SMALL)


def _empty_train(tmp):
    mvtec(remove(mvtec_tree(tmp), "screw/train/good/*"))


def _no_train(tmp):
    mvtec_tree(tmp)
    (tmp / "screw/train/good").rename(tmp / "screw/train/first")
    mvtec(tmp)


def _one_training_image(tmp):
    mvtec(mvtec_tree(tmp, train=1))


def _empty_kind(tmp):
    mvtec(remove(mvtec_tree(tmp), "screw/test/crack/*"))


def _no_test(tmp):
    mvtec_tree(tmp)
    (tmp / "screw/test").rename(tmp / "screw/check")
    mvtec(tmp)


def _zero_byte_image(tmp):
    write(mvtec_tree(tmp) / "screw/train/good/002.png")
    mvtec(tmp)


def _truncated_test_image(tmp):
    path = mvtec_tree(tmp) / "screw/test/crack/001.png"
    write(path, path.read_bytes()[:400])
    mvtec(tmp)


def _missing_mask(tmp):
    (mvtec_tree(tmp) / "screw/ground_truth/crack/001_mask.png").unlink()
    mvtec(tmp)


def _missing_mask_folder(tmp):
    (mvtec_tree(tmp) / "screw/ground_truth").rename(tmp / "screw/masks")
    mvtec(tmp)


def _mask_of_another_size(tmp):
    save_mask(mvtec_tree(tmp) / "screw/ground_truth/crack/001_mask.png", size=(41, 32))
    mvtec(tmp)


def _two_masks(tmp):
    save_mask(build_tree(tmp) / "ground_truth/crack/001.png")
    Folder(tmp, **SMALL)


def _one_mask_for_two(tmp):
    save_image(build_tree(tmp) / "test/crack/001.jpg")
    Folder(tmp, **SMALL)


def _one_mask_for_two_names(tmp):
    save_image(build_tree(tmp) / "test/crack/001_mask.png")  # a mask that lies beside its photo
    Folder(tmp, **SMALL)


def _folder_missing_one_mask(tmp):
    (build_tree(tmp) / "ground_truth/crack/002_mask.png").unlink()
    Folder(tmp, **SMALL)


def _folder_of_no_mask(tmp):
    for mask in (build_tree(tmp) / "ground_truth/crack").iterdir():
        mask.unlink()
    Folder(tmp, **SMALL)


def _orphaned_masks(tmp):
    save_mask(build_tree(tmp) / "ground_truth/crak/001.png")
    Folder(tmp, **SMALL)


def _folder_root_is_train(tmp):
    Folder(build_tree(tmp) / "train", **SMALL)


def _layout_in_capitals(tmp):
    root = build_tree(tmp)
    for name in ("train", "test"):
        (root / name).rename(root / f"{name}_")
        (root / f"{name}_").rename(root / name.title())
    Folder(root)


def _images_in_test_alone(tmp):
    root = build_tree(tmp)
    shutil.rmtree(root / "test")
    for name in "ab":
        save_image(root / f"test/{name}.png")
    Folder(root)


def _good_beside_test(tmp):
    save_image(tmp / "good/0.png")
    save_image(tmp / "test/bad/0.png")
    Folder(tmp, **SMALL)


def _good_beside_a_whole_set(tmp):
    save_image(tmp / "good/0.png")
    save_image(tmp / "other/good/0.png")
    Folder(tmp, **SMALL)


def _a_photo_beside_good(tmp):
    for name in ("good/0.png", "crack/0.png", "logo.png"):
        save_image(tmp / name)
    Folder(tmp, **SMALL)


def _masks_in_two_folders(tmp):
    for name in ("good", "crack", "ground_truth/crack", "masks/crack"):
        save_image(tmp / name / "0.png")
    Folder(tmp, **SMALL)


def _several_categories(tmp):
    for name in "abcd":
        save_image(tmp / name / "train/good/0.png")
    Folder(tmp, **SMALL)


def _images_beside_good(tmp):
    save_image(build_tree(tmp) / "train/bad/x.png")
    Folder(tmp, **SMALL)


def _images_directly_in_test(tmp):
    save_image(build_tree(tmp) / "test/x.png")
    Folder(tmp, **SMALL)


def _images_below_good_ones_alone(tmp):
    save_image(build_tree(tmp) / "train/good/cam2/x.png")
    Folder(tmp / "train/good", **SMALL)


def _images_below_a_kind(tmp):
    save_image(build_tree(tmp) / "test/crack/cam/2/x.gif")
    Folder(tmp, **SMALL)


def _dangling_links(tmp):
    build_tree(tmp)
    for n in range(3):
        (tmp / f"train/good/1{n}.png").symlink_to("/nonexistent.png")
    Folder(tmp, **SMALL)


def _dangling_kind(tmp):
    (build_tree(tmp) / "test/dent").symlink_to("/nonexistent")
    Folder(tmp, **SMALL)


def _one_picture_many_times(tmp):
    build_tree(tmp)
    for n in range(4):
        save_image(tmp / f"train/good/{n:03}.png")
    Folder(tmp, **SMALL)


def _folder_root_is_too_high(tmp):
    build_tree(tmp / "parts")
    Folder(tmp, **SMALL)


def _tile_without_free(tmp):
    (build_magnetic_tile(tmp) / "MT_Free").rename(tmp / "Free")
    MagneticTile(tmp)


def _tile_without_mask(tmp):
    (build_magnetic_tile(tmp) / "MT_Crack/Imgs/exp1_num_1.png").unlink()
    MagneticTile(tmp, test_good=9)


def _tile_split_too_large(tmp):
    MagneticTile(build_magnetic_tile(tmp), test_good=31)


def _unknown_cells(tmp):
    ELPV(cells="thin")


def _batch_size(tmp):
    mvtec(mvtec_tree(tmp), batch_size=0)


def _workers(tmp):
    mvtec(mvtec_tree(tmp), num_workers=-1)


def _crop(tmp):
    mvtec(mvtec_tree(tmp), crop_size=33)


@pytest.mark.parametrize(
    ("cause", "parts"),
    [
        (_missing_root, ["nowhere", "data.root"]),
        (_unknown_category, ["'nut'", "bottle, screw"]),
        (_category_of_a_category, ["'screw'", "data.root to the folder that holds it"]),
        (_empty_train, ["train/good", "no images"]),
        (_no_train, ["screw/train has no folder good", "found: first"]),
        (_one_training_image, ["1 training image", "at least 2"]),
        (_empty_kind, ["test/crack", "no images"]),
        (_no_test, ["no test images", "screw/test"]),
        (_zero_byte_image, ["train/good/002.png", "cannot read"]),
        (_truncated_test_image, ["test/crack/001.png"]),
        (_missing_mask, ["no mask", "test/crack/001.png", "001_mask.png"]),
        (_missing_mask_folder, ["no masks", "ground_truth/crack"]),
        (_mask_of_another_size, ["001_mask.png", "41x32", "crack/001.png", "40x32"]),
        (_two_masks, ["2 masks", "crack/001.png"]),
        (_one_mask_for_two, ["crack/001.jpg", "crack/001.png would share", "crack/001_mask.png"]),
        (_one_mask_for_two_names, ["crack/001_mask.png would share", "crack/001_mask.png;"]),
        (_folder_missing_one_mask, ["no mask", "crack/002.png"]),
        (_folder_of_no_mask, ["no mask", "crack/000.png"]),
        (_orphaned_masks, ["ground_truth/crak", "crack, good"]),
        (_folder_root_is_train, ["/train has no train/good", "found there: good", "test/KIND"]),
        (_folder_root_is_too_high, ["has no train/good; found there: ", "parts", "set data.root"]),
        (_layout_in_capitals, ["found there: Test, Train", "train/good", "in small letters"]),
        (_images_in_test_alone, ["2 image(s) in", "belong in train/good, all others in test/KIND"]),
        (
            _good_beside_test,
            ["found there: good, test", "into train/good", "or all good ones"],
        ),
        (_good_beside_a_whole_set, ["has no train/good", "found there: good, other"]),
        (_a_photo_beside_good, ["/logo.png lies beside the folders of images"]),
        (_masks_in_two_folders, ["masks lie in ground_truth and masks; keep one"]),
        (_several_categories, ["has no train/good; found there: a, b, c"]),
        (_images_beside_good, ["1 image(s)", "train/bad/x.png", "train/good"]),
        (_images_directly_in_test, ["1 image(s)", "test/x.png", "test/KIND"]),
        (_images_below_good_ones_alone, ["1 image(s)", "train/good/cam2/x.png", "train/good,"]),
        (_images_below_a_kind, ["1 image(s)", "test/crack/cam/2/x.gif"]),
        (_dangling_links, ["3 link(s)", "train/good", "10.png", "dvc"]),
        (_dangling_kind, ["1 link(s)", "dent"]),
        (_one_picture_many_times, ["1 different training image(s)", "at least 2"]),
        (_tile_without_free, ["MT_Free", "MT_Crack, MT_Uneven"]),
        (_tile_without_mask, ["exp1_num_1.jpg", "exp1_num_1.png"]),
        (_tile_split_too_large, ["31 of 30", "data.test_good"]),
        (_unknown_cells, ["cells=thin", "mono, poly, all"]),
        (_batch_size, ["batch_size=0"]),
        (_workers, ["num_workers=-1"]),
        (_crop, ["crop_size=33", "image_size=32"]),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, cause, parts):
    with pytest.raises(InputError) as error:
        cause(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_folder_of_images_in_a_format_that_is_not_read_says_so(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.gif")
    with pytest.raises(InputError, match=r"a format that is not read, such as .*/a\.gif"):
        Folder(tmp_path)


def test_missing_elpv_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(InputError, match="pip install elpv-dataset"):
        ELPV()
