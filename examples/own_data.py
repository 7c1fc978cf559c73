"""A dataset of one's own: one folder of pictures, and a CSV that says which are defective.

python run.py --config-dir examples/conf own=[examples] data=table data.root=DIR data.table=FILE
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from padim_lit import InputError
from padim_lit.data import AnomalyData, Item, Split


@dataclass(eq=False)
class Table(AnomalyData):
    """Rows ``file,kind`` of a CSV; kind is "good" or any defect's name.

    Args:
        root: folder of the files.
        table: name of the CSV in it.
        test_good: how many good pictures, the last ones, are tested and not fitted.
    """

    root: str
    table: str = "labels.csv"
    test_good: int = 50

    def read(self) -> Split:
        folder = Path(self.root).expanduser()
        if not (folder / self.table).is_file():
            raise InputError(
                f"data.root={self.root}: has no {self.table}; it must hold lines file,kind"
            )
        # Excel writes a mark before the first name, which utf-8-sig leaves out.
        with (folder / self.table).open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            rows = list(table)
        names = table.fieldnames or []
        if "file" not in names or "kind" not in names:
            raise InputError(
                f"{folder / self.table}: columns are {names}; they must be file and kind, parted "
                "by commas"
            )
        items = []
        for row in rows:
            file, kind = ((row[key] or "").strip() for key in ("file", "kind"))
            if not (file and kind):
                raise InputError(f"{folder / self.table}: a line lacks file or kind; complete it")
            items.append(Item(folder / file, kind))
        good = [item for item in items if item.label == 0]
        fitted = max(len(good) - self.test_good, len(good) // 2)
        test = good[fitted:] + [item for item in items if item.label]
        return Split(f"table/{folder.name}", good[:fitted], test)
