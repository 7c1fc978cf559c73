"""The JL report's claims, and what sweeps say about each: a verdict, its evidence, its command.

A comparison is a *case*: one sweep (data × backbone), one metric, one or two (projection, D).
Every case is "yes" (its interval lies on the claim's side), "no" (on the other) or "open" (neither:
the interval holds both, only one seed was drawn, or no resamples were kept). From its cases a claim

- **holds** if all are yes,
- **holds when ...** if some are; the cases that are yes follow,
- **does not hold** if none is yes and some are no,
- is **not measured** if there is no case, or all are open ("not measured precisely enough").

Dimensions are compared as claimed and never replaced by the nearest ones that were measured.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from padim_lit.analysis.bootstrap import Difference, paired_difference, seed_sd, spread_ratio
from padim_lit.analysis.sweep_results import RESAMPLED, SweepFolder, join_parts, labels
from padim_lit.analysis.theory import fit_performance
from padim_lit.errors import InputError

LEVEL = 0.95
#: An AUROC this much lower still counts as "as good" (claims 2 and 7).
MARGIN = 0.005
#: A gain below this counts as flat (claim 4).
FLAT = 0.01
#: "About 10×" and "3×" are met from 20 % below; more saving than claimed meets them too.
MEMORY_RATIO, TIME_RATIO, TOLERANCE = 10, 3, 0.2
SEEDS = "seeds=[0,1,2,3,4]"
IMPRECISE = "not measured precisely enough"


@dataclass(frozen=True)
class Claim:
    """One sentence that can be true or false, and where it stands."""

    key: str
    sentence: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """What was found: "holds", "does not hold", "holds when ..." or "not measured ...".

    Attributes:
        evidence: a flat row for each case; its `case` is "yes", "no" or "open".
        command: what measured it, a line a sweep; what would measure it where nothing did.
    """

    claim: Claim
    verdict: str
    reason: str
    evidence: list[dict[str, Any]]
    command: str

    @property
    def kind(self) -> str:
        """The verdict without its condition."""
        kinds = ("holds when", "holds", "does not hold", "not measured")
        return next(kind for kind in kinds if self.verdict.startswith(kind))


@dataclass(frozen=True)
class Case:
    """One comparison: what `yes`, `no` or `open` was found for, and its numbers."""

    case: str
    data: str
    part: str  # what is compared beside the data: "D = 100", "memory", ...
    row: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """All cases of a claim, the sweeps that they come from, and what was missing elsewhere."""

    cases: list[Case]
    folders: list[SweepFolder]
    missing: list[str]


CLAIMS = {
    claim.key: claim
    for claim in (
        Claim(
            "same-d-image",
            "At the same D, a JL projection beats channel selection in image AUROC.",
            "JL report, Table 1",
        ),
        Claim(
            "same-d-pixel",
            "At the same D, a JL projection beats channel selection in pixel AUROC.",
            "JL report, Table 1",
        ),
        Claim(
            "150-for-550",
            "150 JL dimensions do the work of 550 selected channels "
            f"(AUROC lower by less than {MARGIN}).",
            "JL report",
        ),
        Claim(
            "savings",
            "150 JL dimensions instead of 550 channels save about 10× memory and 3× inference "
            "time.",
            "JL report",
        ),
        Claim(
            "steep-then-flat",
            "JL's detection rises steeply from 50 to 200 dimensions and then flattens.",
            "JL report, Figure 3",
        ),
        Claim(
            "eq15",
            "y(x) = 2pk/(√(q/x) + k) + 1 − p, fitted up to D = 200, predicts AUROC beyond.",
            "JL report, eq. 15 and Figure 2",
        ),
        Claim(
            "seed-spread",
            "A random selection's AUROC varies more from seed to seed than a JL projection's.",
            "issue 3",
        ),
        Claim(
            "challenger",
            "Up to D = 100, {challenger} is at least as good as JL on every dataset "
            f"(AUROC lower by less than {MARGIN}) and better on most.",
            "issue 3",
        ),
    )
}


def judge(folders: Sequence[SweepFolder], challenger: str = "fisher") -> list[Verdict]:
    """A verdict for every claim, in the order of `CLAIMS`.

    Args:
        folders: sweeps; parts of one experiment are joined (`join_parts`).
        challenger: the projection that claim "challenger" sets against jl.
    """
    folders = join_parts(folders)
    return [
        _same_d("same-d-image", folders, "test/image_auroc"),
        _same_d("same-d-pixel", folders, "test/pixel_auroc"),
        _fewer(folders),
        _savings(folders),
        _steep_then_flat(folders),
        _eq15(folders),
        _seed_spread(folders),
        _challenger(folders, challenger),
    ]


def _same_d(key: str, folders: Sequence[SweepFolder], metric: str) -> Verdict:
    """Claim 1: yes where jl − subset lies above 0 at one D, no where below; every shared D."""

    def cases(folder: SweepFolder, name: str) -> list[Case] | str:
        dims = sorted(set(folder.dims_of("jl")) & set(folder.dims_of("subset")))
        if not dims:
            return "needs jl and subset at the same D"
        return [
            _versus(folder, name, ("jl", d), ("subset", d), metric, 0, f"D = {d}") for d in dims
        ]

    return _decide(key, _over(folders, cases), f"projs=[subset,jl] dims=[50,100,150] {SEEDS}")


def _fewer(folders: Sequence[SweepFolder]) -> Verdict:
    """Claim 2: yes where jl at 150 − subset at 550 lies above −`MARGIN`, no where below it."""

    def cases(folder: SweepFolder, name: str) -> list[Case] | str:
        if lack := _lacks(folder, ("jl", 150), ("subset", 550)):
            return lack
        return [
            _versus(folder, name, ("jl", 150), ("subset", 550), metric, -MARGIN, _short(metric))
            for metric in RESAMPLED
        ]

    return _decide(
        "150-for-550", _over(folders, cases), f"projs=[subset,jl] dims=[150,550] {SEEDS}"
    )


def _savings(folders: Sequence[SweepFolder]) -> Verdict:
    """Claim 3: yes where subset at 550 costs at least 0.8 × the claimed ratio of jl at 150.

    Memory is `state_bytes`; time counts scoring alone and, as a case of its own, with the backbone.
    The ratio is the median over paired seeds, with their lowest and highest for an interval: times
    are of this machine, so there is nothing to resample.
    """

    def cases(folder: SweepFolder, name: str) -> list[Case] | str:
        if lack := _lacks(folder, ("jl", 150), ("subset", 550)):
            return lack
        parts = {
            "memory": (MEMORY_RATIO, ("state_bytes",)),
            "scoring alone": (TIME_RATIO, ("score/ms_per_image",)),
            "backbone + scoring": (TIME_RATIO, ("backbone/ms_per_image", "score/ms_per_image")),
        }
        seeds = _shared(folder, ("jl", 150), ("subset", 550))
        found = []
        for part, (claimed, columns) in parts.items():
            one, many = (
                sum(folder.points(*x, column, seeds) for column in columns)
                for x in (("jl", 150), ("subset", 550))
            )
            ratios = many / one
            ratio = float(np.median(ratios))
            # NaN where a column was not written.
            case = "open" if math.isnan(ratio) else _side(ratio >= claimed * (1 - TOLERANCE))
            row = {"ratio": ratio, "low": float(ratios.min()), "high": float(ratios.max())}
            row |= {"claimed": claimed, "seeds": len(seeds), "jl_150": float(np.median(one))}
            row |= {"subset_550": float(np.median(many)), "columns": " + ".join(columns)}
            if math.isnan(ratio):
                row |= {"ratio": None, "low": None, "high": None, "jl_150": None}
                row |= {"subset_550": None, "why": f"no {' or '.join(columns)} in sweep.csv"}
            found.append(_case(folder, name, case, part, row))
        return found

    return _decide(
        "savings",
        _over(folders, cases, detection=False),
        f"projs=[subset,jl] dims=[150,550] {SEEDS}",
        exact=True,
    )


def _steep_then_flat(folders: Sequence[SweepFolder]) -> Verdict:
    """Claim 4, of jl: yes where all three intervals agree, no where one contradicts.

    The gain 50 → 200 lies above 0; per dimension it exceeds that of 200 → 550; and the gain
    200 → 550 lies below `FLAT`.
    """

    def cases(folder: SweepFolder, name: str) -> list[Case] | str:
        points = [("jl", d) for d in (50, 200, 550)]
        if lack := _lacks(folder, *points):
            return lack
        return [_bend(folder, name, metric, _shared(folder, *points)) for metric in RESAMPLED]

    return _decide(
        "steep-then-flat", _over(folders, cases), f"projs=[jl] dims=[50,200,550] {SEEDS}"
    )


def _bend(folder: SweepFolder, name: str, metric: str, seeds: list[int]) -> Case:
    y = {d: folder.points("jl", d, metric, seeds) for d in (50, 200, 550)}
    r = {d: folder.resamples("jl", d, metric, seeds) for d in (50, 200, 550)}
    if any(values is None for values in r.values()):
        r = None

    def gain(values: dict[int, Any] | None, start: int, stop: int, each: int = 1) -> Any:
        return None if values is None else (values[stop] - values[start]) / each

    def compare(early: Sequence[Any], late: Sequence[Any]) -> Difference:
        return paired_difference(early[0], late[0], early[1], late[1], LEVEL)

    zero = (np.zeros(len(seeds)), None if r is None else np.zeros_like(r[50]))
    early = compare((gain(y, 50, 200), gain(r, 50, 200)), zero)
    late = compare((gain(y, 200, 550), gain(r, 200, 550)), zero)
    bend = compare(
        (gain(y, 50, 200, 150), gain(r, 50, 200, 150)),
        (gain(y, 200, 550, 350), gain(r, 200, 550, 350)),
    )
    decided = early.low is not None and late.low is not None and len(seeds) > 1
    yes = decided and early.low > 0 and bend.low > 0 and late.high < FLAT
    no = decided and (early.high <= 0 or bend.high <= 0 or late.low >= FLAT)
    row = {"metric": metric, "comparison": "jl: gain 50 → 200 against 200 → 550, per dimension"}
    row |= _numbers(bend)
    for word, gained in (("early", early), ("late", late)):
        row |= {f"{word}_gain": _known(gained.mean)}
        row |= {f"{word}_low": gained.low, f"{word}_high": gained.high}
    return _case(folder, name, "yes" if yes else "no" if no else "open", _short(metric), row)


def _eq15(folders: Sequence[SweepFolder]) -> Verdict:
    """Claim 5, of jl: yes where eq. 15 misses by less than the spread and than "as at 200" does.

    Eq. 15 is fitted to the seeds' means at D ≤ 200, 200 among them, at four D or more. Its root
    mean square error over all D > 200 is held against the standard deviation over seeds there, and
    against the error of the prediction that nothing changes beyond 200. No where it misses by more
    than either; open without two seeds. The errors have no interval.
    """

    def cases(folder: SweepFolder, name: str) -> list[Case] | str:
        dims = folder.dims_of("jl")
        below, beyond = [d for d in dims if d <= 200], [d for d in dims if d > 200]
        if 200 not in below or len(below) < 4 or not beyond:
            return f"needs jl at D = 200, three D below and one above; measured are {_list(dims)}"
        return [_predict(folder, name, metric, below, beyond) for metric in RESAMPLED]

    dims = "dims=[50,100,150,200,300,400,550]"
    return _decide("eq15", _over(folders, cases), f"projs=[jl] {dims} {SEEDS}", exact=True)


def _predict(
    folder: SweepFolder, name: str, metric: str, below: list[int], beyond: list[int]
) -> Case:
    seeds = _shared(folder, *(("jl", d) for d in below + beyond))
    row: dict[str, Any] = {"metric": metric, "fitted": _list(below), "predicted": _list(beyond)}
    row["seeds"] = len(seeds)
    y = {d: folder.points("jl", d, metric, seeds) for d in below + beyond} if seeds else {}
    if len(seeds) < 2 or not all(np.isfinite(values).all() for values in y.values()):
        why = "fewer than two seeds at all D, or an undefined metric"
        return _case(folder, name, "open", _short(metric), row | {"why": why})
    truth = np.array([y[d].mean() for d in beyond])
    try:
        fit = fit_performance(np.array(below, float), np.array([y[d].mean() for d in below]))
    except InputError as error:
        return _case(folder, name, "open", _short(metric), row | {"why": str(error)})
    sd = float(np.sqrt(np.mean([y[d].var(ddof=1) for d in beyond])))
    row |= {"rmse": None, "rmse_as_at_200": _rmse(y[200].mean(), truth), "sd_over_seeds": sd}
    # Of q and k only q/k² shapes the curve (divide eq. 15's fraction by k); it is where y meets 1.
    limit = fit.limit
    row |= {"p": float(fit.p), "q_over_k2": _known(limit)}
    if not max(beyond) < limit:
        why = f"eq. 15 as fitted ends at D = q/k² = {limit:.0f}, so it predicts nothing beyond"
        return _case(folder, name, "no", _short(metric), row | {"why": why})
    row["rmse"] = _rmse(fit(np.array(beyond, float)), truth)
    better = row["rmse"] <= sd and row["rmse"] < row["rmse_as_at_200"]
    return _case(folder, name, _side(better), _short(metric), row)


def _rmse(guess: Any, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(guess) - truth) ** 2)))


def _seed_spread(folders: Sequence[SweepFolder]) -> Verdict:
    """Claim 6: yes where the ratio of the sds over seeds, subset's to jl's, lies above 1."""

    def cases(folder: SweepFolder, name: str) -> list[Case] | str:
        dims = sorted(set(folder.dims_of("jl")) & set(folder.dims_of("subset")))
        found = []
        for metric in RESAMPLED:
            for d in dims:
                subset, jl = (folder.points(proj, d, metric) for proj in ("subset", "jl"))
                if min(len(subset), len(jl)) < 2:
                    continue
                ratio = spread_ratio(subset, jl, LEVEL)
                one, other = seed_sd(subset, LEVEL), seed_sd(jl, LEVEL)
                row = {"metric": metric, "dim": d, "comparison": f"sd of subset / sd of jl at {d}"}
                row |= {"ratio": _known(ratio.value), "low": ratio.low, "high": ratio.high}
                row |= {"level": LEVEL, "seeds": ratio.seeds}
                for proj, s in (("subset", one), ("jl", other)):
                    row |= {f"{proj}_sd": _known(s.value)}
                    row |= {f"{proj}_low": s.low, f"{proj}_high": s.high}
                case = _beyond(ratio.low, ratio.high, 1)
                found.append(_case(folder, name, case, f"D = {d}, {_short(metric)}", row))
        return found or "needs jl and subset at the same D with two seeds or more"

    return _decide("seed-spread", _over(folders, cases), f"projs=[subset,jl] dims=[50,100] {SEEDS}")


def _challenger(folders: Sequence[SweepFolder], challenger: str) -> Verdict:
    """Claim 7: judged by dataset, over both metrics and every shared D ≤ 100.

    A sweep is *as good* if every difference lies above −`MARGIN`, *better* if moreover most lie
    above 0, *worse* if one lies below 0. Holds if all are as good and more than half are better;
    holds when ... names those that are better; does not hold if none is better and one is worse, or
    all are as good; otherwise it is not measured precisely enough.
    """

    def cases(folder: SweepFolder, name: str) -> list[Case] | str:
        dims = sorted(set(folder.dims_of("jl")) & set(folder.dims_of(challenger)))
        if not (dims := [d for d in dims if d <= 100]):
            return f"needs jl and {challenger} at the same D ≤ 100"
        return [
            _versus(
                folder, name, (challenger, d), ("jl", d), metric, 0, f"D = {d}, {_short(metric)}"
            )
            for metric in RESAMPLED
            for d in dims
        ]

    found = _over(folders, cases)
    claim = CLAIMS["challenger"]
    claim = Claim(claim.key, claim.sentence.format(challenger=challenger), claim.source)
    wanted = f"projs=[jl,{challenger}] dims=[50,100] {SEEDS}"
    states: dict[str, str] = {}
    for name in dict.fromkeys(case.data for case in found.cases):
        mine = [case for case in found.cases if case.data == name]
        good = all(c.row["low"] is not None and c.row["low"] > -MARGIN for c in mine)
        good = good and min(c.row["seeds"] for c in mine) > 1
        more = sum(c.case == "yes" for c in mine) > len(mine) / 2
        worse = any(c.case == "no" for c in mine) and not good
        states[name] = (
            "better" if good and more else "as good" if good else "worse" if worse else "open"
        )
    better = [name for name, state in states.items() if state == "better"]
    held = all(state in ("better", "as good") for state in states.values())
    if not states:
        return _decide("challenger", found, wanted, claim=claim)
    counts = [
        f"{list(states.values()).count(s)} {s}" for s in ("better", "as good", "worse", "open")
    ]
    reason = f"{challenger} against jl by dataset: {', '.join(counts)}, of {len(states)}."
    if held and len(better) > len(states) / 2:
        verdict = "holds"
    elif better:
        verdict = f"holds when the data is {'; '.join(better)}"
    elif held or "worse" in states.values():
        verdict = "does not hold"
    else:
        verdict = IMPRECISE
    return _verdict(claim, verdict, reason, found)


def _over(
    folders: Sequence[SweepFolder],
    cases: Callable[[SweepFolder, str], list[Case] | str],
    detection: bool = True,
) -> Found:
    """The cases of every sweep; a sentence from `cases` says what a sweep lacks."""
    found, used, missing = [], [], []
    for folder, name in zip(folders, labels(folders), strict=True):
        # Memory and time do not depend on the weights.
        if detection and str(folder.constants.get("weights")).startswith("random"):
            new = "has random backbone weights, which say nothing about detection"
        else:
            new = cases(folder, name)
        if isinstance(new, str):
            missing.append(f"{name} {new}")
        else:
            found += new
            used.append(folder)
    return Found(found, used, missing)


def _decide(
    key: str, found: Found, wanted: str, claim: Claim | None = None, exact: bool = False
) -> Verdict:
    """The module's rule. `exact`: cases without intervals, which need no word on chance."""
    claim = claim or CLAIMS[key]
    cases = found.cases
    if not cases:
        reason = "; ".join(found.missing) or "no sweep was given"
        command = f"python run.py experiment=ablation {wanted}"
        return Verdict(claim, "not measured", f"Not measured: {reason}.", [], command)
    count = {side: sum(c.case == side for c in cases) for side in ("yes", "no", "open")}
    if count["yes"] == len(cases):
        verdict = "holds"
    elif count["yes"]:
        verdict = f"holds when {_when(cases)}"
    elif count["no"]:
        verdict = "does not hold"
    else:
        verdict = IMPRECISE
    reason = (
        f"{count['yes']} of {len(cases)} comparisons are for it, {count['no']} against, "
        f"{count['open']} open."
    )
    return _verdict(claim, verdict, reason, found, exact)


