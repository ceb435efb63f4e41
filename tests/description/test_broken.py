"""Mistakes in descriptions: each is reported with file, key, value found and fix, and no file is written."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from psptool.common.errors import PspError
from psptool.schemas.builtin import load_description
from tests.cli.conftest import Psptool, files

GOOD: dict[str, Any] = {
    "name": "mine",
    "skeleton": "kinect20",
    "format": {"reader": "ucla"},
    "clips": {
        "pattern": r"(?P<label>[a-z]+)_s(?P<subject>\d+)_(?P<camera>[a-z]+)",
        "values": {"camera": ["front", "side"]},
    },
    "classes": ["walk", "run"],
    "protocols": {"xsub": {"field": "subject", "train": [1, 3]}},
}
SKELETON: dict[str, Any] = {
    "name": "stick",
    "joints": ["hips", "neck", "left shoulder", "right shoulder", "left hip", "right hip"],
    "bones": [
        ["hips", "neck"],
        ["neck", "left shoulder"],
        ["neck", "right shoulder"],
        ["hips", "left hip"],
        ["hips", "right hip"],
    ],
}
Change = Callable[[dict[str, Any]], object]


def put(*keys: str, value: Any) -> Change:
    """A change that sets a value."""

    def change(values: dict[str, Any]) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


def skeleton(**changes: Any) -> Change:
    """A change that sets a custom skeleton with these values."""
    return put("skeleton", value={**SKELETON, **changes})


BROKEN: dict[str, tuple[Change, str]] = {
    "no name": (lambda values: values.pop("name"), "name: found nothing, expected a value. Add the key name"),
    "a name that is a path": (
        put("name", value="../mine"),
        "name: found '../mine', expected at most 40 letters",
    ),
    "an unknown key": (put("framerate", value=25), "framerate: found a key that does not exist.*frame_rate"),
    "an unknown skeleton": (put("skeleton", value="coco71"), "skeleton: found 'coco71'.*Did you mean coco17"),
    "a format without reader": (put("format", value={}), "format: .*reader"),
    "an unknown reader": (put("format", "reader", value="xml"), "format: .*'ntu', 'ucla', 'arrays', 'table', 'pyskl'"),
    "file_joints for files that contain joint names": (
        lambda values: values.update(format={"reader": "poses"}, file_joints=["head", "spine"]),
        "file_joints: found a list, expected none: the files name their joints.*joint_names",
    ),
    "no pattern and no table": (
        lambda values: values["clips"].pop("pattern"),
        "clips: found neither pattern nor table",
    ),
    "a table for clips with names and labels": (
        lambda values: values.update(format={"reader": "pyskl"}, clips={"table": "clips.csv"}),
        "clips.table: found a table, expected none: the files have names and labels",
    ),
    "a pattern that is not a regular expression": (
        put("clips", "pattern", value="(?P<label>"),
        "clips.pattern: .*regular expression",
    ),
    "a pattern without label": (
        put("clips", "pattern", value=r"s(\d+)"),
        "clips.pattern: found no group named label",
    ),
    "an unknown group name": (
        put("clips", "pattern", value=r"(?P<label>x)_(?P<view>\d)"),
        "clips.pattern: found the group 'view'.*Did you mean camera",
    ),
    "a pattern with exponential matching time": (
        put("clips", "pattern", value=r"(?P<label>(a+)+)"),
        "a repeated group",
    ),
    "a repeated group in verbose mode": (
        put("clips", "pattern", value=r"(?ix)(?P<label>((a{9}) {9}) {9})"),
        "the flag x, expected a pattern without blanks and comments",
    ),
    "a pattern that needs gigabytes of memory": (
        put("clips", "pattern", value=r"(?P<label>[a-z]{1,99999999})"),
        "a repetition of over 999 times, expected at most 999 times",
    ),
    "values of a field without a group in the pattern": (
        put("clips", "values", value={"setup": ["a"]}),
        "clips.values.setup",
    ),
    "a name with two numbers": (
        put("clips", "values", value={"camera": ["front", "side", "front"]}),
        "clips.values.camera: found 'front' with the numbers 1 and 3, expected each name once. Remove",
    ),
    "a duplicate class": (put("classes", value=["walk", "run", "walk"]), "classes: found walk more than once"),
    "a duplicate class number": (put("classes", value={1: "walk", "01": "run"}), "classes: found 1 more than once"),
    "no classes": (put("classes", value={}), "classes: found {}"),
    "a protocol of unknown kind": (
        put("protocols", "xsub", value={"train": [1]}),
        "protocols.xsub: .*leave_one_out",
    ),
    "a protocol of a field without a group in the pattern": (
        put("protocols", "xset", value={"field": "setup", "train": [1]}),
        "protocols.xset: found the field setup, expected a group of clips.pattern",
    ),
    "a protocol with an unknown value name": (
        put("protocols", "xview", value={"field": "camera", "train": ["frontt"]}),
        "protocols.xview.train: found 'frontt'.*Did you mean front",
    ),
    "test views without a protocol by camera": (
        put("test_views", value=[1, 2]),
        "test_views: found 1, 2, expected a protocol with field: camera",
    ),
    "a value in both train and test": (
        put("protocols", "xsub", value={"field": "subject", "train": [1], "test": [1]}),
        "protocols.xsub: found 1 for both",
    ),
    "a value in both train and test, by name and by number": (
        put("protocols", "xview", value={"field": "camera", "train": ["front"], "test": [1]}),
        "protocols.xview: found 1 for both",
    ),
    "a label that is not a class": (
        put("protocols", "own", value={"field": "label", "train": ["jump"]}),
        "protocols.own.train: found 'jump', expected a value of label. The values are walk, run",
    ),
    "a share of 1": (
        put("protocols", "half", value={"share": 1}),
        "protocols.half.share: found 1, expected less than 1",
    ),
    "a missing list of clips": (
        put("protocols", "own", value={"train_clips": "train.txt"}),
        r"protocols: found train.txt \(No such file",
    ),
    "a missing list of clips to skip": (
        put("missing", value="skip.txt"),
        r"missing: found skip.txt \(No such file",
    ),
    "no frames per second": (put("frame_rate", value=0), "frame_rate: found 0, expected greater than 0"),
    "an unknown axis": (put("up", value="x"), "up: found 'x', expected 'y', 'z' or '-y'"),
    "an unknown joint to keep": (
        put("keep", value=["head", "hip center"]),
        "keep: found 'hip center'.*hip centre",
    ),
    "two joints with the same name": (put("rename", value={"head": "spine"}), "rename: found spine for two joints"),
    "file_joints without a joint of the skeleton": (
        put("file_joints", value=["head", "spine"]),
        "file_joints: found no hip centre",
    ),
    "a skeleton of another size than the files": (
        put("skeleton", value="ntu25"),
        "skeleton: found 25 joints, expected the 20 joints of the files of reader ucla",
    ),
    "a list of joints of another size than the files": (
        lambda values: values.update(
            skeleton="ntu25", format={"reader": "ntu"}, keep=["hips", "neck"], file_joints=["hips", "neck"]
        ),
        "file_joints: found 2 joints, expected the 25 joints of the files of reader ntu",
    ),
    "a duplicate joint": (
        skeleton(joints=["a", "b", "a"], bones=[["a", "b"]]),
        "skeleton.joints: found a more than once",
    ),
    "a bone to an unknown joint": (
        skeleton(bones=[["hips", "nek"]]),
        r"skeleton.bones.0: found 'nek'.*Did you mean neck",
    ),
    "a joint without a bone": (skeleton(bones=SKELETON["bones"][:4]), "no way from 'hips' to right hip"),
    "bones in a cycle": (
        skeleton(bones=[*SKELETON["bones"], ["left hip", "right hip"]]),
        "some joints are connected twice",
    ),
    "a part that overlaps": (
        skeleton(parts={"all": [*SKELETON["joints"]], "more": ["neck"]}),
        "parts: found neck more than once",
    ),
    "regions that leave out joints": (
        skeleton(regions={"some": ["neck", "hips"]}),
        "regions: found no group with",
    ),
    "an axis of one joint": (skeleton(spine=["neck", "neck"]), "skeleton.spine: found 'neck' twice"),
}  # fmt: skip


def broken(folder: Path, *changes: Change) -> Path:
    """Write a description with these changes and return its path."""
    values = copy.deepcopy(GOOD)
    for change in changes:
        change(values)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_description_without_mistakes_is_valid(tmp_path: Path) -> None:
    assert load_description(broken(tmp_path)).class_names == ("walk", "run")


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_is_reported_with_file_key_value_and_fix(tmp_path: Path, name: str) -> None:
    change, message = BROKEN[name]
    path = broken(tmp_path, change)
    with pytest.raises(PspError, match=message) as caught:
        load_description(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "expected" in text
    assert "pydantic" not in text


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    names = (
        "an unknown key",
        "an unknown skeleton",
        "an unknown group name",
        "a name with two numbers",
        "a duplicate class",
        "an unknown axis",
    )
    path = broken(tmp_path, *(BROKEN[name][0] for name in names))
    with pytest.raises(PspError, match=r"mine\.yaml: 6 mistakes") as caught:
        load_description(path)
    for key in ("framerate", "skeleton", "clips.pattern", "clips.values.camera", "classes", "up"):
        assert f"\n  {path}: {key}: found" in str(caught.value)


@pytest.mark.parametrize("name", list(BROKEN)[::4])
def test_the_command_exits_with_code_2_and_writes_nothing(psptool: Psptool, name: str) -> None:
    broken(Path(), BROKEN[name][0])
    Path("raw").mkdir()
    before = files()
    result = psptool("prepare", "mine.yaml", "--raw", "raw", code=2)
    assert result.err.startswith("error: mine.yaml: ")
    assert result.out == ""
    assert files() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not plain YAML"),
        ("- name", "not a mapping"),
        ("name: &a mine\ntitle: *a", "found anchor"),
        ("name: a\nname: b", "found the key 'name' twice"),
        ("name: !!python/name:os.system", "found tag"),
        ("? [a, b]\n: 1", "found a sequence as a key"),
        ("{{a: b}: 1}", "found a mapping as a key"),
        ("a: 1\n" * 50_000, "cannot be read"),
    ],
)
def test_a_file_that_is_not_plain_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(PspError, match=message):
        load_description(path)
