from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from psptool.common.errors import PspError, RawFormatError
from psptool.formats.readers import poses
from psptool.formats.readers.base import RawClip
from psptool.formats.readers.making import make_readers
from psptool.formats.readers.poses import PosesReader
from psptool.schemas.description import DatasetDescription
from psptool.schemas.formats import PosesOptions
from psptool.skeletons.keys import ClipKey

from .conformance import ReaderConformance, assert_valid_clip
from .general import FLAT, JOINTS, NAME, SKELETON, key_of, positions
from .raw import source_of

XY = positions(channels=2)
"""(T, V, C) of three frames."""


def reader_of(**options: Any) -> PosesReader:
    return PosesReader(FLAT, PosesOptions(reader="poses", **options), key_of)


def parse(blob: bytes, suffix: str = ".slp", **options: Any) -> RawClip:
    reader = reader_of(**options)
    clip = reader.parse(*source_of(reader, {f"{NAME}{suffix}": blob}))
    assert_valid_clip(clip, reader)
    return clip


@pytest.fixture
def sio() -> Any:
    return pytest.importorskip("sleap_io")


class Recording:
    """Labels of one or two videos, to which a test adds instances."""

    def __init__(self, sio: Any, nodes: tuple[str, ...] = JOINTS) -> None:
        self.sio, self.skeleton = sio, sio.Skeleton(name="small4", nodes=list(nodes))
        self.videos = [sio.Video(filename=f"{name}.mp4", open_backend=False) for name in "ab"]
        self.tracks = [sio.Track("one"), sio.Track("two")]
        self.frames: list[Any] = []

    def add(self, number: int, *instances: Any, video: int = 0) -> Recording:
        frame = self.sio.LabeledFrame(video=self.videos[video], frame_idx=number, instances=list(instances))
        self.frames.append(frame)
        return self

    def predicted(self, xy: Any, track: int | None = None, scores: Any = 0.9) -> Any:
        return self.sio.PredictedInstance.from_numpy(
            np.array(xy, float),
            skeleton=self.skeleton,
            point_scores=np.full(4, scores, float),
            score=0.9,
            track=None if track is None else self.tracks[track],
        )

    def labelled(self, xy: Any, **more: Any) -> Any:
        return self.sio.Instance.from_numpy(np.array(xy, float), skeleton=self.skeleton, **more)

    def saved(self, folder: Path, suffix: str = ".slp") -> bytes:
        path = folder / f"saved{suffix}"
        labels = self.sio.Labels(self.frames, tracks=self.tracks)
        save = {".slp": "save_slp", ".h5": "save_analysis_h5"}[path.suffix]
        getattr(self.sio, save)(labels, str(path))
        return path.read_bytes()


def three_frames(sio: Any, first: int = 0) -> Recording:
    recording = Recording(sio)
    for t in range(3):
        recording.add(first + t, recording.predicted(XY[t], 0))
    return recording