def _verdict(claim: Claim, verdict: str, reason: str, found: Found, exact: bool = False) -> Verdict:
    n = len(found.cases)
    if n > 1 and not exact:
        reason += (
            f" The {n} intervals are at {LEVEL:.0%} each and not corrected for their number: "
            f"about {n * (1 - LEVEL):.1f} of them would miss the truth by chance."
        )
    if found.missing:
        reason += f" Left out: {'; '.join(found.missing)}."
    whys = dict.fromkeys(c.row["why"] for c in found.cases if c.case == "open" and c.row.get("why"))
    if whys:
        reason += f" Open because: {'; '.join(whys)}."
    commands = dict.fromkeys(folder.command for folder in found.folders if folder.command)
    return Verdict(claim, verdict, reason, [c.row for c in found.cases], "\n".join(commands))


def _when(cases: Sequence[Case]) -> str:
    """The cases that are yes, by data: "the data is a (D = 50, 100); b (all compared)"."""
    words = []
    for name in dict.fromkeys(c.data for c in cases if c.case == "yes"):
        parts = [c.part for c in cases if c.data == name and c.case == "yes"]
        whole = len(parts) == sum(c.data == name for c in cases)
        words.append(f"{name} ({'all that was compared' if whole else ', '.join(parts)})")
    return f"the data is {'; '.join(words)}"


