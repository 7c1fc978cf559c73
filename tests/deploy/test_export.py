"""mode=export: every format gives the checkpoint's scores, and what it writes says what it is."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from _helpers import windows
from _helpers.cli import ROOT, TINY, environment
from _helpers.fits import fit_on_images
from _helpers.paper import paper
from _helpers.tables import long_table
from _helpers.trees import build_tree, save_image
from omegaconf import OmegaConf
from PIL import Image

import padim_lit
from padim_lit import InputError
from padim_lit.checkpoint.state import (
    full_state,
    load_detector,
    load_identified,
    restore,
    save_detector,
)
from padim_lit.cli.good_images import images_of
from padim_lit.cli.messages import one_line
from padim_lit.cli.modes import export as mode
from padim_lit.deploy.calibration import Measured, by_hand, calibrate
from padim_lit.deploy.export import METADATA, export_onnx, export_torch, metadata, require_room
from padim_lit.deploy.graph import Graph
from padim_lit.deploy.runtimes import largest_difference, milliseconds, open_onnx
from padim_lit.model.backbone import Backbone
from padim_lit.model.density import PerPosition
from padim_lit.model.detector import Detector
from padim_lit.model.projection import PROJECTIONS
from padim_lit.system.console import score_text

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="torch 2.6's ONNX exporter fails on a BatchNorm"
)

FIT = [*(a for a in TINY if a not in ("proj=jl", "dim=8", "hydra.run.dir=run")), "calibration=0"]
SCORES = torch.linspace(1, 3, 30)  # of good images
SIZE = ["image_size=72", "crop_size=64"]
KINDS = {
    "jl": ["proj=jl", "dim=8", "image_score=contrast"],
    "subset": ["proj=subset", "dim=9", "image_score=topk", "grid=null"],
    # Two bands of rows, and more components than one step of a graph takes.
    "fisher": ["proj=fisher", "dim=70", "proj.fit_images=3", "grid=5", "density.components=25"],
    "both": ["proj=jl", "dim=9", "density=both", "density.components=40", "neighbourhood=3"],
}


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote) -> Path:
    """A fitted model a kind, in NAME/model.ckpt."""
    here = tmp_path_factory.mktemp("export")
    build_tree(here / "data", train=6, test={"good": 2, "crack": 2})
    save_image(here / "data/test/good/999.png", size=(90, 131), seed=7)  # to be resized and cut
    for name, args in KINDS.items():
        result = zygote.run([*FIT, *SIZE, *args, f"hydra.run.dir={name}"], here)
        assert result.code == 0, result.err
    return here


@pytest.fixture(scope="module")
def export(here):
    """mode=export in this process, where the exporter is imported once; gives export.json."""

    def export(kind: str, *args: str) -> dict:
        given = OmegaConf.from_dotlist([f"ckpt={kind}/model.ckpt", *args])
        settings = mode.Export(backbone={}, proj={}, density={}, **OmegaConf.to_container(given))
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(here)
            mode.run(settings, here / "out")
        return json.loads((here / "out/export.json").read_text())

    return export


def detector_of(here, kind) -> Detector:
    return load_detector(here / kind / "model.ckpt")


def pictures(count, size=64):
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def floats(pixels):
    return np.ascontiguousarray((pixels / np.float32(255)).transpose(0, 3, 1, 2))


def expected(here, kind, pixels):
    with torch.inference_mode():
        score, maps = detector_of(here, kind)(torch.from_numpy(floats(pixels)))
    return score.numpy(), maps.numpy()


@pytest.fixture(scope="module")
def exported(here, export):
    """A kind's KIND.onnx and its export.json, made once; the lowest of three scores is good."""

    @cache
    def exported(kind: str) -> tuple[Path, dict]:
        file = here / f"{kind}.onnx"
        threshold = float(np.sort(expected(here, kind, pictures(3))[0])[1]) * (1 - 1e-4)
        if kind != "jl":
            return file, export(kind, f"output={file}", f"threshold={threshold}")
        # Of the checkpoint here, of the command line above.
        model = detector_of(here, kind)
        known = replace(calibrate(Measured(SCORES, SCORES)), map_threshold=None)
        model.calibration = replace(known, threshold=threshold)
        save_detector(model, here / "calibrated.ckpt")
        return file, export(kind, "ckpt=calibrated.ckpt", f"output={file}")

    return exported


