"""The HDF5 file: what is written comes back, whole or not at all."""

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


def test_every_clip_comes_back_by_name_and_by_index(path, clips):
    with psptool.open(path) as store:
        assert store.names == tuple(NAMES)
        for index, clip in enumerate(clips):
            for stored in (store.clip(clip.name), store.clip(index), store.clip(index - len(clips))):
                assert (stored.name, stored.key, stored.scale) == (clip.name, clip.key, clip.scale)
                for field in ("joint", "present", "state", "origin", "rotation"):
                    np.testing.assert_array_equal(getattr(stored, field), getattr(clip, field))
                    assert getattr(stored, field).dtype == getattr(clip, field).dtype
                np.testing.assert_array_equal(stored.motion, motion(clip.joint, clip.present))


def test_an_unknown_clip_is_an_error_that_names_close_ones_or_the_first(path):
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
def test_a_closed_dataset_is_not_said_to_be_damaged(path, read):
    with open_store(path) as store:
        read(store)
    with pytest.raises(PspError, match=r"the dataset is closed\. Open it again"):
        read(store)


def test_rows_lie_person_by_person_clip_by_clip(path, clips):
    with open_store(path) as store:
        joint, present, table = store.array("joint")[:], store.array("present")[:], store.table
    assert table.first_row.tolist() == [0, 6, 14, 15]
    assert table.persons.tolist() == [1, 2, 1, 1]
    np.testing.assert_array_equal(joint[6 + 4 + 1], clips[1].joint[1, 1])
    np.testing.assert_array_equal(present[6:14], np.ravel(GAP))


def test_motion_is_next_minus_this_and_zero_where_either_is_absent_and_at_the_end(path, clips):
    with open_store(path) as store:
        clip = store.clip(NAMES[1])
    expected = np.zeros_like(clip.joint)
    for person, frame in ((0, 0), (1, 1)):  # the only neighbours in GAP that are both present
        expected[person, frame] = clips[1].joint[person, frame + 1] - clips[1].joint[person, frame]
    np.testing.assert_array_equal(clip.motion, expected)


def test_recorded_undoes_the_normalization_and_is_nan_where_absent(tmp_path):
    turned = make_clip(NAMES[0], 0, ((True, False),))
    angle = 0.3
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    clip = type(turned)(
        turned.name,
        turned.key,
        turned.joint,
        turned.present,
        turned.state,
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


def test_many_clips_cross_chunk_borders_unharmed(tmp_path, monkeypatch):
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


def test_the_same_clips_give_the_same_bytes_at_another_time(tmp_path, clips):
    write_ucla(tmp_path / "one.h5", clips)
    time.sleep(1.1)  # HDF5's times, were they kept, count seconds
    write_ucla(tmp_path / "two.h5", clips)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_clips_give_the_same_bytes_one_by_one_and_all_at_once(tmp_path, monkeypatch):
    """At once, whole chunks go to the file from where they lie; one by one, hardly any does."""
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


def test_fingerprints_follow_what_they_say_they_follow(tmp_path, clips):
    first = write_ucla(tmp_path / "a.h5", clips).fingerprints
    moved = [make_clip(NAMES[0], 9), *clips[1:]]
    renamed = [make_clip("a01_s01_e01_v01", 1, GAP) if clip.name == NAMES[1] else clip for clip in clips]
    after_move = write_ucla(tmp_path / "b.h5", moved).fingerprints
    after_renaming = write_ucla(tmp_path / "c.h5", renamed).fingerprints
    assert after_move.clips == first.clips
    assert after_move.content != first.content
    assert after_renaming.clips != first.clips


def test_clips_fingerprint_is_the_documented_digest(tmp_path, clips):
    text = "psptool-clips-1\n" + "".join(f"{clip.name}\t{clip.key.label}\n" for clip in clips)
    assert (
        write_ucla(tmp_path / "a.h5", clips).fingerprints.clips == hashlib.sha256(text.encode()).hexdigest()
    )


def test_digests_are_equal_where_coordinates_are(tmp_path):
    same = [make_clip(NAMES[0], 5), make_clip(NAMES[1], 5), make_clip(NAMES[2], 6)]
    write_ucla(tmp_path / "a.h5", same)
    with open_store(tmp_path / "a.h5") as store:
        first, second, third = verify(store)
    assert first == second != third


def test_names_out_of_order_are_refused_and_nothing_is_left(tmp_path, clips):
    with pytest.raises(PspError, match="ascending order of their names"):
        add_all(tmp_path / "a.h5", [clips[1], clips[0]])
    assert list(tmp_path.iterdir()) == []


def test_an_error_between_clips_leaves_the_old_file_and_no_other(path, clips):
    before = path.read_bytes()

    def broken():
        yield clips[0]
        raise KeyError("upstream")

    with pytest.raises(KeyError):
        add_all(path, broken())
    assert [file.name for file in path.parent.iterdir()] == ["ucla.h5"]
    assert path.read_bytes() == before


def test_bytes_that_do_not_reach_the_disk_are_an_error_though_a_later_sync_succeeds(path, clips, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(guarded, "FLUSH_BYTES", 1)
    really, refused = os.fsync, []

    def once(descriptor):
        if refused:
            return really(descriptor)
        refused.append(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", once)
    with pytest.raises(PspError, match=r"ucla\.h5: cannot be written \(Input/output error\)"):
        write_ucla(path, clips)
    assert refused
    assert [file.name for file in path.parent.iterdir()] == ["ucla.h5"]
    assert path.read_bytes() == before


def test_what_a_killed_run_left_is_taken_over(path, clips):
    expected = path.read_bytes()
    (path.parent / ".ucla.h5.partial").write_bytes(b"rubbish" * 1_000_000)
    write_ucla(path, clips)
    assert [file.name for file in path.parent.iterdir()] == ["ucla.h5"]
    assert path.read_bytes() == expected


def test_two_writers_of_one_file_are_told_apart(path):
    with StoreWriter(path, JOINTS), pytest.raises(PspError, match="another psptool process"):
        StoreWriter(path, JOINTS)


def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(tmp_path):
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
    ("damage", "says"),
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
def test_a_file_that_cannot_be_used_is_refused_by_name(path, damage, says):
    damage(path)
    with pytest.raises(PspError, match=says) as caught:
        open_store(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(PspError, match="folder"):
        open_store(tmp_path)


def test_an_unknown_clip_is_refused_with_its_nearest_name(path):
    with open_store(path) as store:
        with pytest.raises(PspError, match=f"Did you mean {NAMES[2]}"):
            store.clip("a02_s03_e01_v30")
        with pytest.raises(PspError, match="no clip 4"):
            store.clip(4)


def test_a_clip_is_read_without_the_rest(path, monkeypatch):
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


def test_importing_psptool_imports_nothing_heavy():
    code = "import psptool, sys; print([m for m in ('torch', 'h5py', 'numpy', 'numba') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )
