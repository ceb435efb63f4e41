"""Export and import preserve what the format can store; other losses are reported or refused."""

import json
import pickle

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.data.splits.making import SplitRequest
from psptool.data.splits.stored import split_store
from psptool.data.store.reading import open_store
from psptool.data.store.validating import validate
from psptool.exchange.formats import FORMATS, format_of
from psptool.exchange.importing import import_clips
from psptool.exchange.losses import losses
from psptool.exchange.parts import full_splits, parts_of, splits_of
from psptool.formats.synthesis.recording import Faults
from psptool.formats.synthesis.writing import write_ntu
from psptool.formats.synthesis.writing import write_ucla as write_raw_ucla
from psptool.preparation.pipeline import prepare
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.protocols import LeaveOneOut
from tests.builtin import NTU60
from tests.stores import make_clip, write_ucla

NAMES = [f"S001C00{c}P00{p}R001A{a:03}" for c in (1, 2, 3) for p in (1, 3) for a in (7, 58)]
FAULTY = Faults(gap=0.9, new_id=0.0, ghost=0.3, empty_start=0.5)
SETTINGS = PreparationSettings()
UCLA_NAMES = [f"a01_s01_e00_v{v:02}" for v in (1, 2, 3)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ntu")
    write_ntu(folder / "raw", NAMES, faults=FAULTY)
    with open_store(prepare("ntu", [folder / "raw"], folder / "ntu60.h5").path) as opened:
        yield opened


@pytest.fixture
def ucla(tmp_path):
    def write(**shapes):
        clips = [
            make_clip(name, n, shapes.get(name[-3:], ((True,) * 6,))) for n, name in enumerate(UCLA_NAMES)
        ]
        write_ucla(tmp_path / "u.h5", clips)
        return open_store(tmp_path / "u.h5")

    return write


def export_and_import(store, kind, folder, coordinates):
    form = FORMATS[kind]
    path = folder / f"written{form.ending}"
    form.write(store, parts_of(store, form, None), coordinates, path)
    contents = [format_of(path).read(path)]
    done = import_clips(contents, folder / "back.h5", coordinates, SETTINGS)
    return open_store(done.path), contents


@pytest.fixture(scope="module")
def recorded_ucla(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ucla")
    names = [f"a{a:02}_s{s:02}_e00_v{v:02}" for a in (1, 11) for s in (1, 2) for v in (1, 2, 3)]
    write_raw_ucla(folder, names)
    with open_store(prepare("ucla", [folder / "all_sqe"], folder / "ucla.h5").path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [*(("store", kind) for kind in FORMATS), ("recorded_ucla", "pyskl"), ("recorded_ucla", "stgcn")],
)
@pytest.mark.parametrize("coordinates", ["normalized", "recorded", "centred"])
def test_clips_and_splits_that_a_format_can_store_are_preserved(
    request, tmp_path, dataset, kind, coordinates
):
    store = request.getfixturevalue(dataset)
    back, contents = export_and_import(store, kind, tmp_path, coordinates)
    with back:
        assert validate(back.path) == []
        assert back.manifest.fingerprints.clips == store.manifest.fingerprints.clips
        for index, name in enumerate(store.names):
            clip, found = store.clip(index), back.clip(name)
            kept = clip.present.any(axis=0)
            if kind != "ctrgcn":
                kept[: np.flatnonzero(kept)[-1] + 1] = True
                kept |= kind == "pyskl"
            assert found.key == clip.key
            np.testing.assert_array_equal(found.present, clip.present[:, kept])
            if coordinates == "normalized":
                np.testing.assert_array_equal(found.joint, clip.joint[:, kept])
            else:
                # Normalized again, from float32 positions of a few metres.
                np.testing.assert_allclose(found.joint, clip.joint[:, kept], atol=1e-5)
        splits, lost = splits_of(back, contents)
        # NW-UCLA's default test camera is used; PYSKL's file contains every protocol of NTU.
        every = kind == "pyskl" and dataset == "store"
        wanted = list(full_splits(store)) if every else [split_store(store, SplitRequest(1.0)).split]
        assert (splits, lost) == (wanted, [])


def test_a_clip_in_two_files_is_counted_once_and_different_clips_of_one_name_are_refused(store, tmp_path):
    form = FORMATS["pyskl"]
    for name, coordinates in (("a", "normalized"), ("b", "normalized"), ("c", "recorded")):
        form.write(store, {}, coordinates, tmp_path / f"{name}.pkl")
    a, b, c = (form.read(tmp_path / f"{name}.pkl") for name in "abc")
    done = import_clips([a, b], tmp_path / "ab.h5", "normalized", SETTINGS)
    assert (done.report.found, done.report.repeated, done.report.counts.clips) == (24, 12, 12)
    with pytest.raises(PspError, match=r"two different recordings .*a\.pkl and .*c\.pkl"):
        import_clips([a, c], tmp_path / "ac.h5", "normalized", SETTINGS)
    assert not list(tmp_path.glob("*ac*"))


def annotation(name, label, keypoint):
    return {"frame_dir": name, "total_frames": keypoint.shape[1], "label": label, "keypoint": keypoint}


def test_unusable_clips_are_excluded_with_their_reasons(tmp_path):
    good = np.random.default_rng(0).normal(size=(1, 6, 20, 3)).astype(np.float32)
    broken = good.copy()
    broken[0, 2, 3, 1] = np.inf
    items = [
        annotation("a01_s01_e00_v01", 0, good),
        annotation("a01_s01_e00_v02", 1, good),
        annotation("a01_s01_e00_v03", 0, broken),
        annotation("a01_s02_e00_v01", 0, np.zeros_like(good)),
        annotation("a01_s02_e00_v02", 0, np.repeat(good, 2, axis=2)),
        annotation("a01_s02_e00_v03", 0, np.repeat(good, 3, axis=0)),
        annotation("somebody", 0, good),
        annotation("S001C002P005R002A008", 7, good),
    ]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"split": {}, "annotations": items}))
    contents = [FORMATS["pyskl"].read(tmp_path / "a.pkl")]
    report = import_clips(contents, tmp_path / "a.h5", "recorded", SETTINGS).report
    assert {clip.name: clip.reason for clip in report.quarantined} == {
        "a01_s01_e00_v02": "label",
        "a01_s01_e00_v03": "not finite",
        "a01_s02_e00_v01": "no body",
        "a01_s02_e00_v02": "joint count",
    }
    assert {clip.name: clip.reason for clip in report.skipped} == {
        "somebody": "name",
        "S001C002P005R002A008": "name",
    }
    assert ("a01_s02_e00_v03", "3 persons; the first 2 were kept") in {(n.name, n.note) for n in report.notes}
    counts = report.counts
    assert report.found == counts.clips + counts.skipped + counts.quarantined + report.repeated
    assert json.loads((tmp_path / "a.report.json").read_text())["counts"]["clips"] == 2
    with open_store(tmp_path / "a.h5") as store:
        assert store.clip("a01_s02_e00_v03").joint.shape[0] == 2


