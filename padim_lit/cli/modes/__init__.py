"""What ``mode=NAME`` does: each file has its settings and a ``run(settings, folder)``."""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

from padim_lit.errors import require_choice

_MODEL = ("model.ckpt", "model_card.md")


class Mode(NamedTuple):
    """Where a mode is, and what it writes.

    Attributes:
        settings: FILE:CLASS of its settings, here.
        result: the file that it writes last.
        names: what else it writes directly into the folder.
        run: the function in FILE.
    """

    settings: str
    result: str
    names: tuple[str, ...] = _MODEL
    run: str = "run"

    def settings_class(self) -> type:
        """Return the dataclass of its keys."""
        # One by one, because what one mode needs takes others seconds to import.
        return resolve_name(f"{__package__}.{self.settings}")

    def runner(self) -> Callable[[Any, Path], Any]:
        """Return the function that takes the settings and the folder to write into."""
        return resolve_name(f"{__package__}.{self.settings.partition(':')[0]}:{self.run}")


_TRACKED = ("csv", "tensorboard", "mlflow")
_FIT = (*_MODEL, "heatmaps", "predictions.csv", "config.yaml", *_TRACKED)
_ABLATION = ("sweep.csv", "scores.csv", "scores.npz", "resamples.npz", "runs", "features")
_DISTORTION = ("distortion.csv", "distortion.png", "distortion.svg")
_PREDICT = ("predictions.csv", "predictions.jsonl", "model.json", "heatmaps", "masks", "maps")
MODES = {
    "fit": Mode("fit:Fit", "metrics.json", _FIT),
    "predict": Mode("predict:Predict", "predict.json", (*_PREDICT, "coco.json")),
    "calibrate": Mode("calibrate:Calibrate", "calibrate.json"),
    "merge": Mode("update:Merge", "merge.json", run="run_merge"),
    "update": Mode("update:Update", "update.json"),
    "remove": Mode("update:Remove", "remove.json", run="run_remove"),
    "export": Mode("export:Export", "export.json", ()),  # its output is checked there
    "serve": Mode("serve:Serve", "serve.json", ()),
    "ablation": Mode("ablation:Ablation", "rows.json", _ABLATION),
    "figure4": Mode("pictures:Figure4", "figure4.json", ("figure4.png", "features"), "run_figure4"),
    "distortion": Mode("pictures:Distortion", "distortion.json", _DISTORTION, run="run_distortion"),
}


def mode_of(name: str) -> Mode:
    """The mode of that name.

    Raises:
        InputError: there is none.
    """
    require_choice("mode", name, MODES)
    return MODES[name]
