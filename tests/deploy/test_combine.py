"""mode=merge, update and remove: equal to one fit on the same images, and nothing counted twice."""

import hashlib
import json
import shutil

import pytest
import torch
from _helpers.cli import TINY
from _helpers.tables import long_table
from _helpers.trees import build_tree

from padim_lit import JL, Backbone, Detector, Fisher, InputError, Mixture
from padim_lit.checkpoint.format import sha256_of
from padim_lit.checkpoint.state import load_detector
from padim_lit.deploy.calibration import calibrate
from padim_lit.deploy.combine import add_images, adopt, gather, remove_images, require_alike
from padim_lit.deploy.left_out import measure
from padim_lit.deploy.model_card import is_card_of
from padim_lit.model.warm_up import learn, learners

IMAGES = 12


@pytest.fixture(scope="module")
def here(tmp_path_factory, zygote):
    """all = a + b, fitted each; `b` holds the second half of the images."""
    here = tmp_path_factory.mktemp("combine")
    build_tree(here / "all", train=IMAGES, test={"good": 1, "crack": 1})
    files = sorted((here / "all/train/good").iterdir())
    for name, part in (("a", files[:5]), ("b", files[5:])):
        shutil.copytree(here / "all", here / name)
        for file in (here / name / "train/good").iterdir():
            if file.name not in {kept.name for kept in part}:
                file.unlink()
    for name in ("all", "a", "b"):
        args = [a for a in TINY if not a.startswith(("data.root", "hydra.run.dir"))]
        run = [*args, "density=position", f"data.root={name}", f"hydra.run.dir={name}_run"]
        result = zygote.run(run, here)
        assert result.code == 0, result.err
    return here


def load(here, name):
    return load_detector(here / name / "model.ckpt")


def assert_same(ours, theirs, tolerance=1e-6):
    assert ours.count == theirs.count
    assert torch.equal(ours.fit_state.digests, theirs.fit_state.digests)
    for one, other in zip(
        ours.fit_state.moments.scatter.bands, theirs.fit_state.moments.scatter.bands, strict=True
    ):
        assert (one - other).norm() <= tolerance * other.norm()
    assert (ours.mean - theirs.mean).norm() <= tolerance * theirs.mean.norm()
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_merge_equals_one_fit_on_all(here, zygote):
    args = ["mode=merge", "ckpts=[a_run/model.ckpt,b_run/model.ckpt]", "hydra.run.dir=merged"]
    result = zygote.run(args, here)
    assert result.code == 0, result.err
    assert "5 + 7 = 12 images" in result.out
    merged = load(here, "merged")
    assert_same(merged, load(here, "all_run"))
    assert (
        merged.provenance["train_images"] == IMAGES
        and merged.provenance["data"] == "folder/a + folder/b"
    )
    facts = json.loads((here / "merged/merge.json").read_text())
    files = [(here / f"{name}_run/model.ckpt").read_bytes() for name in "ab"]
    assert facts["images"] == [5, 7]
    assert facts["model_sha256"] == [hashlib.sha256(file).hexdigest()[:12] for file in files]
    assert merged.provenance["history"][-1]["model_sha256"] == facts["model_sha256"]
    args = ["mode=merge", "ckpts=[a_run/model.ckpt,merged/model.ckpt]"]
    result = zygote.run([*args, "hydra.run.dir=merged_twice"], here)
    assert result.code == 1 and "5 of 12 images are in the checkpoint already" in result.err
    result = zygote.run([*args, "repeats=count", "hydra.run.dir=named_once"], here)
    assert result.code == 0, result.err
    assert load(here, "named_once").provenance["data"] == "folder/a + folder/b"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["data=folder data.root=b", "images=b/train"])
def test_update_equals_one_fit_on_all(here, zygote, source):
    args = ["mode=update", "ckpt=a_run/model.ckpt", *source.split(), "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=updated"], here)
    assert result.code == 0, result.err
    assert_same(load(here, "updated"), load(here, "all_run"))
    # Its scores have changed, so the old threshold is no longer one.
    assert load(here, "a_run").calibration and load(here, "updated").calibration is None
    assert (result.out + result.err).count("decides nothing") == 1


