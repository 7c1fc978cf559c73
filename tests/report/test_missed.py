"""Defects missed and false alarms, from what the runs counted."""

from _helpers.sweeps import editing, write_rows

from padim_lit.analysis.sweep_results import read_sweeps
from padim_lit.report.content import missed


def test_runs_of_different_splits_are_counted_by_themselves(tmp_path):
    """No image scores are shared: each seed has other test images, and another number of them."""
    write_rows(tmp_path, [{"proj": "jl", "dim": 50, "seed": seed} for seed in (0, 1)])
    (tmp_path / "scores.npz").unlink()
    counted = {"test/misses": 3, "test/false_alarms": 1, "test_defective": 20, "test_good": 41}
    with editing(tmp_path) as rows:
        rows[0] |= counted
        rows[1] |= counted | {"test/misses": 4, "test_defective": 21}
    (sweep,) = read_sweeps([tmp_path])
    assert sweep.scores is None
    expected = {"misses": 3.5, "defective": 20.5, "alarms": 1, "good": 41, "own": True}
    assert missed(sweep, "jl", 50) == expected
    with editing(tmp_path) as rows:
        for row in rows:
            row |= {"test_defective": 0, "test/misses": 0}
    assert missed(read_sweeps([tmp_path])[0], "jl", 50) is None
    with editing(tmp_path) as rows:
        for row in rows:
            del row["test/misses"]  # no threshold, and no scores to set one by
    assert missed(read_sweeps([tmp_path])[0], "jl", 50) is None
