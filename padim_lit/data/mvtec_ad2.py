"""MVTec AD 2 (Heckler-Kram et al. 2025)."""

from padim_lit.data.official import OfficialSplit
from padim_lit.data.tree import Layout


class MVTecAD2(OfficialSplit):
    """One category ("can", "sheet_metal", ...), tested on test_public.

    test_private and test_private_mixed come without labels and are not used.
    """

    family = "MVTec AD 2"
    short = "mvtec_ad2"
    layout = Layout(test="test_public", truth="test_public/ground_truth")
