"""Numbers as the page writes them."""

import pytest

from padim_lit.report.text import brief, size


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234e-5, "0.0000123"), (0.5, "0.5"), (12.345, "12.3"), (999.96, "1,000"), (1234.5, "1,234")],
)
def test_three_digits_are_never_powers_of_ten(value, text):
    assert brief(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(512, "512 B"), (12_345_678, "12.3 MB"), (999_999_999, "1 GB")]
)
def test_bytes_are_in_the_unit_that_they_round_to(count, text):
    assert size(count) == text
