"""Reports: files are whole, pictures are the right ones, tables read well and hide nothing."""

import csv
import io
import json
import pickle
import re
import struct
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _helpers.drawing import written_by
from _helpers.tables import long_table
from matplotlib.colors import to_rgb
from PIL import Image

from padim_lit.analysis.result_files import collect
from padim_lit.deploy.calibration import calibrate
from padim_lit.deploy.explanation import Explanation, Position
from padim_lit.deploy.left_out import Measured
from padim_lit.errors import InputError
from padim_lit.metric_names import METRICS
from padim_lit.metrics import PixelMetrics
from padim_lit.sweep.job_table import print_sweep_table, write_sweep_csv
from padim_lit.system.atomic import write_bytes, write_csv, write_json, write_text
from padim_lit.visualization.gallery import Gallery, GalleryEntry
from padim_lit.visualization.heatmaps import WIDTH, Look, draw_all, draw_one, save_heatmaps
from padim_lit.visualization.overlay import SMALL
from padim_lit.visualization.palette import FOUND, TRUTH
from padim_lit.visualization.panels import common_scale, font_of, overlay, png, written
from padim_lit.visualization.predictions import TestScore as Score  # pytest would collect it
from padim_lit.visualization.predictions import predictions_of, write_predictions
from padim_lit.visualization.summary import MEANING, print_summary

H, W = 24, 32
CALLED = ("found", "called defective", "marked elsewhere", "nothing marked", "missed")
CALLED += ("false alarm", "called good")
LOOK = Look(6.0, None, (0.0, 12.0), "t")


def batch_of(scores, *, kinds, known, start=0):
    """A batch whose images differ, with maps whose maximum is the score."""
    n = len(scores)
    index = torch.arange(start, start + n)
    image = (index[:, None, None, None] / 255).expand(n, 3, H, W)
    label = torch.tensor([int(kind != "good") for kind in kinds])
    mask = torch.zeros(n, H, W, dtype=torch.bool)
    mask[:, 4:10, 6:12] = (label.bool() & torch.tensor(known))[:, None, None]
    score = torch.tensor(scores, dtype=torch.float32)
    map = torch.linspace(0, 1, H * W).view(H, W) * score[:, None, None]
    batch = {
        "image": image.float(),
        "mask": mask,
        "label": label,
        "count_image": torch.tensor([not kind.startswith("planted") for kind in kinds]),
        "count_pixel": torch.tensor(known),
        "index": index,
        "path": [f"folder/img{i}.png" for i in index.tolist()],
        "kind": list(kinds),
    }
    return batch, score, map


def part(batch, score, map, rows):
    """The rows of a batch, in their order."""
    chosen = {
        key: [value[i] for i in rows] if isinstance(value, list) else value[rows]
        for key, value in batch.items()
    }
    return chosen, score[rows], map[rows]


def many(n=60):
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(5, 15, (n,), generator=generator).float().tolist()  # many ties
    kinds = [("good", "crack", "planted_spot")[i % 3] for i in range(n)]
    return batch_of(scores, kinds=kinds, known=[kind == "planted_spot" for kind in kinds])


def picture(**changes):
    truth = np.zeros((H, W), bool)
    truth[4:10, 6:12] = True
    values = {
        "role": "highest_defect", "rank": 1, "index": 7, "path": "a/b/cell 7.png", "kind": "crack",
        "label": 1, "score": 12.3456, "image": np.full((H, W, 3), 90, np.uint8), "truth": truth,
        "map": np.linspace(0, 12.3456, H * W, dtype=np.float32).reshape(H, W),
    }  # fmt: skip
    return GalleryEntry(**{**values, **changes})


def words_and(draw, *args):
    """The words that a drawing writes, and the drawing (h,w,3)."""
    said, image = written_by(draw, *args)
    return " ".join(text for text, _ in said), image


def texts(draw, *args):
    return words_and(draw, *args)[0]


def same(one, other):
    fields = ("role", "rank", "index", "path", "kind", "label", "score")
    return all(getattr(one, f) == getattr(other, f) for f in fields) and all(
        np.array_equal(getattr(one, f), getattr(other, f)) for f in ("image", "truth", "map")
    )


# --- files -----------------------------------------------------------------------------------


def test_failed_replace_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path, monkeypatch):
    path = write_text(tmp_path / "a.txt", "old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match=r"a.txt cannot be written .No space left") as caught:
        write_text(path, "new")
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "inside" / "a.bin", b"x")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_numbers_that_json_lacks(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "m.json", {"a": number})
    assert not list(tmp_path.iterdir())


