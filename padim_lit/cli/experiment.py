"""One run or job from a config: quiet the frameworks, pick the mode, keep a sweep going."""

import hashlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback as HydraCallback
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from padim_lit.analysis.result_files import collect, left_behind, sweep_of
from padim_lit.cli.as_fitted import as_fitted
from padim_lit.cli.build import alone, content_of
from padim_lit.cli.config import as_asked, settings_of
from padim_lit.cli.messages import one_line
from padim_lit.cli.modes import MODES, mode_of
from padim_lit.cli.overrides import folder_name, read_overrides
from padim_lit.cli.settings import Settings
from padim_lit.errors import InputError
from padim_lit.sweep import jobs, launchers
from padim_lit.sweep.job_table import print_failures, print_sweep_table, write_sweep_csv
from padim_lit.system import resource_errors
from padim_lit.system.atomic import HeldElsewhere, run_folder, writing
from padim_lit.system.console import never_fail_to_print, print_facts, print_line
from padim_lit.system.memory import keep_freed_memory
from padim_lit.system.versions import commit

log = logging.getLogger(__name__)

# Remarks on what is meant here, as that there are no loader processes on small machines.
# Lightning's hints on devices and loggers go with them.
QUIET = (
    ".*does not have many workers.*",
    ".*Experiment logs directory .* exists.*",  # an earlier run's, whose results go too
    ".*Glyph .* missing from font.*",  # a box in a figure's legend
    ".*could be decompression bomb.*",  # what is too large is refused by name
)


def main(config: DictConfig) -> None:
    """Hydra's task: one run, or one job of a sweep."""
    commit()  # what this process runs
    keep_freed_memory()  # here, because launchers run each job in a process of its own
    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)  # paths are from where they were typed, whatever hydra.job.chdir is
    folder = Path(hydra.runtime.output_dir)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if os.environ.get("LOCAL_RANK", "0") != "0":  # what the first rank says is enough
        logging.getLogger("padim_lit").setLevel(logging.WARNING)
    never_fail_to_print()
    for message in QUIET:
        warnings.filterwarnings("ignore", message)
    if hydra.mode != RunMode.MULTIRUN:
        settings = as_fitted(settings_of(config, hydra.overrides.task), hydra)
        with _held(settings, folder):
            _run(settings, folder)
        return
    launchers.allow_loaders()
    run_job(config, folder)


def run_job(config: DictConfig, folder: Path) -> None:
    """One job of a sweep, unless `folder` holds its complete result already.

    A job that fails leaves ``failed.json`` and does not take the others with it; `SweepReport`
    names it at the end, and the same command again runs it again.
    """
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir)
    if folder.parent.resolve() != sweep.resolve():
        raise InputError(
            f"hydra.sweep.subdir={hydra.sweep.subdir}: {folder} is no folder directly in {sweep}, "
            "where the sweep's table looks for jobs; choose names without /"
        )
    try:
        jobs.join_sweep(sweep, folder)
        settings = as_fitted(settings_of(config, hydra.overrides.task), hydra)
        result = mode_of(settings.mode).result
        with _held(settings, folder, jobs.DONE, jobs.FAILED):
            keys, content = asdict(settings), content_of(settings)
            if (written := as_asked(keys)) != keys:
                # Values from the environment change the result, too, but no file shows them.
                text = json.dumps(jobs.describe(keys))
                content["environment"] = hashlib.sha256(text.encode()).hexdigest()
            job = jobs.describe(written, content=content)
            if jobs.is_done(folder, result, job):
                print_line(
                    f"Job {folder.name}: done already, skipped; to run it anew delete {folder} or "
                    "give another hydra.sweep.dir"
                )
                return
            jobs.begin(folder, result)
            _run(settings, folder)
            jobs.finish(folder, job)
    except HeldElsewhere as error:  # what becomes of it is that run's to say
        log.error("this job was left out: %s", one_line(error))
    except Exception as error:
        if not isinstance(error, InputError):
            log.exception("this job failed")
        jobs.fail(folder, one_line(error))
        log.error("this job failed: %s", one_line(error))


