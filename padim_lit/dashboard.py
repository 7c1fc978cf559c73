"""The W&B workspace of a sweep: ``python -m padim_lit.dashboard ENTITY/PROJECT``."""

import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

from padim_lit.errors import InputError, refusing
from padim_lit.system.command_line import Parser, run

NAME = "padim_lit: projections"
INSTALL = "run `pip install wandb wandb-workspaces`"
#: Keys of metrics.json that mode=fit logs, and their names on axes.
IMAGE, PIXEL = ("test/image_auroc", "image AUROC"), ("test/pixel_auroc", "pixel AUROC")
DIM, STATE = ("dim", "dimensions D"), ("state_bytes", "state, bytes")
LATENCY = ("test/seconds_per_image", "test, seconds per image")
#: Key of the config: the name of the projection.
PROJ = "proj.name"
RUN_KEYS = ("proj", "data", "backbone", "dim", "seed")
PINNED = (*RUN_KEYS, IMAGE[0], PIXEL[0], STATE[0], LATENCY[0])
MEDIA = {
    "heatmaps": "Anomaly map over the image",
    "pictures": "Image with truth and prediction as masks",
}


def build(entity: str, project: str) -> Any:
    """The workspace as an object of wandb-workspaces; nothing is sent and no account is asked.

    AUROC against D by projection, parallel coordinates, AUROC against state and latency, and the
    heat maps, from the keys that ``logger=wandb`` logs.

    Raises:
        InputError: wandb-workspaces is not installed.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to W&B's server, at the import
    what = "the dashboard needs the package wandb-workspaces, which is not installed"
    with refusing(what, INSTALL, ImportError), warnings.catch_warnings():
        # It declares validators in pydantic's older way.
        warnings.simplefilter("ignore", DeprecationWarning)
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws

    small = wr.Layout(w=12, h=8)

    def curve(y: tuple[str, str]) -> Any:
        # A run logs one row, its D among the numbers; grouped, rows join to lines.
        return wr.LinePlot(
            title=f"{y[1]} against {DIM[1]}, by projection: mean ± standard deviation",
            x=DIM[0], y=[y[0]], title_x=DIM[1], title_y=y[1], layout=small,
            groupby=wr.Config(PROJ), groupby_aggfunc="mean", groupby_rangefunc="stddev",
            max_runs_to_show=1000,
        )  # fmt: skip

    def scatter(x: tuple[str, str], y: tuple[str, str]) -> Any:
        return wr.ScatterPlot(
            title=f"{y[1]} against {x[1]}", x=wr.SummaryMetric(x[0]), y=wr.SummaryMetric(y[0]),
            log_x=True, running_ymax=True,  # what no cheaper run reaches
            legend_template=f"${{config:{PROJ}}}, D = ${{config:dim}}, seed ${{config:seed}}",
            layout=small,
        )  # fmt: skip

    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(PROJ), "projection")]
    for key, title in (DIM, ("seed", "seed"), STATE, LATENCY, PIXEL, IMAGE):
        metric, log = wr.SummaryMetric(key), key == STATE[0]
        columns.append(wr.ParallelCoordinatesPlotColumn(metric, title, log=log))
    together = wr.ParallelCoordinatesPlot(
        columns, "Projection, D, seed, costs, AUROC", layout=wr.Layout(w=24, h=10)
    )
    metrics = (IMAGE, PIXEL)
    sections = {
        "AUROC against dimension": [curve(y) for y in metrics],
        "Everything at once": [together],
        "What it costs": [scatter(cost, y) for cost in (STATE, LATENCY) for y in metrics],
        "Heat maps": [
            wr.MediaBrowser(
                title=title, media_keys=[key], num_columns=4, mode="gallery", gallery_axis="run",
                layout=wr.Layout(w=24, h=12),
            )
            for key, title in MEDIA.items()
        ],
    }  # fmt: skip
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name=k, panels=v, is_open=True) for k, v in sections.items()],
        runset_settings=ws.RunsetSettings(
            order=[ws.Ordering(ws.Summary(IMAGE[0]), ascending=False)],
            pinned_columns=[f"summary:{key}" for key in PINNED],
        ),
    )


def save(workspace: Any) -> str:
    """Create the workspace as a new view of its project and return its address.

    Raises:
        InputError: no API key, no network, or no such entity or project.
    """
    os.environ.setdefault("WANDB_SILENT", "true")  # or it adds its own lines
    import wandb

    what = f"the workspace cannot be saved in {workspace.entity}/{workspace.project}"
    todo = "check the network, `wandb login` and ENTITY/PROJECT"
    # wandb's own errors, and what an answer without the view that was asked for raises.
    with refusing(what, todo, wandb.Error, ValueError, KeyError, TypeError, OSError):
        if not wandb.login(prompt=False, verify=False):
            raise InputError("there is no W&B API key; run `wandb login`, or set WANDB_API_KEY")
        workspace.save()
        return workspace.url


def main(words: Sequence[str] | None = None) -> None:
    """Build and save the workspace; one line for an error."""
    parser = Parser("padim_lit.dashboard", "Lay out a W&B workspace for the runs of a sweep.")
    parser.add_argument("target", metavar="ENTITY/PROJECT", help="where the runs are synced to")
    given = parser.parse_args(words)
    run(lambda: _make(given.target))


def _make(target: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", target):
        raise InputError(f"{target!r}: must be ENTITY/PROJECT, such as my-team/padim_lit")
    print(f"workspace  {save(build(*target.split('/')))}")


if __name__ == "__main__":
    main()
