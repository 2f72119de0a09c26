"""The file of measured rows that the repository keeps, read back."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from rlhf_kernels.bench.machine import Machine
from rlhf_kernels.bench.rows import COLUMNS, MACHINE_COLUMNS, ROW_COLUMNS, Row

#: Where `--append` adds to, from the root of the repository.
RESULTS = Path("docs/results/kernels.csv")

Record = tuple[Row, Machine]


def find_results() -> Path:
    """Return the file in this checkout.

    Raises:
        ValueError: the package is not used from a checkout, so there is nothing to keep it in.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "docs").is_dir():
        raise ValueError(f"{root} is no checkout with a docs folder: name a file with --csv")
    (root / RESULTS).parent.mkdir(exist_ok=True)
    return root / RESULTS


def read_records(path: Path) -> list[Record]:
    """Return the rows of a file with their machines; none when there is no file yet.

    Raises:
        ValueError: the file has other columns than this version writes.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path} has other columns than this version writes: measure again")
        return [(read_row(cells), read_machine(cells)) for cells in reader]


def read_row(cells: dict[str, str]) -> Row:
    """Return the row of a line."""
    kinds = {field.name: str(field.type) for field in dataclasses.fields(Row)}
    return Row(**{name: read_cell(kinds[name], cells[name]) for name in ROW_COLUMNS})  # type: ignore[arg-type]


def read_machine(cells: dict[str, str]) -> Machine:
    """Return the machine of a line."""
    kinds = {field.name: str(field.type) for field in dataclasses.fields(Machine)}
    found = {name: read_cell(kinds[name], cells[name]) for name in MACHINE_COLUMNS}
    return Machine(**found)  # type: ignore[arg-type]


def read_cell(kind: str, text: str) -> str | int | float | None:
    """Return a cell as the field's type says; an empty number is None."""
    if kind.startswith("str"):
        return text
    if not text:
        return None
    return int(text) if kind.startswith("int") else float(text)


def latest_by_device(records: Iterable[Record]) -> dict[str, list[Row]]:
    """Return device -> its rows, of rows about the same thing the last in the file."""
    found: dict[str, dict[tuple[object, ...], Row]] = {}
    for row, machine in records:
        about = (row.op, row.mode, row.provider, row.shape, row.dtype, row.mask_share, row.clock)
        found.setdefault(machine.device, {})[about] = row
    return {device: list(rows.values()) for device, rows in found.items()}
