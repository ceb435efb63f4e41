"""Where the values of a table are: its columns by name, and the joints that they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError, RawFormatError, suggest
from psptool.common.text import counted
from psptool.formats.readers.base import FileRef
from psptool.formats.readers.detections import joint_order
from psptool.formats.readers.text import excerpt
from psptool.schemas.formats import TableOptions
from psptool.skeletons.topology import Topology

MAX_COLUMNS = 20_000
"""Maximum number of columns."""
MAX_LAYOUTS = 64
"""Maximum number of different headers whose layout is kept."""

_LETTERS = re.compile(r"[\W_]+")


class Layout(NamedTuple):
    """The columns of a file that the reader uses, and what they contain.

    The used values of a row are: the joint and the person (text), the frame, the coordinates, the confidences.

    Attributes:
        columns: int64 (columns,), index of each of the file's columns among the used values; -1 if it is ignored.
        texts: Number of columns with text.
        frame: Whether there is a frame column.
        person: Whether there is a person column.
        confidence: Whether there are confidences.
        names: Names of the used columns, for messages.
    """

    columns: NDArray[np.int64]
    texts: int
    frame: bool
    person: bool
    confidence: bool
    names: tuple[str, ...]


class Layouts:
    """Finds the layout of a file from its first line.

    Args:
        topology: The skeleton.
        options: Names of columns, axes and joints.
        joints: The file's joints in order, by their names in the skeleton, None for others; empty if they are the
            skeleton's.

    Raises:
        PspError: A joint of the skeleton is not in the file, or an option names an unknown joint.
    """

    def __init__(self, topology: Topology, options: TableOptions, joints: Sequence[str | None]) -> None:
        self.topology, self.options = topology, options
        self._order, self._dimensions = joint_order(joints, topology).tolist(), topology.dimensions
        self._joints = tuple(joints) or topology.joints
        require_joints(options.joint_names, topology)
        self._by_name = {plain_name(self._name_in_file(joint)): v for v, joint in enumerate(topology.joints)}
        self._known: dict[tuple[str, ...] | tuple[int, bool], Layout] = {}

    def find(self, file: FileRef, names: tuple[str, ...], header: bool) -> Layout:
        """The layout of files with this first line, which is the same for most files.

        Args:
            file: The file, for messages.
            names: The fields of the first line.
            header: Whether they are the names of the columns.

        Raises:
            RawFormatError: The line has no field, or not the columns that the options name.
        """
        if not names:
            raise RawFormatError("columns", f"{file}, first line", "0 columns", "at least one")
        key = names if header else (len(names), bool(names[-1]))
        layout = self._known.get(key)
        if layout is None:
            layout = self._new_layout(file, names, header)
            if len(self._known) < MAX_LAYOUTS:
                self._known[key] = layout
        return layout

    def _new_layout(self, file: FileRef, names: tuple[str, ...], header: bool) -> Layout:
        options, where = self.options, f"{file}, header" if header else str(file)
        if len(names) > MAX_COLUMNS:
            raise RawFormatError("columns", where, f"{len(names)} columns", f"at most {MAX_COLUMNS}")
        known = Columns(where, names if header else self._implied(where, names))
        used: list[int] = []
        if options.form == "long":
            used.append(known.required(options.joint, "joint"))
        person = known.optional(options.person, "person")
        used += [] if person is None else [person]
        texts = len(used)
        frame = known.optional(options.frame, "frame")
        if frame is None and (options.form == "long" or person is not None):
            known.required(options.frame or "frame", "frame")
        used += [] if frame is None else [frame]
        axes = options.axes[: self._dimensions]
        if len(axes) < self._dimensions:
            expected = f"{self._dimensions} names, because the skeleton has {self._dimensions} dimensions"
            raise RawFormatError("axes", where, ", ".join(axes), expected)
        if options.form == "long":
            used += [known.required(axis, "axes") for axis in axes]
            confidence = known.optional(options.confidence, "confidence")
            confidences = [] if confidence is None else [confidence]
        else:
            joints = list(zip(self._order, self.topology.joints, strict=True))
            used += [
                known.required(self._column(number, joint, axis), "coordinate_columns")
                for number, joint in joints
                for axis in axes
            ]
            axis = options.confidence or "confidence"
            columns = [self._column(number, joint, axis) for number, joint in joints]
            wanted = options.confidence is not None or known.has(columns[0])
            confidences = [known.required(column, "confidence") for column in columns] if wanted else []
        used += confidences
        if len(set(used)) < len(used):
            twice = next(column for column in used if used.count(column) > 1)
            found = f"column {known.names[twice]!r} for two things"
            raise RawFormatError("columns", where, found, "different columns")
        slots = np.full(len(known.names), -1, np.int64)
        slots[used] = np.arange(len(used))
        listed = tuple(known.names[column] for column in used)
        return Layout(slots, texts, frame is not None, person is not None, bool(confidences), listed)

    def _implied(self, where: str, first_row: Sequence[str]) -> tuple[str, ...]:
        """The names of the columns of a file without a header."""
        options, count = self.options, len(first_row)
        if options.form == "long":
            return options.columns + ("",) * (count - len(options.columns))
        axes = options.axes[: self._dimensions]
        more = count - len(options.columns) - len(self._joints) * len(axes)
        if more >= len(self._joints) or options.confidence is not None:
            axes = (*axes, options.confidence or "confidence")
        coordinates = tuple(
            "" if joint is None else self._column(number, joint, axis)
            for number, joint in enumerate(self._joints)
            for axis in axes
        )
        names = options.columns + coordinates
        # After a separator at the end of the line, there is an empty field.
        used = first_row[:-1] if count == len(names) + 1 and not first_row[-1] else first_row
        if len(used) != len(names):
            first = f"{', '.join(options.columns)}, then " if options.columns else ""
            expected = f"{len(names)}: {first}{counted(len(self._joints), 'joint')} of {', '.join(axes)}"
            raise RawFormatError(
                "field count", f"{where}, line {self.options.skip_lines + 1}", str(count), expected
            )
        return names

    def _column(self, number: int, joint: str, axis: str) -> str:
        """The name of a coordinate's column."""
        return self.options.coordinate_columns.format(
            joint=self._name_in_file(joint), number=number + self.options.first_number, axis=axis
        )

    def joint_numbers(self, file: FileRef, texts: Sequence[str]) -> NDArray[np.int64]:
        """For each text of the joint column, the joint's index in the skeleton; -1 for joints that are not in it.

        Raises:
            RawFormatError: No text is a joint of the skeleton, or a number is outside of the file's joints.
        """
        index = {joint: v for v, joint in enumerate(self.topology.joints)}
        first, found = self.options.first_number, []
        for text in texts:
            number = whole_number(text)
            if (named := self._by_name.get(plain_name(text))) is not None:
                found.append(named)
            elif number is None:
                found.append(-1)
            elif first <= number < first + len(self._joints):
                found.append(index.get(self._joints[number - first] or "", -1))
            else:
                expected = f"{first} to {first + len(self._joints) - 1}, or names"
                raise RawFormatError("joint number", f"{file}, column {self.options.joint}", text, expected)
        if max(found, default=-1) < 0:
            listed = ", ".join(map(excerpt, texts[:5]))
            example = self._name_in_file(self.topology.joints[0])
            expected = f"joints of the skeleton {self.topology.name}, such as {example!r}"
            raise RawFormatError("joint names", f"{file}, column {self.options.joint}", listed, expected)
        return np.array(found, np.int64)

    def _name_in_file(self, joint: str) -> str:
        return self.options.joint_names.get(joint, joint)