def test_clips_on_the_missing_skeleton_list_are_skipped(tmp_path):
    xyz = np.ones((1, 3, 25, 3), np.float32) * np.arange(1, 26)[:, None]
    items = [annotation(name, int(name[-3:]) - 1, xyz) for name in ("S001C002P005R002A008", NAMES[0])]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(items))
    contents = [FORMATS["pyskl"].read(tmp_path / "a.pkl")]
    report = import_clips(contents, tmp_path / "a.h5", "recorded", SETTINGS).report
    assert [(clip.name, clip.reason) for clip in report.skipped] == [
        ("S001C002P005R002A008", "missing-skeleton list")
    ]


def test_an_existing_file_is_replaced_only_with_force_and_without_usable_clips_no_file_is_written(
    store, tmp_path
):
    form, path = FORMATS["pyskl"], tmp_path / "a.h5"
    form.write(store, {}, "normalized", tmp_path / "a.pkl")
    contents = [form.read(tmp_path / "a.pkl")]
    path.write_text("mine")
    with pytest.raises(PspError, match=r"a\.h5: the file exists already"):
        import_clips(contents, path, "normalized", SETTINGS)
    assert path.read_text() == "mine"
    import_clips(contents, path, "normalized", SETTINGS, force=True)
    assert validate(path) == []
    without_body = annotation(NAMES[0], 6, np.zeros((1, 3, 25, 3), np.float32))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps([without_body]))
    with pytest.raises(PspError, match=r"no usable clip: 1 excluded \(1 no body\)"):
        import_clips([form.read(tmp_path / "b.pkl")], tmp_path / "b.h5", "recorded", SETTINGS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "a.pkl", "a.report.json", "b.pkl"]