# --- Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k != "both")) for k in KINDS],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_gives_the_scores_of_the_checkpoint(here, exported, kind, batch):
    file, report = exported(kind)
    score, maps = expected(here, kind, pictures(batch))
    found = open_onnx(file, 1)(floats(pictures(batch)))
    np.testing.assert_allclose(found["score"], score, rtol=1e-4)
    np.testing.assert_allclose(found["map"], maps, rtol=1e-4)
    assert found["decision"].dtype == bool
    assert found["decision"].tolist() == (score >= report["threshold"]).tolist()
    if batch == 3:  # the middle score is just above the threshold
        assert sorted(found["decision"]) == [False, True, True]


@pytest.mark.slow
def test_pixels_go_in_as_they_are_and_openvino_agrees(here, export, capsys, monkeypatch):
    windows.keep_open_files(monkeypatch)
    export("fisher", "format=openvino", "preprocess=true", "threshold=20")
    printed = capsys.readouterr().out
    assert "model.xml" in printed and "not: give images=" in printed
    core = openvino.Core()
    model = core.read_model(here / "out/model.xml")
    about = json.loads(model.get_rt_info([METADATA]).value)
    assert about["proj"] == "fisher" and about["threshold"] == 20 and about["preprocess"]
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 4):
        score, maps = expected(here, "fisher", pictures(batch))
        found = compiled({"image": pictures(batch)})
        np.testing.assert_allclose(found["score"], score, rtol=1e-4)
        np.testing.assert_allclose(found["map"], maps, rtol=1e-4)
        assert found["decision"].tolist() == (score >= 20).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_fp16_is_smaller_and_says_by_how_much_it_differs(here, export, format):
    report = export("fisher", f"format={format}", "precision=fp16")
    assert report["bytes"] == sum(Path(f).stat().st_size for f in report["files"])
    tensors = Graph(detector_of(here, "fisher")).state_dict().values()
    assert report["bytes"] < 0.7 * 4 * sum(t.numel() for t in tensors)
    assert 1e-6 < report["score_difference"] <= 2e-2


@pytest.mark.slow
def test_copies_of_one_image_have_no_rank(here, export):
    for name in "ab":
        save_image(here / "copies" / f"{name}.png", size=(90, 131), seed=7)
    report = export("jl", "format=torch", "precision=int8", "images=copies")
    assert report["agreement_images"] == 2 and "rank_correlation" not in report
    assert json.loads((here / "out/export.json").read_text()) == report


@pytest.mark.slow
def test_int8_convolutions_have_gaussians_of_their_own(here, export, capsys):
    file = here / "int8.onnx"
    report = export(
        *("both", "precision=int8", "good=data/train/good", "images=data/test"),
        *(f"output={file}", "preprocess=true"),
    )
    assert report["score_difference"] < 1e-4 and report["train_images"] == 6
    # The features moved, the Gaussians with them: what is good and what is not has not changed.
    assert report["rank_correlation"] > 0.8 and report["agreement_images"] == 5
    assert abs(report["image_auroc"] - report["ckpt_image_auroc"]) <= 0.2
    assert "rank correlation" in capsys.readouterr().out
    good = export("both", "precision=int8", "good=data/train/good")
    assert good["ms"] > 0 and good["compared"] == "data/train/good"
    moved = expected(here, "both", pictures(5))[0]
    found = open_onnx(file, 1)(pictures(5))
    assert np.abs(found["score"] / moved - 1).max() > 1e-5
    # Rounded are the convolutions behind the stem, which sees the finest maps.
    nodes = onnx.load(file).graph.node
    weights = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
    rounded = [n.input[1] in weights for n in nodes if n.op_type == "Conv"]
    assert sum(rounded) > len(rounded) / 2 and not rounded[0]


