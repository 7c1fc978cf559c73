"""Names of folders that say what is good."""

from pathlib import Path

import pytest

from padim_lit.data.tree import good_folder_of


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ("a/good/1.png a/good/day/2.png a/bad/3.png", "a/good a/good -"),
        ("good/OK/1.png good/x/2.png", "good/OK -"),  # what all lie in says nothing of them
        ("good/1.png good/day/2.png", "- -"),
        ("1.png Normal/2.png", "- Normal"),
        ("/home/ok/1.png", "-"),
    ],
)
def test_good_is_what_lies_in_a_folder_of_that_name_below_what_all_lie_in(paths, expected):
    found = good_folder_of([Path(path) for path in paths.split()])
    assert [str(folder or "-") for folder in found] == expected.split()
