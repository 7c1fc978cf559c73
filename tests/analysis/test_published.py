"""What others published: all of it, and where the JL report contradicts itself."""

import pytest

from padim_lit.analysis.published import (
    ANOMALIB,
    CATEGORIES,
    CONTRADICTIONS,
    DIM,
    OBJECTS,
    REPORT,
    TEXTURES,
    published,
    report_mean,
)

#: What is known from the paper itself, not through the report.
PAPER = {
    "wide_resnet50": dict(zip(CATEGORIES, [
        0.991, 0.973, 0.992, 0.941, 0.949, 0.983, 0.967, 0.985, 0.982, 0.972, 0.957, 0.985, 0.988,
        0.975, 0.985,
    ], strict=True)),
    "resnet18": {
        "grid": 0.949, "bottle": 0.981, "metal_nut": 0.967, "screw": 0.974, "zipper": 0.982,
    },
}  # fmt: skip
PAPER_MEAN = {"wide_resnet50": 0.975, "resnet18": 0.967}


def test_all_15_categories_of_two_backbones_are_there():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 15 and len(TEXTURES) == 5
    for numbers in (REPORT, ANOMALIB):
        assert set(numbers) == set(DIM)
        for rows in numbers.values():
            assert tuple(rows) == CATEGORIES
            assert all(0.7 < x <= 1 for row in rows.values() for x in row)


def test_the_reports_padim_columns_are_the_papers_numbers():
    for backbone, known in PAPER.items():
        assert {c: REPORT[backbone][c][0] for c in known} == pytest.approx(known)
        assert report_mean(backbone)[0] == pytest.approx(PAPER_MEAN[backbone], abs=5e-4)
    # Its averages by kind, as the paper prints them.
    assert report_mean("wide_resnet50", TEXTURES)[0] == pytest.approx(0.969, abs=5e-4)
    assert report_mean("wide_resnet50", OBJECTS)[0] == pytest.approx(0.978, abs=5e-4)


def test_the_reports_averages_contradict_its_text():
    means = {b: tuple(round(100 * x, 1) for x in report_mean(b)) for b in REPORT}
    assert means == {"wide_resnet50": (97.5, 97.9), "resnet18": (96.7, 96.9)}
    assert round(100 * DIM["wide_resnet50"] / 1792) == 31
    gains = {(b, c): b2 - a for b, rows in REPORT.items() for c, (a, b2) in rows.items()}
    assert [key for key, gain in gains.items() if gain < 1e-9] == [("resnet18", "tile")]
    found = "\n".join(CONTRADICTIONS)
    for words in (
        "97.5 → 97.9 (wide_resnet50) and 96.7 → 96.9 (resnet18)", "say 96.7 → 97.3",
        "6048 dimensions", "256 + 512 + 1024 = 1792", "31 %", "tile with resnet18 has no gain",
    ):  # fmt: skip
        assert words in found


def test_anomalibs_averages():
    # Over all categories, as its README has them.
    assert published("wide_resnet50", 550, CATEGORIES)["anomalib"] == pytest.approx(
        {"test/image_auroc": 0.950, "test/pixel_auroc": 0.979}, abs=5e-4
    )
    assert published("resnet18", 100, CATEGORIES)["anomalib"] == pytest.approx(
        {"test/image_auroc": 0.891, "test/pixel_auroc": 0.968}, abs=6e-4
    )
    # Its plain selection reaches what the report calls the gain of JL.
    selection = published("wide_resnet50", 550, CATEGORIES)["anomalib"]["test/pixel_auroc"]
    assert selection == pytest.approx(report_mean("wide_resnet50")[1], abs=5e-4)
