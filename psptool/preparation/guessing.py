"""Guessing the description of recordings: format, joints, dimensions, pattern of the names, classes, rate and unit.

The first file of the most frequent format is read. What cannot be told from files, such as the bones of an unknown
skeleton, is left to the user, with a comment.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from psptool.common.errors import PspError
from psptool.common.paths import shown
from psptool.common.text import counted
from psptool.formats.readers.arrays import read_arrays
from psptool.formats.readers.base import FileRef
from psptool.formats.readers.making import builtin_readers
from psptool.formats.readers.parquet import read_parquet
from psptool.formats.readers.pyskl import PACKED, is_plain_file, read_annotations
from psptool.formats.readers.sources import list_files, read_file
from psptool.formats.readers.table_layout import plain_name, whole_number
from psptool.formats.readers.table_text import fields_of, separator_of
from psptool.formats.readers.text import excerpt
from psptool.formats.readers.unpickling import PickledArray
from psptool.preparation import guessing_units
from psptool.schemas.builtin_skeletons import builtin_skeleton, skeleton_names
from psptool.schemas.description import DatasetDescription
from psptool.schemas.problems import listed
from psptool.schemas.skeleton import MOST_JOINTS

SUFFIXES = {
    ".npy": "arrays",
    ".npz": "arrays",
    ".csv": "table",
    ".tsv": "table",
    ".parquet": "table",
    ".txt": "table",
    ".pkl": "pyskl",
    ".pickle": "pyskl",
}
"""The reader for each suffix."""
MOST_CLASSES = 500
TRIED = 5
"""Files that are looked at before giving up."""
_LONGEST_LINE = 2**16
"""Longest line of a table, in characters; the rest is read as another one."""
_FRAMES = ("frame", "frame_number", "frame_id", "frameid", "framenumber", "index")
_PERSONS = ("person", "person_id", "track", "track_id", "body", "id")
_JOINTS = ("joint", "joint_name", "keypoint", "landmark", "name", "bodypart", "node")
_SCORES = ("confidence", "score", "likelihood", "visibility", "conf", "c")
_MEANINGS = {
    **dict.fromkeys(("a", "action", "act", "class", "label", "activity"), "label"),
    **dict.fromkeys(
        ("s", "subject", "subj", "sub", "p", "person", "performer", "participant", "actor"), "subject"
    ),
    **dict.fromkeys(("c", "cam", "camera", "v", "view"), "camera"),
    **dict.fromkeys(("setup", "scene", "session", "env"), "setup"),
    **dict.fromkeys(("e", "episode", "r", "rep", "repetition", "t", "take", "trial"), "repetition"),
}
"""Fields by the word before a number in a file name."""


@dataclass
class Guess:
    """A guessed description.

    Attributes:
        values: The description, as in YAML.
        comments: What was found, or is to be checked, by key.
        files: Number of recordings.
        known: The built-in dataset whose recordings they are; None for others.
    """

    values: dict[str, Any]
    comments: dict[str, str] = field(default_factory=dict)
    files: int = 0
    known: DatasetDescription | None = None


def guess(path: Path) -> Guess:
    """Guess the description of the recordings in a folder, an archive or a file.

    Raises:
        PspError: There is no file of a known format, or the first one cannot be read.
    """
    files = list_files([path.resolve() if path.is_dir() else path])
    for dataset, reader in builtin_readers():
        clips, _ = reader.find(files)
        if clips:
            values = {"name": dataset.group or dataset.name}
            return Guess(values, files=len(clips), known=dataset)
    formats = Counter(
        SUFFIXES[suffix] for file in files if (suffix := Path(file.plain.lower()).suffix) in SUFFIXES
    )
    if not formats:
        raise PspError(
            f"{path}: no recordings",
            f"{counted(len(files), 'file')} of other kinds",
            f"files that end in {', '.join(SUFFIXES)}, or recordings of a built-in dataset",
            "Check the path.",
        )
    reader_name = formats.most_common(1)[0][0]
    own = [file for file in files if SUFFIXES.get(Path(file.plain.lower()).suffix) == reader_name]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.resolve().stem).strip("-_")[:40] or "mine"
    found = Guess({"name": name}, files=len(own))
    _look_at_one({"arrays": _arrays, "table": _table, "pyskl": _pyskl}[reader_name], own, found)
    if reader_name != "pyskl":  # pickles have names and labels, and their lists of clips are protocols
        _names(own, found)
        found.values["protocols"] = _protocols(found.values)
    if "frame_rate" not in found.values:
        found.values["frame_rate"] = 30
        found.comments["frame_rate"] = "Frames per second: check it. Motion is the difference between frames."
    _unit(own, found)
    found.comments["up"] = "The vertical axis: y, z, or -y if y points down, as in images"
    return found


def _unit(files: Sequence[FileRef], found: Guess) -> None:
    """Unit of the coordinates from the size of the body, and vertical axis by the number of dimensions."""
    flat = found.values.get("dimensions") == 2
    guessed = None if flat else guessing_units.unit(found.values, files[:TRIED])
    found.values |= (
        {"unit": "px", "up": "-y"} if flat else {"unit": guessed[0] if guessed else "m", "up": "y"}
    )
    found.comments["unit"] = "m, cm, mm or px"
    if guessed is not None:
        size = f"{guessed[1]:.3g}"
        found.comments["unit"] += f". Guessed: the joints of a frame extend over {size} units (median)"


def _look_at_one(look: Callable[[FileRef, Guess], None], files: Sequence[FileRef], found: Guess) -> None:
    """Look at the first file that is understood: a folder may also have other files, such as a table of labels.

    Raises:
        PspError: None of the first files is understood.
    """
    first: PspError | None = None
    for file in files[:TRIED]:
        try:
            look(file, found)
            return
        except PspError as error:
            first = first or error
    assert first is not None
    raise first


def _arrays(file: FileRef, found: Guess) -> None:
    """Format, joints and dimensions from an array."""
    options: dict[str, Any] = {"reader": "arrays"}
    arrays = read_arrays(file, read_file(file))
    readable = {key: one for key, one in arrays.items() if isinstance(one, np.ndarray)}
    shaped = [key for key, one in readable.items() if one.ndim in (3, 4)]
    if "" in readable:
        values = readable[""]
    elif shaped:
        values = readable[shaped[0]]
        if len(arrays) > 1:
            options["key"] = shaped[0]
    else:
        shapes = [f"{excerpt(key)} {one.shape}" for key, one in readable.items()]
        shapes += [excerpt(key) for key in arrays if key not in readable]
        raise PspError(
            f"{file}: arrays", listed(shapes) or "none", "one of numbers, of shape (T, V, C) or (M, T, V, C)"
        )
    if values.ndim not in (3, 4):
        raise PspError(f"{file}: shape", str(values.shape), "(T, V, C) or (M, T, V, C)")
    axes = {3: ("TVC", "CTV"), 4: ("MTVC", "CTVM")}[values.ndim]
    chosen = axes[0] if values.shape[-1] in (2, 3, 4) or values.shape[0] not in (2, 3, 4) else axes[1]
    if chosen != axes[0]:
        options["axes"] = chosen
    joints, channels = (values.shape[chosen.index(axis)] for axis in "VC")
    scores = values.take(-1, axis=chosen.index("C")) if channels in (3, 4) else np.array([2.0])
    _format(found, options, file, f"array of shape {values.shape} ({chosen})")
    _skeleton(file, found, joints, channels, _are_scores(scores))


def _are_scores(values: np.ndarray[Any, Any]) -> bool:
    """Whether the numbers may be confidences: between 0 and 1, and not centred on 0."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return bool(len(finite) and (finite >= 0).all() and (finite <= 1).all())


