"""Unusable annotations are excluded and the others imported; the axis order of a keypoint follows from its shape."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.data.store.reading import open_store
from psptool.data.store.validating import validate
from psptool.exchange.importing import import_clips
from psptool.exchange.positions import centred_on, prepared, seen
from psptool.exchange.pyskl import layout_of, read_pyskl
from psptool.exchange.stgcn import read_stgcn
from psptool.formats.readers.base import STATE_UNKNOWN
from psptool.schemas.dataset import PreparationSettings
from psptool.skeletons.keys import ClipKey
from tests.builtin import NTU25, UCLA20
from tests.exchange.annotations import NTU, annotation, motion, saved, without

SETTINGS = PreparationSettings()
BAD = {
    "none": (None, "no annotation"),
    "a list": ([1], "no annotation"),
    "no name": (without(annotation(NTU[1]), "frame_dir"), "clip name"),
    "a number as name": (annotation(5), "clip name"),
    "a surrogate as name": (annotation("\ud800"), "clip name"),
    "no label": (without(annotation(NTU[1]), "label"), "label"),
    "a fraction as label": (annotation(NTU[1], 6.5), "label"),
    "a label that differs from the name": (annotation(NTU[1], 5), "label"),
    "no keypoint": (without(annotation(NTU[1]), "keypoint"), "positions"),
    "a list as keypoint": (annotation(NTU[1]) | {"keypoint": [[1.0]]}, "positions"),
    "integers": (annotation(NTU[1], keypoint=np.ones((1, 6, 25, 3), int)), "positions"),
    "three dimensions": (annotation(NTU[1], keypoint=motion()[0]), "shape"),
    "two coordinates": (annotation(NTU[1], keypoint=motion()[..., :2]), "shape"),
    "no persons": (annotation(NTU[1], keypoint=motion()[:0]), "no body"),
    "no frames": (annotation(NTU[1], keypoint=motion(frames=0)), "no body"),
    "other joints": (annotation(NTU[1], keypoint=motion(joints=17)), "joint count"),
    "too few frames": (annotation(NTU[1], total_frames=7), "frame count"),
    "too many frames": (annotation(NTU[1], total_frames=5), "frame count"),
    "infinity": (annotation(NTU[1], keypoint=np.full((1, 6, 25, 3), np.float32(np.inf))), "not finite"),
    "all persons at NaN": (annotation(NTU[1], keypoint=motion() * np.float32(np.nan)), "no body"),
}


@pytest.mark.parametrize(
    ("bad", "reason", "first", "protocol"),
    [
        *[pytest.param(*one, True, 4, id=name) for name, one in BAD.items()],
        pytest.param(*BAD["no label"], False, 4, id="last in the file"),
        pytest.param(*BAD["no label"], True, 2, id="protocol 2"),
    ],
)
def test_an_unusable_annotation_is_excluded_with_its_reason_and_the_others_are_imported(
    tmp_path, bad, reason, first, protocol
):
    good = annotation(NTU[0])
    path = saved(tmp_path / "a.pkl", [bad, good] if first else [good, bad], protocol=protocol)
    done = import_clips([read_pyskl(path)], tmp_path / "a.h5", "recorded", SETTINGS)
    assert validate(done.path) == []
    with open_store(done.path) as store:
        assert store.names == (NTU[0],)
    (excluded,) = json.loads(done.report_path.read_text())["quarantined"]
    assert excluded["reason"] == reason
    assert excluded["source"] == str(path)
    assert excluded["detail"]
    named = isinstance(bad, dict) and bad.get("frame_dir") == NTU[1]
    assert not named or excluded["name"] == NTU[1]
    counts = done.report.counts
    assert (done.report.found, counts.clips, counts.quarantined, counts.skipped) == (2, 1, 1, 0)


def test_unusable_annotations_are_an_error_only_if_no_clip_remains(tmp_path):
    path = saved(tmp_path / "a.pkl", [None, annotation(NTU[0], keypoint=motion()[:0])])
    with pytest.raises(
        PspError, match=r"no usable clip: 2 excluded \(1 no annotation, 1 no body\).*annotation 0"
    ):
        import_clips([read_pyskl(path)], tmp_path / "a.h5", "recorded", SETTINGS)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pkl"]
    # With another file that has a usable annotation there is no error.
    other = saved(tmp_path / "b.pkl", [annotation(NTU[0])])
    contents = [read_pyskl(path), read_pyskl(other)]
    done = import_clips(contents, tmp_path / "a.h5", "recorded", SETTINGS)
    assert (done.report.counts.clips, done.report.counts.quarantined) == (1, 2)


@pytest.mark.parametrize(
    ("shape", "joints", "layout"),
    [
        ((1, 80, 25, 3), 25, "MTVC"),
        ((2, 80, 25, 3), 25, "MTVC"),
        ((0, 80, 25, 3), 25, "MTVC"),
        ((3, 300, 25, 2), 25, "CTVM"),
        ((3, 300, 25, 1), 25, "CTVM"),
        ((3, 300, 20, 4), 25, "CTVM"),
        ((3, 300, 17, 1), 25, "CTVM"),
        ((3, 300, 17, 2), 25, None),
        ((3, 300, 17, 2), None, None),
        ((1, 300, 25, 2), 25, None),
        ((3, 300, 25, 3), 25, "any"),
        ((80, 25, 3), 25, None),
    ],
)
def test_axis_order_follows_from_the_shape_and_the_number_of_joints(shape, joints, layout):
    assert layout_of(shape, joints) == layout


def test_an_ambiguous_axis_of_size_three_is_read_as_in_the_rest_of_the_file_or_excluded(tmp_path):
    three = motion(3)
    both = saved(tmp_path / "a.pkl", [annotation(NTU[0], keypoint=three), annotation(NTU[1])])
    contents = read_pyskl(both)
    np.testing.assert_array_equal(contents.read(0), three)
    transposed = three.transpose(3, 1, 2, 0)
    pair = motion(2).transpose(3, 1, 2, 0)
    both = saved(
        tmp_path / "b.pkl", [annotation(NTU[0], keypoint=transposed), annotation(NTU[1], keypoint=pair)]
    )
    np.testing.assert_array_equal(read_pyskl(both).read(0), three)
    assert read_pyskl(both).coordinates == "centred"
    mixed = saved(tmp_path / "d.pkl", [annotation(NTU[0], keypoint=pair), annotation(NTU[1])])
    assert read_pyskl(mixed).coordinates is None
    alone = read_pyskl(saved(tmp_path / "c.pkl", [annotation(NTU[0], keypoint=three)]))
    assert (alone.names, [one.reason for one in alone.left_out]) == ((), ["shape"])
    assert "the first axis may be persons or coordinates" in alone.left_out[0].detail


def test_training_and_test_lists_of_either_name_are_pairs(tmp_path):
    split = dict.fromkeys(
        ("xsub_train", "xsub_test", "xview_train", "xview_val", "own_train", "test"), NTU[:1]
    )
    contents = read_pyskl(saved(tmp_path / "a.pkl", [annotation(NTU[0])], split))
    assert contents.pairs == (("xsub_train", "xsub_test"), ("xview_train", "xview_val"))


def test_number_of_joints_is_that_of_the_dataset_of_most_names_even_if_most_clips_have_another(tmp_path):
    others = [annotation(name, keypoint=motion(joints=17)) for name in ("somebody", NTU[1], NTU[2])]
    assert read_pyskl(saved(tmp_path / "a.pkl", [*others, annotation(NTU[0])])).joints == 25
    assert read_pyskl(saved(tmp_path / "b.pkl", others)).joints == 17


def test_a_single_repeated_frame_of_mmaction2_is_removed(tmp_path):
    padded = motion(2, frames=6).transpose(3, 1, 2, 0)
    contents = read_pyskl(saved(tmp_path / "a.pkl", [annotation(NTU[0], keypoint=padded, total_frames=5)]))
    np.testing.assert_array_equal(contents.read(0), motion(2, frames=6)[:, :5])


@pytest.mark.parametrize("persons", [1, 2])
def test_padding_of_mmaction2_3d_files_is_removed(tmp_path, persons):
    wanted = motion(persons, frames=80)
    # As in MMAction2's preparation: centred on the first person, repeated to 300 frames, an empty second person.
    wanted -= wanted[:1, :, 1:2]
    padded = np.zeros((3, 300, 25, 2), np.float32)
    padded[..., :persons] = np.resize(wanted.transpose(1, 0, 2, 3), (300, persons, 25, 3)).transpose(
        3, 0, 2, 1
    )
    item = annotation(NTU[0], keypoint=padded, total_frames=80, img_shape=(1080, 1920))
    item["keypoint_score"] = np.ones((3, 300, 25), np.float32)
    (tmp_path / "train.pkl").write_bytes(
        pickle.dumps([item, annotation(NTU[1], keypoint=padded, total_frames=301)])
    )
    contents = read_pyskl(tmp_path / "train.pkl")
    assert contents.names == (NTU[0],)
    assert [one.reason for one in contents.left_out] == ["frame count"]
    np.testing.assert_array_equal(contents.read(0)[:persons], wanted)
    assert not contents.read(0)[persons:].any()
    # The second joint is at the origin in every frame, but it is not missing.
    assert contents.coordinates == "centred"
    with open_store(import_clips([contents], tmp_path / "a.h5", "centred", SETTINGS).path) as store:
        clip = store.clip(0)
        assert clip.joint.shape == (persons, 80, 25, 3)
        np.testing.assert_allclose(clip.recorded(), wanted, atol=1e-5)
        assert (clip.state == STATE_UNKNOWN).all()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_names_may_be_numpy_strings(tmp_path, protocol):
    item = annotation(np.str_(NTU[0]), np.int64(6))
    split = {"xsub_train": [np.str_(NTU[0])], "xsub_val": np.array(NTU[1:2])}
    data = {np.str_("split"): split, "annotations": [item, annotation(np.str_(""))]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(data, protocol))
    contents = read_pyskl(tmp_path / "a.pkl")
    assert (contents.names, contents.labels) == ((NTU[0],), (6,))
    assert contents.lists == {"xsub_train": {NTU[0]}, "xsub_val": {NTU[1]}}
    assert [type(name) for name in contents.names] == [str]
    np.save(tmp_path / "train_data.npy", np.ones((2, 3, 4, 25, 2), np.float32))
    (tmp_path / "train_label.pkl").write_bytes(pickle.dumps((np.array(NTU[:2]), np.array([6, 6])), protocol))
    assert read_stgcn(tmp_path).names == tuple(NTU[:2])


@pytest.mark.parametrize("coordinates", ["recorded", "centred", "normalized"])
def test_a_joint_at_nan_is_missing_with_a_note_and_its_frame_is_kept(tmp_path, coordinates):
    xyz = motion(2)
    xyz[1, :, 7] = np.nan  # Missing in all frames.
    xyz[0, 2, 9, 1] = np.nan
    xyz[1, 4] = np.nan  # Person absent in this frame.
    done = import_clips(
        [read_pyskl(saved(tmp_path / "a.pkl", [annotation(NTU[0], keypoint=xyz)]))],
        tmp_path / "a.h5",
        coordinates,
        SETTINGS,
    )
    assert validate(done.path) == []
    notes = {note.note for note in done.report.notes}
    assert "31 joints with NaN, treated as missing" in notes
    assert any("is missing in every frame" in note for note in notes)
    assert done.report.counts.interpolated_joints == 6
    with open_store(done.path) as store:
        clip = store.clip(0)
        assert np.isfinite(clip.joint).all()
        assert clip.present.tolist() == [[True] * 6, [True] * 4 + [False, True]]
        assert clip.state[0, 2, 9] == 0
        assert (clip.state[1, clip.present[1], 7] == 0).all()
        assert (clip.state == 0).sum() == 1 + 5 + 25
        middle = clip.recorded()[0, [1, 3], 9].mean(axis=0)
        np.testing.assert_allclose(clip.recorded()[0, 2, 9], middle, atol=1e-5)


def test_joints_at_zero_of_recorded_positions_are_missing_also_beside_a_joint_at_nan():
    xyz = motion()
    middle = xyz[0, [1, 3], 9].mean(axis=0)
    xyz[0, 2, 9] = 0
    xyz[0, 2, 8, 0] = np.nan
    clip = prepared(NTU[0], ClipKey(6), xyz, "recorded", NTU25, SETTINGS)
    assert np.argwhere(clip.state[0] == 0).tolist() == [[2, 8], [2, 9]]
    recorded = clip.joint[0, 2, 9] * clip.scale @ clip.rotation + clip.origin
    np.testing.assert_allclose(recorded, middle, atol=1e-5)


def test_the_first_persons_who_are_ever_present_are_kept():
    xyz = motion(4)
    xyz[0] = 0
    clip = prepared(NTU[0], ClipKey(6), xyz, "normalized", NTU25, SETTINGS)
    np.testing.assert_array_equal(clip.joint, xyz[1:3])


def test_a_person_with_negative_coordinates_is_present_and_one_at_zero_or_nan_is_absent():
    xyz = np.zeros((2, 4, 3, 3), np.float32)
    xyz[0, 1, 2, 1], xyz[1, 2, 0, 0], xyz[1, 3] = -1, 1, np.nan
    assert seen(xyz).tolist() == [[False, True, False, False], [False, False, True, False]]


def test_centred_positions_are_relative_to_the_first_joint_of_the_spine_above_the_center():
    # Joints of NTU from the center upwards: 0, 1, 20, 2 (neck), 3 (head).
    assert [centred_on(replace(NTU25, spine=(0, top))) for top in (1, 20, 2, 3)] == [1, 1, 1, 1]
    assert centred_on(UCLA20) == 1


def test_rows_of_an_array_without_name_or_label_are_excluded(tmp_path):
    data = motion(2, 4).transpose(3, 1, 2, 0)
    np.save(tmp_path / "train_data.npy", np.stack([data, 2 * data, 3 * data, 4 * data]))
    labels = ([NTU[0], None, NTU[1], f"{NTU[2]}.skeleton"], [6, 6, None, 6])
    (tmp_path / "train_label.pkl").write_bytes(pickle.dumps(labels))
    contents = read_stgcn(tmp_path)
    assert (contents.names, contents.labels) == ((NTU[0], NTU[2]), (6, 6))
    np.testing.assert_array_equal(contents.read(1), 4 * motion(2, 4))
    assert [(one.name, one.reason) for one in contents.left_out] == [
        ("train_label.pkl row 1", "clip name"),
        (NTU[1], "label"),
    ]
    report = import_clips([contents], tmp_path / "a.h5", "recorded", SETTINGS).report
    assert (report.counts.clips, report.counts.quarantined) == (2, 2)
