"""Opening a dataset accepts only the structure that the writer creates; links and false sizes are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.data.store.layout import ROW_ARRAYS, TABLE_COLUMNS
from psptool.data.store.reading import open_store
from psptool.schemas.builtin_skeletons import builtin_skeleton
from tests.stores import JOINTS, make_clip, set_manifest, write_ucla

NAMES = ["a01_s01_e00_v01", "a01_s01_e00_v02", "a02_s03_e01_v03"]
SECRET = b"secret of another file " * 100
ROWS = 3 * 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_ucla(tmp_path / "u.h5", [make_clip(name, seed) for seed, name in enumerate(NAMES)])
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "u.h5"


def external_storage(file):
    del file["state"]
    outside = Path(file.filename).with_name("secret")
    file.create_dataset("state", (ROWS, JOINTS), "u1", external=[(outside, 0, ROWS * JOINTS)])


def external_link(file):
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as source:
        file.copy("state", source)
    del file["state"]
    file["state"] = h5py.ExternalLink(other, "/state")


def soft_link(file):
    del file["clips/label"]
    file["clips/label"] = h5py.SoftLink("/clips/repetition")


def virtual(file):
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as source:
        file.copy("state", source)
    del file["state"]
    layout = h5py.VirtualLayout((ROWS, JOINTS), "u1")
    layout[:] = h5py.VirtualSource(other, "state", (ROWS, JOINTS))
    file.create_virtual_dataset("state", layout)


def contiguous(file):
    values = file["state"][:]
    del file["state"]
    file.create_dataset("state", data=values)


def compressed(file):
    values = file["joint"][:]
    del file["joint"]
    file.create_dataset("joint", data=values, chunks=values.shape, compression="gzip")


def checksummed(file):
    values = file["joint"][:]
    del file["joint"]
    file.create_dataset("joint", data=values, chunks=values.shape, fletcher32=True)


def as_group(file):
    del file["joint"]
    file.create_group("joint")


def as_datatype(file):
    del file["clips/label"]
    file["clips/label"] = np.dtype("<i8")


def table_as_array(file):
    del file["clips"]
    file["clips"] = np.zeros(3)


def additional_array(file):
    file["more"] = np.zeros(3)


def recursive_table(file):
    del file["clips"]
    file["clips"] = file["/"]


def declared_rows(file):
    """10^12 rows in a few bytes: HDF5 reads missing chunks as zeros."""
    for name in ROW_ARRAYS:
        file[name].resize(10**12, axis=0)
    file["clips/frames"][2] = 10**12 - 12


def declared_clips(file):
    for name in (*TABLE_COLUMNS, "name", "origin", "scale", "rotation"):
        file["clips"][name].resize(10**12, axis=0)


def wrapping_product(file):
    """2^32 * 2^32 overflows to 0 in 64 bits, so that the total is the number of rows of the other clips."""
    file["clips/frames"][0] = file["clips/persons"][0] = 2**32
    file["clips/first_row"][:] = [0, 0, 6]
    for name in ROW_ARRAYS:
        file[name].resize(12, axis=0)


def negative_persons(file):
    file["clips/persons"][0] = -1


def label_out_of_range(file):
    file["clips/label"][1] = 99


def overlapping_rows(file):
    file["clips/first_row"][1] = 3


def too_many_joints(file):
    del file["joint"]
    file.create_dataset("joint", (ROWS, 10**9, 3), "<f4", chunks=(1, 1000, 3))


def double_precision(file):
    values = file["joint"][:]
    del file["joint"]
    file.create_dataset("joint", data=values.astype(np.float64), chunks=values.shape)


def big_endian(file):
    values = file["clips/frames"][:]
    del file["clips/frames"]
    file.create_dataset("clips/frames", data=values.astype(">i8"), chunks=(3,))


def names_as_numbers(file):
    del file["clips/name"]
    file.create_dataset("clips/name", data=np.arange(3), chunks=(3,))


def long_name(file):
    file["clips/name"][1] = "a" * 10_000


def name_with_parent_folders(file):
    file["clips/name"][1] = "../../a01"


def name_of_two_lines(file):
    file["clips/name"][1] = "a01\na02"


def empty_name(file):
    file["clips/name"][0] = ""


def invalid_utf8(file):
    file["clips/name"][1] = b"\xff\xfe"


def manifest_as_array(file):
    text = file.attrs["manifest"]
    set_manifest(file, [text, text])


def long_manifest(file):
    set_manifest(file, file.attrs["manifest"] + " " * 2**24)


def other_topology(file):
    values = json.loads(file.attrs["manifest"])
    values["description"]["skeleton"] = builtin_skeleton("ntu25").model_dump(mode="json")
    values["description"]["format"] = {"reader": "ntu"}
    set_manifest(file, json.dumps(values))


def too_few_classes(file):
    values = json.loads(file.attrs["manifest"])
    values["description"]["classes"] = {"1": "one"}
    set_manifest(file, json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external_storage, "/state: found external storage"),
        (external_link, "/state is an external link"),
        (soft_link, "/clips/label is a soft link"),
        (virtual, "/state: found virtual storage"),
        (contiguous, "/state: found contiguous storage"),
        (compressed, "/joint: found filter 1"),
        (checksummed, "/joint: found filter 3"),
        (as_group, "/joint is not an array"),
        (as_datatype, "/clips/label is not an array"),
        (table_as_array, "/clips is not a group"),
        (additional_array, "6 entries, expected 5"),
        (recursive_table, "array /clips/"),
        (declared_rows, "/joint: has .* bytes by its shape, which are not in the file"),
        (declared_clips, "bytes by its shape, which are not in the file"),
        (wrapping_product, "first_row does not agree"),
        (negative_persons, "/clips/persons of clip 0: found -1"),
        (label_out_of_range, "/clips/label of clip 1: found 99, expected -1 to 9"),
        (overlapping_rows, "first_row does not agree"),
        (too_many_joints, "/joint: found entries of shape"),
        (double_precision, "/joint: found float64, expected float32"),
        (big_endian, "/clips/frames: found >i8, expected int64"),
        (names_as_numbers, "/clips/name: found int64, expected text"),
        (long_name, "/clips/name: found 10,000 bytes, expected at most 255"),
        (name_with_parent_folders, "/clips/name: found a name with other characters"),
        (name_of_two_lines, "/clips/name: found a name with other characters"),
        (empty_name, "/clips/name: found a name with other characters"),
        (invalid_utf8, "damaged"),
        (manifest_as_array, "'manifest' is not one string"),
        (long_manifest, "'manifest' has .* characters, more than"),
        (other_topology, "/joint: found entries of shape .20, 3., expected .25, 3."),
        (too_few_classes, "/clips/label of clip 2: found 1, expected -1 to 0"),
    ],
    ids=lambda value: getattr(value, "__name__", "").replace("_", " "),
)
def test_opening_a_file_of_another_structure_is_refused(path, change, message):
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(PspError, match=message) as caught:
        open_store(path).close()
    assert str(path) in str(caught.value)


def test_a_dataset_from_the_writer_is_accepted(path):
    with open_store(path) as store:
        assert store.names == tuple(NAMES)
        assert [clip.name for clip in store.clips([2, 0, 1])] == [NAMES[2], NAMES[0], NAMES[1]]


def test_a_dataset_without_clips_is_accepted(tmp_path):
    write_ucla(tmp_path / "u.h5", [])
    with open_store(tmp_path / "u.h5") as store:
        assert list(store) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_refused_without_waiting_for_data(tmp_path):
    os.mkfifo(tmp_path / "u.h5")
    with pytest.raises(PspError, match="not a regular file"):
        open_store(tmp_path / "u.h5")


def test_clips_read_together_equal_those_read_one_by_one(tmp_path, monkeypatch):
    present = ((True, False, True), (True, True, True))
    names = [f"a0{a}_s0{s}_e00_v0{v}" for a in (1, 2, 3) for s in (1, 2) for v in (1, 2)]
    clips = [make_clip(name, seed, present[: 1 + seed % 2]) for seed, name in enumerate(names)]
    write_ucla(tmp_path / "u.h5", clips)
    with open_store(tmp_path / "u.h5") as store:
        alone = [store.clip(index) for index in range(len(store))]
        # A clip has 3 or 6 rows; a block has 10.
        monkeypatch.setattr("psptool.data.store.reading.BLOCK_BYTES", 10 * 521)
        for order in (range(12), [3, 4, 5, 2, 2, 11], []):
            for found, index in zip(store.clips(order), order, strict=True):
                for name in ("joint", "motion", "present", "state", "origin", "scale", "rotation"):
                    np.testing.assert_array_equal(getattr(found, name), getattr(alone[index], name))