class PosesConformance(ReaderConformance):
    reader = reader_of()
    name = NAME
    stray = "run_s03.slp"
    suffix = ".slp"

    @pytest.fixture(autouse=True)
    def _content(self, sio: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.content = three_frames(sio).saved(tmp_path_factory.mktemp("recording"), self.suffix)

    def files(self) -> dict[str, bytes]:
        return {f"{NAME}{self.suffix}": self.content}


class TestSlpConformance(PosesConformance):
    pass


class TestAnalysisConformance(PosesConformance):
    suffix = ".analysis.h5"


@pytest.mark.parametrize("suffix", [".slp", ".analysis.h5"])
def test_frames_tracks_and_positions_are_read_from_every_format(
    suffix: str, sio: Any, tmp_path: Path
) -> None:
    recording = Recording(sio)
    recording.add(0, recording.predicted(XY[0], 0), recording.predicted(10 + XY[0], 1))
    recording.add(1, recording.predicted(XY[1], 1))
    recording.add(2, recording.predicted(XY[2], 0))
    clip = parse(recording.saved(tmp_path, suffix), suffix)
    assert (clip.frames, clip.key) == (3, ClipKey(1, 3))
    assert (clip.frame.tolist(), clip.body.tolist()) == ([0, 0, 1, 2], [0, 1, 1, 0])
    expected = np.stack([XY[0], 10 + XY[0], XY[1], XY[2]]).astype(np.float32)
    assert (clip.xyz[..., :2] == expected).all()
    assert not clip.xyz[..., 2].any()


@pytest.mark.parametrize("suffix", [".slp", ".analysis.h5"])
def test_frames_keep_their_numbers_and_skipped_frames_have_no_body(
    suffix: str, sio: Any, tmp_path: Path
) -> None:
    recording = Recording(sio)
    recording.add(7, recording.predicted(XY[0], 0)).add(10, recording.predicted(3 + XY[0], 0))
    blob = recording.saved(tmp_path, suffix)
    clip = parse(blob, suffix)
    assert clip.first_frame + clip.frame[0] == 7
    assert np.diff(clip.frame).tolist() == [3]
    filled = parse(blob, suffix, max_gap=2)
    assert np.allclose(filled.xyz[1, :, :2], 1 + XY[0])


@pytest.mark.parametrize("suffix", [".slp", ".analysis.h5"])
def test_joints_without_a_position_or_with_a_low_score_are_missing(
    suffix: str, sio: Any, tmp_path: Path
) -> None:
    xy = XY[0].copy()
    xy[1] = np.nan
    recording = Recording(sio)
    recording.add(0, recording.predicted(xy, 0, [0.9, 0.9, 0.3, 0.2])).add(1, recording.predicted(XY[1], 0))
    clip = parse(recording.saved(tmp_path, suffix), suffix, min_confidence=0.25)
    assert np.argwhere(np.isnan(clip.xyz).any(axis=-1)).tolist() == [[0, 1], [0, 3]]


def test_instances_without_track_are_numbered_after_the_tracks(sio: Any, tmp_path: Path) -> None:
    recording = Recording(sio)
    recording.add(0, recording.predicted(XY[0]), recording.predicted(XY[1], 1), recording.predicted(XY[2]))
    assert parse(recording.saved(tmp_path)).body.tolist() == [1, 2, 4]
    recording.tracks, recording.frames = [], []
    recording.add(0, recording.predicted(XY[0]), recording.predicted(XY[1]))
    assert parse(recording.saved(tmp_path)).body.tolist() == [0, 1]


def test_a_labelled_instance_has_full_confidence_and_replaces_its_prediction(
    sio: Any, tmp_path: Path
) -> None:
    recording = Recording(sio)
    wrong = recording.predicted(50 + XY[0])
    recording.add(0, wrong, recording.labelled(XY[0], from_predicted=wrong), recording.predicted(20 + XY[0]))
    clip = parse(recording.saved(tmp_path), min_confidence=0.5)
    assert sorted(clip.xyz[:, 0, 0].tolist()) == [np.float32(0.5), np.float32(20.5)]


def test_joints_are_found_by_name_in_any_order_and_may_be_renamed(sio: Any, tmp_path: Path) -> None:
    recording = Recording(sio, ("RightHand", "nose", "LEFT_HAND", "root", "Neck"))
    xy = np.array([XY[0, 3], [9, 9], XY[0, 2], XY[0, 0], XY[0, 1]])
    recording.add(0, recording.labelled(xy))
    blob = recording.saved(tmp_path)
    assert (parse(blob, joint_names={"hip": "root"}).xyz[0, :, :2] == XY[0].astype(np.float32)).all()
    with pytest.raises(RawFormatError, match=r"nodes: joint names: found 'RightHand'.* one node 'hip'"):
        parse(blob)
    with pytest.raises(PspError, match="joint_names: no joint of the skeleton flat4: found 'hipp'"):
        reader_of(joint_names={"hipp": "root"})


def test_a_description_selects_this_reader_and_may_keep_and_rename_joints(sio: Any, tmp_path: Path) -> None:
    values = {
        "name": "mine",
        "skeleton": "coco17",
        "keep": ["left hip", "right hip", "nose", "left wrist"],
        "rename": {"nose": "head"},
        "format": {"reader": "poses", "joint_names": {"head": "Nose", "left wrist": "hand"}},
        "clips": {"pattern": "(?P<label>[a-z]+)_s(?P<subject>[0-9]+)"},
        "classes": ["sit", "walk"],
    }
    (reader,) = make_readers(DatasetDescription.model_validate(values))
    recording = Recording(sio, ("hand", "Nose", "right_hip", "left_hip"))
    source, blobs = source_of(
        reader, {f"{NAME}.slp": recording.add(0, recording.labelled(XY[0])).saved(tmp_path)}
    )
    clip = reader.parse(source, blobs)
    assert clip.key == ClipKey(1, 3)
    assert (clip.xyz[0, :, :2] == XY[0, [3, 2, 1, 0]].astype(np.float32)).all()


def test_several_videos_are_refused_with_a_fix(sio: Any, tmp_path: Path) -> None:
    recording = three_frames(sio)
    recording.add(3, recording.predicted(XY[0]), video=1)
    with pytest.raises(RawFormatError, match=r"walk_s03\.slp: several videos: found 2.*a file for each"):
        parse(recording.saved(tmp_path))


def changed(blob: bytes, folder: Path, change: Any) -> bytes:
    path = folder / "changed.h5"
    path.write_bytes(blob)
    with h5py.File(path, "r+") as content:
        change(content)
    return path.read_bytes()


def external_link(content: Any) -> None:
    content["more"] = h5py.ExternalLink("other.h5", "/frames")


def without_frames(content: Any) -> None:
    del content["frames"]


def text_frames(content: Any) -> None:
    del content["frames"]
    content["frames"] = "text"


def without_metadata(content: Any) -> None:
    del content["metadata"]


def broken_json(content: Any) -> None:
    content["metadata"].attrs["json"] = np.bytes_(b"{")


def wrong_index(content: Any) -> None:
    values = content["instances"][:]
    values["point_id_start"] += 1000
    content["instances"][:] = values


def infinite(content: Any) -> None:
    values = content["pred_points"][:]
    values["x"][2] = np.inf
    content["pred_points"][:] = values


def large(content: Any) -> None:
    content.create_dataset("large", (2**20, 2**10), "f8", chunks=True)


def external_data(content: Any) -> None:
    content.create_dataset("outside", (3,), "f8", external=[("other.bin", 0, 24)])


def virtual(content: Any) -> None:
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (3,))
    content.create_virtual_dataset("virtual", layout)


