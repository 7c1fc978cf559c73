"""Files that are no checkpoint, or only half of one, are refused in one line."""

import hashlib
import math
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from _helpers.fits import fit_on_embeddings, fit_on_images, fitted_detector
from _helpers.paper import paper
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from padim_lit import JL, Backbone, Detector, InputError
from padim_lit.checkpoint import content as checks
from padim_lit.checkpoint.format import KEY, differences, read, sha256_of
from padim_lit.checkpoint.state import (
    facts_of,
    full_state,
    load_detector,
    load_identified,
    restore,
    save_detector,
)
from padim_lit.deploy.calibration import calibrate
from padim_lit.deploy.left_out import Measured
from padim_lit.model import grid
from padim_lit.model.calibration import Calibration
from padim_lit.model.projection import PROJECTIONS
from padim_lit.system.torch_file import tensors_in


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    backbone = Backbone("resnet18", weights="random")
    detector = Detector(backbone, JL(backbone.embedding_dim, 3), (64, 64), **paper(3))
    fit_on_embeddings(detector, torch.rand(5, detector.positions, 3))
    path = tmp_path_factory.mktemp("saved") / "model.ckpt"
    save_detector(detector, path)
    return path


@pytest.mark.parametrize("dim", [8, 70])  # rows of one band, and of two
def test_what_was_saved_scores_the_same(tmp_path, dim):
    detector, images = fitted_detector(dim), torch.rand(2, 3, 64, 64)
    detector.calibration = calibrate(Measured(torch.ones(9), torch.ones(9)))  # all alike
    save_detector(detector, tmp_path / "a.ckpt")
    again = load_detector(tmp_path / "a.ckpt")
    assert again.count == detector.count
    assert again.calibration.threshold == detector.calibration.threshold
    assert all(map(torch.equal, again(images), detector(images)))


def test_equal_content_is_an_equal_file(tmp_path):
    """Pickle writes a text once for each object; a saved config brings two "auto", a YAML one."""
    detector, files = fitted_detector(), (tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    for file, text in zip(files, ("auto", "".join(["au", "to"])), strict=True):
        detector.provenance, detector.image_score = {"split": "auto", "data": text}, text
        save_detector(detector, file)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_was_saved_before_the_fit_comes_back_without_gaussians(tmp_path):
    detector = fitted_detector()
    detector.reset()
    save_detector(detector, tmp_path / "a.ckpt")
    again = load_detector(tmp_path / "a.ckpt")
    assert again.count == 0 and again.whitening is again.fit_state is None


def test_the_identity_is_of_the_bytes_that_were_read(saved, tmp_path, monkeypatch):
    path, load = Path(shutil.copy(saved, tmp_path)), torch.load
    sha256 = sha256_of(saved)
    assert sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()[:12]

    def swapped(*args, **how):
        path.rename(tmp_path / "old.ckpt")
        path.write_bytes(b"another")
        return load(*args, **how)

    monkeypatch.setattr(torch, "load", swapped)
    assert load_identified(path)[1] == sha256


@pytest.mark.slow
def test_a_home_is_expanded_as_it_was_typed(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for folder, typed in (("~", "./~/a.ckpt"), ("home", "~/b.ckpt")):
        (tmp_path / folder).mkdir()
        shutil.copy(saved, tmp_path / folder / typed[-6:])
        assert load_detector(typed).count == 5


@pytest.mark.parametrize("name", ["hf-hub:owner/model", "local-dir:/tmp/model", "a/b", ""])
def test_a_checkpoint_names_no_place_to_fetch_from(saved, tmp_path, monkeypatch, name):
    content = torch.load(saved, weights_only=True)
    content[KEY]["spec"]["backbone"]["model"] = name
    torch.save(content, tmp_path / "a.ckpt")
    monkeypatch.setattr("timm.create_model", None)
    with pytest.raises(InputError, match="spec: backbone: model"):
        load_detector(tmp_path / "a.ckpt")


@pytest.mark.parametrize("grid", ["auto", None, 1])
def test_a_small_file_cannot_ask_for_large_images(saved, tmp_path, monkeypatch, grid):
    content = torch.load(saved, weights_only=True)
    content[KEY]["spec"] |= {"image_shape": [8192, 8192], "grid": grid}
    torch.save(content, tmp_path / "a.ckpt")
    monkeypatch.setattr("timm.create_model", None)
    room = 4 * 2**30 if grid == 1 else 2**40
    monkeypatch.setattr(checks, "available_bytes", lambda _: room)
    with pytest.raises(InputError, match=r"8192×8192 pixels, which take|image_shape beside so few"):
        load_detector(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"backbone": {"model": "resnet50"}}, "Missing key"),
        ({"density": "mixture", "density_options": {"components": 10**9}}, "components"),
        ({"image_shape": [8192, 8193]}, r"spec: image_shape(?! beside)"),
        ({"neighbourhood": 1.5}, "spec: neighbourhood"),
        ({"rotations": float("nan")}, "spec: rotations"),
        ({"sigma": torch.ones(())}, "spec: sigma"),
        ({"alignment": [torch.ones(1), 0]}, "spec: alignment"),
        ({"backbone": {"weights": None}}, "spec: backbone: weights"),
    ],
)
def test_a_small_file_cannot_ask_for_a_large_model(saved, tmp_path, monkeypatch, spec, reason):
    def without_memory(*args, **kwargs):
        assert torch.empty(0).is_meta
        return make(*args, **kwargs)

    content = torch.load(saved, weights_only=True)
    found = content[KEY]["spec"]
    found |= {**spec, "backbone": found["backbone"] | spec.get("backbone", {})}
    torch.save(content, tmp_path / "a.ckpt")
    make = timm.create_model
    monkeypatch.setattr("timm.create_model", without_memory)
    with pytest.raises(InputError, match=reason):
        load_detector(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("roi", torch.ones(64, 65, dtype=torch.bool)),
        ("roi", torch.ones(64, 64)),
        ("roi", torch.zeros(64, 64, dtype=torch.bool)),
        ("roi", [[True]]),
        ("offset", None),
        ("offset", [1]),
        ("offset", [float("nan"), 0]),
        ("offset", ["a", 0]),
        ("offset", [33, 0]),
        ("offset", "auto"),
    ],
)
def test_a_strange_region_of_interest_or_offset_is_refused(saved, tmp_path, key, value):
    content = torch.load(saved, weights_only=True)
    content[KEY][key] = value
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=rf"a\.ckpt.*({key}|region of interest)"):
        load_detector(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("strange", "why"),
    [
        ({"scores": torch.zeros(0)}, "calibration: scores is empty"),
        ({"unseen": 1.0}, "calibration: unseen"),
        ({"false_alarm_rate": "0.01"}, "calibration: false_alarm_rate"),
        ({"level": math.nan}, "calibration: level"),
        ({"interval": [0.0, 0.1]}, "calibration: interval"),
        ({"interval": (0.2, 0.1)}, "calibration: interval"),
        ({"interval": None}, "calibration: interval"),
        ({"threshold": None, "method": None}, "calibration: interval"),
        ({"thresold": 3.0}, "content is not what padim_lit writes"),
    ],
)
def test_a_strange_calibration_is_refused(tmp_path, strange, why):
    detector = fitted_detector()
    detector.calibration = calibrate(Measured(torch.ones(9), torch.ones(9)))
    state = full_state(detector)
    keys = "scores map_maxima unreliable unseen false_alarm_rate map_threshold level threshold"
    assert list(state["calibration"]) == [*keys.split(), "method", "interval", "why"]
    save_detector(detector, tmp_path / "a.ckpt", state)
    assert type(load_detector(tmp_path / "a.ckpt").calibration) is Calibration
    state["calibration"] |= strange
    assert detector.calibration.level == 0.95  # the state is a copy
    save_detector(detector, tmp_path / "a.ckpt", state)
    with pytest.raises(InputError, match=why) as error:
        load_detector(tmp_path / "a.ckpt")
    assert len(str(error.value).splitlines()) == 1


