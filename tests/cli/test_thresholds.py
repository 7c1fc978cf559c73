"""What is said of thresholds, and what others would do."""

from types import SimpleNamespace

import pytest
import torch

from padim_lit.cli import fit_notes
from padim_lit.cli.thresholds import table_of_choices
from padim_lit.deploy.calibration import calibrate
from padim_lit.deploy.left_out import Measured


@pytest.mark.parametrize("seconds", [None, 1.5])
def test_a_fit_does_not_say_twice_where_its_threshold_is_from(seconds):
    results = {
        **{"threshold": 9.5, "threshold_rate_low": 0.001, "threshold_rate_high": 0.08},
        **{"threshold_said": "threshold 9.500, which ...", "fit/seconds": seconds},
        **{"data/test_good": 4, "test/false_alarms": 1},
        **{"data/test_defective": 0, "test/misses": 0, "threshold_misses": []},
    }
    (note,) = fit_notes.on_threshold(results)
    assert ("which ..." in note) == (seconds is None) and "9.500" in note
    assert ("as 0.10% to 8.00% of good ones are." in note) == (seconds is not None)
    assert note.endswith("On the test set that is 1 of 4 good images.")
    kinds = [("crack", 3, 1), ("hole", 3, 2), ("spot", 1, 0)]
    results["threshold_misses"] = [
        dict(zip(("kind", "images", "misses"), k, strict=True)) for k in kinds
    ]
    (note,) = fit_notes.on_threshold(results | {"data/test_defective": 7, "test/misses": 3})
    assert note.endswith("and 3 of 7 defective ones are missed: 2 of 3 hole, 1 of 3 crack.")


def test_each_threshold_has_a_row_which_says_its_rates_and_how_many_images_they_take():
    choices = [
        {"false_alarm_rate": rate, "threshold": threshold, "false_alarms": 0, "misses": 1}
        for rate, threshold in ((0.005, 22.71), (0.01, 22.71), (0.02, 22.71), (0.05, 21.0))
    ]
    counts = {"data/test_good": 1, "data/test_defective": 2}
    table = table_of_choices({"threshold_choices": choices, **counts})
    rates, thresholds, _, missed, takes = (list(column.cells) for column in table.columns)
    assert rates == ["0.005 to 0.02", "0.05"] and thresholds == ["22.71", "21.00"]
    assert missed == ["1 of 2"] * 2
    assert takes == ["199 to 49", "19"]


@pytest.mark.parametrize(
    ("images", "rate", "turned", "weight", "cures"),
    [
        (60, 0.01, 1, 0.0, ("99 good", "false_alarm_rate=0.05", "rotations=8")),
        (60, 0.01, 8, 0.0, ("99 good", "false_alarm_rate=0.05")),
        (12, 0.05, 1, 0.5, ("99 good",)),
        (60, 0.05, 1, 0.0, ()),
        (99, 0.005, 1, 0.0, ()),
    ],
)
def test_few_images_are_told_what_helps(images, rate, turned, weight, cures):
    scores = torch.rand(images)
    known, area = calibrate(Measured(scores, scores), rate), SimpleNamespace(roi=None)
    detector = SimpleNamespace(calibration=known, rotations=turned, anomaly_map=area)
    note = "".join(fit_notes._few(detector, weight))
    assert all(cure in note for cure in cures) and note.count(";") == max(0, len(cures) - 1)
    assert bool(note) == bool(cures)
