"""The description of a dataset: everything psptool knows about it, in one YAML file and in the prepared dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from psptool.common.errors import suggest
from psptool.common.paths import read_text
from psptool.common.text import counted
from psptool.schemas.base import Strict
from psptool.schemas.builtin_skeletons import find_skeleton
from psptool.schemas.clip_names import CLIP_NAME, ClipNames, NameParser, canonical
from psptool.schemas.formats import ArraysOptions, PosesOptions, PysklOptions, TableOptions
from psptool.schemas.problems import Problem, Problems, listed, refuse, short
from psptool.schemas.protocols import (
    FieldProtocol,
    LeaveOneOut,
    ListProtocol,
    Protocol,
    ShareProtocol,
    Value,
)
from psptool.schemas.skeleton import JointName, Name, SkeletonDescription
from psptool.skeletons import keys
from psptool.skeletons.keys import NO_LABEL, UpAxis
from psptool.skeletons.topology import Topology

MAX_LIST = 2**24
"""Largest file with a list of clip names, in bytes: NTU 120's lists have 2 MB."""
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
"""Metres per unit of length."""


class NtuFormat(Strict):
    """``.skeleton`` text of NTU RGB+D."""

    reader: Literal["ntu"]
    joints: ClassVar[int] = 25


class UclaFormat(Strict):
    """JSON or text of NW-UCLA."""

    reader: Literal["ucla"]
    joints: ClassVar[int] = 20


# A format is added here and in `psptool.formats.readers.making`.
Format = Annotated[
    NtuFormat | UclaFormat | ArraysOptions | TableOptions | PysklOptions | PosesOptions,
    Field(discriminator="reader"),
]


