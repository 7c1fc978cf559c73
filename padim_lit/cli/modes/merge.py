"""mode=merge: one model.ckpt of several, equal to one fit on all their images."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from padim_lit.checkpoint.state import load_detector, save_detector
from padim_lit.cli.messages import require_known_keys
from padim_lit.deploy.combine import add_images, require_alike
from padim_lit.errors import InputError
from padim_lit.model.detector import Detector
from padim_lit.system.atomic import write_json
from padim_lit.system.versions import versions

#: Where other images are in the moments, all scores change.
NO_THRESHOLD = (
    "note     it has no threshold any more; mode=calibrate ckpt=... images=GOOD_IMAGES sets one"
)


def run(config: DictConfig, folder: Path) -> None:
    """Merge ``config.ckpts`` into ``model.ckpt`` in `folder`.

    Raises:
        InputError: fewer than two, of different configs, or with images in common.
    """
    require_known_keys(config)
    paths = list(config.ckpts or [])
    if len(paths) < 2:
        raise InputError(f"ckpts={paths}: give two or more, as in ckpts=[a.ckpt,b.ckpt]")
    require_repeats(config, ("refuse", "count"))
    whole = load_detector(paths[0])
    whole.require_state()
    counts = [whole.count]
    for path in paths[1:]:
        other = load_detector(path)
        state = other.require_state()
        require_alike(whole, other, (paths[0], path))
        add_images(whole, state, config.repeats, path)
        counts.append(other.count)
        _name(whole, other.provenance.get("data"))
    finish(whole, folder, "merge", {"ckpts": paths, "images": counts})
    parts = " + ".join(map(str, counts))
    print(f"merged   {parts} = {whole.count} images\nmodel    {(folder / 'model.ckpt').resolve()}")
    print(NO_THRESHOLD)


def require_repeats(config: DictConfig, allowed: tuple[str, ...]) -> None:
    """Raise InputError unless ``config.repeats`` is one of `allowed`."""
    if config.repeats not in allowed:
        raise InputError(
            f"repeats={config.repeats}: allowed with mode={config.mode}: {', '.join(allowed)}"
        )


def finish(detector: Detector, folder: Path, what: str, facts: dict[str, Any]) -> None:
    """Write model.ckpt with a line more in its history, then WHAT.json."""
    provenance = detector.provenance
    detector.provenance = {
        **provenance,
        "train_images": detector.count,
        "history": [*provenance.get("history", []), {"mode": what, **facts}],
    }
    save_detector(detector, folder / "model.ckpt")
    write_json(folder / f"{what}.json", {**facts, "train_images": detector.count, **versions()})


def _name(detector: Detector, data: str | None) -> None:
    names = str(detector.provenance.get("data")).split(" + ")
    if data not in names:
        detector.provenance = {**detector.provenance, "data": " + ".join([*names, str(data)])}
