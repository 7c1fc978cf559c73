"""The C++ example, built against what OpenVINO's wheel holds, gives the checkpoint's scores."""

import shutil
import subprocess

import numpy as np
import pytest
from _helpers.cli import ROOT, TINY
from _helpers.trees import build_tree
from PIL import Image

import padim_lit


@pytest.mark.slow
def test_the_cpp_example_scores_as_the_checkpoint(zygote, tmp_path):
    openvino = pytest.importorskip("openvino")
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("needs cmake and a C++ compiler on PATH")
    build_tree(tmp_path / "data", train=24, test={"good": 2, "crack": 1})
    assert zygote.run([*TINY, "false_alarm_rate=0.2"], tmp_path).code == 0
    export = ["mode=export", "ckpt=run/model.ckpt", "preprocess=true", "output=part.onnx"]
    result = zygote.run([*export, "hydra.run.dir=export"], tmp_path)
    assert result.code == 0, result.err
    model = padim_lit.load(tmp_path / "run" / "model.ckpt", device="cpu")
    files = sorted((tmp_path / "data" / "test").rglob("*.png"))
    for n, file in enumerate(files):
        Image.fromarray(model.see(file).values).save(tmp_path / f"{n}.ppm")
    found = f"-DOpenVINO_DIR={openvino.__path__[0]}/cmake"
    for command in (
        ["cmake", "-S", ROOT / "examples" / "cpp", "-B", tmp_path / "build", found],
        ["cmake", "--build", tmp_path / "build"],
    ):
        subprocess.run(command, check=True, capture_output=True)

    def score(*words):
        command = [tmp_path / "build" / "score", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    out = score("part.onnx", *(f"{n}.ppm" for n in range(len(files))))
    assert out.returncode == 0, out.stderr
    rows = [line.split() for line in out.stdout.splitlines()]
    expected = model(files)
    assert [row[0] for row in rows] == [f"{n}.ppm" for n in range(len(files))]
    assert np.allclose([float(row[1]) for row in rows], [p.score for p in expected], rtol=1e-4)
    words = {True: "defective", False: "good"}
    assert [row[2] for row in rows] == [words[p.is_anomalous] for p in expected]
    (tmp_path / "short.ppm").write_bytes((tmp_path / "0.ppm").read_bytes()[:100])
    for wrong, said in (("short.ppm", "ends too early"), ("none.ppm", "no 8-bit PPM of 64x64")):
        out = score("part.onnx", wrong)
        assert out.returncode == 1 and said in out.stderr