@pytest.mark.slow
def test_what_is_there_already_is_refused_skipped_or_counted(here, zygote):
    args = ["mode=update", "ckpt=a_run/model.ckpt", "images=all/train", "trainer=cpu"]
    refused = zygote.run([*args, "hydra.run.dir=refused"], here)
    assert refused.code == 1
    assert "5 images that the model holds; repeats=skip leaves them out" in refused.err
    assert not (here / "refused/model.ckpt").exists()
    skipped = zygote.run([*args, "repeats=skip", "hydra.run.dir=skipped"], here)
    assert "added    7 images; now 12" in skipped.out, skipped.err
    assert "not counted: 5 images that the model holds" in skipped.out
    assert_same(load(here, "skipped"), load(here, "all_run"))
    counted = zygote.run([*args, "repeats=count", "hydra.run.dir=counted"], here)
    assert counted.code == 0 and load(here, "counted").count == 17


@pytest.mark.slow
def test_a_picture_that_comes_twice_is_refused_or_taken_once(here, zygote):
    shutil.copytree(here / "b/train/good", here / "twice")
    for file in list((here / "twice").iterdir()):
        shutil.copy(file, file.with_name(f"copy_{file.name}"))
    args = ["mode=update", "ckpt=a_run/model.ckpt", "images=twice", "trainer=cpu"]
    refused = zygote.run([*args, "hydra.run.dir=refused_twice"], here)
    assert refused.code == 1 and "7 images with the same picture as another one" in refused.err
    taken = zygote.run([*args, "repeats=skip", "batch_size=4", "hydra.run.dir=once"], here)
    assert "added    7 images; now 12" in taken.out
    assert "not counted: 7 images with the same picture as another one" in taken.out
    assert_same(load(here, "once"), load(here, "all_run"))


@pytest.mark.slow
def test_remove_equals_a_fit_without_them(here, zygote):
    args = ["mode=remove", "ckpt=all_run/model.ckpt", "images=b/train", "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=removed"], here)
    assert result.code == 0, result.err
    assert (
        "removed  7 images; now 5" in result.out
        and "exact    as a fit without them; rounding moves no score by more than 0." in result.out
    )
    assert "learnt" not in result.out
    assert_same(load(here, "removed"), load(here, "a_run"), tolerance=1e-5)


@pytest.mark.slow
def test_what_was_removed_stays_out_though_its_folder_still_holds_it(here, zygote):
    def run(words, folder):
        args = [*words.split(), "trainer=cpu", f"hydra.run.dir=out/{folder}"]
        return zygote.run(args, here)

    out = run("mode=remove ckpt=all_run/model.ckpt images=b/train", "out")
    assert out.code == 0, out.err
    rest = run("mode=calibrate ckpt=a_run/model.ckpt images=a/train", "rest")
    whole = run("mode=calibrate ckpt=out/out/model.ckpt images=all/train", "whole")
    assert "not counted: 7 images that mode=remove took out" in whole.out, whole.err
    one, other = (load(here, f"out/{name}").calibration.threshold for name in ("rest", "whole"))
    assert rest.code == 0 and one == pytest.approx(other, rel=1e-3)
    back = "mode=update ckpt=out/out/model.ckpt images=all/train"
    refused = run(back, "refused")
    assert refused.code == 1 and "7 images that mode=remove took out" in refused.err
    nothing = run(f"{back} repeats=skip", "nothing")
    assert nothing.code == 1 and "nothing new: 5 images that the model holds; 7" in nothing.err
    assert run("mode=update ckpt=out/out/model.ckpt images=b/train repeats=count", "b").code == 0
    assert run("mode=remove ckpt=out/b/model.ckpt images=b/train", "gone").code == 0
    assert len(load(here, "out/gone").provenance["removed"]) == 7  # each once
    assert_same(load(here, "out/b"), load(here, "all_run"), tolerance=1e-5)
    again = run("mode=calibrate ckpt=out/b/model.ckpt images=all/train", "again")
    assert "scored   12 images" in again.out and "taken out" not in again.out, again.err


@pytest.mark.slow
def test_merge_says_of_each_what_it_went_through_and_takes_copies_in_any_order(here, zygote):
    args = ["mode=update", "ckpt=a_run/model.ckpt", "images=a/train", "repeats=count"]
    assert zygote.run([*args, "trainer=cpu", "hydra.run.dir=copies"], here).code == 0
    for order in ("copies,b_run", "b_run,copies"):
        paths = ",".join(f"{name}/model.ckpt" for name in order.split(","))
        merged = zygote.run(["mode=merge", f"ckpts=[{paths}]", "hydra.run.dir=order"], here)
        assert merged.code == 0, merged.err
        found = load(here, "order")
        assert found.count == 17
        assert [step["mode"] for step in found.provenance["history"]] == ["update", "merge"]
    card = (here / "order/model_card.md").read_text()
    assert "17 good images of folder/b + folder/a, changed since then" in card
    assert is_card_of(card, sha256_of(here / "order/model.ckpt"))
    day = json.loads((here / "order/merge.json").read_text())["written"][:10]
    assert f"| card written | {day}T" in card


