"""A good image that alone sets the threshold is said."""

import pytest
import torch

from padim_lit.cli.thresholds import strange_good
from padim_lit.deploy.calibration import Measured, calibrate


def calibration(*scores: float, rate: float = 0.01):
    return calibrate(Measured(torch.tensor(scores), torch.tensor(scores)), rate)


@pytest.mark.parametrize("high", [(15.0, 46.0), (44.0, 46.0)])
def test_one_or_two_good_images_that_score_as_no_other_are_said(high):
    (note,) = strange_good(calibration(9.0, 12.0, 14.0, *high))
    assert f"scores 46.00; the next are at {high[0]:.2f} and" in note and "mode=remove" in note


def test_where_scores_go_on_or_do_not_set_the_threshold_nothing_is_said():
    assert strange_good(None) == []
    assert strange_good(calibration(9.0, 46.0)) == []
    assert strange_good(calibration(9.0, 14.0, 16.0, 18.0)) == []
    assert strange_good(calibration(*torch.linspace(9, 10, 400).tolist(), 46.0)) == []


def test_so_it_is_where_as_many_images_as_the_rate_needs_are_there():
    scores = torch.linspace(9, 10, 109).tolist()
    assert "scores 46" in strange_good(calibration(*scores, 46.0))[0]
    assert "scores 46" in strange_good(calibration(*scores[:29], 46.0, rate=0.05))[0]
