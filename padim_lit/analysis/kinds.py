"""Which kinds of defects are found: image AUROC of each kind against all good test images.

``python -m padim_lit.analysis.kinds SWEEP_DIR…`` prints a table for each ablation found there.
"""

from collections.abc import Sequence

import numpy as np
import torch
from rich.table import Column, Table

from padim_lit.analysis.bootstrap import image_auroc
from padim_lit.analysis.sweep_results import (
    Method,
    SweepFolder,
    labels,
    mean_and_sd,
    read_sweeps,
)
from padim_lit.data.items import GOOD
from padim_lit.system.command_line import Parser, run
from padim_lit.system.console import print_table


def auroc_by_kind(folder: SweepFolder) -> dict[str, dict[Method, np.ndarray]]:
    """Return AUROCs over seeds (S,) of each (projection, D), by kind of defect, alphabetically.

    Only images that count in the image metrics take part.

    Raises:
        InputError: the folder holds no image scores.
    """
    by_seed, images = folder.all_image_scores(), folder.scores
    kinds, counted = np.array(images.kind), images.count_image
    found: dict[str, dict[Method, np.ndarray]] = {}
    for kind in sorted(set(kinds[counted]) - {GOOD}):
        chosen = counted & ((kinds == kind) | (kinds == GOOD))
        labels, once = torch.from_numpy(images.label[chosen]), torch.ones(1, int(chosen.sum()))
        found[kind] = {
            key: np.array([image_auroc(s, labels, once).item() for s in torch.tensor(v[:, chosen])])
            for key, v in by_seed.items()
        }
    return found


def kinds_table(folder: SweepFolder, name: str) -> Table:
    """Make a table titled `name` with the mean ± sd over seeds of each method and kind.

    Rows are projection and D, columns the kinds.
    """
    found = auroc_by_kind(folder)
    kinds = np.array(folder.scores.kind)
    names = ["dim", *(f"{kind}\n{(kinds == kind).sum()} images" for kind in found)]
    columns = [Column(column, justify="right") for column in names]
    title = f"image AUROC by kind\n{name}"
    table = Table("proj", *columns, title=title, title_justify="left")
    for proj, dim in next(iter(found.values()), ()):
        cells = [mean_and_sd(by_key[proj, dim], 3) for by_key in found.values()]
        table.add_row(proj, str(dim), *cells)
    return table


def main(words: Sequence[str] | None = None) -> None:
    """Print a table for each ablation in or below the folders; one line for an error."""
    parser = Parser("padim_lit.analysis.kinds", "Image AUROC of each kind of defect.")
    parser.take_folders("SWEEP_DIR", "ablations")
    given = parser.parse_args(words)
    run(lambda: _print(given.folders))


def _print(folders: Sequence[str]) -> None:
    sweeps = read_sweeps(folders)
    for sweep, name in zip(sweeps, labels(sweeps), strict=True):
        print_table(kinds_table(sweep, name))


if __name__ == "__main__":
    main()
