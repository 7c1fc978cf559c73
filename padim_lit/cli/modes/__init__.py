"""What ``mode=NAME`` does: each file has its settings and a ``run(settings, folder)``."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from padim_lit.errors import InputError


class Mode(NamedTuple):
    """Where a mode is, and the file that it writes last."""

    settings: str
    result: str
    run: str = "run"

    def settings_class(self) -> type:
        """The dataclass of its keys."""
        return getattr(self._module(), self.settings.rpartition(".")[2])

    def runner(self) -> Callable[[Any, Path], Any]:
        """What takes the settings and the folder to write into."""
        return getattr(self._module(), self.run)

    def _module(self) -> Any:
        # One by one, because what one mode needs takes others seconds to import.
        return import_module(f"{__package__}.{self.settings.rpartition('.')[0]}")


MODES = {
    "fit": Mode("fit.Fit", "metrics.json"),
    "predict": Mode("predict.Predict", "predict.json"),
    "calibrate": Mode("calibrate.Calibrate", "calibrate.json"),
    "merge": Mode("update.Merge", "merge.json", "run_merge"),
    "update": Mode("update.Update", "update.json"),
    "remove": Mode("update.Remove", "remove.json", "run_remove"),
    "export": Mode("export.Export", "export.json"),
    "ablation": Mode("ablation.Ablation", "rows.json"),
    "figure4": Mode("figure4.Figure4", "figure4.json"),
    "distortion": Mode("distortion.Distortion", "distortion.json"),
}


def mode_of(name: str) -> Mode:
    """The mode of that name.

    Raises:
        InputError: there is none.
    """
    if name not in MODES:
        raise InputError(f"mode={name}: unknown; allowed: {', '.join(MODES)}")
    return MODES[name]
