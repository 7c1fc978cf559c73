"""One pass over the images against separate runs: what experiment=ablation saves.

    python -m benchmarks sweep data=mvtec data.root=DIR data.category=screw

Runs ``run.py`` as a user does, all arguments passed on: the ablation of 11 dims × 3 projections ×
3 seeds, the one of 11 dims of one projection, and single runs at D = 550 and 300 and 50 of each
projection, from whose times those of all 99 are interpolated (linear in D between them). Takes
turns, `--repeats` times; medians. It takes minutes.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.rows import keep, parser_of

ROOT = Path(__file__).parents[1]
DIMS = list(range(50, 551, 50))
PROJS = ["subset", "jl", "orthogonal"]
AT = [50, 300, 550]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    arguments, words = parser.parse_known_args()
    dims = f"dims=[{','.join(map(str, DIMS))}]"
    plain = ["experiment=ablation", "resamples=0", dims]
    commands = {
        "all": [*plain, f"projs=[{','.join(PROJS)}]", "seeds=[0,1,2]"],
        "dims": [*plain, "projs=[jl]", "seeds=[0]"],
        **{f"{p}-{d}": [f"proj={p}", f"dim={d}", "logger=none"] for p in PROJS for d in AT},
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            seconds[name].append(run([*command, *words]))
            print(f"{name}: {seconds[name][-1]:.1f} s", file=sys.stderr)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    separate = 3 * sum(
        float(np.interp(DIMS, AT, [median[f"{p}-{d}"] for d in AT]).sum()) for p in PROJS
    )
    one = median["jl-550"]
    print(
        f"11 dims of jl in one pass: {median['dims']:.0f} s, {median['dims'] / one:.2f} × one run"
    )
    print(
        f"11 dims × 3 projections × 3 seeds: {median['all']:.0f} s in one pass, "
        f"{separate:.0f} s in 99 runs (from {len(AT) * len(PROJS)} of them): "
        f"{separate / median['all']:.1f} × faster"
    )
    keep(arguments.json, seconds=median, separate=separate, words=words)


def run(words: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run.py"), *words, f"hydra.run.dir={folder}/run"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr.splitlines()[-1])
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