@pytest.mark.slow
def test_int8_says_what_became_of_the_threshold(here, export, capsys):
    model = detector_of(here, "both")
    model.calibration = calibrate(Measured(SCORES, SCORES, unseen=30))
    save_detector(model, here / "fresh.ckpt")
    args = ("both", "ckpt=fresh.ckpt", "precision=int8", "good=data/train/good")
    file = here / "fresh.onnx"
    for threshold in (None, 7.0):
        found = export(*args, f"output={file}", *[f"threshold={threshold}"] * bool(threshold))
        said = capsys.readouterr().out
        assert (
            f"decides     by threshold {score_text(found['threshold'])} (the checkpoint's: " in said
        )
    about = json.loads(onnx.load(file).metadata_props[0].value)
    assert about["good"] == found["good"] == "data/train/good" and about["threshold"] == 7.0
    assert about["data"] == "folder/data"
    model.calibration = by_hand(model.calibration, 8.0, "topk")
    save_detector(model, here / "fresh.ckpt")
    assert export(*args, f"output={file}")["threshold"] == 8.0


@pytest.mark.slow
def test_int8_refuses_what_was_removed(here, export):
    model, good = detector_of(here, "both"), "good=data/train/good"
    first = images_of(str(here / good[5:]), model)[0]["digest"].numpy().tobytes().hex()
    model.provenance["removed"], model.fit_state = [first], None
    save_detector(model, here / "one_out.ckpt")
    with pytest.raises(InputError, match="1 of 6 images were taken out by mode=remove"):
        export("both", "ckpt=one_out.ckpt", "precision=int8", good)


@pytest.mark.slow
def test_files_say_what_they_are(here, zygote):
    result = zygote.run(["mode=export", "ckpt=jl/model.ckpt", "hydra.run.dir=said"], here)
    assert result.code == 0 and not result.err, result.err
    assert "weights are random" in result.out and "No decision" in result.out
    report = json.loads((here / "said/export.json").read_text())
    expected = {
        "model_sha256": load_identified(here / "jl/model.ckpt")[1],
        "data": "folder/data", "backbone": "resnet18", "weights": "random (seed 0)", "proj": "jl",
        "dim": 8, "eps": 0.01, "image_size": 72, "crop_size": 64, "image_shape": [64, 64],
        "resize": 72, "threshold": None, "train_images": 6, "precision": "fp32",
    }  # fmt: skip
    assert {key: report[key] for key in expected} == expected
    assert report["ms"] is report["ckpt_ms"] is None and report["version/onnxruntime"]
    assert "timed       not: give images=GOOD_IMAGES" in result.out
    assert "ms per image" not in result.out  # of noise it would be another
    onnx = pytest.importorskip("onnx")
    model = onnx.load(here / "said/model.onnx")
    onnx.checker.check_model(model, full_check=True)
    about = json.loads(model.metadata_props[0].value)
    assert about == {key: report[key] for key in about}
    assert [o.name for o in model.graph.output] == ["score", "map"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert str(ROOT).encode() not in model.SerializeToString()  # no paths of this machine


@pytest.mark.slow
def test_images_are_those_that_are_compared_and_timed(export, capsys):
    report = export("jl", "images=data/test", "format=torch")
    assert report["compared"] == "data/test" and report["ms"] > 0 and report["ckpt_ms"] > 0
    printed = capsys.readouterr().out
    assert "on data/test\n" in printed and printed.count("ms per image") == 2


@pytest.mark.slow
def test_example_prints_what_run_py_predicts(here, exported):
    model, report = exported("subset")
    with (here / "subset/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    turned, tags = np.arange(60 * 90 * 3).astype(np.uint8).reshape(60, 90, 3), Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(turned).save(here / "turned.tif", exif=tags)
    found = padim_lit.load(here / "subset/model.ckpt", device="cpu")(here / "turned.tif")
    rows.append({"path": "turned.tif", "score": found.score})
    opaque = Image.fromarray(turned).convert("RGBA")
    opaque.save(here / "opaque.png")
    found = padim_lit.load(here / "subset/model.ckpt", device="cpu")(here / "opaque.png")
    rows.append({"path": "opaque.png", "score": found.score})
    words = [str(ROOT / "examples/score_onnx.py"), str(model), *(row["path"] for row in rows)]
    # Those that the example would read as other pictures than run.py.
    Image.fromarray(np.zeros((32, 40), np.uint16)).save(here / "deep.png")
    values = np.arange(32 * 40 * 4).astype(np.uint8).reshape(32, 40, 4)
    Image.fromarray(values).save(here / "RGBA.png")
    Image.fromarray(values[..., :2].copy(), "LA").save(here / "LA.png")
    palette = Image.fromarray(values[..., :3].copy()).quantize(8)
    palette.save(here / "palette.png", transparency=3)
    refused = ["deep.png", "RGBA.png", "LA.png", "palette.png"]
    for path in reversed(refused):
        paths = [path] if path != refused[0] else [*words[2:], path]
        out = subprocess.run(
            [sys.executable, *words[:2], *paths],
            cwd=here, env=environment(here), capture_output=True, text=True,
        )  # fmt: skip
        assert out.returncode == 1 and out.stderr.startswith(f"{path}: more than 8 bits"), out
    lines = [line.rsplit(" ", 2) for line in out.stdout.splitlines()]
    assert [path for path, _, _ in lines] == [row["path"] for row in rows] and len(rows) == 7
    for (_, score, verdict), row in zip(lines, rows, strict=True):
        assert float(score) == pytest.approx(float(row["score"]), rel=1e-4)
        assert verdict == ("defective" if float(row["score"]) >= report["threshold"] else "good")


def test_example_is_short_and_needs_three_packages():
    text = (ROOT / "examples/score_onnx.py").read_text()
    imports = [line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))]
    assert set(imports) == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    assert len([line for line in text.splitlines() if line.strip()]) <= 26


