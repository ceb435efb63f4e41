from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.formats.readers.base import FileRef
from psptool.formats.readers.naming import KeyOf
from psptool.formats.readers.pyskl import PACKED, PysklReader
from psptool.formats.readers.sources import OUTSIDE, find_clips, read_clip
from psptool.preparation.worker import prepare_clip, tasks
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.formats import PysklOptions
from psptool.skeletons.keys import UNNAMED, ClipKey

from .conformance import assert_valid_clip
from .general import FLAT, NAME, SKELETON, key_of, positions
from .raw import pack

KEYPOINT = np.stack([positions(), 10 + positions()]).astype(np.float16)
"""(M, T, V, C) of two persons, three frames."""


def reader_of(names: KeyOf | None = None, dimensions: int = 3, **options: Any) -> PysklReader:
    skeleton = SKELETON if dimensions == 3 else FLAT
    return PysklReader(skeleton, PysklOptions(reader="pyskl", **options), names)


def annotation(**changes: Any) -> dict[str, Any]:
    found = {"frame_dir": NAME, "total_frames": 3, "label": 1, "keypoint": KEYPOINT, "img_shape": (9, 9)}
    return found | changes


def saved(folder: Path, *annotations: Any, bare: bool = False) -> Path:
    content = list(annotations) if bare else {"split": {"train": [NAME]}, "annotations": list(annotations)}
    path = folder / "data.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize("bare", [False, True])
def test_annotations_are_clips_with_label_and_positions(bare: bool, tmp_path: Path) -> None:
    path = saved(
        tmp_path, annotation(frame_dir="b", label=0), annotation(frame_dir="x/a.skeleton"), bare=bare
    )
    sources, strays = find_clips([path], reader_of())
    assert not strays
    assert [(source.name, source.key) for source in sources] == [("a", ClipKey(1)), ("b", ClipKey(0))]
    assert str(sources[1].files[0]) == f"{path}:annotation 0 (b)"
    clip = reader_of().parse(sources[0], read_clip(sources[0]))
    assert_valid_clip(clip, reader_of())
    for person in range(2):
        assert (clip.xyz[clip.body == person] == KEYPOINT[person].astype(np.float32)).all()


def test_lists_with_the_same_name_in_several_files_are_merged(tmp_path: Path) -> None:
    for name, split in (
        ("a", {"xsub_train": ["a1", "x/a2"]}),
        ("b", {"xsub_train": ["a1", "b1"], "xsub_val": ["b2"]}),
    ):
        content = {"split": split, "annotations": [annotation(frame_dir=name)]}
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content))
    reader = reader_of()
    find_clips([tmp_path], reader)
    assert reader.lists == {"xsub_train": ("a1", "a2", "b1"), "xsub_val": ("b2",)}


def test_clips_are_prepared_in_tasks_after_pickling(tmp_path: Path) -> None:
    sources, _ = find_clips(
        [saved(tmp_path, *(annotation(frame_dir=f"c{n}") for n in range(5)))], reader_of()
    )
    clips = [
        prepare_clip(copies, pickle.loads(pickle.dumps(reader_of())), PreparationSettings()).clip
        for task in tasks([(source,) for source in pickle.loads(pickle.dumps(sources))])
        for copies in task
    ]
    assert [clip and clip.name for clip in clips] == [f"c{n}" for n in range(5)]


def test_names_may_contain_the_numbers_of_the_key_and_must_match_the_label(tmp_path: Path) -> None:
    path = saved(tmp_path, annotation(), annotation(label=0), annotation(frame_dir="run_s03"))
    (source,), strays = find_clips([path], reader_of(key_of))
    assert source.key == ClipKey(1, 3)
    assert [stray.source for stray in strays] == [f"{path}: annotation 2", f"{path}: annotation 1"]
    assert "'run_s03', expected a clip name" in strays[0].reason
    assert "found 0, expected 1, as in the name walk_s03" in strays[1].reason


@pytest.mark.parametrize("changes", [{}, {"label": None}])
def test_an_annotation_without_label_is_a_clip_if_names_have_no_pattern(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    item = {key: value for key, value in annotation().items() if key != "label"} | changes
    (source,), strays = find_clips([saved(tmp_path, item)], reader_of())
    assert (source.key, strays) == (UNNAMED, [])
    assert reader_of().parse(source, read_clip(source)).key == UNNAMED
    clips, (stray,) = find_clips([saved(tmp_path, item)], reader_of(key_of))
    assert not clips
    assert "annotation 0: label: label: found no label, expected 1, as in the name walk_s03" in stray.reason


@pytest.mark.parametrize("score_channel", [False, True])
def test_2d_joints_with_a_low_score_are_missing(score_channel: bool, tmp_path: Path) -> None:
    score = np.ones((2, 3, 4), np.float32)
    score[1, 2, 3], score[0, 1, 0] = 0, 0.2
    flat = (
        np.concatenate([KEYPOINT[..., :2], score[..., None]], axis=-1) if score_channel else KEYPOINT[..., :2]
    )
    path = saved(tmp_path, annotation(keypoint=flat, keypoint_score=score))
    reader = reader_of(dimensions=2, min_confidence=0.2)
    (source,), _ = find_clips([path], reader)
    clip = reader.parse(source, read_clip(source))
    assert np.argwhere(np.isnan(clip.xyz).any(axis=-1)).tolist() == [[2, 0], [5, 3]]
    assert not clip.xyz[..., 2].any()


def test_axes_of_mmaction2_are_read_and_repeated_frames_are_dropped(tmp_path: Path) -> None:
    stored = np.concatenate([KEYPOINT, KEYPOINT], axis=1).transpose(3, 1, 2, 0)
    reader = reader_of(axes="CTVM")
    (source,), _ = find_clips([saved(tmp_path, annotation(keypoint=stored))], reader)
    clip = reader.parse(source, read_clip(source))
    assert clip.frames == 3
    assert (clip.xyz[clip.body == 1] == KEYPOINT[1].astype(np.float32)).all()


BROKEN: list[tuple[Any, str]] = [
    (None, "no annotation: found None"),
    ([1], "no annotation"),
    ({}, "clip name"),
    (annotation(frame_dir=3), "frame_dir: clip name: found 3"),
    (annotation(frame_dir=""), "clip name"),
    (annotation(frame_dir="\x1b[0m"), "clip name"),
    (annotation(label="1"), "label: label: found '1'"),
    (annotation(label=-2), "found -2"),
    (annotation(label=1.0), "found 1.0"),
    (annotation(keypoint=None), "keypoint: positions: found None"),
    (annotation(keypoint=[[1.0]]), "positions"),
    (annotation(keypoint=np.array(["a"])), "an array of numbers"),
    (annotation(keypoint=KEYPOINT[0]), "shape (3, 4, 3), expected 4 axes MTVC"),
    (annotation(total_frames=4), "total_frames 4, expected 3 frames"),
    (annotation(total_frames="3"), "total_frames '3'"),
    (annotation(keypoint_score=np.ones((2, 3))), "keypoint_score: shape: found shape (2, 3)"),
    (annotation(keypoint_score=np.array("a")), "keypoint_score: positions"),
]


@pytest.mark.parametrize(("item", "text"), BROKEN, ids=range(len(BROKEN)))
def test_a_broken_annotation_is_a_stray_that_names_file_index_and_key(
    item: Any, text: str, tmp_path: Path
) -> None:
    path = saved(tmp_path, annotation(), item)
    sources, (stray,) = find_clips([path], reader_of())
    assert len(sources) == 1
    assert stray.source == f"{path}: annotation 1"
    assert stray.reason.startswith(f"{path}: annotation 1")
    assert text in stray.reason
    assert len(stray.reason) < 400 + len(str(path))
    assert "\n" not in stray.reason


SHAPES: list[tuple[Any, str]] = [
    (annotation(keypoint=KEYPOINT[..., :2]), "4 joints of 2 channels"),
    (annotation(keypoint=KEYPOINT[:, :, :3]), "3 joints of 3 channels"),
    (annotation(keypoint=KEYPOINT[:0]), "0 persons"),
    (annotation(keypoint=KEYPOINT[:, :0], total_frames=0), "0 frames"),
    (annotation(keypoint=KEYPOINT * np.nan), "no body"),
    (annotation(keypoint=KEYPOINT + np.float16(np.inf)), "not finite"),
]


@pytest.mark.parametrize(("item", "text"), SHAPES, ids=range(len(SHAPES)))
def test_an_invalid_array_is_excluded(item: Any, text: str, tmp_path: Path) -> None:
    (source,), _ = find_clips([saved(tmp_path, item)], reader_of())
    outcome = prepare_clip((source,), reader_of(), PreparationSettings())
    assert outcome.left_out is not None
    assert outcome.left_out.detail is not None
    assert f"data.pkl:annotation 0 ({NAME})" in outcome.left_out.detail
    assert text in outcome.left_out.detail


class Bomb:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


FILES: list[tuple[bytes, str]] = [
    (b"", "not a pickle"),
    (b"lorem ipsum", "not a pickle"),
    (pickle.dumps([annotation()])[:-9], "damaged"),
    (pickle.dumps([Bomb()]), "refused"),
    (pickle.dumps({"annotations": Path("x")}), "refused"),
    (pickle.dumps(3), "annotations: found 3"),
    (pickle.dumps([]), "annotations: found []"),
    (pickle.dumps({"split": {}}), "annotations: found None"),
]


@pytest.mark.parametrize(("blob", "text"), FILES, ids=range(len(FILES)))
def test_a_broken_file_is_an_error_that_names_it(blob: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(blob)
    with pytest.raises(PspError) as caught:
        find_clips([path], reader_of())
    assert str(caught.value).startswith(str(path))
    assert text in str(caught.value)
    assert caught.value.fix


def test_pickles_in_archives_and_compressed_pickles_are_strays(tmp_path: Path) -> None:
    blob = saved(tmp_path, annotation()).read_bytes()
    packed = pack(tmp_path / "raw.zip", {"data.pkl": blob})
    clips, (stray,) = find_clips([packed], reader_of())
    assert (clips, stray.reason) == ([], PACKED)
    clips, strays = reader_of().find([FileRef("data.pkl.gz", None, 1), FileRef("other.npy", None, 1)])
    assert (clips, [stray.reason for stray in strays]) == ([], [PACKED])


def test_a_member_with_a_path_outside_of_its_archive_does_not_hide_the_lists(tmp_path: Path) -> None:
    saved(tmp_path, annotation())
    pack(tmp_path / "raw.zip", {"../data.pkl": b""})
    reader = reader_of()
    _, (stray,) = find_clips([tmp_path], reader)
    assert (stray.reason, reader.lists) == (OUTSIDE, {"train": (NAME,)})
