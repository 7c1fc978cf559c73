"""The jobs of a Hydra multirun in one table: sweep.csv, and means over seeds printed."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from padim_lit.analysis.result_files import Job
from padim_lit.analysis.sweep_results import mean_and_sd
from padim_lit.metric_names import METRICS
from padim_lit.system.atomic import write_csv
from padim_lit.system.console import MISSING, print_line, print_table


def write_sweep_csv(sweep_dir: str | os.PathLike, jobs: Sequence[Job]) -> Path:
    """Write ``sweep.csv`` into ``sweep_dir``: one row for each job, overrides first, then results.

    Raises:
        InputError: the file cannot be written.
    """
    first = ["job", "status", *_keys(job.overrides for job in jobs), *METRICS]
    rows = [_row(job) for job in jobs]
    columns = [*first, *(key for key in _keys(rows) if key not in {*first, "error"}), "error"]
    return write_csv(Path(sweep_dir) / "sweep.csv", columns, rows)


def print_sweep_table(jobs: Sequence[Job]) -> None:
    """Print mean ± standard deviation (n-1) over seeds for each combination of the overrides.

    Overrides that all jobs share are named once above; metrics that are null in every job are
    left out; jobs that failed or did not finish are listed below.
    """
    done = [job for job in jobs if job.status == "done"]
    keys = [key for key in _keys(job.overrides for job in jobs) if key != "seed"]
    shared = [key for key in keys if len({job.overrides.get(key) for job in jobs}) == 1]
    varied = [key for key in keys if key not in shared]
    metrics = [key for key in METRICS if any(job.results.get(key) is not None for job in done)]

    groups: dict[tuple[str | None, ...], list[Job]] = {}
    for job in done:
        groups.setdefault(tuple(job.overrides.get(key) for key in varied), []).append(job)

    columns = [Column(key, overflow="fold") for key in varied]
    columns += [Column("runs", justify="right", no_wrap=True)]
    columns += [Column(METRICS[key].replace(" ", "\n"), justify="right") for key in metrics]
    title = "Sweep: mean ± standard deviation over seeds; 1 is perfect"
    table = Table(*columns, title=title, title_justify="left")
    for values, group in groups.items():
        shared_by = [MISSING if value is None else value for value in values]
        found = [mean_and_sd([job.results.get(key) for job in group], 4) for key in metrics]
        table.add_row(*shared_by, str(len(group)), *found)

    print()
    if shared:
        constant = ", ".join(f"{key}={jobs[0].overrides[key]}" for key in shared)
        print_line(f"All jobs: {constant}")
    if done:
        print_table(table)
    print_failures(jobs)


def print_failures(jobs: Sequence[Job]) -> None:
    """Print a line for each job that failed or did not finish: what was typed, and why."""
    for job in jobs:
        if job.status != "done":
            typed = " ".join(f"{key}={value}" for key, value in job.overrides.items())
            why = f": {job.error}" if job.error else ""
            print_line(f"Job {job.name} {job.status} ({typed}){why}")


def _row(job: Job) -> dict[str, Any]:
    """Return a job's columns of sweep.csv; results that no override repeats are "result/NAME"."""
    row = {"job": job.name, "status": job.status, **job.overrides}
    for key, value in job.results.items():
        if key not in row:
            row[key] = json.dumps(value) if isinstance(value, list) else value
        elif str(value) != row[key]:
            row[f"result/{key}"] = value
    return {**row, "error": job.error}


def _keys(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))
