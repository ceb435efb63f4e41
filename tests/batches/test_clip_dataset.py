"""The store as a torch dataset."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from psptool.common.errors import PspError
from psptool.data.batches.clip_dataset import ClipDataset
from psptool.data.batches.sampling import uniform_frames
from psptool.data.store.reading import open_store
from tests.stores import make_clip, write_ucla

NAMES = ["a01_s01_e00_v01", "a02_s01_e00_v02", "a12_s03_e01_v03"]


@pytest.fixture
def path(tmp_path):
    write_ucla(tmp_path / "u.h5", [make_clip(name, seed) for seed, name in enumerate(NAMES)])
    return tmp_path / "u.h5"


def test_chosen_clips_come_in_the_order_asked_for(path):
    dataset = ClipDataset(path, [NAMES[2], NAMES[0]])
    assert [int(dataset[place].label) for place in range(len(dataset))] == [9, 0]
    assert [int(dataset[place].position) for place in range(len(dataset))] == [2, 0]
    np.testing.assert_array_equal(dataset[0].joint, make_clip(NAMES[2], 2).joint)


def test_worker_processes_read_what_this_one_reads(path):
    dataset = ClipDataset(path)
    here = [dataset[place].joint for place in range(3)]  # opens the file before the workers are forked
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    for mine, theirs in zip(here, loader, strict=True):
        assert torch.equal(mine, theirs.joint)


def test_it_can_be_pickled_when_opened(path):
    dataset = ClipDataset(path)
    first = dataset[0]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].joint, first.joint)


def test_an_unknown_name_is_refused_at_once(path):
    with pytest.raises(PspError, match="no clip"):
        ClipDataset(path, ["a01_s01_e00_v09"])


def two_sizes(tmp_path):
    """A clip of 2 persons and 6 frames, nobody in the first; and one of 1 person and 9 frames."""
    both = make_clip(
        NAMES[0], 0, [(False, True, True, True, True, True), (False, False, True, True, False, False)]
    )
    write_ucla(tmp_path / "two.h5", [both, make_clip(NAMES[1], 1, [(True,) * 9])])
    return tmp_path / "two.h5"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_clips_of_equal_frames_and_persons_are_batched_by_default(tmp_path, method):
    dataset = ClipDataset(two_sizes(tmp_path), frames=4, persons=2)
    (batch,) = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=1, multiprocessing_context=method
    )
    assert batch.joint.shape == batch.motion.shape == (2, 2, 4, 20, 3)
    assert batch.present.shape == (2, 2, 4)
    assert batch.label.tolist() == [0, 1]
    assert not batch.present[1, 1].any()
    assert not batch.joint[1, 1].any()


def test_frames_are_those_of_a_test_batch(tmp_path):
    path = two_sizes(tmp_path)
    clip = ClipDataset(path, frames=4, persons=1)[0]
    with open_store(path) as store:
        stored = store[0]
    seen = 1 + uniform_frames(torch.tensor([5]), 4)[0].numpy()  # of the frames 1 to 5
    np.testing.assert_array_equal(clip.joint, stored.joint[:1, seen])
    np.testing.assert_array_equal(clip.motion, stored.motion[:1, seen])


@pytest.mark.parametrize("given", [{"frames": 0}, {"frames": "50"}, {"persons": -1}])
def test_a_number_below_one_is_refused(path, given):
    with pytest.raises(PspError, match="at least 1"):
        ClipDataset(path, **given)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_dataset_works_in_a_loader(path, method, monkeypatch):
    monkeypatch.chdir(path.parent)
    with open_store(path.name) as store:
        loader = torch.utils.data.DataLoader(
            store, batch_size=None, num_workers=1, multiprocessing_context=method
        )
        found = list(loader)
        assert [clip.name for clip in found] == list(store.names)
        for mine, theirs in zip(store, found, strict=True):
            np.testing.assert_array_equal(mine.joint, theirs.joint)


def test_an_open_dataset_is_read_by_index_and_name(path):
    with open_store(path) as store:
        assert store[1].name == store[NAMES[1]].name == store[np.int64(-2)].name == NAMES[1]
        assert store.key(NAMES[1]) == store.key(1) == store.key(-2) == store[1].key
        assert store.class_names == store.manifest.class_names
        with pytest.raises(PspError, match="has no clip 3"):
            store[3]
        with pytest.raises(PspError, match="an index or a name"):
            store[0:2]


def test_clips_compare_without_an_error(path):
    with open_store(path) as store:
        clip = store[0]
        assert clip == clip
        assert clip != store[0]  # another read of it


def test_a_pickled_dataset_is_not_opened_from_a_replaced_file(path):
    with open_store(path) as store:
        pickled = pickle.dumps(store)
    path.unlink()
    write_ucla(path, [make_clip(name, 7) for name in NAMES])
    with pytest.raises(PspError, match="content differs"):
        pickle.loads(pickled)
    with pytest.raises(PspError, match="closed"):
        pickle.dumps(store)


def test_a_torch_dataset_does_not_read_other_clips_from_a_replaced_file(path):
    dataset = ClipDataset(path, NAMES[:1])
    path.unlink()
    write_ucla(path, [make_clip(name, 7) for name in NAMES])
    with pytest.raises(PspError, match="content differs"):
        dataset[0]


def test_a_torch_dataset_of_a_relative_path_is_read_in_another_working_directory(path, monkeypatch, tmp_path):
    monkeypatch.chdir(path.parent)
    dataset = ClipDataset(path.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert int(dataset[2].label) == 9