# --- Slim checkpoints -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_slim_checkpoint_tests_as_the_full_one(here, zygote, export, precision):
    export("fisher", "format=torch", f"precision={precision}", "output=slim.ckpt")
    full, slim = here / "fisher/model.ckpt", here / "slim.ckpt"
    model = load_detector(slim)
    whitening = 25 * 70 * 71 // 2 * {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    scatter = 4 * 25 * sum((b - a) * b for a, b in ((0, 35), (35, 70)))
    assert model.fit_state is None and model.count == 6
    saved = slim.stat().st_size
    assert saved < full.stat().st_size - scatter
    score, maps = expected(here, "fisher", pictures(2))
    with torch.inference_mode():
        found = [o.numpy() for o in model(torch.from_numpy(floats(pictures(2))))]
    if precision == "fp32":
        assert np.array_equal(found[0], score) and np.array_equal(found[1], maps)
    else:
        np.testing.assert_allclose(found[0], score, rtol=2e-3 if precision == "fp16" else 2e-2)
    rest = full.stat().st_size - 2 * scatter  # whitening has bands of the same size
    assert whitening < saved < rest + 1.1 * whitening + 2 * 25 * 70
    args = [*FIT, *SIZE, *KINDS["fisher"], "ckpt=slim.ckpt", "hydra.run.dir=slim_run"]
    result = zygote.run(args, here)
    assert result.code == 0, result.err
    metrics = [json.loads((here / f / "metrics.json").read_text()) for f in ("fisher", "slim_run")]
    assert metrics[0]["fit/images"] == metrics[1]["fit/images"] == 6
    assert metrics[0]["test/image_auroc"] == metrics[1]["test/image_auroc"]


@pytest.mark.slow
def test_slim_checkpoint_has_no_moments_to_change(here, zygote, export):
    export("jl", "format=torch", "output=jl_slim.ckpt")
    model = load_detector(here / "jl_slim.ckpt")
    with pytest.raises(InputError, match=r"slim checkpoint.*nothing is added.*full model.ckpt"):
        model.require_state()
    loaded = padim_lit.load(here / "jl/model.ckpt").detector
    with pytest.raises(InputError, match=r"padim_lit.load, keep no sums.*load_detector"):
        loaded.require_state()
    # A full one holds what no export brings back, so none takes its place.
    shutil.copy(here / "fisher/model.ckpt", here / "other.ckpt")
    whole = (here / "other.ckpt").read_bytes()
    over = ["mode=export", "ckpt=jl/model.ckpt", "format=torch", "output=other.ckpt"]
    result = zygote.run([*over, "hydra.run.dir=over"], here)
    assert result.code == 1 and "other.ckpt is there already, and no export" in result.err
    assert (here / "other.ckpt").read_bytes() == whole
    result = zygote.run(["mode=merge", "ckpts=[jl_slim.ckpt,jl/model.ckpt]"], here)
    assert result.code == 1 and "slim checkpoint" in result.err
    # It exports as the full one does, and can be saved again.
    export("jl", "ckpt=jl_slim.ckpt", "format=torch", "output=again.ckpt")
    state = full_state(model)
    again = load_detector(here / "jl_slim.ckpt")
    restore(again, state)
    assert again.fit_state is None and again.count == 6