def test_json_and_csv_write_none_as_null_and_empty(tmp_path):
    assert json.loads(write_json(tmp_path / "m.json", {"a": None}).read_text()) == {"a": None}
    path = write_csv(tmp_path / "m.csv", ["a", "b", "c"], [{"a": None, "b": 0.1 + 0.2}])
    assert path.read_bytes() == b"a,b,c\n,0.30000000000000004,\n"


def test_written_files_have_the_permissions_of_ordinary_ones(tmp_path):
    (tmp_path / "plain").write_text("")
    written = write_text(tmp_path / "atomic", "")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


# --- predictions -----------------------------------------------------------------------------


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_predictions_are_in_dataset_order_and_scores_keep_every_bit(tmp_path):
    scores = [1 / 3, 2.0**-20 * 1.1, 12345.678]
    kinds = ["good", "crack", "planted_spot"]
    batch, score, map = batch_of(scores, kinds=kinds, known=[True] * 3)
    batch, score, map = part(batch, score, map, [2, 0, 1])
    known = calibrate(Measured(torch.arange(1.0, 20), torch.arange(1.0, 20)), 0.1)
    path = write_predictions(tmp_path / "predictions.csv", predictions_of(batch, score), known)
    header, *rows = table(path)
    assert header == ["path", "kind", "label", "score", "p_value", "decision"]
    assert [row[4:] for row in rows] == [["1.0", "good"], ["1.0", "good"], ["0.05", "anomalous"]]
    assert [row[0] for row in rows] == [f"folder/img{i}.png" for i in range(3)]
    assert [row[1] for row in rows] == kinds
    assert [row[2] for row in rows] == ["0", "1", "1"]
    exact = [struct.unpack("f", struct.pack("f", value))[0] for value in scores]
    assert [float(row[3]) for row in rows] == exact


def test_predictions_survive_odd_file_names(tmp_path):
    names = ['a,"b".png', "two\nlines.png", "größe.png", "bad\udcff.png"]
    rows = [Score(name, "good", 0, 1.0, i, False) for i, name in enumerate(names)]
    path = write_predictions(tmp_path / "p.csv", rows)
    # What is no UTF-8 is shown as such, and the other rows stay readable.
    assert [row[0] for row in table(path)[1:]] == [*names[:3], r"bad\udcff.png"]
    assert {tuple(row[4:]) for row in table(path)[1:]} == {("", "")}, "without a calibration"


# --- gallery ---------------------------------------------------------------------------------


def test_gallery_picks_the_clearest_hits_worst_misses_and_worst_alarms():
    scores = [9, 1, 8, 2, 7, 3, 6, 4]
    kinds = ["crack"] * 6 + ["good"] * 2
    gallery = Gallery(k=2)
    gallery.add(*batch_of(scores, kinds=kinds, known=[True] * 8))
    found = [(p.role, p.rank, p.score) for p in gallery.pictures()]
    assert found == [
        ("highest_defect", 1, 9.0), ("highest_defect", 2, 8.0),
        ("lowest_defect", 1, 1.0), ("lowest_defect", 2, 2.0),
        ("highest_good", 1, 6.0), ("highest_good", 2, 4.0),
    ]  # fmt: skip
    first = gallery.pictures()[0]
    assert first.image.shape == (H, W, 3) and first.image.dtype == np.uint8
    assert first.map.shape == (H, W) and first.map.dtype == np.float32
    assert first.truth.dtype == bool and first.truth.sum() == 36
    assert gallery.pictures()[2].image[0, 0, 0] == 1  # the image of index 1


def test_what_is_planted_follows_from_the_metrics_it_counts_in_not_from_its_name():
    batch, score, map = batch_of([5.0, 4.0], kinds=["planted_by_hand"] * 2, known=[True] * 2)
    batch["count_image"] = torch.tensor([True, False])
    gallery = Gallery(k=1)
    gallery.add(batch, score, map)
    assert {p.index: p.planted for p in gallery.pictures()} == {0: False, 1: True}


def test_gallery_ranks_defects_whose_place_is_unknown_among_the_others():
    """The lowest of all, alone with an empty mask, had been the highest of its kind."""
    gallery = Gallery(k=1)
    gallery.add(*batch_of([1.0, 9.0, 5.0], kinds=["crack"] * 3, known=[False, True, True]))
    assert [(p.role, p.score) for p in gallery.pictures()] == [
        ("highest_defect", 9.0), ("lowest_defect", 1.0),
    ]  # fmt: skip


