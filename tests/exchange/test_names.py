"""Clip names of array rows: CTR-GCN's list of names, byte order marks, and 2s-AGCN's file names."""

import codecs
import pickle

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.exchange.ctrgcn import read_ctrgcn
from psptool.exchange.formats import format_of
from psptool.exchange.stgcn import read_stgcn, write_stgcn
from tests.exchange.annotations import NTU, motion

# In the order of CTR-GCN's list: sorted, subjects 1 and 2 (train) and 3 (test), cameras 1 to 3. Subject 3 has one
# clip less, so that the sizes of the protocols differ.
LISTED = sorted(f"S001C00{c}P00{p}R001A00{a}" for c in (1, 2, 3) for p in (1, 2, 3) for a in (4, 7))[:-1]
SUBJECT, CAMERA = slice(9, 12), slice(5, 8)


def ctrgcn_order(field, train, test):
    """Names of the rows in the order of CTR-GCN's preparation: by value of the field, then by position in the list."""
    return {
        part: [name for value in values for name in LISTED if int(name[field]) == value]
        for part, values in (("train", train), ("test", test))
    }


BY_SUBJECT = ctrgcn_order(SUBJECT, (1, 2), (3,))
BY_CAMERA = ctrgcn_order(CAMERA, (2, 3), (1,))


def write_npz(path, order):
    """Write an npz; the first value of each row is the 1-based position of its name in the list."""
    arrays = {}
    for part, names in order.items():
        x = np.zeros((len(names), 300, 150), np.float32)
        x[:, 0, 0] = [1 + LISTED.index(name) for name in names]
        arrays |= {f"x_{part}": x, f"y_{part}": np.eye(60)[[int(name[-3:]) - 1 for name in names]]}
    np.savez(path, **arrays)