@pytest.mark.slow
def test_calibrated_threshold_makes_the_decision(here, export, exported):
    _, report = exported("jl")  # whose decisions are above
    calibration = load_detector(here / "calibrated.ckpt").calibration
    assert report["threshold"] == calibration.threshold
    assert not any("No decision" in note for note in report["notes"])
    slim = ["ckpt=calibrated.ckpt", "format=torch", "output=calibrated_slim.ckpt"]
    assert export("jl", *slim)["threshold"] == report["threshold"]
    kept = load_detector(here / "calibrated_slim.ckpt").calibration
    assert kept.threshold == report["threshold"] and torch.equal(kept.scores, SCORES)


# --- What is refused --------------------------------------------------------------------------


def test_a_slim_checkpoint_takes_no_threshold():
    """It would be recorded, and decide nothing."""
    with pytest.raises(InputError, match="preprocess and threshold are of graphs"):
        mode.Export(ckpt="model.ckpt", format="torch", threshold=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["format=tflite"], ["format=tflite", "onnx, openvino, torch"]),
        (["precision=int4"], ["precision=int4", "fp32, fp16, int8"]),
        (["precision=int8"], ["good=", "good images"]),
        (["precision=int8", "good=data", "format=torch"], ["good=data", "graphs"]),
        (["precision=int8", "good=twice"], ["good=twice", "1 images are the same picture"]),
        (["good=data"], ["good=data", "graphs with precision=int8", "all else takes none"]),
        (["ckpt=nowhere.ckpt"], ["nowhere.ckpt", "no such file"]),
        (["ckpt=data/test/good/999.png"], ["not a readable checkpoint"]),
        (["ckpt=foreign.ckpt"], ["not a padim_lit checkpoint"]),
        (["ckpt=unfitted.ckpt"], ["no Gaussians"]),
        (["output=model.pb"], ["output=model.pb", "NAME.onnx"]),
        (["output=data/data.yaml/x.onnx"], ["cannot be written", "writable"]),
        (["format=torch", "output=jl/model.ckpt"], ["is there already, and no export"]),
        (
            ["format=torch", "preprocess=true"],
            ["format=torch", "preprocess and threshold are of graphs"],
        ),
        (["threshold=.nan"], ["threshold=nan", "finite"]),
        (["images=nowhere"], ["images='nowhere'", "no such file or folder"]),
    ],
)
def test_refusals_are_one_line(here, export, args, words):
    torch.save({"state_dict": {}}, here / "foreign.ckpt")
    (here / "data/data.yaml").write_text("")
    save_detector(tiny_detector(fitted=False), here / "unfitted.ckpt")
    (here / "twice").mkdir(exist_ok=True)
    for i, seed in enumerate([1, 1, 2]):
        save_image(here / f"twice/{i}.png", seed=seed)
    before = sorted(p.name for p in here.iterdir())
    with pytest.raises(InputError) as error:
        export("jl", *args)
    line = one_line(error.value)
    assert all(word in line for word in words) and "\n" not in str(error.value), line
    assert sorted(p.name for p in here.iterdir()) == before


def test_missing_package_names_the_extra(export, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"format=openvino needs .*openvino.*\.\[export\]"):
        export("jl", "format=openvino")


def test_refusal_on_the_command_line(here, zygote):
    result = zygote.run(["mode=export", "ckpt=jl/model.ckpt", "format=tflite"], here)
    assert result.code == 1 and result.err.startswith("error: format=tflite")
    assert len(result.err.splitlines()) == 1, result.err


@pytest.mark.slow
def test_a_graph_that_differs_is_not_written(export, exported, tmp_path, monkeypatch):
    other, report = exported("subset")
    monkeypatch.setitem(mode.WRITERS, "onnx", lambda _, path, *rest: shutil.copy(other, path))
    with pytest.raises(InputError, match=r"score that differs .* allowed is 1e-04; nothing was"):
        export("jl", f"output={tmp_path / 'x.onnx'}", f"threshold={report['threshold']}")
    assert not list(tmp_path.iterdir())


# --- Parts ------------------------------------------------------------------------------------