def test_gallery_shows_planted_and_real_defects_apart():
    gallery = Gallery(k=4)
    gallery.add(*many())
    counts = {}
    for p in gallery.pictures():
        key = (p.role, p.kind, p.truth is None)
        counts[key] = counts.get(key, 0) + 1
    assert counts == {
        ("highest_defect", "crack", True): 4, ("highest_defect", "planted_spot", False): 4,
        ("lowest_defect", "crack", True): 4, ("lowest_defect", "planted_spot", False): 4,
        ("highest_good", "good", True): 4,
    }  # fmt: skip


@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("backwards", [False, True])
def test_gallery_does_not_depend_on_batches_or_order(size, backwards):
    whole, split = Gallery(3), Gallery(3)
    data = many()
    whole.add(*data)
    order = list(range(60))[:: -1 if backwards else 1]
    for start in range(0, 60, size):
        split.add(*part(*data, order[start : start + size]))
    one, other = whole.pictures(), split.pictures()
    assert len(one) == len(other) == 15
    assert all(map(same, one, other))


def test_merged_ranks_equal_one_rank_even_with_a_padded_sampler():
    data = many()
    whole = Gallery(3)
    whole.add(*data)
    best = whole.pictures()[0].index
    ranks = [Gallery(3), Gallery(3)]
    for rank, gallery in enumerate(ranks):
        gallery.add(*part(*data, sorted({*range(rank, 60, 2), best})))  # the best one on both
    merged = Gallery(3)
    for gallery in ranks:
        merged.merge(pickle.loads(pickle.dumps(gallery)))
    assert len(merged.pictures()) == 15
    assert all(map(same, whole.pictures(), merged.pictures()))


def test_gallery_memory_does_not_grow_with_the_images():
    gallery = Gallery(k=2)
    for start in range(0, 300, 10):
        kinds = ["crack", "good"] * 5
        scores = [float((7 * i) % 101) for i in range(start, start + 10)]
        gallery.add(*batch_of(scores, kinds=kinds, known=[True] * 10, start=start))
        assert len(gallery.pictures()) <= 6
    assert len(pickle.dumps(gallery)) < 6 * (H * W * 8 + 1000)
    # An array that is a view would keep its whole batch in memory.
    assert all(p.truth.base is None and p.map.base is None for p in gallery.pictures())


@pytest.mark.parametrize(("count", "hits", "misses"), [(1, 1, 0), (2, 1, 1), (5, 3, 2), (9, 4, 4)])
def test_no_defect_is_both_hit_and_miss(count, hits, misses):
    gallery = Gallery(k=4)
    scores = [float(i) for i in range(count)]
    gallery.add(*batch_of(scores, kinds=["crack"] * count, known=[True] * count))
    roles = [p.role for p in gallery.pictures()]
    assert (roles.count("highest_defect"), roles.count("lowest_defect")) == (hits, misses)
    indices = [p.index for p in gallery.pictures()]
    assert len(indices) == len(set(indices))


# --- heat maps -------------------------------------------------------------------------------


def near(image, colour, tolerance=12):
    distance = np.abs(image.astype(int) - np.round(255 * np.array(to_rgb(colour)))).max(axis=2)
    return int((distance <= tolerance).sum())


def drawn(pictured, threshold, scale=(0.0, 12.0), image_threshold=None):
    return words_and(draw_one, pictured, Look(threshold, image_threshold, scale, "a title"))


def test_saved_files_carry_role_rank_kind_stem_and_score(tmp_path):
    two = [
        picture(),
        picture(role="highest_good", kind="good", label=0, truth=None, path="x/$a$ [b].jpg"),
        picture(index=8, truth=None),  # the same name again
    ]
    paths = save_heatmaps(tmp_path / "heatmaps", two, Look(6.0, None, (0.0, 12.0), "run $x$"))
    assert [path.name for path in paths] == [
        "highest_defect-1_crack_cell-7_12.35.png",
        "highest_good-1_good_-a-b-_12.35.png",
        "8_highest_defect-1_crack_cell-7_12.35.png",
        "overview.png",
    ]
    decided = save_heatmaps(tmp_path / "decided", two[:2], Look(6.0, 12.0, (0.0, 12.0), "t"))
    said = [path.stem.split("_")[-1] for path in decided]
    assert said == ["marked-elsewhere", "false-alarm", "overview"]
    assert sorted(p.name for p in (tmp_path / "heatmaps").iterdir()) == sorted(
        path.name for path in paths
    )
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert image.width > 700


