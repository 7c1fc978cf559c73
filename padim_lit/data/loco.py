"""MVTec LOCO AD (Bergmann et al., IJCV 2022): logical and structural anomalies."""

from padim_lit.data.official import OfficialSplit
from padim_lit.data.tree import Layout


class MVTecLOCO(OfficialSplit):
    """One category ("breakfast_box", "pushpins", ...).

    ground_truth/KIND/NNN/ holds the masks of test/KIND/NNN; their union is the truth, whatever
    their values.
    """

    family = "MVTec LOCO"
    short = "loco"
    layout = Layout(nonzero=True, folders=True)
    notes_of_family = (
        "LOCO's own pixel metric, sPRO with saturation thresholds, is not computed: the pixel "
        "metrics are those of the other data sets.",
    )