def tiny_detector(
    fitted=True, grid="auto", proj="jl", dim=5, shape=(64, 48), layers=(1, 2, 3)
) -> Detector:
    backbone = Backbone("resnet18", list(layers), weights="random")
    projection = PROJECTIONS[proj](backbone.embedding_dim, dim)
    detector = Detector(
        backbone, projection, image_shape=shape, **paper(projection.dim, grid=grid, eps=0.1)
    )
    if fitted:
        images = torch.rand(4, 3, *shape, generator=torch.Generator().manual_seed(0))
        fit_on_images(detector, images)
    return detector.eval()


@long_table("grid", ["auto", None, 16, 11, 5, 3, 1], every=3)
@pytest.mark.parametrize("proj", ["jl", "subset"])
def test_graph_is_the_detector_on_any_grid(grid, proj):
    detector = tiny_detector(grid=grid, proj=proj)
    images = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, wanted = Graph(detector).eval()(images), detector(images)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_onnx_is_the_detector_where_pooling_does_not_divide(tmp_path):
    detector, file = tiny_detector(grid=11), tmp_path / "odd.onnx"
    export_onnx(detector, file, metadata(detector, None, "fp32", False))
    for batch in (1, 3):
        images = torch.rand(batch, 3, 64, 48, generator=torch.Generator().manual_seed(batch))
        found = open_onnx(file, 1)(images.numpy())
        with torch.inference_mode():
            score, maps = detector(images)
        np.testing.assert_allclose(found["score"], score, rtol=1e-5)
        np.testing.assert_allclose(found["map"], maps, rtol=1e-5)


@pytest.mark.slow
def test_whitening_beyond_fp16_is_refused(tmp_path):
    detector = tiny_detector(layers=[1])
    detector.whitening.bands[0].mul_(1e6)
    about = metadata(detector, None, "fp16", False)
    for write in (export_onnx, export_torch):
        with pytest.raises(InputError, match="beyond 65504"):
            write(detector, tmp_path / "x", about)


def test_graph_beyond_the_limit_of_onnx_is_refused(monkeypatch):
    graph = Graph(tiny_detector())
    size = sum(t.numel() for t in graph.state_dict().values())
    monkeypatch.setattr("padim_lit.deploy.export.ONNX_BYTES", 3 * size)
    with pytest.raises(InputError, match=r"GiB in fp32.*precision=fp16"):
        require_room(graph, "fp32")
    require_room(graph, "fp16")


def test_differences_and_times_are_what_they_say():
    assert largest_difference(np.array([2.0, 4.0]), np.array([2.0, 5.0])) == 0.25
    assert largest_difference(np.array([2.0]), np.array([np.nan])) == np.inf
    calls = []
    times = milliseconds([lambda: calls.append("a"), lambda: calls.append("b")], 4, 60.0)
    assert len(times) == 2 and calls == ["a"] * 2 + ["b"] * 2 + ["a", "b"] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "side", "layers"),
    [
        ("hiera_tiny_224", 224, None),  # attention with five axes
        ("mambaout_femto", 192, [0, 1]),  # channels last, as many as there are rows
        ("vit_small_patch14_dinov2", 224, None),  # made for 518 pixels
    ],
)
def test_networks_that_are_no_plain_cnns(model, side, layers, tmp_path):
    backbone = Backbone(model, layers, weights="random")
    projection = PROJECTIONS["jl"](backbone.embedding_dim, 6)
    detector = Detector(
        backbone, projection, image_shape=(side, side), **paper(projection.dim)
    ).eval()
    images = torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    fit_on_images(detector, images)
    export_onnx(detector, tmp_path / "model.onnx", metadata(detector, None, "fp32", False))
    found = open_onnx(tmp_path / "model.onnx", 1)(images[:3].numpy())
    with torch.inference_mode():
        score, maps = detector(images[:3])
    assert largest_difference(found["score"], score.numpy()) < 1e-4
    assert largest_difference(found["map"], maps.numpy()) < 1e-3


def test_a_density_of_ones_own_has_no_graph():
    detector = tiny_detector(layers=[1])

    class Own(PerPosition):
        name = "own"

        def nearest(self, *args, **how):
            return super().nearest(*args, **how)

    detector.density = Own(detector.projection.dim)
    with pytest.raises(InputError, match=r"density=own: .* use format=torch"):
        Graph(detector)
