"""The page over what mode=predict left: list, counts, drift, pictures and decisions as a file."""

import csv
import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from _helpers.browser import texts

from padim_lit.deploy.prediction_log import read_lines
from padim_lit.errors import InputError
from padim_lit.system.atomic import write_json
from padim_lit.viewer.command import main
from padim_lit.viewer.content import build
from padim_lit.viewer.html import render
from padim_lit.visualization.gallery import SCORED, UNKNOWN, GalleryEntry, read_maps, write_maps

SIDE, COUNT, THRESHOLD = 16, 30, 12.0
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"


def write_scored(folder: Path, first: str = '=1,"ü"') -> Path:
    """30 images, scores 5 to 19.5 in turn, the oldest last; those from 12 on have pictures."""
    (folder / "heatmaps").mkdir(parents=True)
    rng = np.random.default_rng(0)
    scores = (5 + 0.5 * rng.permutation(COUNT)).tolist()
    lines = []
    for i, score in enumerate(scores):
        path = f"in/{i:02}.png" if i else f"in/{first}.png"
        region = {"box": [1, 2, 5, 8], "area": 2 * score, "peak": score}
        line = {"path": path, "size": 9, "mtime_ns": 10**18 - i, "score": score, "p_value": 0.25}
        line |= {"width": 64, "height": 32, "regions": [region] if score >= THRESHOLD else []}
        if score >= THRESHOLD:
            map = rng.uniform(1, score, (SIDE, SIDE)).astype(np.float32)
            map[3, 4] = score
            image = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            shown = GalleryEntry(SCORED, 1, 0, path, SCORED, UNKNOWN, score, image, None, map)
            write_maps(folder / "heatmaps" / f"{i}.npz", [shown])
            line["viewer"] = f"heatmaps/{i}.npz"
        lines.append(json.dumps(line))
    lines.append(json.dumps({"path": "in/bad.png", "size": 1, "mtime_ns": 3, "error": "broken"}))
    (folder / "predictions.jsonl").write_text("\n".join(lines) + '\n{"path": "in/half')
    good = np.linspace(6, 11, 100).tolist()
    model = {"source": "in", "threshold": THRESHOLD, "map_threshold": THRESHOLD}
    model |= {"threshold_source": "threshold 12, given", "image_score": "max", "good_scores": good}
    write_json(folder / "model.json", model)
    return folder


