# SPDX-License-Identifier: Apache-2.0
"""CSV as the world writes it -> labels, dates and numbers; what could be meant in two ways is refused."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigmahat_client.errors import InvalidRequest
from sigmahat_client.intake.containers import asset_labels, refuse_fields
from sigmahat_client.intake.rows import parse_time

_DELIMITERS = (";", "\t", "|", ",")  # the comma last: it may be the decimal mark of a file with another one
_SNIFFED_LINES = 200
_MISSING = frozenset(
    ("", "-", "--", "\u2013", "\u2014", ".", "na", "n/a", "nan", "null", "none", "<na>", "nat", "#n/a", "#n/a n/a")
)
_DATA = re.compile(r"\d|[Qq][1-4]\b")
_POINT = re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)?(?:\.\d*)?(?:[eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(?:\d+|[1-9]\d{0,2}(?:\.\d{3})+)?(?:,\d*)?(?:[eE][+-]?\d+)?")
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class UnreadableFile(ValueError):
    """The file does not hold what it should; the message names it."""


class CsvTable(NamedTuple):
    """A panel as text and numbers."""

    labels: list[str]
    dates: list[str]  # that `parse_time` reads
    values: np.ndarray  # (n_rows, n_assets)


class Record(NamedTuple):
    """A line of the file that is not blank."""

    line: int
    cells: list[str]


def read_csv(path: Path) -> CsvTable:
    """Read a file of one row a date: the first column holds dates, every other one the asset that its header names.

    Comma, semicolon, tab or bar between cells; a decimal comma, thousands separators and percent signs where all cells
    agree; lines before the table; a byte order mark; several header lines, one of tickers and one of a field; a counter
    before the dates; gzip.

    Raises
    ------
    UnreadableFile
        If it is anything else; names line, column and value. The file's name is left to the caller.
    """
    records, delimiter = _records(_text(path))
    header, body = _split(records)
    if _has_counter(header, body):
        header, body = [_shifted(r) for r in header], [_shifted(r) for r in body]
    for record in body:
        if parse_time(record.cells[0]) is None:
            raise UnreadableFile(
                f"line {record.line}: the first column should hold dates such as 2019-01-31, got {record.cells[0]!r}"
            )
    labels = _labels(header)
    columns = list(zip(*(record.cells[1:] for record in body), strict=True))
    kept = [i for i, (label, column) in enumerate(zip(labels, columns, strict=True)) if label or any(column)]
    _check_labels([labels[i] for i in kept], [i + 2 for i in kept])
    lines = [record.line for record in body]
    numbers = _numbers([columns[i] for i in kept], [labels[i] for i in kept], lines, delimiter)
    return CsvTable([labels[i] for i in kept], [record.cells[0] for record in body], numbers)


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if path.suffix.lower() == ".gz":
        raw = gzip.decompress(raw)
    try:
        text = raw.decode(_ENCODINGS.get(raw[:2], "utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UnreadableFile(f"line {line} is not UTF-8 text: save the file as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _records(text: str) -> tuple[list[Record], str]:
    lines = text.splitlines()[:_SNIFFED_LINES]
    delimiter, most = ",", 0
    for candidate in _DELIMITERS:
        widths = Counter(len(cells) for cells in csv.reader(lines, delimiter=candidate) if len(cells) > 1)
        agreeing = max(widths.values(), default=0)
        if agreeing > most:
            delimiter, most = candidate, agreeing
    if not most:
        raise UnreadableFile("there should be a column of dates and one for each asset, separated by commas")
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    records = [Record(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    return [record for record in records if any(record.cells)], delimiter


def _split(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Header lines and rows of the table, without the lines before it; all of one width."""
    for record in records[:_SNIFFED_LINES]:
        if len(record.cells) > 2 and all(map(parse_time, record.cells[1:])):
            raise UnreadableFile(f"line {record.line} holds dates: there should be one row a date: transpose the table")
    start = next((i for i, record in enumerate(records) if len(record.cells) > 1 and _is_data(record)), None)
    if start is None:
        raise UnreadableFile(f"the first column should hold dates such as 2019-01-31, got {_firsts(records)}")
    before, body = records[:start], records[start:]
    width = len(body[0].cells)
    if before and len(before[-1].cells) == width - 1 and not any(record.cells[-1] for record in body):
        body, width = [Record(line, cells[:-1]) for line, cells in body], width - 1  # each row ends with a delimiter
    header = list(takewhile(lambda record: len(record.cells) == width, reversed(before)))[::-1]
    if not header:
        what = f"no header of {width} cells like its rows" if before else "no header"
        found = f"line {body[0].line} starts with {body[0].cells[0]!r}"
        raise UnreadableFile(f"it has {what}: a line that names the assets should come first, but {found}")
    for record in body:
        if len(record.cells) != width:
            raise UnreadableFile(f"line {record.line} has {len(record.cells)} cells, and the header {width}")
    return header, body


def _is_data(record: Record) -> bool:
    return bool(_DATA.match(record.cells[0])) or (record.cells[0] == "" and parse_time(record.cells[1]) is not None)


