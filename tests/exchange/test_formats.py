"""The loaders of PYSKL, CTR-GCN and ST-GCN read the data of the dataset from the written files."""

import pickle
import zipfile

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.common.machine import peak_memory
from psptool.data.store.reading import open_store
from psptool.exchange import pyskl
from psptool.exchange.ctrgcn import read_ctrgcn, write_ctrgcn
from psptool.exchange.ctrgcn_names import names_beside
from psptool.exchange.mapped import map_npy, map_npz
from psptool.exchange.pyskl import read_pyskl, write_pyskl
from psptool.exchange.stgcn import read_stgcn, write_stgcn
from psptool.formats.synthesis.recording import Faults
from psptool.formats.synthesis.writing import write_ntu, write_ucla
from psptool.preparation.pipeline import prepare
from psptool.schemas.description import DatasetDescription
from tests import stores
from tests.stores import make_clip

NAMES = [f"S001C00{c}P00{p}R001A{a:03}" for c in (1, 2, 3) for p in (1, 3) for a in (7, 58)]
# Many gaps, ghosts and empty first frames, so that persons and complete frames are absent.
FAULTY = Faults(gap=0.9, new_id=0.0, ghost=0.3, empty_start=0.5)
COORDINATES = ("recorded", "centred", "normalized")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ntu")
    write_ntu(folder / "raw", NAMES, faults=FAULTY)
    done = prepare("ntu", [folder / "raw"], folder / "ntu60.h5")
    with open_store(done.path) as opened:
        assert opened.manifest.topology.name == "ntu25"
        clips = [opened.clip(n) for n in range(len(opened))]
        assert {len(clip.joint) for clip in clips} == {1, 2}
        assert any((~clip.present).all(axis=0).any() for clip in clips)
        assert any((clip.present.any(axis=0) & ~clip.present.all(axis=0)).any() for clip in clips)
        yield opened


