"""Families that come as a tree of categories with an official split and masks."""

from pathlib import Path
from typing import Any, ClassVar

from padim_lit.data.datamodule import AnomalyData
from padim_lit.data.items import Item
from padim_lit.data.tree import Layout, images, read_tree, resolve_category
from padim_lit.errors import InputError

VALIDATION = ("unused", "train")


class OfficialSplit(AnomalyData):
    """Base: one category of such a family; a subclass says how it is called and laid out.

    Args:
        root: folder that holds the category folders; ~ is expanded.
        category: the name of a folder in `root`.
        validation: what to do with validation/good where the family has it, which are good
            images: "unused", or "train".
        loading: image_size, crop_size, batch_size, num_workers; see AnomalyData.

    Raises InputError for a missing root, an unknown category (naming the ones found) or
    `validation`, missing or empty folders, missing masks, and what AnomalyData raises.
    """

    #: As its publishers write it.
    family: ClassVar[str]
    #: Before the category in the data's name.
    short: ClassVar[str]
    layout: ClassVar[Layout] = Layout()
    notes_of_family: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, root: str | Path, category: str, validation: str = "unused", **loading: Any
    ) -> None:
        if validation not in VALIDATION:
            raise InputError(
                f"data.validation={validation}: unknown; allowed: {', '.join(VALIDATION)}"
            )
        folder = resolve_category(root, category, self.family)
        train, test = read_tree(folder, masks_required=True, layout=self.layout)
        if validation == "train":
            train += [Item(path) for path in images(folder / "validation" / self.layout.good)]
        super().__init__(
            f"{self.short}/{category}",
            train,
            test,
            provenance={
                "split": f"official {self.family} split, tested on {self.layout.test}",
                "split_seed": None,
                "validation": validation,
            },
            notes=self.notes_of_family,
            **loading,
        )


class BTAD(OfficialSplit):
    """One product, "01", "02" or "03": train/ok, test/ok, test/ko and ground_truth/ko."""

    family = "BTAD"
    short = "btad"
    layout = Layout(good="ok")


class MPDD(OfficialSplit):
    """One category ("bracket_black", "connector", ...), in MVTec AD's layout."""

    family = "MPDD"
    short = "mpdd"


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


class MVTecAD2(OfficialSplit):
    """One category ("can", "sheet_metal", ...), tested on test_public.

    test_private and test_private_mixed come without labels and are not used.
    """

    family = "MVTec AD 2"
    short = "mvtec_ad2"
    layout = Layout(test="test_public", truth="test_public/ground_truth")
