"""Rows of a data file, whatever its format, each with the place it stands at.

    .jsonl .json (a record per line)   .csv   .txt (pretraining text)   also with .gz or .zst
    .parquet   a folder saved by `datasets`

The last two go through the `datasets` library, which is optional; the place of their rows is the
record's number.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, NamedTuple

from toolkit.spec.errors import DataError, Problem

PLAIN = (".jsonl", ".json", ".ndjson")


class Row(NamedTuple):
    """One record, or why it is none.

    Args:
        line: 1-based line, or record number in a table.
        value: the record; None when `problem` says why.
        problem: what is wrong with the line.
    """

    line: int
    value: dict[str, Any] | None
    problem: Problem | None = None


def read_rows(path: str) -> Iterator[Row]:
    """Yield the rows of a file of records.

    Raises:
        DataError: the file is missing, empty, of an unknown format, or needs a missing library.
    """
    file = Path(path)
    refuse_missing(path)
    if file.is_dir():
        yield from _folder_rows(path)
        return
    kind = format_of(file)
    if kind in PLAIN:
        yield from _json_rows(path)
    elif kind == ".csv":
        yield from _csv_rows(path)
    elif kind == ".parquet":
        yield from _parquet_rows(path)
    else:
        known = ", ".join((*PLAIN, ".csv", ".parquet"))
        raise _error(
            path, f"has an unknown format; expected {known}, or a folder saved by datasets"
        )


def read_text(path: str) -> str:
    """Return the text of a .txt or .txt.zst file.

    Raises:
        DataError: it is missing or empty, or a line is not UTF-8.
    """
    refuse_missing(path)
    with _open(path) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _error(path, f"is not UTF-8 at byte {error.start}; save it as UTF-8", line) from error
    if not text.strip():
        raise _error(path, "is empty; expected plain text")
    return text


def format_of(file: Path) -> str:
    """Return the suffix that tells the format, without .gz or .zst."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    while suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def refuse_missing(path: str) -> None:
    """Raise DataError when there is nothing at `path`, or an empty file."""
    file = Path(path)
    if not file.exists():
        raise _error(path, "does not exist; paths are relative to the current directory")
    if file.is_file() and file.stat().st_size == 0:
        raise _error(path, "is empty; expected at least one record")


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    if path.endswith(".zst"):
        try:
            import zstandard  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            fix = "install it with `pip install zstandard`, or decompress the file"
            raise _error(
                path, f"is compressed with zstd, which needs the zstandard library; {fix}"
            ) from error
        with (
            Path(path).open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as stream,
        ):
            yield io.BufferedReader(stream)
    elif path.endswith(".gz"):
        with gzip.open(path, "rb") as stream:
            yield io.BufferedReader(stream)
    else:
        with Path(path).open("rb") as stream:
            yield stream


def _json_rows(path: str) -> Iterator[Row]:
    with _open(path) as stream:
        for number, raw in enumerate(stream, start=1):
            if raw.strip():
                yield _json_row(path, number, raw)


def _json_row(path: str, number: int, raw: bytes) -> Row:
    try:
        value = json.loads(raw.decode("utf-8-sig").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 at byte {error.start} of the line; save it as UTF-8"
        return Row(number, None, Problem(path, number, 0, "", message))
    except json.JSONDecodeError as error:
        what = error.msg.removesuffix(" at").removesuffix(" starting")
        message = f'is not JSON: {what}; expected one record per line, such as {{"prompt": ...}}'
        return Row(number, None, Problem(path, number, error.colno, "", message))
    if not isinstance(value, dict):
        message = f"expected a record in braces, got {describe(value)}"
        return Row(number, None, Problem(path, number, 0, "", message))
    return Row(number, value)


def _csv_rows(path: str) -> Iterator[Row]:
    with _open(path) as stream:
        reader = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
        try:
            for row in reader:
                yield _csv_row(path, reader.line_num, row)
        except UnicodeDecodeError as error:
            line = reader.line_num + 1
            raise _error(path, "is not UTF-8 here or below; save it as UTF-8", line) from error
        except csv.Error as error:
            raise _error(path, f"is not CSV: {error}", reader.line_num) from error


def _csv_row(path: str, line: int, row: dict[Any, Any]) -> Row:
    if None in row or None in row.values():
        message = "has more or fewer cells than the heading; quote cells that hold commas"
        return Row(line, None, Problem(path, line, 0, "", message))
    return Row(line, {name: _parsed(cell) for name, cell in row.items()})


def _parquet_rows(path: str) -> Iterator[Row]:
    datasets = _import_datasets(path)
    with TemporaryDirectory() as cache:
        try:
            table = datasets.Dataset.from_parquet(path, cache_dir=cache)
        except Exception as error:
            raise _error(path, f"cannot be read as parquet: {error.__cause__ or error}") from error
        for number, row in enumerate(table, start=1):
            yield Row(number, row)


def _folder_rows(path: str) -> Iterator[Row]:
    datasets = _import_datasets(path)
    try:
        table = datasets.load_from_disk(path)
    except Exception as error:
        raise _error(path, f"is not a folder saved by datasets' save_to_disk: {error}") from error
    if isinstance(table, datasets.DatasetDict):
        splits = ", ".join(f"{path.rstrip('/')}/{name}" for name in table)
        raise _error(path, f"holds several splits; name one of {splits}")
    for number, row in enumerate(table, start=1):
        yield Row(number, row)


def _parsed(cell: Any) -> Any:
    """Return a CSV cell; one that is a JSON list (of answers, ranks, messages) is read as such."""
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        try:
            return json.loads(cell)
        except json.JSONDecodeError:
            return cell
    return cell


def _import_datasets(path: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        fix = "install it with `pip install datasets`, or save the file as JSON Lines"
        raise _error(path, f"needs the datasets library; {fix}") from error
    datasets.disable_progress_bars()
    return datasets


def describe(value: object) -> str:
    """Name a value's type in words, with the value when it is short: `a number (3)`."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a record",
    }
    if value is None:
        return "nothing (null)"
    shown = repr(value)
    return names.get(type(value), type(value).__name__) + (
        f" ({shown})" if len(shown) <= 30 else ""
    )


def _error(path: str, message: str, line: int = 0) -> DataError:
    return DataError([Problem(path, line, 0, "", message)])