def _firsts(records: list[Record]) -> str:
    return ", ".join(repr(record.cells[0]) for record in records[1:4]) or "nothing"


def _has_counter(header: list[Record], body: list[Record]) -> bool:
    """Whether the dates come second, behind numbers 0, 1, 2, ... without a name."""
    return (
        all(record.cells[0] in ("", "Unnamed: 0") for record in header)
        and all(record.cells[0] == str(i) for i, record in enumerate(body))
        and all(parse_time(record.cells[1]) is not None for record in body)
    )


def _shifted(record: Record) -> Record:
    return Record(record.line, record.cells[1:])


def _labels(header: list[Record]) -> list[str]:
    levels = [record.cells[1:] for record in header if any(record.cells[1:])]
    if not levels:
        raise UnreadableFile(f"line {header[-1].line} should name the assets")
    for level in levels[:-1]:  # a field that stands only above its first column
        for i in range(1, len(level)):
            level[i] = level[i] or level[i - 1]
    try:
        if len(levels) == 1:
            refuse_fields(levels[0])
            return levels[0]
        return ["/".join(label) if isinstance(label, tuple) else str(label) for label in asset_labels(_tuples(levels))]
    except InvalidRequest as error:
        first, last = header[0].line, header[-1].line
        where = f"line {first}" if first == last else f"lines {first} to {last}"
        raise UnreadableFile(f"{where}: {error}") from None


def _tuples(levels: list[list[str]]) -> list[tuple[str, ...]]:
    return list(zip(*levels, strict=True))


def _check_labels(labels: list[str], places: list[int]) -> None:
    twice = sorted({label for label, n in Counter(labels).items() if n > 1 and label})
    if twice:
        raise UnreadableFile(f"columns {twice[:10]} occur more than once")
    for label, place in zip(labels, places, strict=True):
        if not label:
            raise UnreadableFile(f"column {place} has no name in the header")
    if not labels:
        raise UnreadableFile("there should be a column of dates and one for each asset, but there are only dates")


def _numbers(columns: list[tuple[str, ...]], labels: list[str], lines: list[int], delimiter: str) -> np.ndarray:
    values = np.empty((len(lines), len(columns)))
    try:
        for i, column in enumerate(columns):
            values[:, i] = list(map(_plain_number, column))
        if not np.isinf(values).any():
            return values
    except ValueError:
        pass
    cells = [[_bare(cell) for cell in column] for column in columns]
    style = _decimal_mark(cells, labels, lines, delimiter)
    for i, (bare, column) in enumerate(zip(cells, columns, strict=True)):
        seen = [cell for cell in bare if cell is not None]
        percent = any(cell.endswith("%") for cell in seen)
        for row, cell in enumerate(bare):
            where = f"line {lines[row]}, column {labels[i]}"
            number = np.nan if cell is None else _styled_number(cell.removesuffix("%"), style)
            if number is None:
                raise UnreadableFile(f"{where}: {column[row]!r} should be a number such as 0.0123, or empty if missing")
            if percent and cell is not None and not cell.endswith("%") and number != 0:
                raise UnreadableFile(
                    f"{where}: {column[row]!r} has no % sign, while other cells of the column have one"
                )
            values[row, i] = number / 100 if percent else number
    return values


def _plain_number(cell: str) -> float:
    try:
        return float("x" if "_" in cell else cell)  # Python reads 1_0 as ten
    except ValueError:
        if cell.lower() in _MISSING:
            return np.nan
        raise


def _bare(cell: str) -> str | None:
    """A number without what does not change it; None if it is missing."""
    cell = cell.strip().replace("\u2212", "-").replace("\u00a0", "")
    if cell.lower() in _MISSING:
        return None
    if cell.startswith("(") and cell.endswith(")"):  # as accountants write what is below zero
        cell = "-" + cell[1:-1]
    return cell.replace(" %", "%")


def _decimal_mark(
    cells: list[list[str | None]], labels: list[str], lines: list[int], delimiter: str
) -> re.Pattern[str]:
    marked = [
        (cell.removesuffix("%"), i, row)
        for i, column in enumerate(cells)
        for row, cell in enumerate(column)
        if cell is not None and ("," in cell or "." in cell)
    ]
    if not any("," in cell for cell, _, _ in marked):
        return _POINT
    fit = {style: sum(style.fullmatch(cell) is not None for cell, _, _ in marked) for style in (_POINT, _COMMA)}
    if fit[_POINT] == fit[_COMMA]:
        if delimiter == ";":
            return _COMMA
        cell, i, row = next(found for found in marked if "," in found[0])
        where = f"line {lines[row]}, column {labels[i]}"
        raise UnreadableFile(f"{where}: {cell!r} may have a decimal comma or a thousands separator: write 0.0123")
    return max(fit, key=lambda style: fit[style])


def _styled_number(cell: str, style: re.Pattern[str]) -> float | None:
    if not any(c.isdigit() for c in cell) or style.fullmatch(cell) is None:
        return None
    thousands, mark = (",", ".") if style is _POINT else (".", ",")
    return float(cell.replace(thousands, "").replace(mark, "."))