@long_table(
    ("args", "words"),
    [
        ("mode=merge ckpts=[a_run/model.ckpt]", "two or more"),
        ("mode=merge ckpts=[a_run/model.ckpt,all_run/model.ckpt]", "5 of 12 images"),
        ("mode=merge ckpts=[a_run/model.ckpt,a_run/model.ckpt]", "5 of 5 images"),
        ("mode=merge ckpts=[a_run/model.ckpt,b_run/model.ckpt] repeats=skip", "refuse, count"),
        ("mode=remove ckpt=a_run/model.ckpt images=b/train", "7 of 7 images are not in"),
        ("mode=remove ckpt=a_run/model.ckpt images=a/train", "at least 2 must stay"),
        ("mode=remove ckpt=a_run/model.ckpt", "give images="),
        ("mode=update images=b/train", "give ckpt="),
        ("mode=update ckpt=a_run/model.ckpt", "give images="),
        ("mode=calibrate ckpt=a_run/model.ckpt", "give images="),
        ("mode=update ckpt=a_run/model.ckpt images=nowhere", "no such file or folder"),
        ("mode=update ckpt=a_run/model.ckpt images=b/train repeats=twice", "refuse, skip, count"),
    ],
    every=4,
)
def test_what_cannot_be_is_one_line(here, zygote, args, words):
    device = [] if "mode=merge" in args else ["trainer=cpu"]
    result = zygote.run([*args.split(), *device, "hydra.run.dir=bad"], here)
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.code == 1 and len(lines) == 1 and words in lines[0], result.err
    assert not (here / "bad/model.ckpt").exists()


def test_a_changed_model_does_not_lie_beside_the_metrics_of_the_old_one(here, zygote):
    args = ["mode=update", "ckpt=a_run/model.ckpt", "images=b/train", "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=a_run"], here)
    assert result.code == 1 and "another mode's results (metrics.json)" in result.err, result.err
    assert load(here, "a_run").count == 5


@pytest.mark.slow
def test_learnt_projections_merge_only_when_one_was_taken_over(here, zygote):
    args = [a for a in TINY if not a.startswith(("data.root", "hydra.run.dir", "proj="))]
    learnt = "learnt_from=fa/model.ckpt"
    chain = "learnt_from=fc/model.ckpt"  # it learnt from `a`, whose images it does not hold
    fits = (("a", "fa", ""), ("b", "fb", ""), ("b", "fc", learnt), ("a", "fd", learnt))
    fits += (("a", "fe", chain),)
    for data, name, extra in fits:
        run = [*args, "proj=fisher", f"data.root={data}", f"hydra.run.dir={name}", *extra.split()]
        result = zygote.run(run, here)
        assert result.code == 0, result.err
        known = "may have learnt from some of these images" in " ".join(result.out.split())
        assert known == (name in ("fd", "fe"))
    assert not torch.equal(load(here, "fa").projection.matrix, load(here, "fb").projection.matrix)
    apart = zygote.run(["mode=merge", "ckpts=[fa/model.ckpt,fb/model.ckpt]"], here)
    assert apart.code == 1 and "learnt_from=fa/model.ckpt" in apart.err
    args = ["mode=merge", "ckpts=[fa/model.ckpt,fc/model.ckpt]", "hydra.run.dir=fm"]
    assert zygote.run(args, here).code == 0
    merged = load(here, "fm")
    assert merged.count == IMAGES and "density" in learners(merged)
    # No image of fc taught it, so that each is judged by a fit without it, as in the fit.
    alone = load(here, "fc")
    assert not learners(alone) and learners(load(here, "fd")) and learners(load(here, "fe"))
    # The threshold is by fits that learn anew, as mode=calibrate sets it from the same images.
    args = ["mode=calibrate", "ckpt=fd/model.ckpt", "images=a/train", "trainer=cpu"]
    assert zygote.run([*args, "hydra.run.dir=fs"], here).code == 0
    scores = [load(here, name).calibration.scores.sort().values for name in ("fd", "fs")]
    torch.testing.assert_close(*scores)
    args = ["mode=calibrate", "ckpt=fc/model.ckpt", "images=b/train", "trainer=cpu"]
    result = zygote.run([*args, "hydra.run.dir=fr"], here)
    assert result.code == 0 and "learnt anew" not in result.err, result.err
    scores = [d.calibration.scores.sort().values for d in (alone, load(here, "fr"))]
    torch.testing.assert_close(*scores)


