"""Gather the jobs of a Hydra multirun into one table."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from padim_lit.errors import InputError
from padim_lit.metrics import METRICS
from padim_lit.sweep.jobs import DONE
from padim_lit.system.atomic import write_csv
from padim_lit.system.console import MISSING, print_line, print_table


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a sweep.

    Attributes:
        name: its folder's name, "0", "1", ...
        status: "done" (it has metrics.json or what its mode writes instead), "failed"
            (failed.json) or "unfinished" (neither).
        overrides: what was typed for it, without leading "+"; "~key" keeps its tilde.
        results: the content of metrics.json; empty unless done.
        error: the message of failed.json; empty unless failed.
    """

    name: str
    status: str
    overrides: dict[str, str] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def folder(self) -> str:
        """Its folder's name, also of one configuration of an ablation ("3/jl/100/0")."""
        return self.name.partition("/")[0]

    def row(self) -> dict[str, Any]:
        """Columns of sweep.csv; a result that its override does not repeat is "result/NAME"."""
        row = {"job": self.name, "status": self.status, **self.overrides}
        for key, value in self.results.items():
            if key not in row:
                row[key] = json.dumps(value) if isinstance(value, list) else value
            elif str(value) != row[key]:
                row[f"result/{key}"] = value
        return {**row, "error": self.error}


def as_job(row: dict[str, Any], folder: str, overrides: dict[str, str]) -> Job:
    """One configuration of an ablation as a job of a sweep."""
    chosen = {key: str(row[key]) for key in ("proj", "dim", "seed")}
    kept = {k: v for k, v in overrides.items() if k not in ("projs", "dims", "seeds")}
    return Job("/".join([folder, *chosen.values()]), "done", {**kept, **chosen}, row)


def collect(sweep_dir: str | os.PathLike) -> list[Job]:
    """Read the job folders in ``sweep_dir``, "2" before "10".

    A job folder has a ``.hydra`` folder, a metrics.json or a failed.json, or a number for a name.
    An ablation's folder holds rows.json instead: each of its configurations is a job here.

    Raises:
        InputError: ``sweep_dir`` is missing, or one of those files cannot be read.
    """
    sweep_dir = Path(sweep_dir)
    if not sweep_dir.is_dir():
        raise InputError(f"{sweep_dir} is no folder; give the folder of a multirun")
    folders = [folder for folder in sweep_dir.iterdir() if folder.is_dir() and _is_job(folder)]
    return [job for folder in sorted(folders, key=_natural) for job in _read(folder)]


def write_sweep_csv(sweep_dir: str | os.PathLike) -> Path:
    """Write ``sweep.csv`` into ``sweep_dir``: a row a job, overrides first, then all results.

    Raises:
        InputError: as ``collect``, or the file cannot be written.
    """
    jobs = collect(sweep_dir)
    first = ["job", "status", *_keys(job.overrides for job in jobs), *METRICS]
    rows = [job.row() for job in jobs]
    columns = [*first, *(key for key in _keys(rows) if key not in {*first, "error"}), "error"]
    return write_csv(Path(sweep_dir) / "sweep.csv", columns, rows)


def print_sweep_table(jobs: Sequence[Job], *, console: Console | None = None) -> None:
    """Print mean ± standard deviation (n-1) over seeds for each combination of the overrides.

    Overrides that all jobs share are named once above; metrics that are null in every job are
    left out; jobs that failed or did not finish are listed below.
    """
    console = console or Console()
    done = [job for job in jobs if job.status == "done"]
    keys = [key for key in _keys(job.overrides for job in jobs) if key != "seed"]
    shared = [key for key in keys if len({job.overrides.get(key) for job in jobs}) == 1]
    varied = [key for key in keys if key not in shared]
    metrics = [key for key in METRICS if any(job.results.get(key) is not None for job in done)]

    groups: dict[tuple[str | None, ...], list[Job]] = {}
    for job in done:
        groups.setdefault(tuple(job.overrides.get(key) for key in varied), []).append(job)

    table = Table(title="Sweep: mean ± standard deviation over seeds", title_justify="left")
    for key in varied:
        table.add_column(Text(key), overflow="fold")
    table.add_column("n", justify="right", no_wrap=True)
    for key in metrics:
        table.add_column(METRICS[key].replace(" ", "\n"), justify="right")
    for values, group in groups.items():
        cells = [MISSING if value is None else value for value in values]
        cells.append(str(len(group)))
        cells += [_spread([job.results.get(key) for job in group]) for key in metrics]
        table.add_row(*map(Text, cells))

    console.print()
    if shared:
        constant = ", ".join(f"{key}={jobs[0].overrides[key]}" for key in shared)
        print_line(f"All jobs: {constant}", console)
    if done:
        print_table(table, console)
    print_failures(jobs, console=console)


def print_failures(jobs: Sequence[Job], *, console: Console | None = None) -> None:
    """Print a line for each job that failed or did not finish: what was typed, and why."""
    console = console or Console()
    for job in jobs:
        if job.status != "done":
            typed = " ".join(f"{key}={value}" for key, value in job.overrides.items())
            why = f": {job.error}" if job.error else ""
            print_line(f"Job {job.name} {job.status} ({typed}){why}", console)


def _is_job(folder: Path) -> bool:
    names = (".hydra", "metrics.json", "failed.json")
    return folder.name.isdecimal() or any((folder / name).exists() for name in names)


def _read(folder: Path) -> list[Job]:
    overrides = {}
    if (file := folder / ".hydra" / "overrides.yaml").exists():
        overrides = dict(_override(str(text)) for text in _load(file, list))
    if (file := folder / "failed.json").exists():
        error = str(_load(file, dict).get("error", "no reason recorded"))
        return [Job(folder.name, "failed", overrides, error=error)]
    if (file := folder / "metrics.json").exists():
        return [Job(folder.name, "done", overrides, _load(file, dict))]
    if (file := folder / "rows.json").exists():
        return [as_job(row, folder.name, overrides) for row in _load(file, list)]
    # Other modes write neither.
    status = "done" if (folder / DONE).exists() else "unfinished"
    return [Job(folder.name, status, overrides)]


def _load(file: Path, kind: type) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{file} cannot be read ({reason}); remove its job folder") from error
    if not isinstance(content, kind):
        raise InputError(f"{file} does not hold a {kind.__name__}; remove its job folder")
    return content


def _override(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return key.lstrip("+"), value


def _natural(folder: Path) -> list[tuple[int, int, str]]:
    # Numbers and words carry a rank of their own: Python does not compare int with str.
    parts = re.findall(r"\d+|\D+", folder.name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def _keys(rows: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    text = f"{mean(known):.4f}"
    if len(known) > 1:
        text += f" ±{stdev(known):.4f}"
    if len(known) < len(values):
        text += f" ({len(known)} of {len(values)})"
    return text