BROKEN = {
    external_link: "unsafe: found a link to another file",
    external_data: "unsafe: found data in other files",
    virtual: "unsafe: found data in other files",
    large: "too large: found",
    without_frames: "damaged",
    text_frames: "damaged",
    without_metadata: "damaged",
    broken_json: "damaged",
    wrong_index: "",
    infinite: "not finite",
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_a_broken_file_is_a_format_error_that_names_it(change: Any, sio: Any, tmp_path: Path) -> None:
    blob = changed(three_frames(sio).saved(tmp_path), tmp_path, change)
    with pytest.raises(RawFormatError) as caught:
        parse(blob)
    assert f"{NAME}.slp" in str(caught.value)
    assert BROKEN[change] in str(caught.value)
    assert str(tmp_path.parent) not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".slp", ".analysis.h5"])
def test_an_hdf5_file_of_another_format_is_reported_as_damaged(suffix: str, sio: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as content:
        content["x"] = np.zeros(3)
    with pytest.raises(RawFormatError, match=rf"{NAME}.*: damaged"):
        parse((tmp_path / "other.h5").read_bytes(), suffix)


def test_a_recording_without_instances_is_refused(sio: Any, tmp_path: Path) -> None:
    with pytest.raises(RawFormatError, match="no body"):
        parse(Recording(sio).add(0).saved(tmp_path))


def test_too_many_bodies_are_refused(sio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poses, "MAX_VALUES", 11)
    with pytest.raises(RawFormatError, match="too large: found 3 bodies of 4 joints"):
        parse(three_frames(sio).saved(tmp_path))


def test_without_sleap_io_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sleap_io", None)
    with pytest.raises(PspError, match=r"walk_s03\.slp.*pip install sleap-io"):
        parse(b"1")


def test_a_3d_skeleton_and_unknown_suffixes_are_refused() -> None:
    with pytest.raises(PspError, match=r"3 dimensions of the skeleton small4.*Write dimensions: 2"):
        PosesReader(SKELETON, PosesOptions(reader="poses"), key_of)
    with pytest.raises(ValueError, match=r"'\.json' is not a format of this reader"):
        reader_of(suffixes=[".json"])


def test_the_video_of_a_recording_is_not_opened(
    sio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = three_frames(sio)
    recording.videos[0].filename = "https://example.org/video.mp4"
    blobs = {suffix: recording.saved(tmp_path, suffix) for suffix in (".slp", ".analysis.h5")}

    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("a video was opened")

    for name in ("open", "exists"):
        monkeypatch.setattr(sio.Video, name, opened)
    for suffix, blob in blobs.items():
        assert parse(blob, suffix).frames == 3
