"""MPDD (Jezek et al., ICUMT 2021): painted metal parts."""

from padim_lit.data.official import OfficialSplit


class MPDD(OfficialSplit):
    """One category ("bracket_black", "connector", ...), in MVTec AD's layout."""

    family = "MPDD"
    short = "mpdd"