@pytest.mark.parametrize("order", [BY_SUBJECT, BY_CAMERA], ids=["xsub", "xview"])
@pytest.mark.parametrize("subfolder", ["", "statistics/"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_rows_take_their_names_from_the_list_of_ctrgcn(tmp_path, order, subfolder, mark):
    write_npz(tmp_path / "a.npz", order)
    (tmp_path / "statistics").mkdir()
    (tmp_path / subfolder / "skes_available_name.txt").write_bytes(mark + "\r\n".join(LISTED).encode())
    contents = read_ctrgcn(tmp_path / "a.npz")
    assert {name: list(part) for name, part in contents.lists.items()}.keys() == {"train", "test"}
    assert contents.names == (*order["train"], *order["test"])
    assert contents.labels == tuple(int(name[-3:]) - 1 for name in contents.names)
    for row, name in enumerate(contents.names):
        assert LISTED[int(contents.read(row).max()) - 1] == name


def test_a_list_that_matches_no_or_several_protocols_is_refused_unless_the_file_name_decides(tmp_path):
    write_npz(tmp_path / "a.npz", BY_SUBJECT)
    listed = tmp_path / "skes_available_name.txt"
    listed.write_text("\n".join(LISTED[1:]))
    with pytest.raises(
        PspError, match=r"no protocol matches the 12 train and 5 test rows .*xsub \(11 train, 5 test\)"
    ):
        read_ctrgcn(tmp_path / "a.npz")
    listed.write_text("\n".join(["somebody", *LISTED]))
    with pytest.raises(PspError, match=r"skes_available_name\.txt: line 1: found 'somebody'"):
        read_ctrgcn(tmp_path / "a.npz")
    # Equal numbers of subjects and cameras: two orders are possible and the labels do not distinguish them.
    same = [f"S001C00{c}P00{p}R001A004" for c in (1, 2) for p in (1, 3)]
    listed.write_text("\n".join(same))
    rows = {f"x_{part}": np.ones((2, 300, 150), np.float32) for part in ("train", "test")}
    rows |= {f"y_{part}": np.eye(60)[[3, 3]] for part in ("train", "test")}
    np.savez(tmp_path / "b.npz", **rows)
    with pytest.raises(PspError, match=r"several protocols match .*Write b\.names\.txt"):
        read_ctrgcn(tmp_path / "b.npz")
    np.savez(tmp_path / "NTU60_CV.npz", **rows)
    assert read_ctrgcn(tmp_path / "NTU60_CV.npz").lists["test"] == set(same[:2])
    np.savez(tmp_path / "NTU60_CS.npz", **rows)
    assert read_ctrgcn(tmp_path / "NTU60_CS.npz").lists["test"] == {same[1], same[3]}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_not_part_of_a_name(tmp_path, encoding):
    write_npz(tmp_path / "a.npz", BY_SUBJECT)
    lines = [f"{part}\t{name}" for part, names in BY_SUBJECT.items() for name in names]
    (tmp_path / "a.names.txt").write_text("\n".join([*lines, ""]), encoding=encoding)
    assert read_ctrgcn(tmp_path / "a.npz").names == (*BY_SUBJECT["train"], *BY_SUBJECT["test"])


def test_a_row_without_exactly_one_class_is_excluded_and_an_unknown_part_is_refused(tmp_path):
    write_npz(tmp_path / "a.npz", BY_SUBJECT)
    arrays = dict(np.load(tmp_path / "a.npz"))
    arrays["y_train"][1] = 0
    arrays["y_test"][0, :2] = 1
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "skes_available_name.txt").write_text("\n".join(LISTED))
    contents = read_ctrgcn(tmp_path / "a.npz")
    excluded = [BY_SUBJECT["train"][1], BY_SUBJECT["test"][0]]
    assert [one.name for one in contents.left_out] == excluded
    for one, row in zip(contents.left_out, ("y_train row 1:", "y_test row 0:"), strict=True):
        assert row in one.detail
    assert set(contents.names) == set(LISTED) - set(excluded)
    (tmp_path / "a.names.txt").write_text("training\tS001C001P001R001A004\n")
    with pytest.raises(PspError, match=r"line 1: found part 'training', expected one of train, test"):
        read_ctrgcn(tmp_path / "a.npz")


def test_only_frames_after_the_last_person_of_an_npz_are_padding(tmp_path):
    write_npz(tmp_path / "a.npz", BY_SUBJECT)
    arrays = dict(np.load(tmp_path / "a.npz"))
    arrays["x_train"][0, 3, 75] = 5  # second person, frames 1 and 2 are empty
    np.savez(tmp_path / "a.npz", **arrays)
    (tmp_path / "skes_available_name.txt").write_text("\n".join(LISTED))
    xyz = read_ctrgcn(tmp_path / "a.npz").read(0)
    assert (xyz.shape, np.argwhere(xyz).tolist()) == ((2, 4, 25, 3), [[0, 0, 0, 0], [1, 3, 0, 0]])


def write_agcn(folder, part, names, ending="joint"):
    data = motion(2, 4).transpose(3, 1, 2, 0)
    np.save(folder / f"{part}_data_{ending}.npy", np.stack([data] * len(names)))
    (folder / f"{part}_label.pkl").write_bytes(
        pickle.dumps(([f"{n}.skeleton" for n in names], [6] * len(names)))
    )


@pytest.mark.parametrize("named", ["", "train_data_joint.npy"])
def test_files_of_2s_agcn_are_recognized_by_their_names(tmp_path, named):
    for part, names in (("train", NTU[:4]), ("val", NTU[4:])):
        write_agcn(tmp_path, part, names)
        for other in ("bone", "joint_motion", "bone_motion"):
            write_agcn(tmp_path, part, names, other)
    path = tmp_path / named
    contents = format_of(path).read(path)
    assert (contents.names, contents.pairs) == (tuple(NTU), (("train", "val"),))
    assert contents.lists == {"train": set(NTU[:4]), "val": set(NTU[4:])}
    np.testing.assert_array_equal(contents.read(5), motion(2, 4))
    # The preparation of 2s-AGCN moves the second joint to the origin in every frame.
    assert contents.coordinates == "centred"
    assert "repeat each clip" in contents.warnings[0]
    with pytest.raises(PspError, match=r"train_data_bone\.npy: contains no joint positions"):
        read_stgcn(tmp_path / "train_data_bone.npy")


def test_a_folder_with_arrays_of_st_gcn_and_2s_agcn_is_refused_for_reading_and_writing(tmp_path):
    write_agcn(tmp_path, "train", NTU)
    with pytest.raises(PspError, match=r"contains parts of another export: found train_data_joint\.npy"):
        write_stgcn(None, {"train": NTU}, "recorded", tmp_path)
    np.save(tmp_path / "train_data.npy", 2 * np.load(tmp_path / "train_data_joint.npy"))
    with pytest.raises(PspError, match=r"arrays of both ST-GCN and 2s-AGCN.*Use the path of one array"):
        read_stgcn(tmp_path)
    np.testing.assert_array_equal(read_stgcn(tmp_path / "train_data.npy").read(0), 2 * motion(2, 4))