def test_a_bound_is_finite_where_a_component_loses_all_its_patches():
    """Also with ν = 1, where there is nothing left to divide by but ν."""
    backbone = Backbone("test_resnet", weights="random")
    density = Mixture(dim=2, components=6, fit_images=5, shrinkage=1)
    detector = Detector(backbone, JL(backbone.embedding_dim, 2), (64, 64), density)
    images = torch.rand(5, 3, 64, 64) / 10
    images[4] = torch.rand(3, 64, 64).round()
    digests = torch.arange(80, dtype=torch.uint8).view(5, 16)
    learn(detector, lambda count: [{"image": images}])
    fit = lambda some: detector.update_state(  # noqa: E731
        detector.empty_state(), {"image": images[some], "digest": digests[some]}
    )
    detector.set_state(fit([0, 1, 2, 3, 4]))
    odd = fit([4])
    gathered = gather(detector, [{"image": images[4:], "digest": digests[4:]}])
    more = detector.update_state(gathered, {"image": images[:1], "digest": digests[:1]})
    assert more.count == 2
    error = remove_images(detector, odd, "the odd one")
    left = detector.fit_state.moments.counts
    assert ((left == 0) & (odd.moments.counts > 0)).any()
    assert 0 < error < 1e-3


@pytest.mark.slow
def test_features_in_bf16_do_not_add_to_others(here, zygote):
    args = [a for a in TINY if not a.startswith(("data.root", "hydra.run.dir"))]
    half = [
        *args,
        "density=position",
        "data.root=a",
        "trainer.precision=bf16-mixed",
        "hydra.run.dir=half",
    ]
    result = zygote.run(half, here)
    assert result.code == 0, result.err
    assert load(here, "half").precision == "bf16-mixed"
    assert json.loads((here / "half/metrics.json").read_text())["precision"] == "bf16-mixed"
    for mode in (
        "mode=update ckpt=half/model.ckpt images=b/train trainer=cpu",
        "mode=remove ckpt=half/model.ckpt images=a/train trainer=cpu",
        "mode=merge ckpts=[half/model.ckpt,b_run/model.ckpt]",
    ):
        result = zygote.run([*mode.split(), "hydra.run.dir=bad"], here)
        assert result.code == 1 and "bf16-mixed" in result.err, result.err


def batch_of(*numbers):
    """One batch, whose images and digests follow from their numbers."""
    drawn = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(n)) for n in numbers]
    marks = torch.tensor(numbers, dtype=torch.uint8)[:, None].expand(-1, 16).contiguous()
    return [{"image": torch.stack(drawn), "digest": marks}]


def fisher():
    backbone = Backbone("test_resnet", weights="random")
    return Detector(backbone, Fisher(backbone.embedding_dim, 4), (64, 64), Mixture(4, 3))


def test_in_python_a_threshold_that_is_gone_is_told(caplog):
    detector = fisher()
    learn(detector, lambda count: batch_of(*range(6)))
    detector.set_state(gather(detector, batch_of(*range(6))))
    assert not caplog.records
    for change, count in (
        (lambda state: add_images(detector, state, "refuse", "new images"), 8),
        (lambda state: remove_images(detector, state, "new images"), 6),
    ):
        detector.calibration = calibrate(measure(detector, batch_of(8, 9)))
        assert detector.calibration.unseen == 2 * (count == 8)  # by their digests
        caplog.clear()
        change(gather(detector, batch_of(8, 9)))
        assert detector.count == count and detector.calibration is None
        assert [one.levelname for one in caplog.records] == ["WARNING"]
        assert "new images: all scores have changed, so the detector has no" in caplog.text


def test_in_python_what_was_adopted_merges():
    first, second = fisher(), fisher()
    for detector, numbers in ((first, range(6)), (second, range(6, 12))):
        learn(detector, lambda count, numbers=numbers: batch_of(*numbers))
        detector.set_state(gather(detector, batch_of(*numbers)))
    with pytest.raises(InputError, match=r"learnt_from=a\.ckpt \(in Python `adopt` before the fit"):
        require_alike(first, second, ("a.ckpt", "b.ckpt"))
    adopt(second, first, "a.ckpt")
    assert second.count == 0 and not learners(second)
    second.set_state(gather(second, batch_of(*range(6, 12))))
    require_alike(first, second, ("a.ckpt", "b.ckpt"))
    add_images(first, second.require_state(), "refuse", "b.ckpt")
    assert first.count == 12
    other = Detector(first.backbone, Fisher(first.backbone.embedding_dim, 5), (64, 64), Mixture(5))
    with pytest.raises(InputError, match=r"learnt_from=a\.ckpt is of another config: dim"):
        adopt(other, first, "a.ckpt")