@pytest.mark.parametrize("letter", ["k", "数", "\udce9"])
def test_names_of_any_length_fit_a_file_system(tmp_path, letter):
    long = picture(kind=200 * letter, path=f"{70 * letter}.png")
    (file, *_) = save_heatmaps(tmp_path, [long], Look(6.0, None, (0.0, 12.0), "title"))
    assert file.exists() and len(file.name.encode()) < 255


def test_no_pictures_write_nothing(tmp_path):
    assert save_heatmaps(tmp_path / "heatmaps", [], LOOK) == []
    assert not (tmp_path / "heatmaps").exists()


def test_unwritable_heatmap_folder_is_an_input_error(tmp_path):
    (tmp_path / "heatmaps").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        save_heatmaps(tmp_path / "heatmaps", [picture()], LOOK)


def test_what_does_not_count_stays_grey():
    roi = torch.ones(H, W, dtype=torch.bool)
    roi[:12] = False  # the masks are in lines 4 to 9
    gallery = Gallery(k=1)
    gallery.add(*batch_of([9.0], kinds=["crack"], known=[True]), roi)
    (found,) = gallery.pictures()
    assert np.array_equal(found.roi, roi)
    heat = overlay(found.image, found.shown, (0.0, 9.0))
    assert (heat[:12] == 0).all() and heat[12:].any()  # half of its grey, which is 0
    assert common_scale([found.shown])[0] > found.map[~roi].max()


def test_caption_states_place_kind_score_and_where_the_thresholds_are_from():
    words = drawn(picture(role="lowest_defect", rank=3), 5.0, image_threshold=20.0)[0]
    for part_of in (
        "Lowest-scoring defects, no. 3: crack, score 12.35 (missed: below the threshold)",
        "cell 7.png", "a title",
        "Thresholds chosen on the test set, hence optimistic: 20.00 for an image's score, 5.00 for "
        "places on its map.",
    ):  # fmt: skip
        assert part_of in words
    words = drawn(picture(), None)[0]
    assert "No threshold could be chosen: the test set lacks good or defective images." in words
    assert "at or above" not in words and "optimistic" not in words
    deployed = Look(5.0, 20.0, (0.0, 12.0), "a title", "Thresholds for 1.00% false alarms")
    words = texts(draw_one, picture(), deployed)
    assert (
        "for 1.00% false alarms: 20.00 for an image's score, 5.00 for places on its map." in words
    )


@long_table(
    ("role", "image_threshold", "said"),
    [
        ("highest_defect", 12.0, "({found}: at or above the threshold)"),
        ("highest_defect", 12.3456, "({found}: at or above the threshold)"),
        ("highest_defect", 13.0, "(missed: below the threshold)"),
        ("lowest_defect", 12.0, "({found}: at or above the threshold)"),
        ("lowest_defect", 13.0, "(missed: below the threshold)"),
        ("highest_good", 12.0, "(false alarm: at or above the threshold)"),
        ("highest_good", 13.0, "(called good: below the threshold)"),
        ("highest_defect", None, None), ("lowest_defect", None, None), ("highest_good", None, None),
    ], every=3,
)  # fmt: skip
@pytest.mark.parametrize(
    ("map_threshold", "found"),
    [
        (None, "called defective"),
        (4.0, "found"),
        (6.0, "marked elsewhere"),
        (20.0, "nothing marked"),
    ],
)
def test_only_the_image_threshold_makes_a_hit_miss_or_alarm(
    role, image_threshold, said, map_threshold, found
):
    said = said and said.format(found=found)
    good = {"kind": "good", "label": 0, "truth": None} if role == "highest_good" else {}
    pictured = picture(role=role, **good)
    look = Look(map_threshold, image_threshold, (0.0, 12.0), "a title")
    for draw, what in ((draw_one, pictured), (draw_all, [pictured])):
        words = texts(draw, what, look)
        called = {word for word in CALLED if word in words}
        assert called == {word for word in CALLED if said and word in said}
    assert said is None or said in texts(draw_one, pictured, look)


@pytest.mark.parametrize("truth", [None, np.zeros((H, W), bool)])
def test_a_defect_that_no_mask_shows_is_not_found_but_called_defective(truth):
    look = Look(4.0, 12.0, (0.0, 12.0), "a title")
    assert look.called(picture(truth=truth)) == "called defective"
    assert look.called(picture(truth=truth, score=11.0)) == "missed"


