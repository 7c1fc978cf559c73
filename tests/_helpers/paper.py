"""PaDiM as its paper has it, for tests of the method's parts."""

from typing import Any

from benchmarks.naive import PAPER
from padim_lit import PerPosition


def paper(dim: int, **how: Any) -> dict[str, Any]:
    """Arguments of `Detector` beyond backbone, projection and shape."""
    return {"density": PerPosition(dim), **PAPER, **how}
