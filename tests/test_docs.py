"""The documentation builds without a warning, its links lead somewhere, its commands compose."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from string import Template

import pytest
import torch
from _helpers.cli import ROOT, environment
from _helpers.fits import fitted_detector
from _helpers.tables import long_table
from _helpers.trees import build_tree, save_image
from hydra import compose, initialize_config_dir
from PIL import Image

import padim_lit
from padim_lit import __version__
from padim_lit.analysis.sweep_results import planted, pooled, read_sweeps
from padim_lit.checkpoint.state import save_detector
from padim_lit.cli import config
from padim_lit.cli.modes import MODES
from padim_lit.cli.modes.serve import Serve
from padim_lit.cli.overrides import own_packages
from padim_lit.cli.targets import allow
from padim_lit.deploy.calibration import FALSE_ALARM_RATE, Measured, calibrate
from padim_lit.deploy.export import exported

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
# Their packages may not be there, or what follows is no list of settings.
NOT_COMPOSED = ("hydra/launcher", "--help", "--cfg")


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stderr
    reference = (tmp_path / "api.html").read_text()
    for name in ("padim_lit.load", "padim_lit.Predictor", "padim_lit.model.projection.JL"):
        assert f'id="{name}"' in reference


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    files = [link for link in links if "://" not in link]
    missing = [link for link in files if not (page.parent / link).exists()]
    assert not missing


def slugs(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#{1,6} +(.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_headings_lead_somewhere(page):
    for file, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        if "://" not in file:
            assert anchor in slugs(page.parent / file if file else page), (file, anchor)


def test_defaults_are_those_of_the_page():
    text = (ROOT / "docs/keys.md").read_text()
    part = text.partition("## The model and the fit")[2].partition("\n## ")[0]
    known = {one.name: one.default for one in fields(MODES["fit"].settings_class())}
    known["false_alarm_rate"] = FALSE_ALARM_RATE  # where none is given
    seen = 0
    for keys, defaults in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", part, re.M):
        for name, said in zip(re.findall(r"`([^`]+)`", keys), defaults.split(", "), strict=False):
            if name in known and re.fullmatch(r"[\d.]+|null|auto|topk|variance", said):
                real = "null" if known[name] is None else known[name]
                assert said == real or float(said) == float(real), name
                seen += 1
    assert seen >= 15
    assert Serve.host == "127.0.0.1"  # serve.md: at this machine alone


def python_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


@pytest.mark.parametrize("page", ["README.md", "docs/library.md"])
@pytest.mark.parametrize("highest", [2, 2e6], ids=["defective", "good"])
def test_the_first_python_of_a_page_runs(tmp_path, monkeypatch, page, highest):
    code = python_of(page)[0]
    detector, scores = fitted_detector(), torch.linspace(1, highest, 99)
    detector.calibration = calibrate(Measured(scores, scores))
    detector.provenance = {"image_size": 64, "crop_size": 64}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # as a page does; undone afterwards
    save_detector(detector, "model.ckpt")
    Image.new("RGB", (64, 64)).save("part.png")
    exec(code, {})


@pytest.mark.slow
@pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="torch 2.6's ONNX exporter fails on a BatchNorm"
)
def test_all_other_python_of_the_librarys_page_runs(tmp_path, monkeypatch):
    build_tree(tmp_path / "my_parts", train=5, test={"good": 1, "crack": 1})
    for i in range(10):
        folder = ("new_parts", "fresh_parts")[i % 2]
        save_image(tmp_path / folder / "train/good" / f"{i}.png", seed=1000 + i)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # as the page does; undone afterwards
    known = {}
    for code in python_of("docs/library.md")[1:]:
        exec(code, known)
    loaded = padim_lit.load("updated.ckpt")
    assert loaded.detector.count == 10 and loaded.calibration.unseen == 5
    assert loaded.threshold and exported(tmp_path / "part.onnx")


def test_the_table_for_latex_is_made_from_a_sweep(tmp_path, monkeypatch, capsys):
    code = python_of("docs/sweeps.md")[0]
    (tmp_path / "sweep.csv").write_text(
        "proj,dim,seed,test/image_auroc\njl,50,0,0.9\njl,50,1,0.8\nhash,50,0,0.7\nhash,50,1,0.7\n"
    )
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    rows = r"jl & 50 & 0.850 $\pm$ 0.071 \\", r"hash & 50 & 0.700 $\pm$ 0.000 \\"
    assert capsys.readouterr().out.splitlines() == [*rows]


def test_the_classes_of_the_page_on_ones_own_are_the_examples():
    examples = "".join(file.read_text() for file in (ROOT / "examples").glob("own_*.py"))
    shown = re.findall(
        r"```python\n(?:#[^\n]*\n)?(.*?)```", (ROOT / "docs/own.md").read_text(), re.S
    )
    assert len(shown) == 2 and all(code in examples for code in shown)


def test_the_table_of_promises_is_what_is_computed():
    text = (ROOT / "docs/thresholds.md").read_text()
    row = r"^\| (\d+) \| ([\d.]+) % \| ([\d.]+) to ([\d.]+) % \| ([\d.]+) to ([\d.]+) % \|$"
    rows = re.findall(row, text, re.M)
    assert len(rows) == 5
    for images, lowest, *ends in rows:
        count = int(images)
        scores = torch.linspace(1, 2, count)
        rates = 1 / (count + 1), 0.05
        found = [calibrate(Measured(scores, scores), rate).interval for rate in rates]
        assert f"{100 * rates[0]:.1f}" == lowest
        assert [f"{100 * end:.1f}" for one in found for end in one] == ends


def test_the_table_beside_patchcore_is_what_was_measured():
    text = (ROOT / "docs/anomalib.md").read_text().partition("**On a GPU**")[0]
    files = {"screw": "screw", "Magnetic Tile": "mtd", "ELPV mono": "elpv_mono"}
    files["ELPV poly"] = "elpv_poly"
    names = {"**ours**": "padim_lit", "ours, `density=mixture`": "padim_lit density=mixture"}
    seen, data = 0, ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 9 or not re.fullmatch(r"\.\d{3}", cells[2]):
            continue
        data = files[cells[0]] if cells[0] else data
        rows = json.loads((ROOT / f"docs/benchmarks/patchcore_{data}.json").read_text())["rows"]
        (row,) = [one for one in rows if one["who"] == names.get(cells[1], cells[1])]
        keys = ("image_auroc", "pixel_auroc", "pixel_aupro")
        assert [f"{row[key]:.3f}"[1:] for key in keys] == cells[2:5], line
        assert f"{row['bytes'] / 1e6:.1f}" == cells[5], line
        seen += 1
    assert seen == 12


def test_the_sweeps_of_the_results_say_the_commands_of_their_page():
    text, known = (ROOT / "docs/projections.md").read_text(), {}
    for name, value in re.findall(r'^ +([PARL])="(.*)"$', text, re.M):
        known[name] = Template(value).substitute(known)
    lines = re.findall(r"^ +(python run.py \$P \$A.*)", text, re.M)
    assert len(lines) == 4
    page = {Template(x.replace("$A", f"${n}")).substitute(known) for x in lines for n in "ARL"}
    found = {" ".join(shlex.split(s.command)): s for s in read_sweeps([ROOT / "docs/results"])}
    assert set(found) == page
    for command, sweep in found.items():  # and each is its own
        typed = dict(word.split("=", 1) for word in command.split()[2:])
        measured = {"projs": sorted(sweep.projs), "dims": sweep.dims, "seeds": sweep.seeds}
        for key, values in measured.items():
            assert typed[key] == f"[{','.join(map(str, values))}]"
        data = {"mvtec": "mvtec/screw", "mtd": "mtd"}
        assert sweep.backbone == typed.get("backbone", "efficientnet_lite0")
        assert sweep.data == data.get(typed.get("data"), f"elpv/{typed.get('data.cells', 'mono')}")
        assert sweep.constants["eps"] == float(typed["eps"])


def test_the_differences_of_the_projections_page_are_those_of_the_results():
    text = (ROOT / "docs/projections.md").read_text()
    sweeps = read_sweeps([ROOT / "docs/results"])
    parts = {False: [], True: []}
    for sweep in sweeps:
        parts[planted(sweep.constants, "pixel")].append(sweep)
    of = {"": sweeps, "real masks": parts[False], "planted": parts[True]}
    row = r"^\| (image|pixel|AUPRO)(?:, (real masks|planted))?: (\w+) − (\w+) \| (.*) \|$"
    told = [
        (cell, kind, part, (a, dim), (b, dim))
        for kind, part, a, b, cells in re.findall(row, text, re.M)
        for cell, dim in zip(cells.split("|"), (50, 100, 150, 550), strict=True)
        if cell.strip()
    ]
    (cells,) = re.findall(r"^\| jl 150 − subset 550 \| (.*) \|$", text, re.M)
    columns = ("image", ""), ("pixel", "real masks"), ("pixel", "planted")
    told += [
        (cell, *column, ("jl", 150), ("subset", 550))
        for cell, column in zip(cells.split("|"), columns, strict=True)
    ]

    def short(value):
        return f"{value:+.3f}".replace("0.", ".").replace("-", "−")

    metrics = {
        "image": "test/image_auroc",
        "pixel": "test/pixel_auroc",
        "AUPRO": "test/pixel_aupro",
    }
    for cell, kind, part, a, b in told:
        found = pooled(of[part], a, b, metrics[kind])
        said = short(found.value)
        if found.low is not None:
            said += f" [{short(found.low)}, {short(found.high)}]"
        above = sum(s.difference(a, b, metrics[kind]).value > 0 for s in of[part])
        assert re.fullmatch(rf"{re.escape(said)} \({above}( of {len(of[part])})?\)", cell.strip())
    assert len(told) == 25


def test_the_readme_is_one_page_with_both_commands():
    text = (ROOT / "README.md").read_text()
    assert 600 <= len(text.split()) <= 900
    first = next(line for line in text.splitlines() if "python -m pytest" in line)
    assert first.startswith("python3 -m venv .venv && ")  # .ci/run runs this line as it stands


def test_one_version_is_told_everywhere():
    first = re.search(r"^## (\S+?),?(?: |$)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert first[1] == cited[1] == __version__


def commands(page):
    """The words after ``python run.py`` in a page, with what its shell variables stand for."""
    text = page.read_text()
    for name, value in re.findall(r'^ *([A-Z])="([^"]*)"$', text, flags=re.MULTILINE):
        text = text.replace(f"${name} ", f"{value} ").replace(f"${name}\n", f"{value}\n")
    for line in re.findall(r"python run\.py([^\n`#]*)", text):
        yield [word for word in shlex.split(line) if "…" not in word]


@long_table("page", PAGES, every=5, ids=lambda page: page.name)
def test_commands_name_settings_that_exist(page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # for examples/
    config.register()
    own = f"hydra.searchpath=[file://{ROOT}/examples/conf]"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for words in commands(page):
            if any(part in word for part in NOT_COMPOSED for word in words):
                continue
            # Of a sweep the first job.
            words = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in words]
            allow(own_packages(words))
            typed = [word for word in words if "=" in word and not word.startswith("hydra.")]
            compose("config", overrides=[*typed, own] if "--config-dir" in words else typed)