def explained(one, look=LOOK, places=1):
    parts = {"layer 1": 0.5, "layer 2": 0.3, "layer 3": 0.2}
    h, w = one.map.shape
    places = [Position(0, 0, (w // 4, h // 4, w // 2, h // 2), 3.0, 0.6)] * places
    why = Explanation(12.0, parts, places, np.stack([one.map / 3] * 3))
    return draw_one(one, look, why)


def together(one, look):
    return draw_all([replace(one, kind="manipulated_front", rank=i) for i in range(1, 7)], look)


@pytest.mark.parametrize(("draw", "share"), [(draw_one, 0.5), (together, 0.5), (explained, 1.0)])
def test_what_does_not_count_is_grey_in_every_map(draw, share):
    roi = np.arange(H)[:, None].repeat(W, 1) >= H // 2
    _, image = words_and(draw, picture(roi=roi, truth=None), Look(None, None, (0.0, 12.0), "t"))
    plain, grey = ((image == value).all(axis=2).sum() for value in (90, 45))
    assert 0.98 * share < grey / plain < 1.05 * share  # of four maps beside two plain pictures


@pytest.mark.parametrize("shape", [(512, 4096), (64, 264), (24, 32), (960, 40)])
@pytest.mark.parametrize("draw", [draw_one, explained, together])
def test_a_sheet_of_any_shape_fits_a_screen(draw, shape):
    values = {name: np.zeros(shape, np.float32) for name in ("map", "truth")}
    one = picture(**values, image=np.full((*shape, 3), 90, np.uint8))
    words, image = words_and(draw, one, LOOK)
    assert "distance" in words or "layers:" in words
    assert max(image.shape) < 4200 and 0.2 < image.shape[1] / image.shape[0] < 8
    if draw is explained:  # the boxes that name positions are seen
        assert (image != words_and(explained, one, LOOK, 0)[1]).any(axis=2).sum() > 20
    assert draw is not together or image.shape[1] <= WIDTH


def test_shelves_are_named_by_what_they_hold():
    pictures = [
        picture(truth=None),
        picture(role="lowest_defect", truth=None),
        picture(role="lowest_defect", kind="planted_by_hand"),
        picture(role="lowest_defect", planted=True),
        picture(role="highest_good", kind="good", label=0),
    ]
    words = texts(draw_all, pictures, LOOK)
    names = [
        "Highest-scoring defects (place unknown)", "Lowest-scoring defects",
        "Lowest-scoring defects (planted)", "Highest-scoring good",
    ]  # fmt: skip
    assert re.findall(r"\w+-scoring \w+(?: \([a-z ]+\))?", words) == names


def test_photos_that_the_model_sees_squeezed_are_drawn_in_their_proportions():
    long = Look(6.0, 9.0, (0.0, 12.0), "t", stretch=4.0)
    assert long.shape((20, 20)) == (10, 40) and LOOK.shape((20, 30)) == (20, 30)
    high, wide = long.shape((H, W))
    squeezed, whole = (written_by(draw_one, picture(), look)[1].shape for look in (LOOK, long))
    zoom = 2 * SMALL // wide
    assert whole[1] >= zoom * wide and whole[0] > 2 * zoom * high  # one below the other
    assert whole[0] < squeezed[0] or whole[1] < squeezed[1]


def test_map_and_image_threshold_reach_the_files_each_in_its_place(tmp_path):
    def saved(name, threshold, image_threshold):
        look = Look(threshold, image_threshold, (0.0, 12.0), "t")
        paths = save_heatmaps(tmp_path / name, [picture()], look)
        return [path.read_bytes() for path in paths]

    one, other, swapped = saved("a", 6.0, 9.0), saved("b", 6.0, 13.0), saved("c", 9.0, 6.0)
    assert all(x != y != z != x for x, y, z in zip(one, other, swapped, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"truth": None}, "place unknown"),
        ({}, "true defect"),
        ({"planted": True}, "planted defect"),
        ({"truth": np.zeros((H, W), bool)}, "the defect lies outside the crop"),
    ],
)
def test_a_picture_says_what_is_known_of_the_truth(changes, words):
    assert words in drawn(picture(**changes), 6.0)[0]
    good = drawn(picture(label=0, kind="good", truth=np.zeros((H, W), bool)), 6.0)[0]
    assert words not in good


def test_outlines_are_drawn_only_where_there_is_something_to_outline():
    def coloured(colour, pictured, threshold):
        (_, image) = drawn(pictured, threshold)
        zoom = 2 * SMALL // W
        return near(image[: H * zoom, W * zoom :], colour)

    assert coloured(FOUND, picture(), 6.0) > 100
    assert coloured(FOUND, picture(), 13.0) == 0
    assert coloured(FOUND, picture(), None) == 0
    assert coloured(TRUTH, picture(), None) > 50
    assert coloured(TRUTH, picture(truth=None), None) == 0
    tiny = np.zeros((800, 800), bool)
    tiny[401, 402] = True  # the sheet's smaller picture would step over it
    large = {"image": np.zeros((800, 800, 3), np.uint8), "map": np.zeros((800, 800), np.float32)}
    sheet = draw_all([picture(**large, truth=tiny)], Look(None, None, (0.0, 12.0), "t"))
    assert near(np.asarray(Image.open(io.BytesIO(sheet)))[60:-60], TRUTH) > 0


def test_one_distance_has_one_colour_in_every_picture():
    grey = np.full((H, W, 3), 100, np.uint8)
    one = overlay(grey, np.full((H, W), 7.0, np.float32), (2.0, 12.0))
    ramp = np.linspace(2, 12, 201, dtype=np.float32)[None].repeat(H, 0)
    other = overlay(np.full((H, 201, 3), 100, np.uint8), ramp, (2.0, 12.0))
    assert np.array_equal(one[0, 0], other[0, 100])
    beyond = overlay(grey, np.full((H, W), 99.0, np.float32), (2.0, 12.0))
    assert np.array_equal(beyond[0, 0], other[0, 200])
    assert other[0, 200].sum() > other[0, 100].sum() > other[0, 0].sum()


def test_common_scale_covers_all_pictures_and_is_never_empty():
    low, high = common_scale([np.full((H, W), v, np.float32) for v in (3.0, 9.0)])
    assert (low, high) == (3.0, 9.0)
    low, high = common_scale([np.full((H, W), 3.0, np.float32)])
    assert low < high


def test_long_pictures_and_every_role_fit_on_the_sheet(tmp_path):
    tall = {
        "image": np.zeros((96, 24, 3), np.uint8),
        "map": np.ones((96, 24), np.float32),
        "truth": None,
    }
    pictures = [
        picture(**tall, role=role) for role in ("highest_defect", "lowest_defect", "highest_good")
    ]
    paths = save_heatmaps(tmp_path, pictures, Look(0.5, None, (0.0, 2.0), "t"))
    with Image.open(paths[-1]) as sheet:
        assert max(sheet.size) < 2500


def test_drawing_leaves_no_global_figures(tmp_path):
    save_heatmaps(tmp_path, [picture()], LOOK)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


# --- summary ---------------------------------------------------------------------------------

RESULTS = {
    "test/image_auroc": 0.94123456, "test/image_ap": 0.95, "test/image_f1max": 0.9,
    "test/image_f1max_threshold": 18.714,
    "test/pixel_auroc": None, "test/pixel_auroc_why": "no test image has a pixel truth [at all]",
    "test/pixel_ap": 0.0, "test/pixel_aupro": 0.5,
    "fit/seconds": 10.0, "fit/images": 352, "test/seconds": 0.0, "test/images": 785,
    "peak_memory_bytes": 3 * 2**29, "backbone": "tf_efficientnet_lite0", "weights": "pretrained",
    "embedding_dim": 1056, "proj": "jl", "dim": 100, "eps": 0.01, "seed": 7, "grid": [56, 56],
    "patch_pixels": [8.0, 12.5],
    "data": "elpv/mono", "data/train_images": 9, "data/test_planted": 236, "notes": ["n"],
}  # fmt: skip


def printed(function, *arguments):
    with redirect_stdout(io.StringIO()) as text:
        function(*arguments)
    return text.getvalue()


def test_summary_in_a_file_has_whole_paths_and_no_colour_codes():
    path = "/data/" + "a [bold]folder[/bold]/" * 12 + "metrics.json"
    note = "Pixel metrics count planted defects only: " + "the data has no masks, " * 5
    text = printed(print_summary, RESULTS, {"metrics": path}, [note])
    assert "\x1b" not in text
    lines = text.splitlines()
    assert f"metrics  {path}" in lines
    assert f"Note: {note}" in [line + " " * line.endswith(",") for line in lines]


def test_summary_shows_metrics_reasons_and_what_the_run_was():
    text = printed(print_summary, RESULTS, {}, [])
    lines = text.splitlines()
    assert any("image AUROC" in line and "0.9412" in line for line in lines)
    (line,) = [line for line in lines if "F1-max" in line]
    assert "0.9000" in line and "at this test's best threshold, 18.71 " in line
    why = "no test image has a pixel truth [at all]"
    assert any("pixel AUROC" in line and "—" in line and why in line for line in lines)
    assert any("pixel AP " in line and "0.0000" in line for line in lines)  # zero is no null
    for fact in (
        "tf_efficientnet_lite0, weights pretrained",
        "jl, 100 numbers per patch (D), made from 1056 channels (C)",
        "56 x 56 on each image", "a patch is 8 (high) x 12.5 (wide) pixels of a photo;", 
        "352 images in 10.0 s, 35.2 per second", "785 images in 0.0 s",
        "1.5 GiB", "352 good",  # that the model has learnt from, whatever data it is tested on
        "elpv/mono", "236 good ones again, with planted defects", "eps 0.01, seed 7",
    ):  # fmt: skip
        assert fact in text
    slow = printed(print_summary, RESULTS | {"fit/seconds": 880.0}, {}, [])
    assert "352 images in 880.0 s, 2.5 s an image" in slow


def test_summary_says_of_how_many_defective_images_the_pixel_metrics_are():
    few = {"test/pixel_defective": 1, "data/test_defective": 4, "data/test_planted": 0}
    text = " ".join(printed(print_summary, RESULTS | few, {}, []).split())
    assert text.count("; of 1 of 4 defective images") == 2  # the third has no value
    for other in ({"test/pixel_defective": 4}, {"test/pixel_defective": None}):
        assert "defective images" not in printed(print_summary, RESULTS | few | other, {}, [])


@pytest.mark.parametrize(
    ("density", "said"),
    [
        ("position", "position, a Gaussian for each patch position"),
        ("mixture", "mixture, 64 components for all positions together"),
        (
            "both",
            "both, a Gaussian for each patch position, 64 components for all positions together, "
            "a position's own distance counts {own} where a component is nearer",
        ),
    ],
)
@pytest.mark.parametrize(("weight", "own"), [(0.25, "25%"), (0.0, "0%")])
def test_summary_says_which_gaussians_there_are(density, said, weight, own):
    known = {"density": density} | ({} if density == "position" else {"density/components": 64})
    known |= {"position_weight": weight} if density == "both" else {}
    text = " ".join(printed(print_summary, RESULTS | known, {}, []).split())
    assert f"density │ {said.format(own=own)}" in text


def test_summary_prints_what_it_has_when_results_are_few():
    text = printed(print_summary, {"test/image_auroc": None, "data/test_planted": 0}, {}, [])
    assert text.count("—") == 6
    assert "planted" not in text


def test_summary_has_no_metrics_where_there_are_no_defects():
    none = {"data/test_good": 2, "data/test_defective": 0, "data/test_planted": 0}
    assert "AUROC" not in printed(print_summary, none, {}, [])
    assert "AUROC" in printed(print_summary, none | {"test/pixel_auroc": 0.9}, {}, [])


def test_summary_leaves_out_what_takes_masks_where_there_are_none():
    metric = PixelMetrics()
    metric.update(torch.ones(0, H, W), torch.zeros(0, H, W))  # of no image the mask is known
    why = metric.compute()["why"]
    none = {f"test/{name}": None for name in why} | {
        f"test/{name}_why": reason for name, reason in why.items()
    }
    text = printed(print_summary, RESULTS | none, {}, [])
    assert "image AUROC" in text and "pixel AU" not in text and "mask" not in text


def test_summary_says_what_each_metric_is():
    text = " ".join(printed(print_summary, dict.fromkeys(METRICS, 0.5), {}, []).split())
    assert set(MEANING) == set(METRICS)
    assert "chance that a defective image scores above a good one" in text


# --- sweep -----------------------------------------------------------------------------------


def job(sweep, name, overrides, results=None, error=None):
    folder = sweep / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(
        "".join(f"- {json.dumps(text)}\n" for text in overrides) or "[]\n"
    )
    if results is not None:
        write_json(folder / "metrics.json", {**RESULTS, **results})
    if error is not None:
        write_json(folder / "failed.json", {"error": error})


@pytest.fixture
def sweep(tmp_path):
    number = 0
    for proj in ("subset", "jl"):
        for seed in range(5):
            auroc = 0.9 + 0.01 * seed * (proj == "jl")
            job(
                tmp_path,
                str(number),
                ["data=elpv", f"proj={proj}", f"seed={seed}"],
                {"proj": proj, "seed": seed, "test/image_auroc": auroc},
            )
            number += 1
    job(tmp_path, "10", ["data=elpv", "proj=jl", "seed=0", "+extra='a b'"], {"proj": "jl"})
    job(tmp_path, "11", ["data=elpv", "proj=nope", "seed=0"], error="no proj [nope], say jl")
    job(tmp_path, "12", ["data=elpv", "proj=jl", "seed=9"])
    (tmp_path / "wandb").mkdir()
    return tmp_path


def test_jobs_are_in_natural_order_and_know_how_they_ended(sweep):
    jobs = collect(sweep)
    assert [found.name for found in jobs] == [str(i) for i in range(13)]
    assert [found.status for found in jobs] == ["done"] * 11 + ["failed", "unfinished"]
    assert jobs[10].overrides == {"data": "elpv", "proj": "jl", "seed": "0", "extra": "a b"}
    assert jobs[11].error == "no proj [nope], say jl"


def test_sweep_csv_has_a_row_a_job_with_overrides_and_all_metrics(sweep):
    path = write_sweep_csv(sweep, collect(sweep))
    first = path.read_bytes()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == [str(i) for i in range(13)]
    columns = list(rows[0])
    assert columns[:7] == ["job", "status", "data", "proj", "seed", "extra", "test/image_auroc"]
    assert set(RESULTS) <= set(columns)
    assert float(rows[6]["test/image_auroc"]) == 0.9 + 0.01
    assert rows[6]["test/pixel_auroc"] == "" and rows[0]["extra"] == ""
    assert rows[0]["data"] == "elpv" and rows[0]["result/data"] == "elpv/mono"
    assert rows[11]["status"] == "failed" and rows[11]["error"] == "no proj [nope], say jl"
    assert rows[12]["status"] == "unfinished" and rows[12]["proj"] == "jl"
    assert write_sweep_csv(sweep, collect(sweep)).read_bytes() == first


def test_sweep_table_gives_mean_and_sample_deviation_over_seeds(sweep):
    text = printed(print_sweep_table, collect(sweep))
    assert "\x1b" not in text and "All jobs: data=elpv" in text
    lines = text.splitlines()
    values = [0.9 + 0.01 * seed for seed in range(5)]
    spread = f"{np.mean(values):.4f} ±{np.std(values, ddof=1):.4f}"
    (jl,) = [line for line in lines if "│ jl" in line and "a b" not in line]
    assert spread in jl and " 5 │" in jl
    assert any("│ subset" in line and "0.9000 │" in line and "±" not in line for line in lines)
    (single,) = [line for line in lines if "a b" in line]
    assert " 1 │" in single and "±" not in single
    # Null in every job: no column.
    assert text.count("AUROC") == 1
    assert "Job 11 failed (data=elpv proj=nope seed=0): no proj [nope], say jl" in lines
    assert "Job 12 unfinished (data=elpv proj=jl seed=9)" in lines


def test_a_metric_that_some_seeds_lack_says_over_how_many_it_is(tmp_path):
    for seed, value in enumerate((0.5, None, 0.7)):
        job(tmp_path, str(seed), [f"seed={seed}"], {"test/image_auroc": value})
    assert "0.6000 ±0.1414 (2 of 3)" in printed(print_sweep_table, collect(tmp_path))


def test_a_sweep_of_failures_still_reports(tmp_path):
    job(tmp_path, "0", [], error="bad")
    assert "Job 0 failed (): bad" in printed(print_sweep_table, collect(tmp_path))
    assert "0,failed," in write_sweep_csv(tmp_path, collect(tmp_path)).read_text()


def test_broken_sweeps_are_one_line(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        collect(tmp_path / "nowhere")
    job(tmp_path, "0", [])
    (tmp_path / "0" / "metrics.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"metrics.json cannot be read") as caught:
        collect(tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "0" / "metrics.json").write_text("[]")
    with pytest.raises(InputError, match="no JSON object"):
        collect(tmp_path)


def test_any_name_can_be_drawn():
    name = "caf\udce9 $\\bad$ \x00\x1b a\nb 部"
    said = texts(lambda: png([written([name], 500, font_of())]))
    assert said == r"caf\udce9 $\bad$ \x00\x1b a\nb \u90e8"


def test_a_caption_breaks_between_items_and_a_long_one_between_words():
    font = font_of()
    one = written(["score 2.00"], 500, font)
    assert one.size == (500, round(1.6 * font.size))
    assert written(["score 2.00", "a.png"], 100, font).size == (100, 2 * one.height)
    assert written([" ".join(9 * ["word"])], 100, font).width == 100
    assert written([90 * "w"], 100, font).width > 900  # a name stays whole