class DatasetDescription(Strict):
    """Everything psptool knows about a dataset: skeleton, file format, clip names, classes and protocols."""

    name: Name = Field(description="Short name, used in file names")
    title: str = Field("", max_length=200, description="Full name, for messages")
    group: Name | None = Field(
        None,
        description="A name that several datasets share: psptool prepare chooses the one with the fewest classes that "
        "has all clips",
    )
    skeleton: SkeletonDescription = Field(description="A skeleton, or in YAML the name of a built-in one")
    keep: tuple[JointName, ...] | None = Field(
        None, description="Joints to keep, in the order of the prepared arrays; by default all"
    )
    rename: dict[JointName, JointName] = Field(
        default_factory=dict, description="New names of joints by old name"
    )
    file_joints: tuple[JointName | None, ...] | None = Field(
        None,
        description="The joint, by its name in the skeleton, of each position in the files; null for one to ignore. "
        "By default the skeleton's joints in their order",
    )
    dimensions: Literal[2, 3] | None = Field(
        None, description="2 for image coordinates, 3 for positions in space; by default as the skeleton"
    )
    format: Format = Field(description="Reader of the files, and its options")
    clips: ClipNames = Field(
        ClipNames(),
        description="Names and numbers of the clips; needless for `pyskl`, whose files have labels",
    )
    classes: dict[str, str] = Field(
        min_length=1,
        description="Class name by the value of `label`; labels follow its order. In YAML also a list of class names, "
        "which are the values themselves",
    )
    protocols: dict[Name, Protocol] = Field(
        default_factory=lambda: dict[str, Protocol]({"random": ShareProtocol(share=0.5)}),
        description="Evaluation protocols by name; the first is the default",
    )
    performance: tuple[keys.Field, ...] = Field(
        (),
        description="Fields that all views of one performance share; empty if each clip is one performance",
    )
    test_views: tuple[int, ...] = Field((), description="Cameras that can be chosen as the test view")
    missing: tuple[str, ...] = Field(
        (), description="Clips to skip; in YAML also a text file with one name a line"
    )
    frame_rate: float = Field(30, gt=0, le=10_000, description="Frames per second")
    unit: Literal["m", "cm", "mm", "px"] = Field("m", description="Unit of the coordinates in the files")
    up: UpAxis = Field("y", description="Vertical axis of the coordinates in the files; -y if y points down")

    @field_validator("skeleton", mode="before")
    @classmethod
    def _named_skeleton(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return find_skeleton(value)

    @field_validator("classes", mode="before")
    @classmethod
    def _classes_by_value(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and all(isinstance(name, (str, int)) for name in value):
            given: list[tuple[Any, Any]] = [(name, str(name)) for name in value]
        elif isinstance(value, dict):
            given = list(value.items())
        else:
            return value
        keys = [canonical(str(key)) for key, _ in given]
        if repeated := [key for key, count in Counter(keys).items() if count > 1]:
            found = f"{listed(repeated)} more than once"
            refuse([Problem("", found, "different values", "Remove the repeated ones.")])
        return {key: name for key, (_, name) in zip(keys, given, strict=True)}

    @field_validator("missing", mode="before")
    @classmethod
    def _missing_list(cls, value: Any, info: ValidationInfo) -> Any:
        return _names(value, info)

    @field_validator("protocols", mode="before")
    @classmethod
    def _protocol_lists(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: {
                key: _names(one, info) if key in ("train_clips", "test_clips") else one
                for key, one in protocol.items()
            }
            if isinstance(protocol, dict)
            else protocol
            for name, protocol in value.items()
        }

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse([*_joint_problems(self), *_field_problems(self), *_protocol_problems(self)])
        return self

    @cached_property
    def topology(self) -> Topology:
        """The joints and bones of the prepared clips."""
        return self.used_skeleton.topology

    @cached_property
    def used_skeleton(self) -> SkeletonDescription:
        """The skeleton of the prepared clips: the kept joints with their new names."""
        skeleton = self.skeleton if self.keep is None else self.skeleton.subset(self.keep)
        skeleton = skeleton.renamed(self.rename) if self.rename else skeleton
        if self.dimensions is None or self.dimensions == skeleton.dimensions:
            return skeleton
        values = skeleton.complete.model_dump()
        return SkeletonDescription.model_validate({**values, "dimensions": self.dimensions})

    @cached_property
    def in_files(self) -> tuple[str | None, ...]:
        """The joint of each position in the files by its final name; None for one that is not kept."""
        kept = set(self.keep or self.skeleton.joints)
        given = self.file_joints or self.skeleton.joints
        return tuple(self.rename.get(name, name) if name in kept and name else None for name in given)

    @property
    def metres(self) -> float:
        """Metres per unit of the coordinates in the files; 1 for pixels, which stay as they are."""
        return METRES.get(self.unit, 1.0)

    @property
    def unit_read(self) -> Literal["m", "px"]:
        """Unit of the coordinates that the readers return: metres, except for pixels."""
        return "px" if self.unit == "px" else "m"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, indexed by label."""
        return tuple(dict.fromkeys(self.classes.values()))

    @cached_property
    def labels(self) -> dict[str, int]:
        """Label by the value of ``label``."""
        index = {name: label for label, name in enumerate(self.class_names)}
        return {value: index[name] for value, name in self.classes.items()}

    @cached_property
    def numbers(self) -> dict[str, dict[str, int]]:
        """Numbers from 1 by name, for the fields whose values are names."""
        return {
            key: {name: number for number, name in enumerate(names, 1)}
            for key, names in self.clips.values.items()
        }

    @cached_property
    def parse(self) -> NameParser:
        """The function from a clip name to its key. Without a pattern, no name has one."""
        unlabelled = dict.fromkeys(map(canonical, self.clips.unlabelled), NO_LABEL)
        return NameParser(self.clips.pattern or r"(?!)", {**self.labels, **unlabelled}, self.numbers)

    @property
    def keys_in_names(self) -> bool:
        """Whether the numbers of a clip follow from its name, and not from a table or from folders."""
        return self.clips.pattern is not None and "/" not in self.clips.pattern

    def number(self, field: str, value: Value) -> int | None:
        """The number in the clip table for a value of a field; None if no clip can have it."""
        return value if isinstance(value, int) and field != "label" else self.parse.number(field, str(value))

    def value(self, field: str, number: int) -> str:
        """The value of a field with this number in the clip table, as text; the inverse of `number`."""
        if field == "label":
            return self.class_names[number]
        names = self.clips.values.get(field, ())  # type: ignore[call-overload]
        return names[number - 1] if names else str(number)

    def without_lists(self) -> DatasetDescription:
        """The same description without what only splits and preparations need."""
        unset = {key: field.get_default(call_default_factory=True) for key, field in _UNUSED.items()}
        return self.model_copy(update=unset)

    def complete(self) -> DatasetDescription:
        """The same description with every derived value of the skeleton given, as it is stored."""
        skeleton = SkeletonDescription.model_validate(self.skeleton.complete.model_dump())
        return self.model_copy(update={"skeleton": skeleton})


_UNUSED = {key: DatasetDescription.model_fields[key] for key in ("missing", "protocols", "test_views")}


def _names(value: Any, info: ValidationInfo) -> Any:
    """The names in a text file next to the YAML file, if ``value`` is its path."""
    if not isinstance(value, str):
        return value
    folder = (info.context or {}).get("folder")
    if folder is None:
        raise Problems([Problem("", short(value), "a list of clip names", "Give a list.")])
    path = Path(folder) / value
    try:
        return _lines(path)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        wanted = "a text file with one clip name a line"
        raise Problems([Problem("", f"{value} ({why})", wanted, "Correct the path.")]) from error


def _lines(path: Path) -> tuple[str, ...]:
    lines = (line.strip() for line in read_text(path, MAX_LIST).lstrip("\ufeff").splitlines())
    return tuple(dict.fromkeys(line for line in lines if line))


def _joint_problems(given: DatasetDescription) -> Iterator[Problem]:
    joints = given.skeleton.joints
    for key, names in (
        ("keep", given.keep or ()),
        ("rename", tuple(given.rename)),
        ("file_joints", tuple(name for name in given.file_joints or () if name)),
    ):
        for name in names:
            if name not in joints:
                fix = suggest(name, joints) or f"The joints are {listed(joints, 40)}."
                yield Problem(key, repr(name), f"one of the joints of {given.skeleton.name}", fix)
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            yield Problem(
                key, f"{listed(repeated)} more than once", "each joint once", "Remove the second one."
            )
    if given.keep is not None and len(set(given.keep)) < 2:
        yield Problem("keep", f"{len(given.keep)} joints", "at least 2", "Keep more joints.")
    kept = given.keep or joints
    new = [given.rename.get(name, name) for name in kept]
    if repeated := sorted({name for name in new if new.count(name) > 1}):
        yield Problem(
            "rename", f"{listed(repeated)} for two joints", "different names", "Choose another name."
        )
    if given.file_joints is not None and (absent := [name for name in kept if name not in given.file_joints]):
        yield Problem(
            "file_joints",
            f"no {listed(absent)}",
            "every joint that is kept",
            "Add it, or use keep without it.",
        )
    count = len(given.file_joints or joints)
    if isinstance(given.format, NtuFormat | UclaFormat) and count != given.format.joints:
        yield Problem(
            "skeleton" if given.file_joints is None else "file_joints",
            counted(count, "joint"),
            f"the {given.format.joints} joints of the files of reader {given.format.reader}",
            "Use a skeleton with these joints, or another reader.",
        )


def _field_problems(given: DatasetDescription) -> Iterator[Problem]:
    if given.clips.pattern is None and given.clips.table is None and given.format.reader != "pyskl":
        yield Problem("clips", "neither pattern nor table", "one of them", "Add for example pattern.")
    if given.clips.table is not None and given.format.reader == "pyskl":
        fix = "Remove it. clips.pattern reads subject, camera and other numbers from the names."
        yield Problem("clips.table", "a table", "none: the files have names and labels", fix)
    if given.file_joints is not None and given.format.reader == "poses":
        fix = "Remove it, and use format.joint_names where names differ."
        yield Problem("file_joints", "a list", "none: the files name their joints", fix)
    if bad := [name for name in given.missing if not CLIP_NAME.fullmatch(name)]:
        yield Problem("missing", short(bad[0]), "clip names", "Write one name a line, without a path.")
    there = given.clips.fields
    for key in given.clips.values:
        if key == "label":
            yield Problem("clips.values.label", "a list", "no list: classes names the labels", "Use classes.")
        elif key not in there:
            yield Problem(f"clips.values.{key}", "a list", "a group of the pattern", f"Add (?P<{key}>...).")
    if classes := given.labels.keys() & {*given.clips.unlabelled, *map(canonical, given.clips.unlabelled)}:
        yield Problem("clips.unlabelled", listed(sorted(classes)), "no value of a class", "Remove it.")
    for name in given.performance:
        if name not in there:
            yield Problem("performance", name, "a group of the pattern", "Remove it.")
    if given.test_views and not any(
        isinstance(protocol, FieldProtocol) and protocol.by_camera for protocol in given.protocols.values()
    ):
        yield Problem(
            "test_views",
            listed(given.test_views),
            "a protocol with field: camera",
            "Remove test_views.",
        )


def _protocol_problems(given: DatasetDescription) -> Iterator[Problem]:
    there = given.clips.fields
    if not given.protocols:
        yield Problem("protocols", "none", "at least one", "Leave out the key for a random half.")
    for name, protocol in given.protocols.items():
        used = (
            protocol.field
            if isinstance(protocol, FieldProtocol)
            else protocol.leave_one_out
            if isinstance(protocol, LeaveOneOut)
            else None
        )
        if used is not None and used not in there:
            groups = listed(sorted(there))
            yield Problem(
                f"protocols.{name}",
                f"the field {used}",
                f"a group of clips.pattern: {groups}",
                f"Add (?P<{used}>...).",
            )
        if isinstance(protocol, FieldProtocol):
            yield from _value_problems(given, name, protocol)
        if isinstance(protocol, ListProtocol):
            both = sorted(set(protocol.train_clips) & set(protocol.test_clips or ()))
            if both:
                yield Problem(
                    f"protocols.{name}",
                    f"{listed(both, 3)} in both lists",
                    "each clip in one list",
                    "Remove one.",
                )


def _value_problems(given: DatasetDescription, name: str, protocol: FieldProtocol) -> Iterator[Problem]:
    for part, values in (("train", protocol.train), ("test", protocol.test or ())):
        for value in values:
            if given.number(protocol.field, value) is None:
                names: Iterable[str] = given.clips.values.get(protocol.field, ())
                fix = f"List names in clips.values.{protocol.field}."
                if protocol.field == "label":
                    names, fix = given.classes, f"The values are {listed(given.classes, 40)}."
                fix = suggest(str(value), list(names)) or fix
                yield Problem(f"protocols.{name}.{part}", repr(value), f"a value of {protocol.field}", fix)
    # By number: 1 and the name that is numbered 1 are the same value.
    train = {given.number(protocol.field, value) for value in protocol.train} - {None}
    if both := [value for value in protocol.test or () if given.number(protocol.field, value) in train]:
        yield Problem(
            f"protocols.{name}", f"{listed(both)} for both", "each value once", "Remove it from one part."
        )
