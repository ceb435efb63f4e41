"""Options of the readers for general file formats: what a dataset's description says about its raw files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Literal

from pydantic import Field, field_validator, model_validator

from psptool.schemas.base import Strict

ArrayAxes = Literal["TVC", "MTVC", "TMVC", "CTV", "CTVM"]
Separator = Literal["auto", ",", ";", "\t", " "]
FIELDS = ("joint", "number", "axis")
"""Replacement fields of `TableOptions.coordinate_columns`."""


class FileOptions(Strict):
    """Options that all readers of general formats share."""

    suffixes: tuple[str, ...] = Field(
        min_length=1, description="Ends of the names of the recordings' files, in lower case"
    )
    min_confidence: float = Field(
        0.0, ge=0, description="A joint whose confidence is not above this value is missing"
    )
    max_gap: int = Field(
        0,
        ge=0,
        le=1000,
        description="Gaps in a person's track of up to this many frames are interpolated linearly; in longer gaps "
        "the person is absent",
    )

    @field_validator("suffixes")
    @classmethod
    def _check_suffixes(cls, suffixes: tuple[str, ...]) -> tuple[str, ...]:
        for suffix in suffixes:
            if not suffix.startswith(".") or suffix != suffix.lower() or "/" in suffix:
                raise ValueError(f"{suffix!r} is not a lower-case suffix such as .csv")
        return suffixes


class ArraysOptions(FileOptions):
    """Options of the reader `arrays`: one npy or npz file per clip."""

    reader: Literal["arrays"]
    suffixes: tuple[str, ...] = Field(
        (".npy", ".npz"),
        min_length=1,
        description="Ends of the names of the recordings' files, in lower case",
    )
    axes: ArrayAxes | None = Field(
        None,
        description="Order of the array's axes: M persons, T frames, V joints, C coordinates. Default: TVC for arrays "
        "of three axes, MTVC for four",
    )
    key: str | None = Field(
        None,
        description="npz: name of the array of positions. Default: the only array other than that of the confidence",
    )
    confidence_key: str | None = Field(
        None,
        description="npz: name of an array of confidences, which has the axes of the positions without C. Without "
        "it, a channel after the coordinates is the confidence",
    )
    padded: bool = Field(
        False, description="Whether frames without a body at the end are padding, and not part of the clip"
    )


class TableOptions(FileOptions):
    """Options of the reader `table`: one CSV, TSV, text or Parquet file per recording.

    In the wide form a row is one person in one frame, with one column per coordinate. In the long form a row is one
    joint of one person in one frame.
    """

    reader: Literal["table"]
    suffixes: tuple[str, ...] = Field(
        (".csv", ".tsv", ".parquet"),
        min_length=1,
        description="Ends of the names of the recordings' files, in lower case",
    )
    form: Literal["wide", "long"] = Field(
        "wide", description="`wide`: one column per coordinate; `long`: one row per joint"
    )
    separator: Separator = Field(
        "auto",
        description="Character between the fields; a space stands for any number of spaces and tabs. `auto`: the "
        "first of tab, semicolon and comma that is in the first line, otherwise a space",
    )
    decimal: Literal[".", ","] = Field(".", description="Decimal point or decimal comma")
    skip_lines: int = Field(
        0, ge=0, le=10_000, description="Number of lines before the header, which are ignored"
    )
    header: bool = Field(True, description="Whether the first line has the names of the columns")
    columns: tuple[str, ...] = Field(
        (),
        description="Without a header: names of the first columns, in order. In the wide form the coordinates follow, "
        "joint by joint",
    )
    frame: str | None = Field(
        None,
        description="Column of the frame number, an integer. Default: `frame`, if there is such a column; otherwise, "
        "in the wide form, the rows are consecutive frames",
    )
    person: str | None = Field(
        None,
        description="Column of the person's number or name. Default: `person`, if there is such a column; otherwise "
        "there is one person",
    )
    joint: str = Field("joint", description="Long form: column of the joint's name or number")
    axes: tuple[str, ...] = Field(
        ("x", "y", "z"),
        min_length=2,
        max_length=3,
        description="Names of the coordinates, in the order x, y, z. In 2D the third is ignored",
    )
    confidence: str | None = Field(
        None,
        description="Name of the confidence. Long form: its column. Wide form: its {axis} in `coordinate_columns`. "
        "Default: `confidence`, if there is such a column",
    )
    coordinate_columns: str = Field(
        "{joint}_{axis}",
        description="Wide form: the columns' names, from {joint} (name) or {number} (position in the order of the "
        "file's joints), and {axis}",
    )
    first_number: Literal[0, 1] = Field(0, description="Number of the first joint, where joints have numbers")
    joint_names: Mapping[str, str] = Field(
        {},
        description="Names of joints in the file that differ from the skeleton's, by the skeleton's names. Upper and "
        "lower case, spaces and punctuation make no difference",
    )

    @field_validator("columns", "axes")
    @classmethod
    def _check_unique(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _unique(names)

    @field_validator("coordinate_columns")
    @classmethod
    def _check_template(cls, template: str) -> str:
        try:
            parts = list(Formatter().parse(template))
        except ValueError as error:
            raise ValueError(f"{error}; expected text with {{joint}} or {{number}}, and {{axis}}") from None
        found = [name for _, name, _, _ in parts if name is not None]
        plain = all(not spec and not conversion for _, name, spec, conversion in parts if name is not None)
        if not plain or not set(found) <= set(FIELDS) or "axis" not in found or len(set(found)) < 2:
            raise ValueError("expected {joint} or {number}, and {axis}, such as {joint}_{axis}")
        return template

    @model_validator(mode="after")
    def _check_together(self) -> TableOptions:
        if self.decimal == "," and self.separator == ",":
            raise ValueError("decimal: a decimal comma needs another separator than the comma")
        if self.header and self.columns:
            raise ValueError("columns: only for files without a header (header: false)")
        if not self.header and self.form == "long" and not self.columns:
            raise ValueError("columns: the long form without a header needs the names of all columns")
        return self


class PysklOptions(FileOptions):
    """Options of the reader `pyskl`: pickle files of PYSKL and MMAction2, which hold many clips each."""

    reader: Literal["pyskl"]
    suffixes: tuple[str, ...] = Field(
        (".pkl", ".pickle"),
        min_length=1,
        description="Ends of the names of the pickle files, in lower case",
    )
    axes: Literal["MTVC", "CTVM"] = Field(
        "MTVC",
        description="Order of the axes of `keypoint`: M persons, T frames, V joints, C coordinates",
    )


class PosesOptions(FileOptions):
    """Options of the reader `poses`: one file of SLEAP per recording, in 2D."""

    reader: Literal["poses"]
    suffixes: tuple[str, ...] = Field(
        (".slp", ".analysis.h5"),
        min_length=1,
        description="Ends of the names of the recordings' files, in lower case: .slp and .h5, or longer ends such as "
        ".predictions.slp",
    )
    joint_names: Mapping[str, str] = Field(
        {},
        description="Names of joints in the file that differ from the skeleton's, by the skeleton's names. Upper and "
        "lower case, spaces and punctuation make no difference",
    )

    @field_validator("suffixes")
    @classmethod
    def _check_formats(cls, suffixes: tuple[str, ...]) -> tuple[str, ...]:
        for suffix in suffixes:
            if not suffix.endswith((".slp", ".h5")):
                raise ValueError(f"{suffix!r} is not a format of this reader, which are .slp and .h5")
        return suffixes


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    names = tuple(names)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(map(repr, twice))} occurs more than once")
    return names