def _pyskl(file: FileRef, found: Guess) -> None:
    if not is_plain_file(file):
        raise PspError(f"{file}: {PACKED}")
    arrays = [
        one
        for _, one in read_annotations(Path(file.path), {})
        if isinstance(one, dict) and isinstance(one.get("keypoint"), PickledArray)
    ]
    if not arrays:
        raise PspError(f"{file}: annotations", "none with a keypoint", "a pickle of PYSKL or MMAction2")
    shape = arrays[0]["keypoint"].values.shape
    if len(shape) != 4:
        raise PspError(f"{file}: keypoint", f"shape {shape}", "(M, T, V, C)")
    options: dict[str, Any] = {"reader": "pyskl"}
    joints, channels = shape[2], shape[3]
    if shape[0] == 3 and channels not in (2, 3):
        options["axes"], joints, channels = "CTVM", shape[2], 3
    _format(found, options, file, f"{counted(len(arrays), 'annotation')}, keypoint of shape {shape}")
    _skeleton(file, found, joints, channels, channels == 3 and "keypoint_score" in arrays[0])
    labels = [label for one in arrays if type(label := one.get("label")) is int]
    number = max(labels, default=0) + 1
    found.values["classes"] = [f"class {n}" for n in range(min(number, MOST_CLASSES))]
    found.comments["classes"] = "By label, from 0. Write their names."