def test_an_existing_report_or_split_of_other_content_is_replaced_only_with_force(store, tmp_path):
    form, path, splits = FORMATS["pyskl"], tmp_path / "a.h5", tmp_path / "splits"
    form.write(store, parts_of(store, form, None), "normalized", tmp_path / "a.pkl")
    contents = [form.read(tmp_path / "a.pkl")]
    done = import_clips(contents, path, "normalized", SETTINGS, splits=splits)
    same = {file: file.read_bytes() for file in (done.report_path, *done.splits)}
    path.unlink()
    import_clips(contents, path, "normalized", SETTINGS, splits=splits)
    path.unlink()
    for file in (done.report_path, done.splits[0]):
        file.write_text("mine")
        with pytest.raises(PspError, match=rf"{file}: the file exists already\. Move.*--force"):
            import_clips(contents, path, "normalized", SETTINGS, splits=splits)
        assert (file.read_text(), path.exists()) == ("mine", False)
        file.write_bytes(same[file])
    for file in same:
        file.write_text("mine")
    with pytest.raises(PspError, match="the files exist already"):
        import_clips(contents, path, "normalized", SETTINGS, splits=splits)
    import_clips(contents, path, "normalized", SETTINGS, splits=splits, force=True)
    assert {file: file.read_bytes() for file in same} == same


def test_a_symbolic_link_to_a_dataset_is_followed_and_a_broken_link_is_an_error(store, tmp_path):
    form = FORMATS["pyskl"]
    form.write(store, {}, "normalized", tmp_path / "a.pkl")
    contents = [form.read(tmp_path / "a.pkl")]
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.h5").touch()
    (tmp_path / "a.h5").symlink_to("far/real.h5")
    import_clips(contents, tmp_path / "a.h5", "normalized", SETTINGS, force=True)
    assert (tmp_path / "a.h5").is_symlink()
    assert validate(tmp_path / "far" / "real.h5") == []
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["real.h5"]
    (tmp_path / "gone").symlink_to("nowhere")
    for path in (tmp_path / "gone", tmp_path / "gone" / "a.h5"):
        with pytest.raises(PspError, match=rf"{path}: cannot be written .*gone, a link to nowhere"):
            import_clips(contents, path, "normalized", SETTINGS)


def test_lists_that_match_no_protocol_are_reported_and_not_kept(store, tmp_path):
    form = FORMATS["pyskl"]
    split = split_store(store, SplitRequest(count=1, protocol="xview")).split
    parts = parts_of(store, form, split)
    moved = {**parts, "xview_train": parts["xview_train"][1:]}
    form.write(store, moved, "normalized", tmp_path / "a.pkl")
    kept, lost = splits_of(store, [form.read(tmp_path / "a.pkl")])
    assert kept == []
    assert "the nearest, xview, differs in 1 clip" in lost[0]
    assert "xview_labelled: a single list" in lost[1]


