"""What an ablation has finished, run by run, so that a killed one goes on where it was.

A run is one projection and seed with all of its dimensions. Its results lie in one file, which is
there whole or not at all.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from padim_lit.analysis.result_files import BROKEN, load_arrays
from padim_lit.errors import refusing
from padim_lit.system.atomic import file_bytes, remove_remnants, write_bytes


@dataclass
class RunResult:
    """What one run found.

    Attributes:
        rows: a row of sweep.csv for each d.
        scores: image scores (N,) of each configuration, by its name PROJ-DIM-SEED.
        resamples: image and pixel AUROC (2,R) on resampled test images, by the same name.
        variances: the mean variance of its features within a Gaussian, by d.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    resamples: dict[str, np.ndarray] = field(default_factory=dict)
    variances: dict[str, np.ndarray] = field(default_factory=dict)


class RunStore:
    """Finished runs of one ablation.

    Args:
        folder: the ablation's folder.
        fingerprint: of all that the results depend on but projections, dimensions and seeds.
            Runs of another fingerprint are removed.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.root = folder / "runs"
        self.folder = self.root / fingerprint
        self.stale = [p for p in self.root.glob("[0-9a-f]" * 16) if p != self.folder]
        for path in self.stale:
            shutil.rmtree(path, ignore_errors=True)
        remove_remnants(self.folder)

    def load(self, name: str, dims: Sequence[int]) -> RunResult | None:
        """Return the run `name`, or None where it was not finished with exactly these `dims`."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            return None
        saved = load_arrays(path)
        with refusing(f"{path} cannot be read", "remove it", *BROKEN):
            result = RunResult(json.loads(saved.pop("rows").item()))
            if [row["dim"] for row in result.rows] != list(dims):
                return None
            for key, array in saved.items():
                kind, _, configuration = key.partition("/")
                getattr(result, kind)[configuration] = array  # of an unknown kind an AttributeError
        return result

    def save(self, name: str, result: RunResult) -> None:
        """Keep a finished run."""
        kinds = ((kind, getattr(result, kind)) for kind in ("scores", "resamples", "variances"))
        arrays = {f"{kind}/{key}": a for kind, found in kinds for key, a in found.items()}
        content = file_bytes(np.savez, **arrays, rows=np.array(json.dumps(result.rows)))
        write_bytes(self.folder / f"{name}.npz", content)