def _table(file: FileRef, found: Guess) -> None:
    """Format, joints and dimensions from the head of a table."""
    options: dict[str, Any] = {"reader": "table"}
    suffix = Path(file.plain.lower()).suffix
    if suffix not in (".csv", ".tsv", ".parquet"):
        options["suffixes"] = [suffix]
    blob = read_file(file)
    if suffix == ".parquet":
        names, read = read_parquet(file, blob)
        columns = list(names)

        def texts_of(column: int) -> Iterable[str]:
            return read([column], 1)[1][0]

    else:
        separator, rows = _rows(file, blob)
        head = list(islice(rows, 3))
        columns = head[0]
        if separator != "," and any("," in text and _is_number(text) for text in head[:2][-1]):
            options["decimal"] = ","
        if all(map(_is_number, columns)):
            _headerless(file, head, options, found)
            return

        def texts_of(column: int) -> Iterable[str]:
            again = islice(_rows(file, blob)[1], 1, None)
            return (row[column] for row in again if len(row) > column)

    _frame_rate(columns, texts_of, found)
    low = [column.lower() for column in columns]
    for names in (_FRAMES, _PERSONS):
        name = next((one for one in names if one in low), names[0])
        if name != names[0]:  # the reader's default, which is also the name of the option
            options[names[0]] = columns[low.index(name)]
    joint = next((one for one in _JOINTS if one in low), None)
    if joint is not None and {"x", "y"} <= set(low):
        options |= {"form": "long"} | ({"joint": columns[low.index(joint)]} if joint != "joint" else {})
        _long(file, list(dict.fromkeys(texts_of(low.index(joint)))), columns, options, found)
        return
    _wide(file, columns, options, found)


def _frame_rate(columns: Sequence[str], texts_of: Callable[[int], Iterable[str]], found: Guess) -> None:
    """Frame rate from a column with times, if there is one."""
    column = guessing_units.time_column(columns)
    guessed = None if column is None else guessing_units.frame_rate(texts_of(column))
    if column is None or guessed is None:
        return
    found.values["frame_rate"], unit = guessed
    found.comments["frame_rate"] = (
        f"Frames per second. Guessed from the steps of column {excerpt(columns[column])}, in {unit}"
    )


def _wide(file: FileRef, columns: Sequence[str], options: dict[str, Any], found: Guess) -> None:
    """A table with a column for each coordinate: the joint and the axis in the column's name."""
    forms = (
        (re.compile(r"(?P<joint>.+?)(?P<between>[_. -]?)(?P<axis>[xyzXYZ])"), "{{joint}}{0}{{axis}}"),
        (re.compile(r"(?P<axis>[xyzXYZ])(?P<between>[_. -])(?P<joint>.+)"), "{{axis}}{0}{{joint}}"),
    )
    best: tuple[dict[str, set[str]], str] = ({}, "")
    for pattern, template in forms:
        joints: dict[str, set[str]] = {}
        between: Counter[str] = Counter()
        for column in columns:
            if match := pattern.fullmatch(column):
                joints.setdefault(match["joint"], set()).add(match["axis"].lower())
                between[match["between"]] += 1
        joints = {name: axes for name, axes in joints.items() if {"x", "y"} <= axes}
        if len(joints) > len(best[0]):
            best = joints, template.format(between.most_common(1)[0][0])
    names, template = list(best[0]), best[1]
    if not names:
        raise PspError(
            f"{file}: columns",
            ", ".join(columns[:8]) + (", …" if len(columns) > 8 else ""),
            "a column for each coordinate, such as left_hip_x, or columns joint, x and y",
            "Describe the table by hand: psptool/README.md lists the options of the reader table.",
        )
    if template != "{joint}_{axis}":
        options["coordinate_columns"] = template
    plain = {plain_name(column) for column in columns}
    score = next((one for one in _SCORES if plain_name(f"{names[0]} {one}") in plain), None)
    if score is not None and score != "confidence":
        options["confidence"] = score
    channels = 3 if all("z" in axes for axes in best[0].values()) else 2
    _format(found, options, file, f"wide table of {counted(len(columns), 'column')}")
    _skeleton(file, found, len(names), channels, False, names)


def _rows(file: FileRef, blob: bytes) -> tuple[str, Iterator[list[str]]]:
    """The separator of a text table, and the fields of its rows that are not blank, which are read as needed."""
    text = io.TextIOWrapper(io.BytesIO(blob), encoding="utf-8-sig", errors="replace")
    lines = (line for line in iter(lambda: text.readline(_LONGEST_LINE), "") if line.strip())
    first = next(lines, None)
    if first is None:
        raise PspError(f"{file}: empty", expected="a table")
    separator = separator_of(first)
    return separator, (fields_of(file, line, separator) for line in chain([first], lines))


