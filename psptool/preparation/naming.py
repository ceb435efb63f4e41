"""Names and numbers of the clips, where they do not follow from file names alone: patterns for paths and clip tables.

A clip table has one row per clip. With first and last frames, its clips are segments of longer recordings.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from psptool.common.errors import PspError, cannot_read, suggest
from psptool.common.paths import read_text, shown
from psptool.formats.readers.base import ClipSource, Stray
from psptool.schemas.clip_names import CLIP_NAME, FIELDS
from psptool.schemas.description import MAX_LIST, DatasetDescription
from psptool.schemas.problems import listed
from psptool.skeletons.keys import NO_LABEL, UNNAMED, ClipKey

_SEPARATORS = "\t;,"


class TableRow(NamedTuple):
    """One row of a clip table.

    Attributes:
        line: 1-based line in the file.
        file: The recording: its path or the end of it, with or without suffix.
        name: Name of the clip; empty if the table has none.
        key: Its numbers.
        segment: First and last frame; None for the whole recording.
        problem: Why the row cannot be used; empty if it can.
    """

    line: int
    file: str
    name: str
    key: ClipKey
    segment: tuple[int, int] | None
    problem: str = ""


def name_clips(
    description: DatasetDescription, sources: Sequence[ClipSource]
) -> tuple[list[ClipSource], list[Stray]]:
    """The clips in recordings that a reader found, and what is skipped.

    Recordings that the reader named are returned as they are. The others are named by the pattern or the table.

    Raises:
        PspError: The clip table cannot be read.
    """
    if description.clips.table is not None:
        return _by_table(description, sources)
    clips: list[ClipSource] = []
    strays: list[Stray] = []
    classes = len(description.class_names)
    for source in sources:
        name, key, reason = source.name, source.key, ""
        # A reader has parsed the names already if they have the numbers: no field may be all that a name says.
        if key == UNNAMED and not description.keys_in_names:
            named = description.parse.of_path(_path(source))
            if named is None and description.clips.pattern is not None:
                reason = description.parse.problem(_path(source)) or (
                    f"the name is not {description.clips.in_words}"
                )
            elif named is not None:
                name, key = named
        if not CLIP_NAME.fullmatch(name):
            reason = "the name has other characters than letters, digits, spaces and _ . + -"
        elif key.label >= classes:
            reason = f"label {key.label} is not one of the {classes} classes, which begin with 0"
        if reason:
            strays.append(Stray(source.name, str(source.files[0]), reason))
        else:
            clips.append(source if key is source.key else source._replace(name=name, key=key))
    return clips, strays


def read_clip_table(description: DatasetDescription) -> list[TableRow]:
    """The rows of the description's clip table.

    Raises:
        PspError: The file cannot be read, is not a table, or lacks a column or has it twice.
    """
    path = Path(str(description.clips.table))
    try:
        text = read_text(path, MAX_LIST).lstrip("\ufeff")
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(path, error, "Correct clips.table of the description.") from error
    lines = io.StringIO(text, newline=None)  # lines may end with LF, CR LF or CR
    separator = max(_SEPARATORS, key=lines.readline().count)
    lines.seek(0)
    rows = csv.DictReader(lines, delimiter=separator, skipinitialspace=True)
    columns = {meaning: description.clips.columns.get(meaning, meaning) for meaning in _MEANINGS}
    try:
        _check_columns(path, description, columns, [name or "" for name in rows.fieldnames or ()])
        return [_row(description, row, columns, rows.line_num) for row in rows]
    except csv.Error as error:
        raise PspError(f"{path}, line {rows.line_num + 1}: {error}", fix="Correct the line.") from error


_MEANINGS = ("file", "name", *FIELDS, "first", "last")


def _check_columns(
    path: Path, description: DatasetDescription, columns: Mapping[str, str], there: Sequence[str]
) -> None:
    """Check the header ``there``; ``columns`` are the names of the columns by their meaning."""
    wanted = dict.fromkeys(("file", "label", *description.clips.columns))
    missing = [meaning for meaning in wanted if columns[meaning] not in there]
    if missing:
        raise PspError(
            f"{path}: columns",
            listed(there, 20) or "none",
            " and ".join(f"{columns[meaning]!r} ({meaning})" for meaning in missing),
            suggest(columns[missing[0]], there) or "Name the columns in clips.columns of the description.",
        )
    if repeated := [name for name in columns.values() if there.count(name) > 1]:
        raise PspError(
            f"{path}: columns",
            f"{listed(repeated)} more than once",
            "each column once",
            "Rename one of them.",
        )
    if (columns["first"] in there) != (columns["last"] in there):
        raise PspError(
            f"{path}: columns", ", ".join(there), "both first and last, or neither", "Add the other one."
        )


def _row(
    description: DatasetDescription, row: Mapping[str | None, Any], columns: Mapping[str, str], line: int
) -> TableRow:
    values = {meaning: (row.get(column) or "").strip() for meaning, column in columns.items()}
    numbers: dict[str, int] = {}
    # `csv` puts the fields without a column under None. A separator at the end of the line is no mistake.
    problem = "more fields than columns" if any(map(str.strip, row.get(None) or ())) else ""
    for field in FIELDS:
        if values[field]:
            number = description.parse.number(field, values[field])
            if number is None:
                problem = problem or description.parse.unknown(field, values[field])
            else:
                numbers[field] = number
    segment = None
    if values["first"] or values["last"]:
        segment = _segment(values["first"], values["last"])
        if segment is None:
            problem = problem or f"frames {values['first']!r:.20} to {values['last']!r:.20} are not a range"
    if values["name"] and not CLIP_NAME.fullmatch(values["name"]):
        problem = problem or f"name {values['name']!r:.60} has characters that are not allowed"
    key = ClipKey(**{"label": NO_LABEL, **numbers})
    return TableRow(line, values["file"].replace("\\", "/"), values["name"], key, segment, problem)


def _segment(first: str, last: str) -> tuple[int, int] | None:
    found = [re.fullmatch(r"([0-9]{1,9})(?:\.0*)?", text) for text in (first, last)]
    if found[0] is None or found[1] is None:
        return None
    begin, end = int(found[0][1]), int(found[1][1])
    return (begin, end) if begin <= end else None


def _by_table(
    description: DatasetDescription, sources: Sequence[ClipSource]
) -> tuple[list[ClipSource], list[Stray]]:
    by_name: dict[str, list[ClipSource]] = defaultdict(list)
    for source in sources:
        path = _path(source)
        by_name[path.rpartition("/")[2]].append(source)
    clips: list[ClipSource] = []
    strays: list[Stray] = []
    used: set[str] = set()
    lines: dict[str, int] = {}
    table = description.clips.table
    for row in read_clip_table(description):
        where = f"{table}, line {row.line}"
        found = list(_recordings(row.file, by_name))
        if row.problem or len(found) != 1:
            reason = row.problem or (
                f"no recording {row.file}" if not found else f"several recordings {row.file}"
            )
            strays.append(Stray(row.name or row.file, where, f"clip table: {reason}"))
            used.update(str(one.files[0]) for one in found)
            continue
        source = found[0]
        used.add(str(source.files[0]))
        name = row.name or _segment_name(source, row.segment)
        if name in lines:
            raise PspError(
                f"{where}: the clip name {name}",
                f"also in line {lines[name]}",
                "different names",
                "Add a column name.",
            )
        lines[name] = row.line
        clips.append(source._replace(name=name, key=row.key, segment=row.segment))
    strays += [
        Stray(one.name, str(one.files[0]), "not in the clip table")
        for one in sources
        if str(one.files[0]) not in used
    ]
    return clips, strays


def _segment_name(source: ClipSource, segment: tuple[int, int] | None) -> str:
    name = re.sub(r"[^\w.+ -]", "_", _path(source).rpartition("/")[2])
    return name if segment is None else f"{name}_{segment[0]:06d}_{segment[1]:06d}"


def _recordings(file: str, by_name: Mapping[str, Sequence[ClipSource]]) -> Iterator[ClipSource]:
    """The recordings whose path ends with ``file``, with or without its suffix."""
    wanted = file.removeprefix("./").strip("/")
    parts = wanted.rpartition("/")[2].split(".")
    for count in range(len(parts), 0, -1):  # a suffix may have several dots
        for source in by_name.get(".".join(parts[:count]), ()):
            path = f"/{_path(source)}"
            full = f"/{shown(source.files[0].place.as_posix())}"
            if path.endswith(f"/{wanted}") or full.endswith(f"/{wanted}"):
                yield source


def _path(source: ClipSource) -> str:
    """The path of a recording without its suffix, with slashes.

    The suffix is what the reader left out of the name, such as ``.analysis.h5``; otherwise the part from the last dot.
    """
    place = source.files[0].place
    folder, slash, name = shown(place.as_posix()).rpartition("/")
    if name.startswith(f"{source.name}."):
        return folder + slash + source.name
    return shown(place.with_suffix("").as_posix())