@pytest.fixture(scope="module")
def ucla(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ucla")
    write_ucla(folder, [f"a{a:02}_s{s:02}_e00_v{v:02}" for a in (1, 11) for s in (1, 2) for v in (1, 2, 3)])
    with open_store(prepare("ucla", [folder / "all_sqe"], folder / "ucla.h5").path) as opened:
        assert opened.manifest.topology.name == "kinect20"
        yield opened


@pytest.fixture(params=["store", "ucla"], ids=["25 joints", "20 joints"])
def either(request):
    """A dataset of each topology, for formats that support both."""
    return request.getfixturevalue(request.param)


def expected(clip, coordinates):
    """Positions of the clip by definition: recorded = joint * scale @ rotation + origin."""
    if coordinates == "normalized":
        return clip.joint
    xyz = clip.joint.astype(float) * clip.scale @ clip.rotation + clip.origin
    if coordinates == "centred":
        first = next(t for t in range(xyz.shape[1]) if clip.present[0, t])
        xyz = xyz - xyz[0, first, 1]
    return np.where(clip.present[..., None, None], xyz, 0).astype(np.float32)


def parts_of(store, train, test):
    names = {side: [n for n in store.names if store.clip(n).key.camera in views]
             for side, views in ((train, (2, 3)), (test, (1,)))}  # fmt: skip
    assert all(names.values())
    return names


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_pyskl_loads_all_positions_of_the_clips_of_a_list(either, tmp_path, coordinates):
    lists = parts_of(either, "xview_train", "xview_val")
    write_pyskl(either, lists, coordinates, tmp_path / "a.pkl")
    with (tmp_path / "a.pkl").open("rb") as file:
        data = pickle.load(file)
    for name, clips in lists.items():
        loaded = [item for item in data["annotations"] if item["frame_dir"] in data["split"][name]]
        assert [item["frame_dir"] for item in loaded] == clips
        for item in loaded:
            clip = either.clip(item["frame_dir"])
            keypoint = item["keypoint"][:, np.arange(item["total_frames"])]
            assert (keypoint.dtype, item["label"]) == (np.float32, clip.key.label)
            np.testing.assert_array_equal(keypoint, expected(clip, coordinates))


def test_pyskl_has_all_clips_of_a_dataset_of_several_batches(store, tmp_path, monkeypatch):
    monkeypatch.setattr(pyskl, "_BATCH", 5)
    write_pyskl(store, {}, "recorded", tmp_path / "a.pkl")
    assert read_pyskl(tmp_path / "a.pkl").names == store.names


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_ctrgcn_loads_every_frame_with_a_person(store, tmp_path, coordinates):
    parts = parts_of(store, "train", "test")
    write_ctrgcn(store, parts, coordinates, tmp_path / "a.npz")
    arrays = np.load(tmp_path / "a.npz", allow_pickle=False)
    for part, clips in parts.items():
        data, labels = arrays[f"x_{part}"], np.where(arrays[f"y_{part}"] > 0)[1]
        assert (data.shape, data.dtype) == ((len(clips), 300, 150), np.float32)
        data = data.reshape(len(clips), 300, 2, 25, 3).transpose(0, 4, 1, 3, 2)
        for row, name in enumerate(clips):
            clip = store.clip(name)
            occupied = clip.present.any(axis=0)
            # CTR-GCN's feeder counts the valid frames like this and uses the first ones.
            valid = np.sum(data[row].sum(0).sum(-1).sum(-1) != 0)
            assert (valid, labels[row]) == (occupied.sum(), clip.key.label)
            loaded = data[row, :, :valid].transpose(3, 1, 2, 0)[: len(clip.joint)]
            np.testing.assert_array_equal(loaded, expected(clip, coordinates)[:, occupied])


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_stgcn_loads_every_frame_at_its_index(either, tmp_path, coordinates):
    joints = either.array("joint").shape[1]
    parts = parts_of(either, "train", "val")
    write_stgcn(either, parts, coordinates, tmp_path)
    for part, clips in parts.items():
        data = np.load(tmp_path / f"{part}_data.npy", mmap_mode="r")
        with (tmp_path / f"{part}_label.pkl").open("rb") as file:
            names, labels = pickle.load(file)
        assert (data.shape, data.dtype, names) == ((len(clips), 3, 300, joints, 2), np.float32, clips)
        for row, name in enumerate(clips):
            clip = either.clip(name)
            wanted = np.zeros((3, 300, joints, 2), np.float32)
            wanted[:, : clip.joint.shape[1], :, : len(clip.joint)] = expected(clip, coordinates).transpose(
                3, 1, 2, 0
            )
            np.testing.assert_array_equal(data[row], wanted)
            assert labels[row] == clip.key.label


@pytest.mark.parametrize("kind", ["pyskl", "ctrgcn", "stgcn"])
def test_names_labels_lists_and_positions_are_read_back(store, tmp_path, kind):
    sides = {"pyskl": ("xview_train", "xview_val"), "ctrgcn": ("train", "test"), "stgcn": ("train", "val")}[
        kind
    ]
    parts = parts_of(store, *sides)
    write = {"pyskl": write_pyskl, "ctrgcn": write_ctrgcn, "stgcn": write_stgcn}[kind]
    read = {"pyskl": read_pyskl, "ctrgcn": read_ctrgcn, "stgcn": read_stgcn}[kind]
    path = tmp_path / {"pyskl": "a.pkl", "ctrgcn": "a.npz", "stgcn": "a"}[kind]
    write(store, parts, "normalized", path)
    found = read(path)
    assert sorted(found.names) == list(store.names)
    assert found.pairs == (sides,)
    assert {name: set(clips) for name, clips in found.lists.items()} == {n: set(c) for n, c in parts.items()}
    for index, name in enumerate(found.names):
        clip, xyz = store.clip(name), found.read(index)
        kept = clip.present.any(axis=0)
        if kind != "ctrgcn":
            # Only empty frames at the end are indistinguishable from padding; with PYSKL there is no padding.
            kept[: np.flatnonzero(kept)[-1] + 1] = True
            kept |= kind == "pyskl"
        assert found.labels[index] == clip.key.label
        np.testing.assert_array_equal(xyz[: len(clip.joint)], clip.joint[:, kept])
        assert not xyz[len(clip.joint) :].any()


@pytest.mark.parametrize(
    ("write", "read", "path", "part"),
    [
        (write_ctrgcn, read_ctrgcn, "a.npz", "train"),
        (write_ctrgcn, read_ctrgcn, "a.npz", "test"),
        (write_stgcn, read_stgcn, "a", "train"),
        (write_stgcn, read_stgcn, "a", "val"),
    ],
)
def test_a_file_with_one_part_has_no_pair_of_lists(store, tmp_path, write, read, path, part):
    write(store, {part: store.names[:2]}, "recorded", tmp_path / path)
    found = read(tmp_path / path)
    assert (found.lists, found.pairs) == ({part: set(store.names[:2])}, ())


def test_pyskl_has_two_coordinates_in_2d(tmp_path):
    values = {"name": "own", "skeleton": "coco17", "format": {"reader": "pyskl"}, "classes": ["walk", "sit"]}
    values |= {"clips": {"pattern": "(?P<label>walk|sit)"}, "unit": "px", "up": "-y"}
    own = DatasetDescription.model_validate(values)
    clip = make_clip("walk", 0, dataset=own)
    stores.write_ucla(tmp_path / "own.h5", [clip], own)
    with open_store(tmp_path / "own.h5") as flat:
        write_pyskl(flat, {}, "normalized", tmp_path / "a.pkl")
    (item,) = pickle.loads((tmp_path / "a.pkl").read_bytes())["annotations"]
    np.testing.assert_array_equal(item["keypoint"], clip.joint[..., :2])


def test_a_compressed_npz_is_read_and_a_decompression_bomb_is_refused_before_it_uses_memory(store, tmp_path):
    parts = parts_of(store, "train", "test")
    write_ctrgcn(store, parts, "centred", tmp_path / "a.npz")
    np.savez_compressed(tmp_path / "b.npz", **np.load(tmp_path / "a.npz"))
    names_beside(tmp_path / "b.npz").write_bytes(names_beside(tmp_path / "a.npz").read_bytes())
    stored, packed = read_ctrgcn(tmp_path / "a.npz"), read_ctrgcn(tmp_path / "b.npz")
    for index in range(len(stored.names)):
        np.testing.assert_array_equal(stored.read(index), packed.read(index))
    before = peak_memory()
    with (
        zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as file,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (1500, 300, 150)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(270):
            file.write(bytes(10**6))
    with pytest.raises(PspError, match=r"c\.npz:x_train\.npy: refused: found 27\d+ bytes compressed to"):
        read_ctrgcn(tmp_path / "c.npz")
    assert peak_memory() - before < 50_000 * 1024


def test_arrays_in_column_order_and_small_arrays_of_zeros_are_read(tmp_path):
    values, zeros = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), np.zeros((10, 300, 150), np.float32)
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(map_npy(tmp_path / "a.npy"), values)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", values=values, zeros=zeros)
        found = map_npz(tmp_path / "a.npz")
        np.testing.assert_array_equal(found["values"], values)
        np.testing.assert_array_equal(found["zeros"], zeros)


def test_an_npz_member_larger_than_its_stated_size_is_refused(store, tmp_path):
    parts, path = parts_of(store, "train", "test"), tmp_path / "a.npz"
    write_ctrgcn(store, parts, "centred", path)
    np.savez_compressed(path, **np.load(path))
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("x_train.npy").file_size.to_bytes(4, "little")
    data = path.read_bytes()
    index = data.rindex(size, 0, data.rindex(b"x_train.npy"))
    path.write_bytes(data[:index] + (10**5).to_bytes(4, "little") + data[index + 4 :])
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("x_train.npy").file_size == 10**5
    with pytest.raises(PspError, match=r"a\.npz: cannot be read \((Bad CRC|shape .* there are)"):
        read_ctrgcn(path)


def test_an_array_whose_header_declares_ten_gigabytes_is_refused(tmp_path):
    with (tmp_path / "train_data.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (20000, 3, 300, 25, 6)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(PspError, match=r"train_data\.npy: cannot be read \(shape .* needs 10800000000 bytes"):
        read_stgcn(tmp_path)


def test_an_npz_without_names_is_refused_with_the_format_of_the_names_file(store, tmp_path):
    write_ctrgcn(store, parts_of(store, "train", "test"), "centred", tmp_path / "a.npz")
    names_beside(tmp_path / "a.npz").unlink()
    with pytest.raises(PspError, match=r"a\.names\.txt.*PART<tab>NAME"):
        read_ctrgcn(tmp_path / "a.npz")


def test_a_present_person_with_all_joints_at_zero_is_refused(tmp_path):
    clip = make_clip("a01_s01_e00_v01", 1)
    clip.joint[0, 2] = 0
    stores.write_ucla(tmp_path / "u.h5", [clip])
    with (
        open_store(tmp_path / "u.h5") as store,
        pytest.raises(PspError, match="a01_s01_e00_v01: every joint at zero"),
    ):
        write_pyskl(store, {}, "normalized", tmp_path / "a.pkl")
    assert [path.name for path in tmp_path.iterdir()] == ["u.h5"]


def test_an_error_while_writing_leaves_no_file(store, tmp_path, monkeypatch):
    monkeypatch.setattr("psptool.exchange.ctrgcn.seen", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_ctrgcn(store, parts_of(store, "train", "test"), "centred", tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []
