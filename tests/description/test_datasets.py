"""The built-in datasets, and the use of names, fields and protocols of a description."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import psptool.skeletons
from psptool.common.errors import PspError
from psptool.data.splits.making import SplitRequest, make_split
from psptool.data.splits.protocols import choose_protocols, divide, leave_one_out_of, protocol_names
from psptool.formats.readers.base import ClipSource, FileRef
from psptool.formats.readers.naming import find_named
from psptool.preparation.naming import name_clips
from psptool.schemas import clip_names
from psptool.schemas.builtin import (
    builtin_dataset,
    dataset_names,
    datasets_named,
    find_datasets,
    load_description,
)
from psptool.schemas.clip_names import NameParser
from psptool.schemas.description import DatasetDescription
from psptool.schemas.formats import PosesOptions
from psptool.schemas.plain_yaml import dump_yaml, load_yaml, read_packaged, read_yaml
from psptool.skeletons.keys import ClipKey

PACKAGED = Path(psptool.skeletons.__file__).parent
VALUES: dict[str, Any] = {
    "name": "own",
    "skeleton": "kinect20",
    "format": {"reader": "ucla"},
    "clips": {
        "pattern": r"(?P<label>[a-z]+|[0-9]+)_s(?P<subject>[a-z]+)(?:_(?P<camera>\d+))?",
        "values": {"subject": ["anna", "bob", "cem"]},
    },
    "classes": {"walk": "walk", "run": "move fast", "hurry": "move fast", 7: "sit"},
    "protocols": {
        "loso": {"leave_one_out": "subject", "label_counts": {0.5: 1}},
        "xsub": {"field": "subject", "train": ["anna", "cem"]},
        "half": {"share": 0.5},
        "own": {"train_clips": ["walk_sanna", "run_sbob"], "test_clips": ["sit_scem"]},
        "class": {"field": "label", "train": ["walk"], "test": ["hurry"]},
    },
}


def own(**changes: Any) -> DatasetDescription:
    return DatasetDescription.model_validate({**VALUES, **changes})


def clips(dataset: DatasetDescription, *names: str) -> dict[str, ClipKey]:
    found = {name: dataset.parse(name) for name in names}
    assert all(found.values())
    return {name: key for name, key in found.items() if key is not None}


NAMES = [
    f"{label}_s{subject}" for label in ("walk", "run", "hurry", "007") for subject in ("anna", "bob", "cem")
]


@pytest.mark.parametrize("name", dataset_names())
def test_a_description_is_unchanged_after_storing_and_reading(name: str) -> None:
    stored = builtin_dataset(name).complete()
    again = DatasetDescription.model_validate_json(stored.model_dump_json())
    assert again == stored
    assert again.model_dump_json() == stored.model_dump_json()
    assert again.topology == builtin_dataset(name).topology


@pytest.mark.parametrize("path", sorted(PACKAGED.rglob("*.yaml")), ids=lambda path: path.stem)
def test_both_yaml_loaders_read_the_same_values_from_packaged_files(path: Path) -> None:
    assert read_packaged(path) == read_yaml(path)


def test_numbers_in_yaml_are_decimal_even_with_leading_zeros(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("train: [001, 008, 010, -3, +4]\ntimes: [1:30, 1_000, 0x10]\n010: clap\n")
    assert read_yaml(path) == {"train": [1, 8, 10, -3, 4], "times": ["1:30", "1_000", "0x10"], 10: "clap"}


@pytest.mark.parametrize("keys", ["1: walk, 01: run", "10: walk, 010: run", "1: walk, '1': run"])
def test_one_number_as_two_keys_in_yaml_is_refused(tmp_path: Path, keys: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"classes: {{{keys}}}\n")
    with pytest.raises(PspError, match=r"found the key '0?10?' twice"):
        read_yaml(path)


def test_texts_that_look_like_numbers_are_texts_again_in_yaml_that_was_written() -> None:
    texts = ["08", "+08", "010", "1e3", "1e-3", ".5", "1_000", "0x10", "1:30", "off", "true"]
    values = [*texts, 8, 1e-5, 1e16, True]
    again = load_yaml(dump_yaml(values))
    assert (again, list(map(type, again))) == (values, list(map(type, values)))


def test_the_datasets_of_a_group_are_sorted_by_number_of_classes() -> None:
    assert [one.name for one in datasets_named("ntu")] == ["ntu60", "ntu120"]
    assert [one.name for one in datasets_named("ntu120")] == ["ntu120"]
    with pytest.raises(PspError, match=r"found 'ntu20'.*Did you mean ntu"):
        find_datasets("ntu20")


def test_clip_names_are_parsed_into_a_label_and_numbers_of_fields() -> None:
    dataset = own()
    assert dataset.class_names == ("walk", "move fast", "sit")
    assert dataset.parse("hurry_sbob") == dataset.parse("run_sbob") == ClipKey(1, subject=2)
    assert dataset.parse("007_scem_04") == ClipKey(2, subject=3, camera=4)
    for other in (
        "walk_sanna_²",
        "walk_sanna_٣",
        "00walk_sanna",
        "jump_sanna",
        "walk_sdan",
        "walk_sanna.npy",
        "",
        "walk",
    ):
        assert dataset.parse(other) is None
    assert dataset.value("subject", 2) == "bob"
    assert pickle.loads(pickle.dumps(dataset.parse))("walk_sanna") == ClipKey(0, subject=1)


def test_a_pattern_with_a_slash_matches_the_end_of_the_path() -> None:
    dataset = own(
        clips={"pattern": r"(?P<label>[a-z]+)/take(?P<repetition>\d+)"}, protocols={"half": {"share": 0.5}}
    )
    assert not dataset.keys_in_names
    assert dataset.parse.of_path("data/walk/take3") == ("walk_take3", ClipKey(0, repetition=3))
    assert dataset.parse.of_path("walk/take3") == ("walk_take3", ClipKey(0, repetition=3))
    assert dataset.parse.of_path("walk/more/take3") is None
    assert dataset.parse.of_path("sidewalk/take3") is None
    assert own().parse.of_path("data/walk_sanna") == ("walk_sanna", ClipKey(0, subject=1))


def test_a_pattern_for_paths_may_refer_to_its_own_groups_by_number() -> None:
    dataset = own(
        clips={"pattern": r"(?P<label>[a-z]+)/\1_s(?P<subject>\d)"}, protocols={"half": {"share": 0.5}}
    )
    assert dataset.parse.of_path("data/walk/walk_s3") == ("walk_walk_s3", ClipKey(0, subject=3))
    assert dataset.parse.of_path("data/walk/run_s3") is None


def test_leave_one_out_is_one_protocol_for_each_value() -> None:
    dataset = own()
    keys = clips(dataset, *NAMES)
    folds = choose_protocols(dataset, keys, None, None)
    assert [fold.name for fold in folds] == ["loso-anna", "loso-bob", "loso-cem"]
    train, test = divide(dataset, folds[1], keys)
    assert test == {name for name in NAMES if name.endswith("bob")}
    assert train == set(NAMES) - test
    assert protocol_names(dataset, keys)[:4] == ["loso-anna", "loso-bob", "loso-cem", "xsub"]
    assert choose_protocols(dataset, keys, "loso-cem", None) == (folds[2],)
    with pytest.raises(PspError, match="loso-dan"):
        choose_protocols(dataset, keys, "loso-dan", None)


def test_a_fold_names_its_leave_one_out_protocol() -> None:
    rule = {"leave_one_out": "subject"}
    dataset = own(
        protocols={"loso": rule, "loso-all": rule, "loso-x": {"share": 0.5}, "half": {"share": 0.5}}
    )
    names = ("loso-anna", "loso-all-anna", "loso-x", "half", "loso")
    found = [leave_one_out_of(dataset, name) for name in names]
    assert found == ["loso", "loso-all", None, None, None]


def test_values_of_a_protocol_field_may_be_names_including_class_names() -> None:
    dataset = own()
    keys = clips(dataset, *NAMES)
    (xsub,) = choose_protocols(dataset, keys, "xsub", None)
    assert divide(dataset, xsub, keys)[1] == {name for name in NAMES if name.endswith("bob")}
    (by_class,) = choose_protocols(dataset, keys, "class", None)
    train, test = divide(dataset, by_class, keys)
    assert {name[:3] for name in train} == {"wal"}
    assert {name[:3] for name in test} == {"run", "hur"}


def test_a_random_share_has_half_of_each_class_and_depends_only_on_names_and_seed() -> None:
    dataset = own(protocols={"a": {"share": 0.5}, "b": {"share": 0.5, "seed": 1}})
    names = [f"{label}_sanna_{n:02d}" for label in ("walk", "7") for n in range(10)]
    keys, reordered = clips(dataset, *names), clips(dataset, *reversed(names))
    (first,), (second,) = (choose_protocols(dataset, keys, name, None) for name in "ab")
    train, test = divide(dataset, first, keys)
    assert divide(dataset, first, reordered) == (train, test)
    assert train | test == set(names)
    assert sum(name.startswith("walk") for name in train) == len(train) - 5 == 5
    assert divide(dataset, second, keys)[0] != train


def test_a_protocol_with_lists_uses_the_listed_clips_only() -> None:
    dataset = own()
    keys = clips(dataset, *NAMES) | {"sit_scem": ClipKey(2)}
    (lists,) = choose_protocols(dataset, keys, "own", None)
    assert divide(dataset, lists, keys) == ({"walk_sanna", "run_sbob"}, {"sit_scem"})


def test_lists_are_read_from_files_next_to_the_description(tmp_path: Path) -> None:
    values = {**VALUES, "protocols": {"own": {"train_clips": "lists/train.txt"}}, "missing": "skip.txt"}
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_bytes(
        b"\xef\xbb\xbfwalk_sanna\r\nrun_sbob\r\n\r\nwalk_sanna\r\n"
    )
    (tmp_path / "skip.txt").write_text("sit_scem")
    (tmp_path / "own.yaml").write_text(json.dumps(values))
    found = load_description(tmp_path / "own.yaml")
    assert found.missing == ("sit_scem",)
    assert found.protocols["own"].train_clips == ("walk_sanna", "run_sbob")  # type: ignore[union-attr]


def test_a_split_of_one_leave_one_out_fold_has_its_name_and_label_counts() -> None:
    dataset = own()
    request = SplitRequest(count=1, protocol="loso-anna")
    result = make_split(dataset, clips(dataset, *NAMES), "0" * 64, request)
    assert result.split.protocol == "loso-anna"
    assert result.split.labelled_per_class == {"walk": 1, "move fast": 1, "sit": 1}
    assert result.split.performances == 3
    with pytest.raises(PspError, match="loso, which gives 3 splits, expected one, such as loso-anna"):
        make_split(dataset, clips(dataset, *NAMES), "0" * 64, SplitRequest(count=1, protocol="loso"))


def test_values_with_long_names_are_numbered_in_the_names_of_protocols() -> None:
    protocols = {"lolo": {"leave_one_out": "label"}}
    dataset = own(classes={"walk": "w" * 84, "run": "run", "hurry": "run", 7: "sit"}, protocols=protocols)
    keys = clips(dataset, *NAMES)
    assert protocol_names(dataset, keys) == ["lolo-0", "lolo-1", "lolo-2"]
    split = make_split(dataset, keys, "0" * 64, SplitRequest(count=1, protocol="lolo-0")).split
    assert {name.partition("_")[0] for name in split.test} == {"walk"}


def test_without_protocols_half_of_the_clips_are_used_for_training() -> None:
    values = {key: value for key, value in VALUES.items() if key != "protocols"}
    dataset = DatasetDescription.model_validate(values)
    assert list(dataset.protocols) == ["random"]
    keys = clips(dataset, *NAMES)
    train, test = divide(dataset, choose_protocols(dataset, keys, None, None)[0], keys)
    assert (len(train), len(test)) == (7, 5)  # 3, 6 and 3 clips; halves are rounded up


def test_kept_joints_are_listed_in_the_order_of_the_files() -> None:
    dataset = own(
        keep=["head", "spine", "left hand"],
        rename={"head": "top"},
        file_joints=["spine", None, "head", "left hand"],
        format={"reader": "arrays"},
    )
    assert dataset.topology.joints == ("top", "spine", "left hand")
    assert dataset.in_files == ("spine", None, "top", "left hand")


def poses_in_folders(**changes: Any) -> tuple[DatasetDescription, list[ClipSource]]:
    values = {
        "skeleton": "coco17",
        "format": {"reader": "poses", "suffixes": [".analysis.h5", ".predictions.slp"]},
        "clips": {"pattern": "(?P<label>walk|sit)/[a-z.]+"},
        "classes": ["walk", "sit"],
        "protocols": {"half": {"share": 0.5}},
    }
    dataset = own(**values | changes)
    assert isinstance(dataset.format, PosesOptions)
    files = [FileRef(f"raw/{name}", None, 1) for name in ("walk/a.b.analysis.h5", "sit/c.predictions.slp")]
    return dataset, find_named(files, dataset.format, None)[0]


def test_names_of_recordings_in_folders_contain_no_part_of_the_suffix() -> None:
    clips, strays = name_clips(*poses_in_folders())
    assert ([clip.name for clip in clips], strays) == (["walk_a.b", "sit_c"], [])


@pytest.mark.parametrize("names", [("a.b", "c"), ("a.b.analysis.h5", "raw/sit/c.predictions.slp")])
@pytest.mark.parametrize("separator", [",", ", "])
def test_a_clip_table_names_recordings_with_or_without_the_suffix(
    names: tuple[str, str], separator: str, tmp_path: Path
) -> None:
    table = tmp_path / "clips.csv"
    rows = (("file", "label"), (names[0], "walk"), (names[1], '"sit"'))
    table.write_text("".join(f"{separator.join(row)}\n" for row in rows))
    clips, strays = name_clips(*poses_in_folders(clips={"table": str(table)}))
    assert ([clip.name for clip in clips], strays) == (["a.b", "c"], [])


def test_a_pattern_that_takes_too_long_to_match_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clip_names, "_MATCH_SECONDS", 0.05)
    parse = NameParser(r"(?P<label>\w*)(\w)\w*\2\w*\2\w*\2\w*[!?]", {})
    for match in (parse, parse.of_path):
        with pytest.raises(PspError, match=r"clips\.pattern: matching 'aaa.*takes too long: found more than"):
            match("a" * 255)