def _versus(
    folder: SweepFolder,
    name: str,
    a: tuple[str, int],
    b: tuple[str, int],
    metric: str,
    border: float,
    part: str,
) -> Case:
    """Whether a − b lies above `border`, over paired seeds."""
    row: dict[str, Any] = {"metric": metric, "comparison": f"{a[0]} at {a[1]} − {b[0]} at {b[1]}"}
    row |= {"dim": a[1], "other_dim": b[1], "border": border}
    if not (seeds := _shared(folder, a, b)):
        empty = Difference(math.nan, None, None, LEVEL, 0, 0, "no seed in common")
        return _case(folder, name, "open", part, row | _numbers(empty))
    row |= {"a": _mean(folder, a, metric, seeds), "b": _mean(folder, b, metric, seeds)}
    found = folder.difference(a, b, metric, LEVEL)
    case = _beyond(found.low, found.high, border) if len(seeds) > 1 else "open"
    row |= _numbers(found)
    return _case(folder, name, case, part, row)


def _beyond(low: float | None, high: float | None, border: float) -> str:
    if low is None or high is None:
        return "open"
    return "yes" if low > border else "no" if high < border else "open"


def _side(true: bool) -> str:
    return "yes" if true else "no"


def _case(folder: SweepFolder, name: str, case: str, part: str, row: dict[str, Any]) -> Case:
    if row.get("seeds") == 1 and case == "open" and not row.get("why"):
        row["why"] = "one seed says nothing of other draws"
    where = {"case": case, "sweep": name, "data": folder.data, "backbone": folder.backbone}
    return Case(case, name, part, {**where, "part": part, **row, "folder": str(folder.path)})


def _numbers(difference: Difference) -> dict[str, Any]:
    row = asdict(difference)
    return {"difference": _known(row.pop("mean")), **row}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(
    folder: SweepFolder, x: tuple[str, int], metric: str, seeds: Sequence[int]
) -> float | None:
    return _known(float(folder.points(*x, metric, seeds).mean()))


def _shared(folder: SweepFolder, *configurations: tuple[str, int]) -> list[int]:
    seeds = [set(folder.seeds_of(*x)) for x in configurations]
    return sorted(set.intersection(*seeds))


def _lacks(folder: SweepFolder, *needed: tuple[str, int]) -> str:
    """What a sweep would need, "" if it has it; says where C makes it impossible."""
    missing = [f"{proj} at {dim}" for proj, dim in needed if not folder.seeds_of(proj, dim)]
    if missing:
        channels = folder.constants.get("embedding_dim")
        largest = max(dim for _, dim in needed)
        small = isinstance(channels, int) and channels < largest
        return f"needs {' and '.join(missing)}" + (f" (it has C = {channels})" if small else "")
    return "" if _shared(folder, *needed) else "needs a seed that all of its D share"


def _short(metric: str) -> str:
    return metric.removeprefix("test/").replace("_auroc", " AUROC")


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "none"
