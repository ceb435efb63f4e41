"""Clips whose class is unknown: prepared, used in training without a label, never evaluated."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.data.splits.making import SplitRequest, make_split
from psptool.data.splits.protocols import protocol_names
from psptool.data.store.reading import open_store
from psptool.schemas.clip_names import NameParser
from psptool.schemas.description import DatasetDescription
from psptool.schemas.protocols import ListProtocol
from psptool.schemas.split import SPLIT_PARTS, Split
from psptool.skeletons.keys import NO_LABEL, ClipKey
from tests.cli.conftest import Psptool

OWN = """
name: own
skeleton: kinect20
format: {reader: ucla}
clips: {table: clips.csv}
classes: {1: reach, 5: sit}
frame_rate: 15
protocols:
  views: {field: camera, train: [1, 2]}
"""


@pytest.fixture
def prepared(psptool: Psptool, recordings: Path, small: None) -> Psptool:
    """The command line in a folder with ``data/own.h5``; 12 of its 36 clips, those of episode 2, have no label."""
    rows = ["file,label,camera"]
    for path in sorted((recordings / "all_sqe").glob("*.json")):
        action, _, episode, view = (int(part[1:]) for part in path.stem.split("_"))
        rows.append(f"{path.name},{'' if episode == 2 else action},{view}")
    Path("clips.csv").write_text("\n".join(rows) + "\n")
    Path("own.yaml").write_text(OWN)
    out = psptool("prepare", "own.yaml", "--raw", recordings / "all_sqe", "--jobs", 1).out
    assert re.search("^  without a label +12$", out, re.MULTILINE)
    return psptool


def make_description(
    pattern: str = r"(?P<label>[a-z]+)_s(?P<subject>\d)(_v(?P<camera>\d))?", **clips: object
):
    return DatasetDescription.model_validate(
        {
            "name": "own", "skeleton": "kinect20", "format": {"reader": "table"}, "frame_rate": 30,
            "clips": {"pattern": pattern, **clips}, "classes": ["sit", "wave"],
            "protocols": {
                "subjects": {"field": "subject", "train": [1]},
                **({"views": {"field": "camera", "train": [1]}} if "camera" in pattern else {}),
                "half": {"share": 0.5},
                "lists": {"train_clips": ["sit_s1", "what_s1"]},
            },
        }
    )  # fmt: skip


def test_a_name_without_the_group_label_or_with_a_value_of_unlabelled_has_no_label() -> None:
    parse = make_description(r"(?P<label>[a-z]+)_s(?P<subject>\d)|GX\d+", unlabelled=("what", "0")).parse
    assert parse("wave_s2") == ClipKey(1, subject=2)
    assert parse("what_s2") == ClipKey(NO_LABEL, subject=2)
    assert parse("GX0100") == ClipKey(NO_LABEL)
    assert parse("jump_s2") is None
    assert parse("other") is None
    assert isinstance(parse, NameParser)
    assert parse.problem("jump_s2") == "label 'jump' is not a class of the description"
    numbered = make_description(r"a(?P<label>\d+)_s(?P<subject>\d)", unlabelled=("0",)).parse
    assert numbered("a000_s1") == ClipKey(NO_LABEL, subject=1)


@pytest.mark.parametrize(
    ("given", "values"),
    [([0], ("0",)), (0, ("0",)), ("unknown", ("unknown",)), (["unknown", 12], ("unknown", "12"))],
)
def test_values_of_unlabelled_need_neither_quotes_nor_a_list(given: object, values: tuple[str, ...]) -> None:
    assert make_description(unlabelled=given).clips.unlabelled == values


@pytest.mark.parametrize("given", [[True], [0.5], {"a": 1}, None, [["unknown"]]])
def test_other_values_of_unlabelled_are_refused_with_what_is_expected(given: object) -> None:
    with pytest.raises(ValueError, match=r"expected values of label, such as \[unknown, 0\]"):
        make_description(unlabelled=given)


def test_a_class_must_not_be_a_value_of_unlabelled() -> None:
    with pytest.raises(ValueError, match=r"clips.unlabelled: found wave, expected no value of a class"):
        make_description(unlabelled=("wave",))


@pytest.mark.parametrize(
    ("protocol", "unlabelled", "test"),
    [
        # The second subject is in the test set: its clip without a label is not used.
        ("subjects", {"what_s1", "what_s1_v1", "wave_s1", "what_s1_v2"}, {"sit_s2", "wave_s2"}),
        # Clips without a camera: those with a label are test clips, as in every dataset.
        ("views", {"what_s1", "what_s2", "what_s1_v1"}, None),
        ("half", {"what_s1", "what_s2", "what_s1_v1", "what_s1_v2"}, None),
        ("lists", {"what_s1"}, None),
    ],
)
def test_clips_without_a_label_are_unlabelled_training_clips_and_never_test_clips(
    protocol: str, unlabelled: set[str], test: set[str] | None
) -> None:
    dataset = make_description(unlabelled=("what",))
    names = (
        "sit_s1",
        "sit_s1_v1",
        "wave_s1",
        "sit_s2",
        "wave_s2",
        "what_s1",
        "what_s2",
        "what_s1_v1",
        "what_s1_v2",
    )
    clips = {name: key for name in names if (key := dataset.parse(name)) is not None}
    assert len(clips) == len(names)
    request = SplitRequest(ratio=0.5 if protocol == "subjects" else 1.0, protocol=protocol)
    split = make_split(dataset, clips, "0" * 64, request).split
    without = {name for name in names if name.startswith("what")}
    assert unlabelled & without == {*split.unlabelled} & without
    assert not without & {*split.labelled, *split.validation, *split.test}
    assert test is None or {*split.test} == test


def test_a_subject_without_labels_is_not_a_fold_and_its_clips_are_training_clips() -> None:
    values = make_description(unlabelled=("what",)).model_dump()
    dataset = DatasetDescription.model_validate(
        {**values, "protocols": {"loso": {"leave_one_out": "subject"}}}
    )
    names = ("sit_s1", "wave_s1", "sit_s2", "wave_s2", "what_s2", "what_s7")
    clips = {name: key for name in names if (key := dataset.parse(name)) is not None}
    assert protocol_names(dataset, clips) == ["loso-1", "loso-2"]
    split = make_split(dataset, clips, "0" * 64, SplitRequest(ratio=1.0, protocol="loso-2")).split
    assert (split.unlabelled, split.test) == (("what_s7",), ("sit_s2", "wave_s2"))


def test_an_unlabelled_clip_in_neither_list_is_a_training_clip() -> None:
    lists = {"train_clips": ["sit_s1"], "test_clips": ["sit_s2", "what_s2"]}
    dataset = make_description(unlabelled=("what",)).model_copy(
        update={"protocols": {"lists": ListProtocol(**lists)}}
    )
    clips = {name: key for name in ("sit_s1", "sit_s2", "what_s1", "what_s2") if (key := dataset.parse(name))}
    result = make_split(dataset, clips, "0" * 64, SplitRequest(ratio=1.0, protocol="lists"))
    assert (result.split.unlabelled, result.split.test) == (("what_s1",), ("sit_s2",))
    assert result.warnings == ("1 clip without a label outside of the training set: not used",)


def test_a_clip_name_without_any_pattern_group_is_kept(prepared: Psptool) -> None:
    prepared("export-data", "--format", "pyskl", "--out", "own.pkl")
    content = pickle.loads(Path("own.pkl").read_bytes())
    content["annotations"] = [
        {**one, "frame_dir": f"GX{n}", "label": -1} for n, one in enumerate(content["annotations"][:3])
    ]
    Path("few.pkl").write_bytes(pickle.dumps(content["annotations"]))
    Path("few.yaml").write_text(
        "{name: few, skeleton: kinect20, format: {reader: pyskl}, classes: [sit], frame_rate: 15, "
        "clips: {pattern: '(?P<label>sit)_a|GX[0-9]'}, protocols: {half: {share: 0.5}}}"
    )
    prepared("prepare", "few.yaml", "--raw", "few.pkl", "--jobs", 1)
    with open_store("data/few.h5") as store:
        assert list(store.names) == ["GX0", "GX1", "GX2"]


def test_clips_of_the_validation_view_are_not_used_in_training_even_without_labels() -> None:
    dataset = make_description(unlabelled=("what",))
    names = ("sit_s1_v1", "sit_s1_v2", "wave_s1_v1", "wave_s1_v2", "what_s1_v1", "what_s1_v2", "sit_s2_v1")
    clips = {name: key for name in names if (key := dataset.parse(name)) is not None}
    result = make_split(
        dataset, clips, "0" * 64, SplitRequest(ratio=1.0, protocol="subjects", validation="view=2")
    )
    assert set(result.split.validation) == {"sit_s1_v2", "wave_s1_v2"}
    assert result.split.unlabelled == ("what_s1_v1",)
    assert result.warnings == ("1 clip without a label outside of the training set: not used",)
    only = {name: key for name, key in clips.items() if name not in result.split.validation}
    with pytest.raises(PspError, match="--validation view=2: selects no training clip"):
        make_split(dataset, only, "0" * 64, SplitRequest(ratio=1.0, protocol="subjects", validation="view=2"))


def test_a_training_set_without_any_label_is_refused() -> None:
    dataset = make_description(unlabelled=("what",))
    clips = {name: ClipKey(label, subject) for name, label, subject in (("a", -1, 1), ("b", 0, 2))}
    with pytest.raises(PspError, match="own: no clip has a label"):
        make_split(dataset, {"a": clips["a"]}, "0" * 64, SplitRequest(ratio=0.5, protocol="subjects"))
    with pytest.raises(PspError, match="protocol subjects: no training clip has a label"):
        make_split(dataset, clips, "0" * 64, SplitRequest(ratio=0.5, protocol="subjects"))


def test_prepare_keeps_clips_without_a_label_and_split_adds_them_to_the_unlabelled_clips(
    prepared: Psptool,
) -> None:
    with open_store("data/own.h5") as store:
        without = {name for name, label in zip(store.names, store.table.label, strict=True) if label < 0}
        assert without == {name for name in store.names if "_e02_" in name}
        assert store.manifest.counts.unlabelled == 12
        assert store.clip(sorted(without)[0]).class_name == ""
    result = prepared("split", "--count", 2)
    assert "4 clips without a label outside of the training set: not used" in result.err
    split = Split.load(Path("splits/own-views-k2-s0.json"))
    assert {part: len(getattr(split, part)) for part in SPLIT_PARTS} == {
        "labelled": 4, "unlabelled": 12 + 8, "validation": 0, "test": 8
    }  # fmt: skip
    assert len(without & {*split.unlabelled}) == 8
    assert "identical" in prepared("split", "--check", "splits/own-views-k2-s0.json").out
    assert prepared("validate", "data/own.h5").out.startswith("data/own.h5: valid")


def test_inspect_shows_clips_without_a_label(prepared: Psptool) -> None:
    assert re.search("^without a label +12 *$", prepared("inspect", "data/own.h5").out, re.MULTILINE)
    assert json.loads(prepared("inspect", "data/own.h5", "--json").out)["unlabelled"] == 12
    assert re.search("^without a label +12 *$", prepared("inspect", "data/own.report.json").out, re.MULTILINE)
    prepared("split", "--count", 2)
    shown = prepared("inspect", "splits/own-views-k2-s0.json").out
    assert re.search("^unlabelled +20 *$", shown, re.MULTILINE)


def test_a_dry_run_shows_clips_without_a_label(prepared: Psptool, recordings: Path) -> None:
    dry_run = ("prepare", "own.yaml", "--raw", recordings / "all_sqe", "--jobs", 1, "--dry-run")
    assert re.search("^  without a label +12 *$", prepared(*dry_run).out, re.MULTILINE)
    assert json.loads(prepared(*dry_run, "--json").out)["unlabelled"] == 12


def test_exported_lists_contain_no_clip_without_a_label(prepared: Psptool) -> None:
    result = prepared("export-data", "--format", "pyskl", "--out", "own.pkl")
    assert "12 clips without a label: in no list" in result.out + result.err
    content = pickle.loads(Path("own.pkl").read_bytes())
    listed = {name for names in content["split"].values() for name in names}
    assert not [name for name in listed if "_e02_" in name]
    assert len(content["annotations"]) == 36
    result = prepared("export-data", "--format", "stgcn", "--out", "stgcn", "--lossy")
    names, labels = pickle.loads(Path("stgcn/train_label.pkl").read_bytes())
    assert (len(names), min(labels)) == (16, 0)


@pytest.mark.slow
def test_training_uses_clips_without_a_label_and_evaluation_ignores_them(prepared: Psptool) -> None:
    prepared("split", "--count", 2)
    prepared("train", "--preset", "fast")
    run = "runs/own-views-k2-s0-psp-fast"
    assert json.loads(prepared("evaluate", "--json").out)["clips"] == 8
    prepared("embed", "--out", "features.npz")
    with np.load("features.npz") as features:
        assert int((features["labels"] == NO_LABEL).sum()) == 12
    prepared("view", "data/own.h5", "a01_s01_e02_v01", "--model", run, "--out", "view.html")