def _run(settings: Settings, folder: Path) -> None:
    """Call the mode's `run`; turn failures of the machine into one line, too."""
    try:
        mode_of(settings.mode).runner()(settings, folder)
    except (OSError, RuntimeError, MemoryError, *resource_errors.NOT_FACTORED) as error:
        reason = resource_errors.error_line(error, folder)
        if reason is None:
            raise
        raise InputError(reason) from error


@contextmanager
def _held(settings: Settings, folder: Path, *more: str) -> Iterator[None]:
    """Hold the run's folder for what the mode writes; further ranks share the first one's."""
    # Its rank comes from the environment; a task of an allocation may be a run of its own.
    if alone(getattr(settings, "trainer", None)):
        rank_zero_only.rank = 0
    if rank_zero_only.rank:
        yield
        return
    mode = mode_of(settings.mode)
    # A fit writes none where it tests one.
    names = [name for name in mode.names if settings.fits or name != "model.ckpt"]
    for other in MODES.values():
        # What that mode wrote would be neither its result nor this one's.
        shared = {*names}.intersection(other.names) - {"model_card.md"}
        # In a sweep's folder it would be read as the job's.
        if (shared or more) and other is not mode and (folder / other.result).exists():
            raise InputError(
                f"{folder} holds another mode's results ({other.result}); give another "
                f"hydra.{'sweep' if more else 'run'}.dir"
            )
    with run_folder(folder, [mode.result, *names, *more]):
        yield


class SweepReport(HydraCallback):
    """Writes sweep.csv and prints the table of means when a multirun ends.

    With `table1` it writes table1.csv and prints that table instead. Raises SystemExit where a
    job failed: Hydra turns any other exception into a warning.
    """

    def __init__(self, table1: bool = False) -> None:
        self.table1 = table1

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.run.dir)
        try:
            with writing(folder):  # Hydra would say neither what it is for nor what to do
                folder.mkdir(parents=True, exist_ok=True)
        except InputError as error:
            sys.exit(f"error: {one_line(error)}")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        typed = read_overrides(list(config.hydra.overrides.task))
        folder = Path(config.hydra.sweep.dir)
        # What a file's sweeper.params sweep is not typed, and makes another sweep too.
        params = config.hydra.sweeper.get("params")
        name = folder_name(typed) + (f" {OmegaConf.to_yaml(params)}" if params else "")
        chosen = [o.get_value_element_as_str() for o in typed if o.key_or_group == "mode"]
        ours = ",".join([config.mode, *chosen]).split(",")
        others = [mode.result for key, mode in MODES.items() if key not in ours]
        try:
            # Here, because Hydra writes into each job's folder before the job can refuse it.
            for file in (file for result in others for file in sorted(folder.glob(f"*/{result}"))):
                if sweep_of(file.parent) not in (None, name):
                    raise InputError(
                        f"the sweep folder {folder} holds jobs of another mode ({file}); give "
                        "another hydra.sweep.dir"
                    )
            jobs.begin_sweep(folder, name)
        except InputError as error:
            sys.exit(f"error: {one_line(error)}")

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            found = collect(folder)
            paths: dict[str, Any] = {"sweep": write_sweep_csv(folder, found)}
            if self.table1:
                # A job that failed may have left an older sweep.csv.
                done = {job.folder: None for job in found if job.status == "done"}
                from padim_lit.report.table1 import table1  # matplotlib, which others do without

                paths["table"] = table1(folder, [folder / name for name in done])
                print_failures(found)
            else:
                print_sweep_table(found)
        except InputError as error:
            sys.exit(f"error: {one_line(error)}")
        if others := left_behind(folder):
            paths["note"] = f"left out, of an earlier sweep in this folder: {', '.join(others)}"
        print()
        print_facts(*paths.items())
        bad = [job for job in found if job.status != "done"]
        if bad:
            everyone = len({job.folder for job in found})
            sys.exit(
                f"error: {len(bad)} of {everyone} jobs failed; the lines above say why; the same "
                "command again runs only those"
            )
