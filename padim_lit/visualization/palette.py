"""One name, one colour: in every figure, page and picture."""

from typing import Any
from zlib import crc32

#: Projection → colour, marker and dashes; the colours are from the palette of Okabe and Ito. Dashes
#: and markers tell projections apart without colour.
PROJECTIONS = {
    "jl": ("#0072b2", "o", "-"),
    "subset": ("#d55e00", "s", (0, (5, 2))),
    "npca": ("#009e73", "^", (0, (5, 1.5, 1, 1.5))),
    "orthogonal": ("#e69f00", "D", (0, (1, 1.2))),
    "sparse": ("#cc79a7", "v", (0, (8, 2))),
    "fisher": ("#56b4e9", "P", (0, (3, 1))),
    "pca": ("#000000", "<", (0, (2, 1, 2, 4))),
    "identity": ("#555555", "X", "-."),
}
#: Of projections that are not ours, by their names.
OTHER_STYLES = (("#8a6d00", "*", "-"), ("#6a3d9a", "p", "-"))
#: Pixels at or above the threshold (and right), at or above it and wrong, and the truth.
FOUND, FALSE, TRUTH = "#56b4e9", "#d55e00", "#f0e442"
#: matplotlib's name for the colours of distances: even to the eye, also of colour-blind readers.
DISTANCES = "inferno"


def order(proj: str) -> tuple[int, str]:
    """A key that sorts projections as they are listed everywhere."""
    names = list(PROJECTIONS)
    return (names.index(proj) if proj in names else len(names), proj)


def line_style(proj: str) -> dict[str, Any]:
    """matplotlib's keywords for the line of a projection."""
    colour, marker, dashes = (
        PROJECTIONS.get(proj) or OTHER_STYLES[crc32(proj.encode()) % len(OTHER_STYLES)]
    )
    return {"color": colour, "marker": marker, "linestyle": dashes}


def css() -> str:
    """The colours of regions as CSS variables."""
    return f":root{{--found:{FOUND};--truth:{TRUTH}}}"
