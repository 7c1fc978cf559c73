"""Families in MVTec AD's layout: categories with an official split and masks."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from padim_lit.data.datamodule import AnomalyData, SeenWhole, Split
from padim_lit.data.files import subfolders
from padim_lit.data.tree import Layout, read_tree, require_category, resolve_root


@dataclass(eq=False)
class MVTecLike(AnomalyData):
    """Base: one category of such a family; a subclass says how it is called and laid out.

    Args:
        root: folder that holds the category folders; ~ is expanded.
        category: the name of a folder in `root`; none: says which are there.

    Raises InputError for a missing root, an unknown category (naming the ones found), missing or
    empty folders, missing masks, and what AnomalyData raises.
    """

    #: As its publishers write it.
    family: ClassVar[str]
    #: Before the category in the data's name.
    short: ClassVar[str]
    layout: ClassVar[Layout] = Layout()
    notes_of_family: ClassVar[tuple[str, ...]] = ()

    root: str | Path
    category: str = ""  # whose lack is said with what there is

    def read(self) -> Split:
        root = resolve_root(self.root, self.family)
        needed = "train" if self.fits else self.layout.test
        found = [name for name in subfolders(root) if (root / name / needed).is_dir()]
        require_category(self.category, root, found)
        train, test, notes = read_tree(root / self.category, self.layout, self.fits)
        where = "" if self.layout.test == "test" else f", tested on {self.layout.test}"
        about = {"split": f"the folders' own, as {self.family} has it{where}", "split_seed": None}
        notes = [*self.notes_of_family, *notes]
        return Split(f"{self.short}/{self.category}", train, test, about, notes)


@dataclass(eq=False)
class NotSquare(SeenWhole, MVTecLike):
    """Base of families whose photos a square crop would cut too much of."""


class BTAD(NotSquare):
    """One product, "01", "02" or "03": train/ok, test/ok, test/ko and ground_truth/ko."""

    family, short = "BTAD", "btad"
    licence = "CC BY-SA 4.0"


class MPDD(MVTecLike):
    """One category ("bracket_black", "connector", ...)."""

    family, short = "MPDD", "mpdd"


class MVTecLOCO(NotSquare):
    """One category ("breakfast_box", "pushpins", ...).

    The images of validation/good are not used. ground_truth/KIND/NNN/ holds the masks of
    test/KIND/NNN; their union is the truth, whatever their values.
    """

    family, short = "MVTec LOCO", "loco"
    licence = "CC BY-NC-SA 4.0, not for commercial use; credit MVTec Software GmbH"
    layout = Layout(mask_threshold=0, folders=True)
    notes_of_family = (
        "LOCO's own pixel metric, sPRO with saturation thresholds, is not computed: the pixel "
        "metrics are those of the other data sets.",
    )


class MVTecAD2(NotSquare):
    """One category ("can", "sheet_metal", ...), tested on test_public.

    validation/good is not used, nor are test_private and test_private_mixed, which come without
    labels. Images of one number (000_regular, 000_overexposed) are taken to show one object in
    several lights.
    """

    family, short = "MVTec AD 2", "mvtec_ad2"
    licence = "CC BY-NC-SA 4.0, not for commercial use; credit MVTec Software GmbH"
    layout = Layout(test="test_public", truth="test_public/ground_truth")

    def read(self) -> Split:
        split = super().read()
        numbers = [f"{item.kind}/{item.path.stem.partition('_')[0]}" for item in split.test]
        test = [replace(i, group=group) for i, group in zip(split.test, numbers, strict=True)]
        return replace(split, test=test)