def test_where_the_map_lies_is_kept_and_not_measured_anew(saved, tmp_path, monkeypatch):
    content = torch.load(saved, weights_only=True)
    content[KEY]["spec"]["alignment"], content[KEY]["offset"] = "auto", [3.5, -2.0]
    torch.save(content, tmp_path / "a.ckpt")
    monkeypatch.setattr(grid, "_measured", None)
    detector = load_detector(tmp_path / "a.ckpt")
    assert detector.anomaly_map.offset == (3.5, -2.0) and detector.alignment == "auto"
    assert facts_of(detector)["map_offset"] == [3.5, -2.0]


def test_a_state_brings_its_own_region_of_interest_or_none(saved):
    detector = load_detector(saved)
    plain, images = full_state(detector), torch.rand(2, 3, 64, 64)
    whole = detector(images)[1]
    roi = torch.zeros(64, 64, dtype=torch.bool)
    roi[8:40, 8:40] = True
    restore(detector, plain | {"roi": roi})
    assert torch.equal(detector.anomaly_map.roi, roi) and not detector(images)[1][:, ~roi].any()
    restore(detector, plain)
    assert detector.anomaly_map.roi is None and torch.equal(detector(images)[1], whole)


def doubled(times: int = 34) -> list:
    """A list of two that are the same list of two, and so on: 2**times in a few bytes."""
    found = [0]
    for _ in range(times):
        found = [found, found]
    return found


def test_lists_that_are_in_a_file_many_times_are_looked_into_once(saved, tmp_path):
    content = torch.load(saved, weights_only=True)
    content["of_a_callback"] = content[KEY]["more"] = doubled()
    torch.save(content, tmp_path / "a.ckpt")
    assert load_detector(tmp_path / "a.ckpt").count == 5


@pytest.mark.parametrize(
    ("key", "within", "more"),
    [("provenance", "history", doubled(34)), ("spec", "proj_options", {"a": doubled(34)})],
)
def test_lists_without_an_end_in_what_a_file_says_of_itself_are_refused(
    saved, tmp_path, key, within, more
):
    content = torch.load(saved, weights_only=True)
    content[KEY][key][within] = more
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=rf"a\.ckpt: .*{key}: its lists are nested without an"):
        load_detector(tmp_path / "a.ckpt")