class Columns:
    """The columns of a file by name.

    Args:
        where: The file and its header, for messages.
        names: The names in order.
    """

    def __init__(self, where: str, names: Sequence[str]) -> None:
        self.where, self.names = where, tuple(names)
        self._exact, self._plain = _places(self.names), _places([plain_name(name) for name in self.names])

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self._exact or plain_name(name) in self._plain

    def required(self, name: str, option: str) -> int:
        """Index of the column ``name``, which the option ``option`` names.

        Raises:
            RawFormatError: There is no such column, or more than one.
        """
        found = self._exact.get(name) or self._plain.get(plain_name(name), [])
        if len(found) == 1:
            return found[0]
        expected = f"a column {name!r} (option `{option}`)"
        if found:
            raise RawFormatError("columns", self.where, f"{len(found)} columns {name!r}", expected)
        listed = ", ".join(map(repr, self.names[:4])) + (", …" if len(self.names) > 4 else "")
        hint = suggest(name, self.names)
        more = f"; {hint[0].lower()}{hint[1:]}" if hint else ""
        raise RawFormatError("columns", self.where, f"{_short(listed)}", f"{expected}{more}")

    def optional(self, name: str | None, default: str) -> int | None:
        """Index of the column ``name``; without a name, that of the column ``default`` if there is one."""
        if name is None and not self.has(default):
            return None
        return self.required(name or default, default)


def require_joints(names: Iterable[str], topology: Topology) -> None:
    """Check that the option ``joint_names`` has joints of the skeleton as keys.

    Raises:
        PspError: A name is no joint.
    """
    for name in names:
        if name not in topology.joints:
            raise PspError(
                f"joint_names: no joint of the skeleton {topology.name}",
                repr(name),
                fix=suggest(name, topology.joints) or "Write the skeleton's name first, then the file's.",
            )


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return found


@lru_cache(4096)
def plain_name(name: str) -> str:
    """A name without upper and lower case, spaces and punctuation."""
    return _LETTERS.sub("", name).casefold()


@lru_cache(4096)
def whole_number(text: str) -> int | None:
    """The integer that a text is, such as ``3`` or ``3.0``; otherwise None."""
    match = re.fullmatch(r"([+-]?\d{1,18})(\.0*)?", text.strip(), re.ASCII)
    return int(match[1]) if match else None