@pytest.mark.parametrize(
    ("shape", "lost"),
    [
        (((True,) * 301,), "frames after the first 300 in 1 clip"),
        (((True,) * 6,) * 3, "persons after the first 2 in 1 clip"),
    ],
    ids=["frames", "persons"],
)
def test_truncation_is_refused_unless_lossy(ucla, shape, lost, tmp_path):
    form = FORMATS["stgcn"]
    with ucla(v02=shape) as store:
        parts = parts_of(store, form, None)
        with pytest.raises(PspError, match=rf"stgcn: would lose {lost}.*--lossy"):
            losses(store, form, parts, "normalized", None)
        assert lost in losses(store, form, parts, "normalized", None, lossy=True)
        assert losses(store, FORMATS["pyskl"], parts, "recorded", None) == [
            "the tracking states of the joints"
        ]
        form.write(store, parts, "normalized", tmp_path / "w")
        back = form.read(tmp_path / "w")
        clip = store.clip(UCLA_NAMES[1])
        np.testing.assert_array_equal(
            back.read(back.names.index(clip.name))[: len(clip.joint)], clip.joint[:2, :300]
        )


@pytest.mark.parametrize(
    ("shape", "lost"),
    [
        (((True,) * 301,), "frames after the first 300 in 1 clip"),
        # Frames without a person are not stored in the npz and do not count.
        (((True,) * 100 + (False,) * 20 + (True,) * 200,), None),
        (((True,) * 6,) * 3, "persons after the first 2 in 1 clip"),
    ],
    ids=["frames", "empty frames", "persons"],
)
def test_an_npz_is_truncated_only_on_request(shape, lost, tmp_path):
    form, name = FORMATS["ctrgcn"], NAMES[0]
    clips = [make_clip(name, 1, shape, dataset=NTU60), make_clip(NAMES[2], 2, dataset=NTU60)]
    write_ucla(tmp_path / "n.h5", clips, NTU60)
    with open_store(tmp_path / "n.h5") as store:
        parts = {"train": (name,), "test": (NAMES[2],)}
        if lost is None:
            assert losses(store, form, parts, "normalized", None)[0].startswith("20 frames without persons")
        else:
            with pytest.raises(PspError, match=rf"ctrgcn: would lose {lost}.*--lossy"):
                losses(store, form, parts, "normalized", None)
            assert lost in losses(store, form, parts, "normalized", None, lossy=True)
        form.write(store, parts, "normalized", tmp_path / "w.npz")
        found = form.read(tmp_path / "w.npz").read(0)
        wanted = store.clip(name).joint[:2, np.flatnonzero(shape[0])[:300]]
        np.testing.assert_array_equal(found[: len(wanted)], wanted)
        assert not found[len(wanted) :].any()


def test_a_skeleton_that_an_npz_cannot_store_is_refused_even_with_lossy(ucla):
    form = FORMATS["ctrgcn"]
    with ucla() as store, pytest.raises(PspError, match=r"found 20 joints \(kinect20\), expected 25"):
        losses(store, form, parts_of(store, form, None), "centred", None, lossy=True)


def test_losses_are_reported_with_their_counts(store):
    split = split_store(store, SplitRequest(count=1, validation="view=2", protocol="xview")).split
    empty = [(~store.clip(n).present).all(axis=0) for n in range(len(store))]
    form = FORMATS["ctrgcn"]
    assert losses(store, form, parts_of(store, form, split), "centred", split) == [
        f"{sum(map(sum, empty))} frames without persons: removed, because its feeder treats them as padding",
        "which 2 clips of the training part are labelled",
        "the position of the body relative to the camera",
        "the tracking states of the joints",
    ]
    ends = sum(int(np.argmax(~one[::-1])) for one in empty)
    form = FORMATS["stgcn"]
    lines = losses(store, form, parts_of(store, form, None), "normalized", None)
    assert [line.split()[0] for line in lines if "padding" in line] == ([str(ends)] if ends else [])
    assert "the origin, scale and axes of each clip relative to the camera" in lines


def test_splits_of_a_protocol_by_another_field_have_no_test_view(ucla):
    with ucla() as store:
        description = store.manifest.description
        protocols = {**description.protocols, "each": LeaveOneOut(leave_one_out="camera")}
        changed = description.model_copy(update={"protocols": protocols})
        store.manifest = store.manifest.model_copy(update={"description": changed})
        found = [(split.protocol, split.test_view) for split in full_splits(store)]
    assert found == [
        ("xview", 1),
        ("xview", 2),
        ("xview", 3),
        ("each-1", None),
        ("each-2", None),
        ("each-3", None),
    ]
