"""Numbers as the page writes them."""

import pytest

from padim_lit.report.text import brief


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234e-5, "0.0000123"), (0.5, "0.5"), (12.345, "12.3"), (999.96, "1,000"), (-1e4, "−10,000")],
)
def test_three_digits_are_never_powers_of_ten(value, text):
    assert brief(value) == text
