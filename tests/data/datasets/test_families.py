"""Dataset families in the layouts of their publishers, on tiny trees."""

import csv
import json
import random
import re

import numpy as np
import pytest
from _helpers.cli import TINY
from _helpers.trees import build_tree, save_image, save_mask
from PIL import Image

from padim_lit.data import BTAD, MPDD, MVTecAD2, MVTecLOCO, RealIAD, VisA
from padim_lit.errors import InputError

VIEW = {"image_size": 32, "crop_size": None, "num_workers": 0}


def visa(root, order=None):
    rows = []
    for n in range(4):
        path = save_image(root / "candle/Data/Images/Normal" / f"{n:04}.JPG", seed=n)
        rows.append(["candle", "train" if n < 3 else "test", "normal", path, ""])
    for n in range(2):
        path = save_image(root / "candle/Data/Images/Anomaly" / f"{n:03}.JPG", seed=9 + n)
        mask = root / "candle/Data/Masks/Anomaly" / f"{n:03}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((32, 40), np.uint8)
        values[4:9, 4:9], values[20:24, 30:34] = 1, 3  # kinds of defects
        Image.fromarray(values).save(mask)
        rows.append(["candle", "test", "anomaly", path, mask])
    rows.append(["pcb1", "train", "normal", "pcb1/Data/Images/Normal/0000.JPG", ""])
    if order is not None:
        random.Random(order).shuffle(rows)
    (root / "split_csv").mkdir(exist_ok=True)
    with (root / "split_csv" / "1cls.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["object", "split", "label", "image", "mask"])
        for *words, image, mask in rows:
            below = [p.relative_to(root) if hasattr(p, "relative_to") else p for p in (image, mask)]
            writer.writerow([*words, *below])
    return root


def btad(root):
    for n in range(3):
        save_image(root / "01/train/ok" / f"{n:04}.bmp", seed=n)
    save_image(root / "01/test/ok/0000.bmp", seed=7)
    for seed, name, mask in ((8, "0000.png", "0000.png"), (9, "0001.bmp", "0001.bmp")):
        save_image(root / "01/test/ko" / name, seed=seed)
        save_mask(root / "01/ground_truth/ko" / mask)
    return root


def mpdd(root):
    build_tree(root / "bracket_black", train=3, test={"good": 1, "hole": 2})
    return root


def loco(root):
    tree = root / "pushpins"
    for k, part in enumerate(("train", "validation")):
        for n in range(3):
            save_image(tree / part / "good" / f"{n:03}.png", seed=10 * k + n)
    save_image(tree / "test/good/000.png", seed=5)
    for kind in ("logical_anomalies", "structural_anomalies"):
        save_image(tree / "test" / kind / "000.png", seed=len(kind))
        for n, corner in enumerate((2, 20)):
            file = tree / "ground_truth" / kind / "000" / f"{n:03}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            values = np.zeros((32, 40), np.uint8)
            values[corner : corner + 4, corner : corner + 4] = 40 + n  # below 127 on purpose
            Image.fromarray(values).save(file)
    return root


def mvtec_ad2(root):
    tree = root / "can"
    for k, part in enumerate(("train", "validation")):
        for n in range(3):
            save_image(tree / part / "good" / f"{n:03}_regular.png", seed=10 * k + n)
    save_image(tree / "test_public/good/000_regular.png", seed=5)
    save_image(tree / "test_public/bad/000_overexposed.png", seed=6)
    save_mask(tree / "test_public/ground_truth/bad/000_overexposed_mask.png")
    for private in ("test_private", "test_private_mixed"):
        save_image(tree / private / "000.png", seed=9)
    return root


def real_iad(root, nested=False):
    entries = {"train": [], "test": []}
    place = root / "realiad_1024" / "audiojack"
    for n in range(5):
        name = f"OK/S{n:04}/audiojack_{n:04}_OK_C1_20231021.jpg"
        save_image(place / name, seed=n)
        entries["train" if n < 3 else "test"].append(
            {"category": "audiojack", "anomaly_class": "OK", "image_path": name, "mask_path": None}
        )
    name = "NG/BX/S0001/audiojack_0001_NG_BX_C1_20231021.jpg"
    save_image(place / name, seed=8)
    save_mask(place / name.replace(".jpg", ".png"))
    entries["test"].append(
        {"category": "audiojack", "anomaly_class": "BX", "image_path": name,
         "mask_path": name.replace(".jpg", ".png")}
    )  # fmt: skip
    meta = {"normal_class": "OK", "prefix": "audiojack/", "pre_transform": None}
    folder = root / "realiad_jsons" / ("realiad_jsons" if nested else "")
    folder.mkdir(parents=True)
    (folder / "audiojack.json").write_text(json.dumps({"meta": meta, **entries}))
    return root


FAMILIES = {
    "visa": (VisA, visa, "candle", {"good": 1, "anomaly": 2}),
    "btad": (BTAD, btad, "01", {"good": 1, "ko": 2}),
    "mpdd": (MPDD, mpdd, "bracket_black", {"good": 1, "hole": 2}),
    "loco": (
        MVTecLOCO, loco, "pushpins",
        {"good": 1, "logical_anomalies": 1, "structural_anomalies": 1},
    ),
    "mvtec_ad2": (MVTecAD2, mvtec_ad2, "can", {"good": 1, "bad": 1}),
    "real_iad": (RealIAD, real_iad, "audiojack", {"good": 2, "BX": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_image_is_counted_with_its_mask(tmp_path, name):
    family, build, category, kinds = FAMILIES[name]
    data = family(build(tmp_path), category, **VIEW)
    assert data.name == f"{name}/{category}"
    assert len(data.train_items) == 3 and not any(i.label for i in data.train_items)
    found = [item.kind for item in data.test_items]
    assert {kind: found.count(kind) for kind in set(found)} == kinds
    assert all(item.count_image and item.count_pixel for item in data.test_items)
    for item in data.test_items:
        assert item.load()[1].any() == bool(item.label)
    licence = [n for n in data.notes if n.startswith("The images' licence: CC BY")]
    assert len(licence) == (data.name.partition("/")[0] != "mpdd")
    assert [n for n in data.notes if "LOCO" not in n and n not in licence] == []
    assert re.search("the folders' own|authors", data.provenance["split"])


@pytest.mark.parametrize("name", FAMILIES)
def test_all_of_photos_that_are_not_square_is_seen(tmp_path, name):
    family, build, category, _ = FAMILIES[name]
    square = name in ("mpdd", "real_iad")  # PaDiM's own, for what is square
    data = family(build(tmp_path), category, num_workers=0)
    assert (data.image_size, data.crop_size) == ((256, 224) if square else (224, None))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_it_runs_through_the_command_line(tmp_path, zygote, name):
    _, build, category, _ = FAMILIES[name]
    build(tmp_path / "data")
    args = [a for a in TINY if not a.startswith("data=")]
    quoted = f"data.category='{category}'" if category.isdigit() else f"data.category={category}"
    out = zygote.run([*args, f"data={name}", quoted, "crop_size=null"], tmp_path)
    assert out.code == 0, out.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data"] == f"{name}/{category}"
    assert 0 <= metrics["test/pixel_auroc"] <= 1 and 0 <= metrics["test/image_auroc"] <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unknown_category_and_root_name_what_is_there(tmp_path, name):
    family, build, category, _ = FAMILIES[name]
    build(tmp_path)
    with pytest.raises(InputError, match=f"unknown category 'nope'.*{category}"):
        family(tmp_path, "nope", **VIEW)
    with pytest.raises(InputError, match=f"data.category is not set; found in .*{category}"):
        family(tmp_path, **VIEW)
    with pytest.raises(InputError, match=r"no such folder|cannot be read|no .*realiad"):
        family(tmp_path / "missing", category, **VIEW)


@pytest.mark.parametrize("name", ["visa", "real_iad"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_data_set_may_be_links_to_a_store(tmp_path, name, whole):
    """Of a whole category, or of each file, as DVC, git-annex and download caches leave them."""
    family, build, category, kinds = FAMILIES[name]
    build(tmp_path / "data")
    place = tmp_path / "data" / ("realiad_1024" if name == "real_iad" else "") / category
    store = tmp_path / "store"
    place.rename(store)
    if whole:
        place.symlink_to(store)
    else:
        for file in (path for path in store.rglob("*") if path.is_file()):
            link = place / file.relative_to(store)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
    assert len(family(tmp_path / "data", category, **VIEW).test_items) == sum(kinds.values())


def test_the_union_of_locos_masks_is_the_truth(tmp_path):
    data = MVTecLOCO(loco(tmp_path), "pushpins", **VIEW)
    item = next(i for i in data.test_items if i.kind == "logical_anomalies")
    expected = np.zeros((32, 40), bool)
    expected[2:6, 2:6] = expected[20:24, 20:24] = True
    np.testing.assert_array_equal(item.load()[1], expected)
    assert any("sPRO" in note for note in data.notes)
    save_mask(tmp_path / "pushpins/ground_truth/logical_anomalies/000/002.png", size=(8, 8))
    with pytest.raises(InputError, match=r"002\.png is 8x8 pixels but its image"):
        MVTecLOCO(tmp_path, "pushpins", **VIEW)


def test_every_value_of_visas_masks_is_a_defect(tmp_path):
    data = VisA(visa(tmp_path), "candle", **VIEW)
    assert data.test_items[0].kind == "anomaly"
    assert data.test_items[0].load()[1].sum() == 25 + 16


def test_the_order_of_visas_rows_does_not_matter(tmp_path):
    items = [VisA(visa(tmp_path, order), "candle", **VIEW).test_items for order in (None, 1, 2)]
    assert items[0] == items[1] == items[2]


def test_what_shows_one_object_is_drawn_together(tmp_path):
    groups = [
        item.group for item in RealIAD(real_iad(tmp_path / "a"), "audiojack", **VIEW).test_items
    ]
    assert len(groups) == len(set(groups)) == 3 and all("/S000" in group for group in groups)
    root = mvtec_ad2(tmp_path / "b")
    save_image(root / "can/test_public/good/000_shift_1.png", seed=7)
    items = MVTecAD2(root, "can", **VIEW).test_items
    assert [item.group for item in items] == ["bad/000", "good/000", "good/000"]


def test_real_iads_split_may_lie_one_folder_deeper(tmp_path):
    data = RealIAD(real_iad(tmp_path, nested=True), "audiojack", **VIEW)
    assert len(data.test_items) == 3
    with pytest.raises(InputError, match=r"no .*realiad_256; found: realiad_1024"):
        RealIAD(tmp_path, "audiojack", resolution=256, **VIEW)


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Masks/Anomaly/000.png", "Masks/Anomaly/777.png", "line 6: no such file"),
        (",candle/Data/Masks/Anomaly/000.png", ",", "no such file"),
        (",candle/Data/Masks/Anomaly/000.png", "", "line 6: no such file"),
    ],
)
def test_visas_split_file_is_checked(tmp_path, old, new, message):
    visa(tmp_path)
    edit(tmp_path / "split_csv" / "1cls.csv", old, new)
    with pytest.raises(InputError, match=message):
        VisA(tmp_path, "candle", **VIEW)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{", "[", "cannot be read"),
        ('"OK/S0004/', '"OK/S9999/', "no such file"),
    ],
)
def test_real_iads_split_file_is_checked(tmp_path, old, new, message):
    real_iad(tmp_path)
    edit(tmp_path / "realiad_jsons" / "audiojack.json", old, new)
    with pytest.raises(InputError, match=message):
        RealIAD(tmp_path, "audiojack", **VIEW)


def test_a_missing_mask_is_named(tmp_path):
    loco(tmp_path)
    (tmp_path / "pushpins/ground_truth/logical_anomalies/000/000.png").unlink()
    (tmp_path / "pushpins/ground_truth/logical_anomalies/000/001.png").unlink()
    with pytest.raises(InputError, match=r"no mask for .*000\.png: .*000 must hold at least one"):
        MVTecLOCO(tmp_path, "pushpins", **VIEW)