def _long(
    file: FileRef, names: Sequence[str], columns: Sequence[str], options: dict[str, Any], found: Guess
) -> None:
    """A table with one row for each joint; ``names`` are the different joints."""
    score = next((column for column in columns if column.lower() in _SCORES), None)
    if score is not None and score != "confidence":
        options["confidence"] = score
    channels = 3 if "z" in [column.lower() for column in columns] else 2
    _format(found, options, file, "long table: one row per joint")
    _skeleton(file, found, len(names), channels, False, [] if all(map(_is_number, names)) else names)


def _headerless(file: FileRef, rows: Sequence[Sequence[str]], options: dict[str, Any], found: Guess) -> None:
    """A table of numbers without names of columns, in which a first column of integers is the frame number."""
    count = len(rows[0])
    numbers = [number for row in rows if (number := whole_number(row[0])) is not None]
    ascends = 1 < len(rows) == len(numbers) and numbers[1] >= numbers[0]
    first = 1 if (ascends and (count - 1) % 3 == 0) or (ascends and count % 3) else 0
    options |= {"header": False} | ({"columns": ["frame"]} if first else {})
    channels = 3 if (count - first) % 3 == 0 else 2
    _format(found, options, file, f"{counted(count, 'column')} without header")
    _skeleton(file, found, (count - first) // channels, channels, False)


def _format(found: Guess, options: dict[str, Any], file: FileRef, what: str) -> None:
    found.values["format"] = options
    found.comments["format"] = f"{counted(found.files, 'file')}; {shown(file.name)}: {what}"


def _skeleton(
    file: FileRef, found: Guess, joints: int, channels: int, has_scores: bool, names: Sequence[str] = ()
) -> None:
    """The built-in skeleton with these joints, by their names or by their number; otherwise one of one's own."""
    if not 2 <= joints <= MOST_JOINTS:
        raise PspError(f"{file}: joints", f"{joints:,}", f"2 to {MOST_JOINTS}")
    plain = [plain_name(name) for name in names]
    sizes = {name: builtin_skeleton(name) for name in skeleton_names()}
    named = [
        name
        for name, one in sizes.items()
        if plain and {plain_name(joint) for joint in one.joints} <= set(plain)
    ]
    fitting = named or [name for name, one in sizes.items() if len(one.joints) == joints and not plain]
    flat = channels == 2 or (channels == 3 and has_scores)
    by_size = sorted(
        fitting, key=lambda name: (-len(sizes[name].joints), sizes[name].dimensions != (2 if flat else 3))
    )
    values: dict[str, Any] = {}
    if by_size:
        chosen = sizes[by_size[0]]
        values["skeleton"] = by_size[0]
        others = f" Also with {joints} joints: {', '.join(by_size[1:])}." if len(by_size) > 1 else ""
        how = (
            "the names of the joints"
            if named
            else f"{joints} joints: check their order with psptool describe"
        )
        found.comments["skeleton"] = f"By {how}.{others}"
        if (dimensions := 2 if flat else 3) != chosen.dimensions:
            values["dimensions"] = dimensions
        if flat:
            values["dimensions"] = 2
    else:
        own = [re.sub(r"[_.]+", " ", name).strip() for name in names] or [f"joint {n}" for n in range(joints)]
        values["skeleton"] = {"name": f"own{joints}", "joints": own, "bones": [["?", "?"]]}
        found.comments["skeleton"] = (
            "No built-in skeleton has these joints. Write the pairs of joints that bones connect; if no two names "
            "differ in left and right, also spine and shoulders."
        )
        if flat:
            values["skeleton"]["dimensions"] = 2
            values["dimensions"] = 2
    found.values |= values


def _names(files: Sequence[FileRef], found: Guess) -> None:
    """Pattern of the names and classes; a clip table if the names have no classes."""
    paths = [shown(file.place.with_suffix("").as_posix()) for file in files]
    for levels in (1, 2):
        tails = ["/".join(path.split("/")[-levels:]) for path in paths]
        pattern = name_pattern(tails)
        if pattern is not None:
            matches = [match for tail in tails if (match := re.fullmatch(pattern, tail))]
            labels = in_order({match["label"] for match in matches})
            if 1 < len(labels) <= MOST_CLASSES and len(matches) >= 0.9 * len(tails):
                found.values["clips"] = {"pattern": pattern}
                found.comments["clips"] = f"Matches {len(matches)} of {len(tails)} names, such as {tails[0]}"
                if all(label.isdigit() for label in labels):
                    found.values["classes"] = {int(label): f"class {int(label)}" for label in labels}
                    found.comments["classes"] = "By their number in the names. Write their names."
                else:
                    found.values["classes"] = labels
                return
    found.values["clips"] = {"table": "clips.csv"}
    found.comments["clips"] = (
        "The names have no classes. Write a table with the columns file, label, and optionally name, subject, camera, "
        "setup, repetition, first, last (frames)"
    )
    found.values["classes"] = ["first class", "second class"]
    found.comments["classes"] = "The values of label in the table"


def in_order(labels: set[str]) -> list[str]:
    """Labels in alphabetical order, numbers in ascending order."""
    return sorted(labels, key=lambda text: (len(text) if text.isdigit() else 0, text))


def name_pattern(names: Sequence[str]) -> str | None:
    """A regular expression with the group ``label`` for nine tenths of the names; None without one.

    Names are divided into words and numbers. A number behind a known word, such as ``s01``, is a field. The label is a
    number behind ``a`` or ``action``, otherwise the words that differ.
    """
    split = [re.findall(r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]", name) for name in names]
    # Classes may have several words, so names are compared from their ends.
    shapes = Counter(_tail(tokens) for tokens in split)
    if not shapes:
        return None
    tail, count = shapes.most_common(1)[0]
    fitting = [tokens for tokens in split if _tail(tokens) == tail]
    if count < 0.9 * len(names) or not tail:
        return None
    heads = {"".join(tokens[: len(tokens) - len(tail)]) for tokens in fitting}
    used: set[str] = set()
    parts = []
    columns = list(zip(*(tokens[len(tokens) - len(tail) :] for tokens in fitting), strict=True))
    for place, texts in enumerate(columns):
        before = (
            columns[place - 1][0].lower() if place else next(iter(heads)).lower() if len(heads) == 1 else ""
        )
        parts.append(_part(texts, _MEANINGS.get(before) if texts[0].isdigit() else None, used))
    if "label" not in used and len(heads) == 1 and not heads - {""}:
        varying = [n for n, texts in enumerate(columns) if len(set(texts)) > 1 and texts[0].isalpha()]
        if varying:
            parts[varying[0]] = "(?P<label>[A-Za-z]+)"
            used.add("label")
    head = re.escape(next(iter(heads))) if len(heads) == 1 else ""
    if len(heads) > 1:
        words = "(?P<label>[A-Za-z][A-Za-z _-]*?)" if "label" not in used else "[A-Za-z][A-Za-z _-]*?"
        end = re.search(r"[^A-Za-z0-9]*$", min(heads, key=len))
        signs = end[0] if end is not None and all(one.endswith(end[0]) for one in heads) else ""
        head = words + re.escape(signs)
        used.add("label")
    return head + "".join(parts) if "label" in used else None


def _tail(tokens: Sequence[str]) -> tuple[str, ...]:
    """What a name has from its first number on, with the word before it: # for numbers, words and signs themselves."""
    first = next((n for n, token in enumerate(tokens) if token.isdigit()), None)
    if first is None:
        if "/" not in tokens:
            return ("w",) * len(tokens)
        folder = tokens.index("/")
        return (*("w",) * folder, "/", *("w",) * (len(tokens) - folder - 1))
    begin = first - 1 if first and tokens[first - 1].lower() in _MEANINGS else first
    return tuple(
        "#" if token.isdigit() else token if token.isalpha() is False else "w" for token in tokens[begin:]
    )


def _part(texts: Sequence[str], meaning: str | None, used: set[str]) -> str:
    """The expression for one word, number or sign of the names."""
    if meaning is not None and meaning not in used:
        used.add(meaning)
        return f"(?P<{meaning}>[0-9]+)"
    if len(set(texts)) == 1 and not texts[0].isdigit():
        return re.escape(texts[0])
    return "[0-9]+" if texts[0].isdigit() else "[A-Za-z]+"


def _protocols(values: Mapping[str, Any]) -> dict[str, Any]:
    pattern = str(values.get("clips", {}).get("pattern", ""))
    found: dict[str, Any] = {"half": {"share": 0.5}}
    if "<subject>" in pattern:
        found["loso"] = {"leave_one_out": "subject"}
    return found


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def comment_lines(values: Mapping[str, Any], comments: Mapping[str, str]) -> Iterable[tuple[str, Any]]:
    """The comment, or an empty text, and the value of each key, in the order of a description."""
    order = [key for key in DatasetDescription.model_fields if key in values]
    return ((comments.get(key, ""), {key: values[key]}) for key in order)
