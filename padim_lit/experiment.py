"""One job from a config: quiet the frameworks, pick the mode, keep a sweep going."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback as HydraCallback
from hydra.types import RunMode
from omegaconf import DictConfig

from padim_lit.config import one_line
from padim_lit.errors import InputError
from padim_lit.modes import ablation, fit
from padim_lit.report.atomic import write_json
from padim_lit.report.sweep import collect, print_sweep_table, write_sweep_csv

log = logging.getLogger(__name__)

# Lightning's remarks on what is meant here: no optimiser, a backbone in eval mode, and on small
# machines no loader processes. Its hints on devices and loggers go with them.
QUIET = (
    ".*configure_optimizers. returned .None.*",
    ".*in eval mode at the start of training.*",
    ".*does not have many workers.*",
    ".*LeafSpec.*is deprecated.*",
)

#: mode=NAME → what runs; each takes the config and the folder that it writes into.
MODES = {"fit": fit.run, "ablation": ablation.run}


def main(config: DictConfig) -> None:
    """Hydra's task: one run, or one job of a sweep.

    A job of a sweep that fails leaves ``failed.json`` and does not take the others with it;
    `SweepReport` names it at the end.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    if config.mode not in MODES:
        raise InputError(f"mode={config.mode}: unknown; allowed: {', '.join(MODES)}")
    job = MODES[config.mode]
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        job(config, folder)
        return
    try:
        job(config, folder)
    except Exception as error:
        if not isinstance(error, InputError):
            log.exception("this job failed")
        write_json(folder / "failed.json", {"error": one_line(error)})
        log.error("this job failed: %s", one_line(error))


class SweepReport(HydraCallback):
    """Writes sweep.csv and prints the table of means when a multirun ends.

    Raises SystemExit where a job failed: Hydra turns any other exception into a warning.
    """

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            path = write_sweep_csv(folder)
            jobs = collect(folder)
        except InputError as error:
            sys.exit(f"error: {one_line(error)}")
        print_sweep_table(jobs)
        print(f"\nsweep  {path.resolve()}")
        bad = [job for job in jobs if job.status != "done"]
        if bad:
            sys.exit(f"error: {len(bad)} of {len(jobs)} jobs failed; the lines above say why")
