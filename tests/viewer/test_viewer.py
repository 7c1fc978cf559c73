"""The page over a results folder: what it holds and refuses, and what a browser makes of it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _helpers.browser import texts
from _helpers.cli import ROOT, TINY, environment
from _helpers.trees import build_tree

from padim_lit.analysis.result_files import PREDICTIONS, read_predictions
from padim_lit.errors import InputError
from padim_lit.system.atomic import write_csv, write_json
from padim_lit.viewer.command import main
from padim_lit.viewer.content import build
from padim_lit.viewer.html import as_sweep, draw_curves, render
from padim_lit.viewer.pictures import encode_pictures, pack
from padim_lit.visualization.gallery import GalleryEntry, read_maps, write_maps
from padim_lit.visualization.panels import overlay

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
SIZE = 24


def picture(
    rank: int, label: int, score: float, kind: str, planted=False, path="a.png"
) -> GalleryEntry:
    rng = np.random.default_rng(rank + 10 * label)
    map = rng.uniform(1, score, (SIZE, SIZE)).astype(np.float32)
    map[5, 6] = score
    truth = np.zeros((SIZE, SIZE), bool)
    truth[4:9, 5:9] = True
    return GalleryEntry(
        role=("highest_defect" if score > 10 else "lowest_defect") if label else "highest_good",
        rank=rank, index=rank, path=path, kind=kind, label=label, score=score,
        image=rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8),
        truth=truth if label else None, map=map, planted=planted,
    )  # fmt: skip


def write_run(folder: Path, proj="jl", dim=100, seed=0, maps=True, path="img", **more) -> Path:
    """A run on 40 good, 30 defective and 10 planted images."""
    rng = np.random.default_rng(1000 * seed + dim)
    kinds = ["good"] * 40 + ["crack"] * 20 + ["hole"] * 10 + ["planted_spot"] * 10
    centre = np.array([8.0] * 40 + [14.0] * 30 + [11.0] * 10)
    scores = (centre + rng.normal(0, 2, 80)).astype(np.float32).tolist()
    rows = [
        {"path": f"data/{path}{i}.png", "kind": kind, "label": int(kind != "good"), "score": score}
        for i, (kind, score) in enumerate(zip(kinds, scores, strict=True))
    ]
    metrics = {
        "test/image_auroc": 0.9 + dim / 10000 + seed / 1000, "test/image_ap": 0.9,
        "test/image_f1max": 0.8, "test/image_f1max_threshold": scores[45], "test/pixel_auroc": 0.97,
        "test/pixel_ap": None, "test/pixel_aupro": 0.9, "test/pixel_f1max_threshold": 9.0,
        "test/seconds_per_image": 0.1, "state_bytes": 16_000_000, "threshold": 12.5,
        "threshold_rate": 0.01, "data": "elpv/mono", "backbone": "b0", "weights": "ImageNet",
        "proj": proj, "dim": dim, "seed": seed, "image_score": "max", "data/test_planted": 10,
        "data/test_good": 40, "data/test_defective": 30,
        "test/false_alarms": sum(score >= 12.5 for score in scores[:40]),
        "test/misses": sum(score < 12.5 for score in scores[40:70]),
        "data/pixel_truth": "planted defects", "notes": ["Pixel metrics count planted defects."],
        **more,
    }  # fmt: skip
    write_csv(folder / "predictions.csv", PREDICTIONS, rows)
    if maps:
        shown = [
            *(picture(1, 1, 15.0, "crack", path=path), picture(2, 1, 14.0, "hole", path=path)),
            *(picture(1, 1, 6.0, "crack", path=path), picture(1, 0, 13.0, "good", path=path)),
            picture(3, 1, 12.0, "planted_spot", planted=True, path=path),
        ]
        write_maps(folder / "heatmaps" / "maps.npz", shown)
    write_json(folder / "metrics.json", metrics)
    return folder


def expected(run: Path, threshold: float) -> dict[str, int]:
    """False alarms, misses and planted misses, counted here."""
    images = read_predictions(run / "predictions.csv", plants=True)
    found = {"alarms": 0, "misses": 0, "planted": 0}
    for kind, label, score in zip(images.kind, images.label, images.scores["score"], strict=True):
        called = score >= threshold
        if kind.startswith("planted_"):
            found["planted"] += int(not called)
        else:
            found["misses" if label else "alarms"] += int(called != bool(label))
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("multirun")
    write_run(folder / "0", "jl", 50)
    write_run(folder / "1", "jl", 100)
    write_run(folder / "2", "jl", 100, seed=1)
    write_run(folder / "10", "subset", 50, weights="random (seed 0)", notes=["Random weights."])
    without = {"threshold": None, "test/false_alarms": None, "test/misses": None}
    write_run(folder / "11", "fisher", 100, maps=False, threshold_why="too few", **without)
    (folder / "12").mkdir()
    (folder / "12" / "metrics.json").write_text('{"data": "elpv/mono", "dim": NaN}')
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("page") / "viewer.html"
    main([str(runs), "--out", str(file)])
    return file.as_uri()


@pytest.fixture
def opened(opened):
    """As everywhere, but waits until the pictures are drawn."""

    def open(url, **media):
        page = opened(url, **media)
        drawn(page)
        return page

    return open


def drawn(view) -> None:
    view.js(
        "new Promise((done) => { const look = () => !now.run || now.run.pictures && "
        "!document.querySelector('#gallery [data-marked]') ? setTimeout(look, 10)"
        " : requestAnimationFrame(() => setTimeout(done)); look(); })"
    )


def counted(view) -> dict[str, int]:
    return view.js(
        "Object.fromEntries([...document.querySelectorAll('#counts tr[data-id]')]"
        ".map(r => [r.dataset.id, Number(r.cells[1].textContent)]))"
    )


def choose(view, selector: str, value: object) -> None:
    view.js(
        f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
        f"e.value = {json.dumps(str(value))}; for (const name of ['input', 'change']) "
        "e.dispatchEvent(new Event(name, {bubbles: true})); })()"
    )
    drawn(view)


# ------------------------------------------------------------------ files


def test_maps_come_back_to_a_65535th_of_their_range(tmp_path):
    pictures = [picture(1, 1, 50.0, "crack", path="ü/\udc80.png"), picture(2, 0, 13.0, "good")]
    found = read_maps(write_maps(tmp_path / "maps.npz", pictures))
    for a, b in zip(pictures, found, strict=True):
        assert np.array_equal(a.image, b.image)
        assert (b.truth is None) if a.truth is None else np.array_equal(a.truth, b.truth)
        assert np.abs(a.map - b.map).max() <= 50 / 65535
        for name in ("role", "rank", "index", "path", "kind", "label", "score", "planted"):
            assert getattr(a, name) == getattr(b, name), name
    assert write_maps(tmp_path / "none.npz", []) is None
    assert not (tmp_path / "none.npz").exists()


def test_a_region_of_interest_comes_back_too(tmp_path):
    roi = np.ones((SIZE, SIZE), bool)
    roi[:9] = False
    pictures = [replace(picture(rank, 1, 50.0, "crack"), roi=roi) for rank in (1, 2)]
    found = read_maps(write_maps(tmp_path / "maps.npz", pictures))
    assert all(np.array_equal(one.roi, roi) for one in found)


def test_a_pickle_in_a_npz_is_not_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    write_maps(tmp_path / "maps.npz", [picture(1, 1, 50.0, "crack")])
    with np.load(tmp_path / "maps.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "maps.npz", **{**arrays, "path": np.array([Evil()], dtype=object)})
    with pytest.raises(InputError, match="cannot be read"):
        read_maps(tmp_path / "maps.npz")
    assert not (tmp_path / "owned").exists()
    for wrong in ({"map": arrays["map"][0, 0, 0]}, {"scale": [0.0]}, {"scale": "x"}, {"rank": []}):
        np.savez(tmp_path / "maps.npz", **{**arrays, **wrong})
        with pytest.raises(InputError, match="cannot be read"):
            read_maps(tmp_path / "maps.npz")
    np.savez(tmp_path / "maps.npz", **{k: v for k, v in arrays.items() if k != "label"})
    with pytest.raises(InputError, match="cannot be read"):
        read_maps(tmp_path / "maps.npz")
    np.savez(tmp_path / "maps.npz", **arrays)
    assert len(read_maps(tmp_path / "maps.npz")) == 1


def test_pictures_stay_within_number_and_budget_with_every_role():
    pictures = [picture(rank, 1, 20.0 - rank, "crack") for rank in range(1, 5)]
    pictures += [picture(rank, 1, 5.0, "crack") for rank in range(1, 5)]
    pictures += [picture(rank, 0, 9.0, "good") for rank in range(1, 5)]
    found = encode_pictures(pictures, 3, 10**9)
    assert [item["role"] for item in found["items"]] == [
        "highest_defect",
        "lowest_defect",
        "highest_good",
    ]
    assert found["left"] == 9
    one = sum(len(found["items"][0][key]) for key in ("image", "map"))
    assert len(encode_pictures(pictures, 12, int(2.2 * one))["items"]) == 2
    assert encode_pictures(pictures, 12, 0)["items"] == []
    assert pack(np.zeros((64, 64), np.uint16)) != pack(np.eye(64, dtype=np.uint16))


def test_a_fit_leaves_maps_and_the_viewer_reads_them(zygote, tmp_path):
    build_tree(tmp_path / "data", train=4, test={"good": 2, "crack": 2})
    result = zygote.run([*TINY, "image_score=max"], tmp_path)
    assert result.code == 0, result.err
    pictures = read_maps(tmp_path / "run" / "heatmaps" / "maps.npz")
    assert {p.path for p in pictures} == set(
        read_predictions(tmp_path / "run" / "predictions.csv", plants=False).path
    )
    for shown in pictures:
        assert shown.map.max() == pytest.approx(shown.score, abs=1e-3)
    content = build([tmp_path])
    (run,) = content["runs"]
    assert (run["name"], run["data"], run["proj"], run["dim"]) == ("run", "folder/data", "jl", 8)
    assert any("random" in note for note in run["notes"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert run["seconds"] == metrics["test/seconds_per_image"] > 0
    assert metrics["test/seconds"] / 4 == pytest.approx(run["seconds"])


# ------------------------------------------------------------------ command line


def failure(capsys, *words) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    if isinstance(end.value.code, str):
        return 1, end.value.code
    return end.value.code, capsys.readouterr().err.rstrip("\n")


def test_what_cannot_be_read_is_one_line(capsys, tmp_path):
    def broken(name: str, file: str, text: str) -> Path:
        (write_run(tmp_path / name) / file).write_text(text)
        return tmp_path / name

    head = ",".join(PREDICTIONS)
    known = {"data": "d", "backbone": "b", "weights": "w", "proj": "jl", "dim": 9, "seed": 0}
    known |= {"test/false_alarms": 1, "data/test_good": "many"}
    fine = {"data/test_good": 41, "notes": None}
    (tmp_path / "empty").mkdir()
    good = write_run(tmp_path / "good")
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "predictions.jsonl").write_text("{")
    for words, code, said in (
        ([], 2, "the following arguments are required: FOLDER"),
        ([tmp_path / "nowhere"], 1, "is no folder"),
        ([tmp_path / "empty"], 1, "no run (metrics.json or predictions.jsonl) in"),
        ([broken("a", "metrics.json", "{")], 1, "metrics.json cannot be read"),
        ([broken("b", "metrics.json", "[" * 100_000)], 1, "metrics.json cannot be read"),
        ([broken("c", "metrics.json", "[1]")], 1, "no JSON object"),
        ([broken("h", "metrics.json", json.dumps(known))], 1, "data/test_good='many' must be a"),
        ([broken("i", "metrics.json", json.dumps(known | fine))], 1, "i cannot be read"),
        ([broken("d", "predictions.csv", "path\na\n")], 1, "predictions.csv cannot be read"),
        ([broken("e", "predictions.csv", f"{head}\na,good,0,nan\n")], 1, "score is not finite"),
        ([broken("f", "predictions.csv", f"{head}\na,good\n")], 1, "predictions.csv cannot be"),
        ([broken("g", "heatmaps/maps.npz", "PK")], 1, "maps.npz cannot be read"),
        ([tmp_path / "a", tmp_path / "scored"], 1, "metrics.json cannot be read"),
        ([good, "--out", tmp_path], 1, "is a folder"),
        ([good, "--out", good / "metrics.json" / "x.html"], 1, "cannot be written"),
    ):
        status, message = failure(capsys, *words)
        message = message.splitlines()[-1] if status == 1 else message
        assert (status, message.count("\n")) == (code, 0), message
        assert message.startswith("error: ") and said in message, message


def test_a_run_that_does_not_say_how_many_images_set_its_threshold_is_shown(tmp_path):
    run = write_run(tmp_path)
    metrics = json.loads((run / "metrics.json").read_text()) | {"threshold": 3.0}
    (run / "metrics.json").write_text(json.dumps(metrics | {"threshold_method": "largest"}))
    (mark, *_) = build([run])["runs"][0]["thresholds"]
    assert mark["how"].startswith("chosen without test images")
    (run / "metrics.json").write_text(json.dumps(metrics | {"threshold_method": "by hand"}))
    assert build([run])["runs"][0]["thresholds"][0]["how"].startswith("chosen by hand")


def test_broken_runs_among_good_ones_are_named_and_counted(capsys, runs):
    main([str(runs)])
    out, err = capsys.readouterr()
    assert (runs / "viewer.html").exists()
    assert out.splitlines()[0] == "shown   5 runs, 1 skipped, 20 pictures"
    assert err.count("\n") == 1 and "12/metrics.json: backbone=None must be a text" in err
    (runs / "viewer.html").unlink()


def test_what_is_left_out_is_said(capsys, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("padim_lit.viewer.content.PICTURES", 2)
    main([str(runs), "--out", str(tmp_path / "v.html")])
    assert "left    12 pictures out" in capsys.readouterr().out
    content = build([runs], budget=6 * 5000)
    assert content["left"] > 12
    items = [one for run in content["runs"] for one in (run["pictures"] or {}).get("items", ())]
    assert sum(len(one["image"]) + len(one["map"]) for one in items) <= 6 * 5000


def test_runs_are_grouped_by_settings_and_weights(runs):
    content = build([runs, runs / "0"])
    assert [run["name"] for run in content["runs"]] == ["0", "1", "2", "10", "11"]
    assert [run["group"] for run in content["runs"]] == [0, 0, 0, 1, 0]
    assert content["groups"] == [
        "elpv/mono, b0, weights=ImageNet", "elpv/mono, b0, weights=random",
    ]  # fmt: skip
    assert content["runs"][0]["images"]["names"][:2] == ["img0.png", "img1.png"]


# ------------------------------------------------------------------ browser


@pytest.mark.slow
def test_the_slider_recounts_all_images_and_recolours_the_maps(opened, page, runs):
    view = opened(page)
    content = build([runs])
    counts = expected(runs / "0", 12.5)
    assert counted(view) == counts  # the checkpoint's threshold comes first
    row = texts(view, "#table tbody tr:first-child td")
    assert {f"{counts['alarms']} of 40", f"{counts['misses']} of 30"} <= set(row)
    pictures = content["runs"][0]["pictures"]
    shown = {p.role + str(p.rank): p for p in read_maps(runs / "0" / "heatmaps" / "maps.npz")}

    def marked() -> list[int]:
        return view.js(
            "[...document.querySelectorAll('#gallery figure')].map(f => +f.dataset.marked)"
        )

    def python(threshold: float) -> list[int]:
        low, step = pictures["low"], pictures["step"]
        maps = [shown[item["role"] + str(item["rank"])].map for item in pictures["items"]]
        levels = [np.rint((map.astype(np.float64) - low) / step) for map in maps]
        return [int((low + step * level >= threshold).sum()) for level in levels]

    assert marked() == python(12.5)
    before = view.js("document.querySelector('#gallery canvas').toDataURL()")
    for value in (200, 400, 700, 1000, 0):
        choose(view, "#slider", value)
        threshold = view.js("now.threshold")
        assert counted(view) == expected(runs / "0", threshold), threshold
        assert marked() == python(threshold)
    assert counted(view)["alarms"] == 40 and counted(view)["misses"] == 0
    assert view.js("document.querySelector('#gallery canvas').toDataURL()") != before
    assert view.complaints() == []
    assert view.requests() == [page]


def test_maps_are_outlined_at_their_own_threshold_which_moves_with_the_slider(opened, tmp_path):
    run = write_run(tmp_path / "0", image_score="topk", threshold_map=13.75)
    marks = {one["id"]: one for one in build([run])["runs"][0]["thresholds"]}
    assert (marks["free"]["value"], marks["pixel"]["value"]) == (12.5, pytest.approx(9 / 1.1))
    assert marks["pixel"]["how"].startswith("outlines maps from 9 on; ")
    for unknown in (None, 0.0):
        other = write_run(tmp_path / "1", image_score="topk", threshold_map=unknown, maps=False)
        assert build([other])["runs"][0]["map_factor"] == 1
    pictures = {(p.role, p.rank): p for p in read_maps(run / "heatmaps" / "maps.npz")}
    main([str(run), "--out", str(tmp_path / "v.html")])
    view = opened((tmp_path / "v.html").as_uri())
    for threshold in (12.5, 11.9, 13.8, 14.5):
        choose(view, "input[name=exact]", threshold)
        figures = view.js(
            "[...document.querySelectorAll('#gallery figure')].map((f) => { const { role, rank } = "
            "now.run.pictures.items[f.dataset.index]; return [role, rank, +f.dataset.marked, "
            "f.querySelector('.badge').textContent]; })"
        )
        for role, rank, marked, said in figures:
            shown = pictures[role, rank]
            where = shown.map >= 1.1 * threshold
            assert marked == where.sum(), (threshold, role, rank)
            wanted = "marked elsewhere" if marked else "nothing marked"
            if shown.truth is None or shown.score < threshold or where[shown.truth].any():
                called = shown.score >= threshold
                words = ("missed", "found") if shown.label else ("called good", "false alarm")
                wanted = words[called]
            assert said == wanted, (threshold, role, rank)
        by_hand = ", set by hand" if threshold != 12.5 else ""
        said = f"map at or above {1.1 * threshold:.4g}{by_hand}"
        assert texts(view, "#view .found") == [said]
    assert [one[3] for one in figures if one[0] == "highest_defect" and one[1] == 1] == [
        "nothing marked"
    ]
    assert view.complaints() == []


def test_what_lies_outside_of_a_region_of_interest_stays_grey(opened, tmp_path):
    roi = np.ones((SIZE, SIZE), bool)
    roi[:9] = False
    image, map = np.full((SIZE, SIZE, 3), 200, np.uint8), picture(1, 1, 20.0, "crack").map
    map[16:], map[~roi] = 20, 0
    given = replace(picture(1, 1, 20.0, "crack"), roi=roi, image=image, map=map, truth=None)
    write_maps(write_run(tmp_path / "0", maps=False) / "heatmaps" / "maps.npz", [given])
    main([str(tmp_path), "--out", str(tmp_path / "v.html")])
    view = opened((tmp_path / "v.html").as_uri())
    colours = view.js(
        "(() => { const pen = document.querySelector('#gallery canvas').getContext('2d');"
        "return [2, 40].map((y) => [...pen.getImageData(9, y, 1, 1).data]); })()"
    )
    assert np.abs(np.array(colours[0]) - [100, 100, 100, 255]).max() <= 2
    assert np.ptp(colours[1][:3]) > 20


def test_maps_look_as_in_the_pictures_of_a_fit_and_have_the_shape_of_its_photos(opened, tmp_path):
    image = np.full((SIZE, SIZE, 3), (200, 120, 40), np.uint8)
    image[:, : SIZE // 2] //= 4  # which muting lifts
    map = np.repeat(np.linspace(4, 16, 3, dtype=np.float32), SIZE // 3)[:, None].repeat(SIZE, 1)
    given = replace(picture(1, 1, 16.0, "crack"), image=image, map=map, truth=None)
    scale, shape = (2.0, 20.0), {"stretch": 0.1}
    run = write_run(tmp_path / "0", maps=False, threshold=17.0, map_colours=scale, **shape)
    write_maps(run / "heatmaps" / "maps.npz", [given])
    main([str(tmp_path), "--out", str(tmp_path / "v.html")])
    view = opened((tmp_path / "v.html").as_uri())
    width, height, found, ends = view.js(
        "(() => { const c = document.querySelector('#gallery canvas'), at = (canvas, x, y) => "
        "[...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3), "
        "bar = document.querySelector('.scale canvas'); return [c.width, c.height, "
        "[1, 3, 5].map((y) => at(c, 5, c.height * y / 6)), "
        "[0, 255].map((x) => at(bar, x, 0))]; })()"
    )
    assert (width, height) == (15, 152)
    assert np.abs(overlay(image, map, scale)[[4, 12, 20], 9] - np.array(found)).max() <= 4
    grey = np.full((1, 2, 3), 128, np.uint8)
    bar = overlay(grey, np.array([scale], np.float32), scale)[0]
    assert np.abs(bar - np.array(ends)).max() <= 1
    assert texts(view, ".scale") == ["distance 2\n20"]


def test_pixels_that_are_left_out_are_said(opened, page):
    said = opened(page).js("[1, 2].map((every) => sampled({ pictures: { items: [], every } }))")
    assert "One pixel" not in said[0] and "One pixel in 2 along each side is shown." in said[1]


def test_marks_are_called_what_they_are_and_set_the_threshold_exactly(opened, page, runs):
    view = opened(page)
    f1 = json.loads((runs / "0" / "metrics.json").read_text())["test/image_f1max_threshold"]
    said = dict(zip("ABC", texts(view, ".marks li"), strict=True))
    assert "checkpoint 12.5" in said["A"]
    assert said["A"].endswith("chosen without test images for 1 % false alarms")
    assert "best F1" in said["B"] and said["B"].endswith("chosen on the test set, hence optimistic")
    assert "best pixel F1 9" in said["C"] and "on the test set" in said["C"]
    view.js("document.querySelector('.marks [data-id=image]').click()")
    assert view.js("now.threshold") == f1  # not the slider's nearest step
    assert counted(view) == expected(runs / "0", f1)
    view.js("document.querySelector('.marks [data-id=free]').focus()")
    view.press("Enter")
    assert view.js("now.threshold") == 12.5
    assert view.js("document.querySelector('.marks [data-id=free]').ariaPressed") == "true"
    choose(view, "input[name=exact]", 11.25)
    assert counted(view) == expected(runs / "0", 11.25)
    choose(view, "input[name=exact]", "")
    assert view.js("document.querySelector('input[name=exact]').value") == "11.25"


def test_the_keyboard_moves_the_slider_and_opens_a_picture(opened, page, runs):
    view = opened(page)
    view.js("document.querySelector('#slider').focus()")
    before = view.js("now.threshold")
    view.press("ArrowLeft", "ArrowLeft", "ArrowLeft")
    drawn(view)
    threshold = view.js("now.threshold")
    assert threshold < before and counted(view) == expected(runs / "0", threshold)
    assert f"Threshold {threshold:.4g}" in texts(view, "#said")[0]
    view.press("Home")
    assert counted(view)["alarms"] == 40
    view.js("document.querySelector('#gallery figure:nth-child(2) button').focus()")
    view.press("Enter")
    assert "hole" in texts(view, "#large p")[0]
    assert view.js("document.activeElement.textContent") == "close"
    view.press("Escape")
    assert view.js("document.querySelector('#large').hidden")
    assert view.js("document.activeElement.closest('figure').dataset.index") == "1"
    assert view.complaints() == []


def test_filters_act_on_table_and_curves(opened, page):
    view = opened(page)

    def names() -> list[str]:
        rows = texts(view, "#table tbody tr:not([hidden]) th")
        return [row.removesuffix("maps").strip() for row in rows]

    curves = (
        "[...document.querySelectorAll('#curves figcaption')].filter(e => e.offsetHeight)"
        ".map(e => e.textContent)"
    )
    assert names() == ["0", "1", "2", "10", "11"]
    # Of the two groups one has a second D; random weights are not averaged with others.
    assert view.js(curves) == ["elpv/mono, b0, weights=ImageNet"]
    assert texts(view, "#shown") == ["5 of 5 runs; 1 more could not be read"]
    choose(view, "#filters [name=proj]", "jl")
    assert names() == ["0", "1", "2"]
    assert view.js(curves) == ["elpv/mono, b0, weights=ImageNet"]
    choose(view, "#filters [name=dim]", "100")
    choose(view, "#filters [name=seed]", "1")
    assert names() == ["2"]
    view.js("document.querySelector('#filters button').click()")
    drawn(view)
    choose(view, "#filters [name=text]", "RANDOM weights")
    assert names() == ["10"]
    choose(view, "#filters [name=text]", "nothing")
    assert names() == [] and view.js(curves) == []
    choose(view, "#filters [name=text]", "")
    view.js("document.querySelector('#pick-pixel_auroc').click()")
    (shown,) = view.js(curves.replace("e.textContent", "e.parentElement.textContent"))
    assert "pixel AUROC, planted" in shown
    view.js("document.querySelectorAll('#table th button')[6].click()")
    view.js("document.querySelectorAll('#table th button')[6].click()")
    assert names()[0] == "2"  # .9 + 100 / 10,000 + 1 / 1000
    assert view.complaints() == []


def test_notes_stand_by_their_numbers_and_older_runs_say_what_they_lack(opened, page, runs):
    view = opened(page)
    warnings = texts(view, "#warnings li")
    assert warnings[:2] == [
        "Note 1 (4 runs): Pixel metrics count planted defects.", "Note 2 (1 run): Random weights.",
    ]  # fmt: skip
    assert "1 run could not be read" in warnings[2] and "12/metrics.json" in warnings[2]
    cells = view.js(
        "[...document.querySelectorAll('#table tbody tr')].map(r => r.lastChild.innerText)"
    )
    assert cells == ["1", "1", "1", "2", "1"]
    assert texts(view, "#notes li") == ["Pixel metrics count planted defects."]
    choose(view, "#chosen select", 4)
    assert "no heatmaps/maps.npz" in texts(view, "#sampled")[0]
    assert "No threshold without test images: too few." in texts(view, "#setting p")[0]
    assert texts(view, "#gallery figure") == []
    f1 = json.loads((runs / "11" / "metrics.json").read_text())["test/image_f1max_threshold"]
    assert counted(view) == expected(runs / "11", f1)
    view.js("document.querySelectorAll('#table .open')[3].click()")
    drawn(view)
    assert texts(view, "#notes li") == ["Random weights."]
    assert view.js("document.activeElement.value") == "3"
    assert view.complaints() == []


def test_names_from_the_data_are_text_and_nothing_else(opened, tmp_path):
    evil = {"proj": EVIL[:40], "data": EVIL, "image_score": EVIL, "weights": EVIL}
    evil |= {"path": EVIL.replace("/", "|"), "notes": [EVIL], "threshold_why": EVIL}
    for dim in (100, 50):
        run = write_run(tmp_path / str(dim) / "<img src=x>", dim=dim, threshold=None, **evil)
        rows = (run / "predictions.csv").read_text()
        (run / "predictions.csv").write_text(rows.replace(",crack,", f",{EVIL},"))
    html = render(build([tmp_path]))
    assert html.count("</script>") == 2  # the data and the scripts
    (tmp_path / "v.html").write_text(html)
    view = opened((tmp_path / "v.html").as_uri())
    view.js("for (const d of document.querySelectorAll('details')) d.open = true")
    view.js("document.querySelector('#gallery button').click()")
    assert view.js("document.title") == "padim_lit: runs and heat maps"
    assert view.js("document.querySelectorAll('img').length") == 0
    assert EVIL in texts(view, "#notes li") and EVIL in texts(view, "#curves figcaption")[0]
    assert EVIL in "".join(texts(view, "#counts"))
    assert view.complaints() == []


def test_the_curve_is_the_mean_over_seeds_and_its_spread(runs):
    content = build([runs])
    curve, _ = draw_curves(content["runs"], content["groups"])
    assert (curve["group"], curve["metric"]) == (0, "image_auroc")
    sweep = as_sweep([r for r in content["runs"] if r["group"] == 0], "image_auroc")
    found = {(c["proj"], c["dim"]): c for c in sweep["configurations"]}
    values = [0.91, 0.911]
    assert found["jl", 100]["mean"]["image_auroc"] == pytest.approx(np.mean(values))
    assert found["jl", 100]["sd"]["image_auroc"] == pytest.approx(np.std(values, ddof=1))
    assert found["jl", 50]["sd"]["image_auroc"] is None


def test_a_seed_that_ran_twice_on_a_split_counts_once(runs):
    run = build([runs])["runs"][0]
    scored = [(0, "0", 0.5), (0, "0", 0.9), (1, "0", 0.7), (0, "1", 0.8)]
    keys = ("seed", "split_seed", "metrics")
    every = [
        run | dict(zip(keys, (*of, {"image_auroc": value}), strict=True)) for *of, value in scored
    ]
    (found,) = as_sweep(every, "image_auroc")["configurations"]
    assert found["mean"]["image_auroc"] == pytest.approx(0.8)


def test_runs_behind_a_link_are_called_by_their_folders(runs, tmp_path):
    (tmp_path / "outputs").symlink_to(runs)
    names = [run["name"] for run in build([tmp_path / "outputs"])["runs"]]
    assert names == ["0", "1", "2", "10", "11"]


def test_a_long_folder_name_leaves_room_for_the_metrics(opened, tmp_path):
    name = "data=mvtec:screw,proj=jl,proj.dim=100,backbone=tf_efficientnet_lite0,seed=0" * 3
    write_run(tmp_path / name / "0")
    write_run(tmp_path / name / "1", dim=50)
    write_run(tmp_path / "other")
    (tmp_path / "v.html").write_text(render(build([tmp_path])))
    view = opened((tmp_path / "v.html").as_uri())
    for width in (1280, 400):
        view.size(width, 800)
        first = "document.querySelector('#table tbody th').getBoundingClientRect().width"
        assert view.js(first) < 0.45 * width
    view.size(1280, 800)
    head = view.js(
        "[...document.querySelectorAll('#table thead th')].find("
        "h => h.textContent === 'pixel AUROC').getBoundingClientRect().right"
    )
    assert head < 1280


@pytest.mark.parametrize("width", [360, 800, 1900])
def test_nothing_sticks_out_at_any_width(opened, page, width):
    view = opened(page)
    view.size(width, 800)
    view.js("document.querySelector('#gallery button').click()")
    view.js("for (const d of document.querySelectorAll('details')) d.open = true")
    assert view.js("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_paper(opened, page):
    view = opened(page)
    view.call("Emulation.setEmulatedMedia", media="print")
    for selector in ("#filters", "#slider"):
        assert view.js(f"getComputedStyle(document.querySelector('{selector}')).display") == "none"
    assert view.pdf().startswith(b"%PDF")


def test_every_control_has_a_name(opened, page):
    view = opened(page)
    assert (
        view.js(
            "[...document.querySelectorAll('select, input, button')].filter(e => !(e.ariaLabel "
            "|| e.labels && e.labels.length || e.textContent.trim())).map(e => e.outerHTML)"
        )
        == []
    )


def test_runs_on_two_drives_of_windows_go_by_their_whole_paths(tmp_path, monkeypatch):
    def commonpath(paths):
        raise ValueError("Paths don't have the same drive")

    folders = [write_run(tmp_path / name, maps=False) for name in "ab"]
    monkeypatch.setattr(os.path, "commonpath", commonpath)
    found = build(folders)
    assert [run["name"] for run in found["runs"]] == [str(folder) for folder in folders]


def test_a_code_page_that_lacks_a_folders_name_ends_no_page(tmp_path):
    write_run(tmp_path / "数据", maps=False)
    command = [sys.executable, "-m", "padim_lit.viewer", "数据"]
    env = environment(tmp_path, PYTHONIOENCODING="cp1252", PYTHONPATH=str(ROOT))
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=120)
    assert result.returncode == 0 and b"??" in result.stdout and not result.stderr