def test_a_history_may_say_the_same_twice():
    step = {"mode": "update", "sizes": [1, 2], "empty": ()}
    assert checks._is_small([step, {**step, "sizes": [1, 2]}, step])
    assert checks._is_small(doubled(10)) and checks._is_small({"removed": ["ab"] * 10**5})
    wide = ["ab"] * 10**5
    assert not checks._is_small([wide] * 10**5)
    deep = [0]
    for _ in range(10**5):
        deep = [deep]
    assert not checks._is_small(deep) and not list(tensors_in(deep))


@pytest.mark.parametrize("how", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_file_that_would_swell_is_refused_before_it_is_loaded(saved, tmp_path, monkeypatch, how):
    with (
        zipfile.ZipFile(saved) as old,
        zipfile.ZipFile(tmp_path / "a.ckpt", "w", how) as new,
    ):
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(InputError, match=r"a\.ckpt: damaged since .* \(a record is compressed\)"):
        read(tmp_path / "a.ckpt")


def test_records_that_lie_in_each_other_are_refused_before_they_are_loaded(
    saved, tmp_path, monkeypatch
):
    whole = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        start = archive.start_dir
    size = len(whole).to_bytes(4, "little")
    at = whole.index(b"PK\x01\x02", start)
    while not whole[at + 46 :].startswith(largest.filename.encode()):
        at = whole.index(b"PK\x01\x02", at + 4)
    whole[at + 20 : at + 28] = size + size
    (tmp_path / "a.ckpt").write_bytes(whole)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(InputError, match=r"\(its records are larger than the file\)"):
        read(tmp_path / "a.ckpt")


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


def test_no_pickle_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plain.ckpt").write_bytes(pickle.dumps(Harmful()))
    torch.save({"state_dict": {}, KEY: Harmful()}, "zip.ckpt")
    for name in ("plain.ckpt", "zip.ckpt"):
        with pytest.raises(InputError, match=f"ckpt={name}: not a readable checkpoint"):
            read(name)
    assert not Path("harmed").exists()


def test_a_path_from_home_is_named_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(InputError) as error:
        load_detector("~/a.ckpt")
    assert str(error.value).startswith(f"ckpt={tmp_path}/a.ckpt: no such file")


@pytest.mark.parametrize(
    "content",
    [{}, [], {"state_dict": {}}, {"state_dict": {}, KEY: {}}, {KEY: {"version": 1}}, 7],
)
def test_foreign_contents_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(InputError, match="not a padim_lit checkpoint"):
        load_detector(tmp_path / "a.ckpt")


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_refused(tmp_path, content):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.ckpt"):
        read(path)


@given(st.floats(0, 0.999))
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_half_a_file_is_refused(saved, tmp_path, share):
    whole = saved.read_bytes()
    path = tmp_path / "a.ckpt"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"a\.ckpt"):
        read(path)


def test_a_folder_that_cannot_be_written_is_said(saved):
    detector = load_detector(saved)
    with pytest.raises(InputError, match="cannot be written"):
        save_detector(detector, saved / "model.ckpt")


def test_differences_name_the_keys():
    saved, given = {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}, {"a": 1, "b": {"c": 5, "f": 6}}
    found = differences(saved, given).split(", ")  # of options those too that only one was given
    assert found[:2] == ["b.c is 2 there and 5 here", "b.d is 3 there and None here"]
    assert found[2:] == ["b.f is None there and 6 here"]
    assert differences(saved, saved) == ""


def test_whole_numbers_of_an_own_projection_come_back(tmp_path, monkeypatch):
    class Indexed(JL):
        name = "indexed"

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer("rows", torch.arange(self.dim))
            self.register_buffer("used", torch.ones(self.dim, dtype=torch.bool))

    monkeypatch.setitem(PROJECTIONS, "indexed", Indexed)
    backbone = Backbone("resnet18", [1, 2, 3], weights="random")
    model = Detector(backbone, Indexed(backbone.embedding_dim, 4), image_shape=(32, 32), **paper(4))
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    fit_on_images(model, images)
    save_detector(model, tmp_path / "own.ckpt")
    again = load_detector(tmp_path / "own.ckpt")
    assert again.projection.rows.tolist() == [0, 1, 2, 3] and again.projection.used.all()


@pytest.mark.parametrize("key", ["proj", "density", "backbone"])
def test_a_class_of_ones_own_is_to_be_named_again(saved, tmp_path, key):
    content = torch.load(saved, weights_only=True)
    spec = content[KEY]["spec"]
    if key == "backbone":
        spec["backbone"] |= {"name": "mine", "model": "mine"}
    else:
        spec[key] = "mine"
    torch.save(content, tmp_path / "a.ckpt")
    again = rf"made with .*mine, .* --config-dir DIR own=\[PACKAGE\] {key}=mine; in Python"
    with pytest.raises(InputError, match=again):
        load_detector(tmp_path / "a.ckpt")
