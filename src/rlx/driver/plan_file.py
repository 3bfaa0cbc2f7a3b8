"""Values to plan as CSV: how planners exchange instances.

A header names the columns: `id` or `name`, `lower` or `start`, `upper` or `end`, `size`; others are passed over.
Lifetimes are half-open, numbers are whole. This is the format of MiniMalloc's benchmarks and, by its own names, of
`Interval`.
"""

from __future__ import annotations

import csv
from pathlib import Path

from rlx.driver.memory_plan import Interval
from rlx.errors import PlanError

_COLUMNS = (("id", "name"), ("lower", "start"), ("upper", "end"), ("size",))


def read_intervals(path: str | Path) -> list[Interval]:
    """The values in a file, in its order.

    Raises PlanError, with the line, for a column that is missing or a number that is none; OSError where the file
    cannot be read. What the numbers mean is checked by `plan_memory`.
    """
    try:
        return _read(path)
    except csv.Error as error:
        raise PlanError(f"this is no CSV: {error}", where=str(path)) from None


def _read(path: str | Path) -> list[Interval]:
    with Path(path).open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.DictReader(file)
        header = rows.fieldnames or []
        columns = [next((name for name in names if name in header), None) for names in _COLUMNS]
        for names, column in zip(_COLUMNS, columns, strict=True):
            if column is None:
                raise PlanError(
                    f"the header has no column {names[0]!r}: it is {','.join(header)!r}",
                    where=f"{path}, line 1",
                    hint="the first line must be id,lower,upper,size (or name,start,end,size)",
                )
        values: list[Interval] = []
        for row in rows:
            name, *numbers = (row[column] for column in columns if column is not None)
            try:
                start, end, size = (int(text or "") for text in numbers)
            except ValueError:
                shown = ", ".join(repr(text) for text in numbers)
                raise PlanError(
                    f"value {name!r} has no three whole numbers: {shown}", where=f"{path}, line {rows.line_num}"
                ) from None
            values.append(Interval(str(name), start, end, size))
    return values
