"""Files of earlier versions, which contain the name of a built-in dataset instead of a description."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import pytest

from psptool.common.errors import PspError
from psptool.data.store.reading import open_store
from tests.builtin import UCLA
from tests.stores import make_clip, set_manifest, write_ucla


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A dataset in format version 1, without a description."""
    file = tmp_path / "u.h5"
    write_ucla(file, [make_clip("a01_s01_e00_v01", 1)])
    change(file)
    return file


def change(file: Path, **changes: Any) -> None:
    with h5py.File(file, "a") as opened:
        values = json.loads(opened.attrs["manifest"])
        values.pop("description", None)
        old = {
            "dataset": "ucla",
            "topology": "ucla20",
            "class_names": list(UCLA.class_names),
            "format_version": 1,
        }
        set_manifest(opened, json.dumps({**values, **old, **changes}))


def test_a_file_of_version_1_is_read_with_the_description_of_its_dataset(path: Path) -> None:
    with open_store(path) as store:
        assert store.manifest.description == UCLA.complete()
        assert store.manifest.format_version == 2
        assert store.clip(0).class_name == "pick up with one hand"


def test_a_file_in_which_a_name_has_two_numbers_stays_readable(tmp_path: Path) -> None:
    file = tmp_path / "u.h5"
    write_ucla(file, [make_clip("a01_s01_e00_v01", 1)])
    with h5py.File(file, "a") as opened:
        values = json.loads(opened.attrs["manifest"])
        values["description"]["clips"]["values"] = {"camera": ["front", "side", "front"]}
        set_manifest(opened, json.dumps(values))
    with open_store(file) as store:
        assert store.manifest.description.numbers == {"camera": {"front": 3, "side": 2}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "ucl"}, "dataset: found 'ucl', expected one of ntu120, ntu60, ucla"),
        ({"topology": "ntu25"}, "topology of ucla: found 'ntu25', expected kinect20"),
        ({"class_names": ["one"]}, "class names: found 1, expected 10"),
        ({"class_names": 7}, "class names: found none, expected 10"),
    ],
)
def test_a_file_of_version_1_that_contradicts_its_dataset_is_refused(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    change(path, **changes)
    with pytest.raises(PspError, match=message):
        open_store(path)
