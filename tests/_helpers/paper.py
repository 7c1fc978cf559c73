"""PaDiM as its paper has it, for tests of the method's parts."""

from typing import Any

from padim_lit import PerPosition


def paper(dim: int, **how: Any) -> dict[str, Any]:
    """Arguments of `Detector` beyond backbone, projection and shape."""
    how = {
        "eps": 0.01,
        "eps_unit": "feature",
        "neighbourhood": 1,
        "image_score": "max",
        "alignment": None,
        **how,
    }
    return {"density": PerPosition(dim), **how}
