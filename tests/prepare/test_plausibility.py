"""Warnings if the coordinates contradict the unit or the vertical axis of the description."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from psptool.formats.synthesis.writing import write_ucla
from psptool.preparation.pipeline import estimate, prepare
from psptool.preparation.plausibility import SPINES, coordinate_warnings, fitting_unit
from psptool.schemas.builtin import builtin_dataset
from psptool.schemas.description import DatasetDescription

DATASET = builtin_dataset("ucla")
SPINE = np.full(10, 0.45)
UPRIGHT = Rotation.from_euler("x", np.linspace(60, 120, 10)[:, None], degrees=True).as_matrix()
"""Body axes whose z axis is close to the recorded y axis."""


def warnings(scale: NDArray[np.float64], rotation: NDArray[np.float64], **changes: str) -> str:
    return "\n".join(coordinate_warnings(DATASET.model_copy(update=changes), scale, rotation))


def test_recordings_that_agree_with_the_description_give_no_warning() -> None:
    some_lying = UPRIGHT.copy()
    some_lying[:2] = Rotation.from_euler("y", 90, degrees=True).as_matrix()
    assert warnings(SPINE, UPRIGHT) == ""
    assert warnings(SPINE, some_lying) == warnings(SPINE, some_lying, up="z") == ""
    assert warnings(SPINE[:4], UPRIGHT[:4], up="z") == ""  # too few clips
    assert warnings(SPINE, np.repeat(np.eye(3)[None], 10, axis=0)) == ""  # clips without alignment
    assert warnings(SPINE[:0], UPRIGHT[:0]) == ""


@pytest.mark.parametrize(
    ("factor", "length"),
    [
        (1000, "4.5e+02 m, expected 0.03 to 3 m (unit: mm gives 0.45 m)"),
        (100, "45 m, expected 0.03 to 3 m (unit: cm gives 0.45 m)"),
        (0.001, "0.00045 m, expected 0.03 to 3 m"),
    ],
)
def test_a_unit_that_implies_an_implausible_spine_length_gives_a_warning(factor: float, length: str) -> None:
    text = f"ucla: the spine has a median length of {length}. Check unit: m of"
    assert text in warnings(factor * SPINE, UPRIGHT)


def test_the_suggested_unit_is_that_of_the_files_if_the_description_has_another_one() -> None:
    assert "of 0.00045 m, expected 0.03 to 3 m (unit: m gives 0.45 m)" in warnings(
        0.001 * SPINE, UPRIGHT, unit="mm"
    )
    # 1 m is nearer to 0.5 m as a ratio than 0.1 m.
    assert fitting_unit(100, SPINES, 0.5) == ("cm", 1)


def test_a_minority_of_clips_of_implausible_size_gives_no_warning() -> None:
    assert warnings(np.concatenate((SPINE[:6], 1000 * SPINE[6:])), UPRIGHT) == ""


def test_five_clips_suffice_for_a_warning_of_the_vertical_axis() -> None:
    assert "the spine points to y in 5 of 5 clips tried" in warnings(SPINE[:5], UPRIGHT[:5], up="z")


@pytest.mark.parametrize("up", ["z", "-y"])
def test_a_vertical_axis_that_differs_from_the_spines_gives_a_warning(up: str) -> None:
    text = f"ucla: the spine points to y in 10 of 10 clips tried. Check up: {up} of the description"
    assert warnings(SPINE, UPRIGHT, up=up) == text


@pytest.mark.parametrize("dimensions", [2, 3])
def test_lengths_in_pixels_give_no_warning(dimensions: int) -> None:
    values = {**DATASET.model_dump(), "dimensions": dimensions, "unit": "px"}
    assert coordinate_warnings(DatasetDescription.model_validate(values), 1000 * SPINE, UPRIGHT) == ()


def test_preparation_and_its_estimate_warn(tmp_path: Path) -> None:
    write_ucla(tmp_path / "raw", [f"a01_s{s:02d}_e00_v01" for s in range(1, 7)])
    wrong = DATASET.model_copy(update={"name": "wrong", "unit": "mm", "up": "z"})
    for run in (estimate, prepare):
        for dataset, expected in ((DATASET, []), (wrong, ["unit: mm", "up: z"])):
            messages: list[str] = []
            out = tmp_path / f"{dataset.name}.h5"
            run(dataset, [tmp_path / "raw"], out, on_warning=messages.append)
            found = [
                text.split("Check ")[1].removesuffix(" of the description")
                for text in messages
                if "Check" in text
            ]
            assert found == expected
