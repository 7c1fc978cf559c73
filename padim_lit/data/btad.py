"""BTAD (Mishra et al., ISIE 2021): three products of beanTech."""

from padim_lit.data.official import OfficialSplit
from padim_lit.data.tree import Layout


class BTAD(OfficialSplit):
    """One product, "01", "02" or "03": train/ok, test/ok, test/ko and ground_truth/ko."""

    family = "BTAD"
    short = "btad"
    layout = Layout(good="ok")