def scored_lines(folder: Path) -> list[dict]:
    return [line for line in read_lines(folder / "predictions.jsonl") if "error" not in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_scored(tmp_path_factory.mktemp("predicted") / "run")


@pytest.fixture
def view(opened, folder, tmp_path):
    main([str(folder), "--out", str(tmp_path / "v.html")])
    page = opened((tmp_path / "v.html").as_uri())
    page.js(
        "new Promise((done) => { const look = () => document.querySelector("
        "'#gallery [data-marked]') ? done() : setTimeout(look, 10); look(); })"
    )
    return page


def choose(view, selector: str, value: object) -> None:
    view.js(
        f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
        f"e.value = {json.dumps(str(value))}; for (const name of ['input', 'change']) "
        "e.dispatchEvent(new Event(name, {bubbles: true})); })()"
    )
    view.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def listed(view) -> list[str]:
    return view.js(
        "[...document.querySelectorAll('#list tbody tr')].map(r => r.cells[1].textContent)"
    )


def shown(view) -> list[str]:
    return [
        text.split(",")[-1].split()[0]
        for text in texts(view, "#gallery figure:not([hidden]) .what")
    ]


def test_the_list_sorts_filters_and_counts_at_any_threshold(view, folder):
    scores = [line["score"] for line in scored_lines(folder)]
    high = sorted(scores, reverse=True)
    assert listed(view) == [f"{score:.2f}" for score in high]
    defective = [f"{score:.2f}" for score in high if score >= THRESHOLD]
    assert shown(view) == defective and len(defective) == 16
    (tally,) = texts(view, "#tally")
    assert tally.startswith("16 of 30 images called defective at 12 (53.3 %); 0 of the 100 known")
    assert tally.endswith("1 file could not be read.")
    choose(view, "input[name=exact]", 9)
    assert texts(view, "#tally")[0].startswith(
        "22 of 30 images called defective at 9, set by hand (73.3 %); 40 of the 100"
    )
    choose(view, "#pick [name=decided]", "good")
    assert listed(view) == [f"{score:.2f}" for score in high if score < 9] and shown(view) == []
    choose(view, "#pick [name=decided]", "")
    choose(view, "#pick [name=order]", "low")
    assert listed(view) == [f"{score:.2f}" for score in high[::-1]]
    assert shown(view) == defective[::-1]
    choose(view, "#pick [name=order]", "time")  # the first line's file is the newest
    assert listed(view) == [f"{score:.2f}" for score in scores]
    choose(view, "#pick [name=text]", "07.PNG")
    assert listed(view) == [f"{scores[7]:.2f}"]
    assert view.complaints() == []


def test_the_least_p_value_is_no_more_than_a_bound(opened, folder, tmp_path):
    least = 1 / (1 + len(json.loads((folder / "model.json").read_text())["good_scores"]))
    for name in ("run", "other"):
        rewritten(shutil.copytree(folder, tmp_path / name), {}, p_value=least)
    rewritten(tmp_path / "other", {}, p_value=2 * least)
    main([str(tmp_path), "--out", str(tmp_path / "v.html")])
    view = opened((tmp_path / "v.html").as_uri())
    cells = "[...new Set([...document.querySelectorAll('#list tbody tr')].map(r => "
    cells += "r.cells[2].textContent))]"
    assert texts(view, "#folders td:nth-child(8)") == ["0.0198", "≤ 0.0099"]
    assert view.js(cells) == ["0.0198"]
    choose(view, "#chosen select", 1)
    assert view.js(cells) == ["≤ 0.0099"]


def test_a_picture_opens_with_its_regions(view, folder):
    view.js("document.querySelector('#list .open').click()")
    (said,) = texts(view, "#large p")
    assert "score 19.50" in said and "x 1 to 5, y 2 to 8, area 39, peak 19.50" in said
    assert texts(view, "#large .badge") == ["defective"]
    choose(view, "input[name=exact]", 30)
    assert texts(view, "#large .badge") == ["good"]
    hidden = "[...document.querySelectorAll('#counts, #uncounted')].every(e => !e.offsetHeight)"
    assert view.js(hidden)
    assert view.complaints() == []


def test_what_is_called_defective_is_outlined_as_its_picture_is(view, folder):
    """Where no pixel reaches the threshold of maps the highest 2 % are, as `Predictor` has it."""
    marked = "Number(document.querySelector('#gallery figure:not([hidden])').dataset.marked)"
    best = max(scored_lines(folder), key=lambda line: line["score"])
    (shown,) = read_maps(folder / best["viewer"])
    usual = int((shown.map >= 1.4 * 12.5).sum())
    highest = int((shown.map >= np.quantile(shown.map, 0.98, method="higher")).sum())
    assert 1 < highest < usual
    for factor, pixels in ((1.4, usual), (2, highest)):
        view.js(f"now.run.map_factor = {factor}")
        choose(view, "input[name=exact]", 12.5 + factor / 1e9)
        assert view.js(marked) == pixels


def test_drift_is_told_against_the_good_images_of_the_fit(view, folder):
    scores = [line["score"] for line in scored_lines(folder)][::-1]  # oldest first
    first, last = (np.sort(part)[2] for part in (scores[:5], scores[-5:]))
    (said,) = texts(view, "#drift p")
    assert f"first 5: {first:.2f}, of the last 5: {last:.2f}" in said
    good = np.linspace(6, 11, 100)
    shares = [round(100 * np.mean(good < value)) for value in (first, last)]
    assert f"above {shares[0]} % and {shares[1]} % of the known good images" in said


def test_the_median_of_two_is_their_mean_and_quantiles_are_numpys(view):
    for count in (1, 2, 5, 100):
        values = np.random.default_rng(count).gamma(4, size=count).tolist()
        for share in (0.05, 0.5, 0.95):
            found = view.js(f"quantile(ranked({values}), {share})")
            assert found == pytest.approx(np.quantile(values, share), rel=1e-12)
    note = "[...document.querySelectorAll('#drift p')].pop().textContent"
    view.js(
        "drawDrift({ ...now.run, good: [], order: [0, 1, 2, 3], scores: [17, 54, 1, 2] }, [0, 60])"
    )
    assert "Median of the first 2: 35.50, of the last 2: 1.50." in view.js(note)


@pytest.mark.parametrize(
    ("apart", "marks"),  # seconds between two images
    [(0, {"10", "30"}), (3600, {"10:46", "06:46"}), (9e4, {"09-18", "10-09"})],
)
def test_drift_is_drawn_over_dates_where_there_are_any(opened, folder, tmp_path, apart, marks):
    run = shutil.copytree(folder, tmp_path / "run")
    lines = scored_lines(run)
    for i, line in enumerate(lines):
        line["mtime_ns"] = 10**18 + int(i * apart * 1e9)  # 2001-09-09 01:46:40
    (run / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    main([str(run), "--out", str(tmp_path / "v.html")])
    page = opened((tmp_path / "v.html").as_uri())
    assert marks <= set(texts(page, "#drift .ticks:not(.upright) span"))
    assert ("2001-09-09 01:46 to 2001-" in texts(page, "#drift p")[0]) == bool(apart)


def test_pictures_of_old_days_may_be_deleted(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(run / "heatmaps")
    (scored,) = build([run])["scored"]
    assert len(scored["scores"]) == COUNT


def test_every_axis_has_ticks(view, folder):
    for chart in ("#histogram", "#drift"):
        for axis in (".ticks.upright span", ".ticks:not(.upright) span"):
            assert len({float(text) for text in texts(view, f"{chart} {axis}")}) >= 3
    at = "parseFloat([...document.querySelectorAll('#histogram .ticks:not(.upright) span')]"
    place = view.js(f"{at}.at(-1).style.left)")
    low, high = (view.js(f"sliderRange(content.scored[0])[{i}]") for i in (0, 1))
    last = float(texts(view, "#histogram .ticks:not(.upright) span")[-1])
    assert place == pytest.approx(100 * (last - low) / (high - low), abs=0.01)


def test_what_is_closed_gives_the_keyboard_back_to_the_list(view):
    view.js("document.querySelector('#list .open').focus()")
    view.press("Enter")
    assert view.js("document.activeElement.textContent") == "close"
    view.press("Escape")
    assert view.js("document.activeElement === document.querySelector('#list .open')")
    assert view.complaints() == []


def test_decisions_are_exported_at_the_threshold(view, folder):
    choose(view, "input[name=exact]", 15)
    text = view.js("toCsv(now.run, now.threshold)")
    rows = list(csv.DictReader(io.StringIO(text)))
    lines = scored_lines(folder)
    assert [float(row["score"]) for row in rows] == [line["score"] for line in lines]
    assert rows[0]["path"] == 'in/=1,"ü".png' and rows[0]["p_value"] == "0.25"
    assert sum(row["decision"] == "anomalous" for row in rows) == 10
    assert {row["model_sha256"] for row in rows} == {view.js("now.run.model ?? ''")}
    risky = "toCsv({paths: ['=a.png'], scores: [1], p: [null], model: 'ab12'}, 2)"
    assert view.js(risky).splitlines()[1] == '"./=a.png",1,,good,2,ab12'
    saved = (
        "(() => { let found; const before = URL.createObjectURL; URL.createObjectURL = (blob) => "
        "{ found = blob; return before.call(URL, blob); }; "
        "document.querySelector('#export').click(); return found.text(); })()"
    )
    assert view.js(saved) == text
    assert view.complaints() == []


def test_many_folders_are_one_table_whose_rows_lead_to_them(opened, folder, tmp_path):
    for name in ("night1", "night2"):
        shutil.copytree(folder, tmp_path / name)
    empty = write_scored(tmp_path / "none")
    (empty / "predictions.jsonl").write_text("")
    rewritten(tmp_path / "night2", {"threshold": 15.0, "model_sha256": "abc"}, p_value=0.5)
    main([str(tmp_path), "--out", str(tmp_path / "v.html")])
    view = opened((tmp_path / "v.html").as_uri())
    shown = view.js(
        "[...document.querySelectorAll('#folders tbody tr')].map((r) => "
        "[...r.cells].map((cell) => cell.firstChild.textContent))"
    )
    times = ["2001-09-09 01:46"] * 2
    assert shown == [
        ["night1", *times, "30", "16", "53.3 %", "1", "0.25", "—"],
        ["night2", *times, "30", "10", "33.3 %", "0", "0.5", "abc"],
        ["none", "—", "—", "0", "0", "—", "0", "—", "—"],
    ]
    view.js("document.querySelectorAll('#folders .open')[1].click()")
    assert view.js("document.activeElement.value") == "1"
    assert texts(view, "#tally")[0].startswith("10 of 30 images called defective at 15")
    assert view.complaints() == []
    main([str(folder), "--out", str(tmp_path / "v.html")])
    assert 'id="folders"' not in (tmp_path / "v.html").read_text()


def test_names_are_text_and_broken_folders_are_one_line(opened, tmp_path):
    write_scored(tmp_path / "evil", EVIL.replace("/", "|"))
    (tmp_path / "v.html").write_text(render(build([tmp_path])))
    page = opened((tmp_path / "v.html").as_uri())
    page.js("document.querySelector('#list .open').click()")
    assert page.js("document.title") == "padim_lit: runs and heat maps"
    assert page.js("document.querySelectorAll('img').length") == 0
    assert EVIL.replace("/", "|") in "".join(texts(page, "#list"))
    for name, text in (
        ("model.json", "[]"), ("model.json", "{}"), ("model.json", '{"source": 1}'),
        ("predictions.jsonl", "{}\n"), ("predictions.jsonl", "[\n"),
        ("predictions.jsonl", '{"path": "a", "mtime_ns": 1, "score": "x", "p_value": null}\n'),
        ("predictions.jsonl", '{"path": "a", "mtime_ns": 1, "score": 1, "p_value": "x"}\n'),
        ("model.json", '{"source": "a", "threshold_source": "b", "image_score": "max", '
         '"threshold": "x"}'),
        ("predictions.jsonl",
         '{"path": "a", "mtime_ns": 1, "score": NaN, "p_value": null, "regions": []}\n'),
        ("heatmaps/5.npz", "PK"), ("predict.json", "[]"),
    ):  # fmt: skip
        broken = write_scored(tmp_path / str(hash((name, text))))
        (broken / name).write_text(text)
        for file in (broken / "heatmaps").glob("*.npz") if "npz" in name else ():
            file.write_text(text)
        with pytest.raises(InputError, match="cannot be read") as caught:
            build([broken])
        assert "\n" not in str(caught.value)


def test_a_model_that_says_nothing_of_thresholds_has_none(tmp_path):
    write_scored(tmp_path)
    said = {"source": "in", "threshold_source": "no threshold", "image_score": "max"}
    write_json(tmp_path / "model.json", said)
    (scored,) = build([tmp_path])["scored"]
    assert (scored["thresholds"], scored["map_threshold"], scored["good"]) == ([], None, [])


def test_what_predict_noted_is_on_the_page(opened, tmp_path):
    write_scored(tmp_path / "run")
    note = "the model sees 25% of a photo"
    write_json(tmp_path / "run/predict.json", {"notes": [note]})
    main([str(tmp_path / "run"), "--out", str(tmp_path / "v.html")])
    assert note in texts(opened((tmp_path / "v.html").as_uri()), "#notes li")


def rewritten(folder: Path, model: dict, **more) -> None:
    """Change what model.json says, and every line."""
    write_json(folder / "model.json", json.loads((folder / "model.json").read_text()) | model)
    lines = [json.dumps(line | more) + "\n" for line in scored_lines(folder)]
    (folder / "predictions.jsonl").write_text("".join(lines))


def test_without_a_threshold_nothing_is_decided_until_the_slider_is_moved(opened, folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    none = dict.fromkeys(("threshold", "map_threshold", "good_scores"))
    rewritten(run, none | {"threshold_source": "no threshold"}, p_value=None, regions=None)
    main([str(run), "--out", str(tmp_path / "v.html")])
    view = opened((tmp_path / "v.html").as_uri())
    view.js(
        "new Promise((done) => { const look = () => document.querySelector("
        "'#gallery [data-marked]') ? done() : setTimeout(look, 10); look(); })"
    )
    decisions = "[...new Set([...document.querySelectorAll('#list tbody tr')].map(r => "
    decisions += "r.cells[3].textContent))]"
    marked = "[...document.querySelectorAll('#gallery figure')].map(f => +f.dataset.marked)"
    assert texts(view, "#tally") == ["30 images, undecided until the slider is moved."]
    assert view.js(decisions) == ["undecided"] and not any(view.js(marked))
    assert set(texts(view, "#gallery .badge")) == {""} and len(shown(view)) == 16
    assert view.js("document.querySelector('#export').disabled")
    lines = "[...document.querySelectorAll('line.now, .key.found')].map(e => e.checkVisibility())"
    assert set(view.js(lines)) == {False}
    assert texts(view, "#histogram .legend span") == ["30 images scored by score"]
    view.js("document.querySelector('#list .open').click()")
    assert texts(view, "#large .badge") == [""] and "marked" not in "".join(texts(view, "#large"))
    choose(view, "#slider", 500)
    (tally,) = texts(view, "#tally")
    assert tally.startswith("15 of 30 images called defective at 12.25, set by hand (50.0 %)")
    assert texts(view, "#view .found") == ["map at or above 12.25, set by hand"]
    assert view.js(decisions) == ["defective", "good"] and any(view.js(marked))
    assert set(texts(view, "#gallery .badge")) == {"defective", "good"}
    assert not view.js("document.querySelector('#export').disabled")
    assert set(view.js(lines)) == {True}
    assert view.complaints() == []


@pytest.mark.parametrize(("seen", "size"), [({}, [45, 23]), ({"seen": [16, 0, 48, 32]}, [32, 32])])
def test_pictures_have_the_shape_of_what_was_seen_of_a_photo(opened, folder, tmp_path, seen, size):
    run = shutil.copytree(folder, tmp_path / "run")
    rewritten(run, {}, **seen, map_colours=[2.5, 40])
    assert build([run])["scored"][0]["pictures"]["scale"] == [2.5, 40]
    main([str(run), "--out", str(tmp_path / "v.html")])
    view = opened((tmp_path / "v.html").as_uri())
    found = view.js(
        "new Promise((done) => { const look = () => { const c = document.querySelector("
        "'#gallery [data-marked] canvas'); "
        "c ? done([c.width, c.height]) : setTimeout(look, 10); }; look(); })"
    )
    assert found == size
    assert texts(view, "#view .scale") == ["distance 2.5\n40"]


def test_a_picture_that_is_not_decoded_yet_opens_nothing(view):
    opening = "now.ready = []; enlarge(0); now.ready = ready; return now.large;"
    assert view.js(f"((ready) => {{ {opening} }})(now.ready)") is None
    assert view.complaints() == []


@pytest.mark.slow
def test_a_hundred_thousand_images_are_shown_within_seconds(opened, tmp_path):
    write_scored(tmp_path / "run")
    line = {"size": 9, "p_value": 0.5, "width": 64, "height": 32, "regions": []}
    lines = (
        json.dumps(line | {"path": f"in/{i}.png", "mtime_ns": i, "score": 5.0 + i % 7})
        for i in range(100_000)
    )
    (tmp_path / "run" / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    main([str(tmp_path / "run"), "--out", str(tmp_path / "v.html")])
    start = time.monotonic()
    page = opened((tmp_path / "v.html").as_uri())
    drawn = page.js("document.querySelector('#drift path.running').getAttribute('d')")
    assert drawn.count("L") == 999 and time.monotonic() - start < 30
