"""The HDF5 file: clips are written and read unchanged, and a file is written completely or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import psptool
from psptool.common.errors import PspError
from psptool.data.store import guarded
from psptool.data.store.arrays import motion
from psptool.data.store.reading import open_store
from psptool.data.store.verifying import verify
from psptool.data.store.writing import StoreWriter, pack
from tests.stores import JOINTS, make_clip, set_manifest, write_ucla

NAMES = ["a01_s01_e00_v01", "a01_s01_e00_v02", "a02_s03_e01_v03", "a12_s10_e04_v01"]
GAP = ((True, True, False, True), (False, True, True, False))


@pytest.fixture
def clips():
    return [
        make_clip(NAMES[0], 0),
        make_clip(NAMES[1], 1, GAP),
        make_clip(NAMES[2], 2, ((True,),)),
        make_clip(NAMES[3], 3),
    ]


@pytest.fixture
def path(tmp_path, clips):
    write_ucla(tmp_path / "ucla.h5", clips)
    return tmp_path / "ucla.h5"


def add_all(path, clips):
    with StoreWriter(path, JOINTS) as writer:
        for clip in clips:
            writer.add(pack([clip], JOINTS))


def test_every_clip_is_read_by_name_and_by_index(path, clips):
    with psptool.open(path) as store:
        assert store.names == tuple(NAMES)
        for index, clip in enumerate(clips):
            for stored in (store.clip(clip.name), store.clip(index), store.clip(index - len(clips))):
                assert (stored.name, stored.key, stored.scale) == (clip.name, clip.key, clip.scale)
                for field in ("joint", "present", "state", "origin", "rotation"):
                    np.testing.assert_array_equal(getattr(stored, field), getattr(clip, field))
                    assert getattr(stored, field).dtype == getattr(clip, field).dtype
                np.testing.assert_array_equal(stored.motion, motion(clip.joint, clip.present))


def test_an_unknown_clip_is_an_error_that_suggests_similar_names_or_the_first(path):
    with psptool.open(path) as store:
        with pytest.raises(PspError) as error:
            store.clip("a01_s01_e00_v09")
        assert f"Did you mean {NAMES[1]} or {NAMES[0]} or {NAMES[3]}? dataset.names lists all" in str(
            error.value
        )
        with pytest.raises(PspError) as error:
            store.clip("zz")
        assert f"The first clip is {NAMES[0]}. dataset.names lists all clips." in str(error.value)


@pytest.mark.parametrize("read", [lambda store: store.clip(0), lambda store: next(iter(store))])
def test_reading_a_closed_dataset_is_an_error_that_says_it_is_closed(path, read):
    with open_store(path) as store:
        read(store)
    with pytest.raises(PspError, match=r"the dataset is closed\. Open it again"):
        read(store)


def test_rows_are_in_order_of_clip_person_and_frame(path, clips):
    with open_store(path) as store:
        joint, present, table = store.array("joint")[:], store.array("present")[:], store.table
    assert table.first_row.tolist() == [0, 6, 14, 15]
    assert table.persons.tolist() == [1, 2, 1, 1]
    np.testing.assert_array_equal(joint[6 + 4 + 1], clips[1].joint[1, 1])
    np.testing.assert_array_equal(present[6:14], np.ravel(GAP))


def test_motion_is_the_forward_difference_and_zero_next_to_absent_frames_and_at_the_end(path, clips):
    with open_store(path) as store:
        clip = store.clip(NAMES[1])
    expected = np.zeros_like(clip.joint)
    for person, frame in ((0, 0), (1, 1)):  # the only adjacent frames in GAP that are both present
        expected[person, frame] = clips[1].joint[person, frame + 1] - clips[1].joint[person, frame]
    np.testing.assert_array_equal(clip.motion, expected)


def test_recorded_undoes_the_normalization_and_is_nan_where_absent(tmp_path):
    base = make_clip(NAMES[0], 0, ((True, False),))
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    clip = type(base)(
        base.name,
        base.key,
        base.joint,
        base.present,
        base.state,
        np.array([1.0, 2.0, 3.0]),
        0.5,
        rotation,
    )
    write_ucla(tmp_path / "t.h5", [clip])
    with open_store(tmp_path / "t.h5") as store:
        recorded = store.clip(0).recorded()
    x, y, z = clip.joint[0, 0, 7].astype(float)
    by_hand = [
        1 + 0.5 * (x * np.cos(angle) + y * np.sin(angle)),
        2 + 0.5 * (-x * np.sin(angle) + y * np.cos(angle)),
        3 + 0.5 * z,
    ]
    np.testing.assert_allclose(recorded[0, 0, 7], by_hand, atol=1e-12)
    assert np.isnan(recorded[0, 1]).all()


def test_clips_across_chunk_boundaries_are_read_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr("psptool.data.store.writing.CHUNK_ROWS", 7)
    monkeypatch.setattr("psptool.data.store.writing.CHUNK_CLIPS", 3)
    names = [f"a01_s01_e{episode:02}_v01" for episode in range(10)]
    clips = [make_clip(name, seed, GAP if seed % 3 else ((True,) * 9,)) for seed, name in enumerate(names)]
    write_ucla(tmp_path / "many.h5", clips)
    with open_store(tmp_path / "many.h5") as store:
        np.testing.assert_array_equal(
            store.array("joint")[:], np.concatenate([clip.joint.reshape(-1, JOINTS, 3) for clip in clips])
        )
        np.testing.assert_array_equal(store.clip(names[7]).joint, clips[7].joint)
        assert store.names == tuple(names)


def test_the_bytes_do_not_depend_on_the_time(tmp_path, clips):
    write_ucla(tmp_path / "one.h5", clips)
    time.sleep(1.1)  # HDF5 timestamps, if they were written, have a resolution of 1 s
    write_ucla(tmp_path / "two.h5", clips)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_the_bytes_do_not_depend_on_the_number_of_clips_added_at_a_time(tmp_path, monkeypatch):
    """Only clips added together contain complete chunks, which are written without a copy."""
    monkeypatch.setattr("psptool.data.store.writing.CHUNK_ROWS", 7)
    clips = [make_clip(f"a01_s01_e{episode:02}_v01", episode, GAP) for episode in range(10)]
    manifest, contents = write_ucla(tmp_path / "manifest.h5", clips), []
    for number, parts in enumerate(([[clip] for clip in clips], [clips])):
        path = tmp_path / f"{number}.h5"
        with StoreWriter(path, JOINTS) as writer:
            for part in parts:
                writer.add(pack(part, JOINTS))
            writer.finish(manifest)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_clips_fingerprint_depends_on_names_and_content_fingerprint_on_coordinates(tmp_path, clips):
    first = write_ucla(tmp_path / "a.h5", clips).fingerprints
    other_coordinates = [make_clip(NAMES[0], 9), *clips[1:]]
    renamed = [make_clip("a01_s01_e01_v01", 1, GAP) if clip.name == NAMES[1] else clip for clip in clips]
    with_other_coordinates = write_ucla(tmp_path / "b.h5", other_coordinates).fingerprints
    with_other_name = write_ucla(tmp_path / "c.h5", renamed).fingerprints
    assert with_other_coordinates.clips == first.clips
    assert with_other_coordinates.content != first.content
    assert with_other_name.clips != first.clips


def test_clips_fingerprint_is_the_documented_digest(tmp_path, clips):
    text = "psptool-clips-1\n" + "".join(f"{clip.name}\t{clip.key.label}\n" for clip in clips)
    assert (
        write_ucla(tmp_path / "a.h5", clips).fingerprints.clips == hashlib.sha256(text.encode()).hexdigest()
    )


def test_digests_are_equal_if_and_only_if_coordinates_are(tmp_path):
    same = [make_clip(NAMES[0], 5), make_clip(NAMES[1], 5), make_clip(NAMES[2], 6)]
    write_ucla(tmp_path / "a.h5", same)
    with open_store(tmp_path / "a.h5") as store:
        first, second, third = verify(store)
    assert first == second != third


def test_names_out_of_order_are_refused_and_no_file_is_left(tmp_path, clips):
    with pytest.raises(PspError, match="ascending order of their names"):
        add_all(tmp_path / "a.h5", [clips[1], clips[0]])
    assert list(tmp_path.iterdir()) == []


def test_an_error_between_clips_leaves_only_the_old_file(path, clips):
    before = path.read_bytes()

    def broken():
        yield clips[0]
        raise KeyError("upstream")

    with pytest.raises(KeyError):
        add_all(path, broken())
    assert [file.name for file in path.parent.iterdir()] == ["ucla.h5"]
    assert path.read_bytes() == before


def test_a_failed_sync_is_an_error_even_if_a_later_one_succeeds(path, clips, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(guarded, "FLUSH_BYTES", 1)
    original, failed = os.fsync, []

    def fail_once(descriptor):
        if failed:
            return original(descriptor)
        failed.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(PspError, match=r"ucla\.h5: cannot be written \(Input/output error\)"):
        write_ucla(path, clips)
    assert failed
    assert [file.name for file in path.parent.iterdir()] == ["ucla.h5"]
    assert path.read_bytes() == before


def test_the_partial_file_of_a_killed_run_is_overwritten(path, clips):
    expected = path.read_bytes()
    (path.parent / ".ucla.h5.partial").write_bytes(b"garbage" * 1_000_000)
    write_ucla(path, clips)
    assert [file.name for file in path.parent.iterdir()] == ["ucla.h5"]
    assert path.read_bytes() == expected


def test_a_second_writer_of_the_same_file_is_refused(path):
    with StoreWriter(path, JOINTS), pytest.raises(PspError, match="another psptool process"):
        StoreWriter(path, JOINTS)


def test_a_missing_folder_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(PspError, match=r"absent.*a\.h5"):
        StoreWriter(tmp_path / "absent" / "a.h5", JOINTS)


def damage_not_hdf5(path: Path) -> None:
    path.write_text("label,x,y,z\n")


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5000])


def damage_version(path: Path) -> None:
    with h5py.File(path, "a") as file:
        set_manifest(file, file.attrs["manifest"].replace('"format_version":2', '"format_version":7'))


def damage_no_manifest(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["manifest"]


def damage_no_table(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["clips"]


def damage_short_column(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["clips/scale"].resize(2, axis=0)


def damage_missing_rows(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for name in ("joint", "motion", "present", "state"):
            file[name].resize(5, axis=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(damage_not_hdf5, "HDF5", id="not an HDF5 file"),
        pytest.param(damage_truncated, "truncated", id="truncated"),
        pytest.param(damage_version, "version 7, expected version 2", id="another format version"),
        pytest.param(damage_no_manifest, "manifest", id="no manifest"),
        pytest.param(damage_no_table, "clips", id="no clip table"),
        pytest.param(damage_short_column, "/clips/scale", id="a column is too short"),
        pytest.param(damage_missing_rows, "first_row", id="rows are missing"),
        pytest.param(Path.unlink, "no such file", id="no file"),
    ],
)
def test_an_unusable_file_is_an_error_that_names_it(path, damage, message):
    damage(path)
    with pytest.raises(PspError, match=message) as caught:
        open_store(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(PspError, match="folder"):
        open_store(tmp_path)


def test_an_unknown_clip_is_an_error_with_the_most_similar_name(path):
    with open_store(path) as store:
        with pytest.raises(PspError, match=f"Did you mean {NAMES[2]}"):
            store.clip("a02_s03_e01_v30")
        with pytest.raises(PspError, match="no clip 4"):
            store.clip(4)


def test_reading_a_clip_reads_only_its_rows(path, monkeypatch):
    read = []
    original = h5py.Dataset.__getitem__

    def spy(self, key, *rest, **options):
        read.append((self.name, key))
        return original(self, key, *rest, **options)

    with open_store(path) as store:
        monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
        store.clip(1)
    assert ("/joint", slice(6, 14)) in read
    assert all(key in (slice(1, 2), slice(6, 14)) for _, key in read)


def test_importing_psptool_does_not_import_large_packages():
    code = "import psptool, sys; print([m for m in ('torch', 'h5py', 'numpy', 'numba') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
