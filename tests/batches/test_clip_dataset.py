"""The store as a PyTorch dataset."""

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


def test_selected_clips_are_in_the_requested_order(path):
    dataset = ClipDataset(path, [NAMES[2], NAMES[0]])
    assert [int(dataset[index].label) for index in range(len(dataset))] == [9, 0]
    assert [int(dataset[index].position) for index in range(len(dataset))] == [2, 0]
    np.testing.assert_array_equal(dataset[0].joint, make_clip(NAMES[2], 2).joint)


def test_worker_processes_read_the_same_data_as_the_main_process(path):
    dataset = ClipDataset(path)
    expected = [dataset[index].joint for index in range(3)]  # opens the file before the workers are forked
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
    for joint, clip in zip(expected, loader, strict=True):
        assert torch.equal(joint, clip.joint)


def test_it_can_be_pickled_while_open(path):
    dataset = ClipDataset(path)
    first = dataset[0]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0].joint, first.joint)


def test_an_unknown_name_is_an_error_on_creation(path):
    with pytest.raises(PspError, match="no clip"):
        ClipDataset(path, ["a01_s01_e00_v09"])


def two_sizes(tmp_path):
    """Write a clip with 2 persons and 6 frames (frame 0 is empty), and a clip with 1 person and 9 frames."""
    both = make_clip(
        NAMES[0], 0, [(False, True, True, True, True, True), (False, False, True, True, False, False)]
    )
    write_ucla(tmp_path / "two.h5", [both, make_clip(NAMES[1], 1, [(True,) * 9])])
    return tmp_path / "two.h5"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_clips_with_fixed_numbers_of_frames_and_persons_are_batched_by_the_default_collate(tmp_path, method):
    dataset = ClipDataset(two_sizes(tmp_path), frames=4, persons=2)
    (batch,) = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=1, multiprocessing_context=method
    )
    assert batch.joint.shape == batch.motion.shape == (2, 2, 4, 20, 3)
    assert batch.present.shape == (2, 2, 4)
    assert batch.label.tolist() == [0, 1]
    assert not batch.present[1, 1].any()
    assert not batch.joint[1, 1].any()


def test_sampled_frames_are_those_of_a_test_batch(tmp_path):
    path = two_sizes(tmp_path)
    clip = ClipDataset(path, frames=4, persons=1)[0]
    with open_store(path) as store:
        stored = store[0]
    frames = 1 + uniform_frames(torch.tensor([5]), 4)[0].numpy()  # among frames 1 to 5
    np.testing.assert_array_equal(clip.joint, stored.joint[:1, frames])
    np.testing.assert_array_equal(clip.motion, stored.motion[:1, frames])


@pytest.mark.parametrize("given", [{"frames": 0}, {"frames": "50"}, {"persons": -1}])
def test_a_number_that_is_not_a_positive_integer_is_an_error(path, given):
    with pytest.raises(PspError, match="at least 1"):
        ClipDataset(path, **given)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_open_dataset_works_in_a_data_loader(path, method, monkeypatch):
    monkeypatch.chdir(path.parent)
    with open_store(path.name) as store:
        loader = torch.utils.data.DataLoader(
            store, batch_size=None, num_workers=1, multiprocessing_context=method
        )
        found = list(loader)
        assert [clip.name for clip in found] == list(store.names)
        for expected, clip in zip(store, found, strict=True):
            np.testing.assert_array_equal(expected.joint, clip.joint)


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
        assert clip != store[0]  # the same clip, read again


def test_unpickling_a_dataset_whose_file_was_replaced_is_an_error(path):
    with open_store(path) as store:
        pickled = pickle.dumps(store)
    path.unlink()
    write_ucla(path, [make_clip(name, 7) for name in NAMES])
    with pytest.raises(PspError, match="content differs"):
        pickle.loads(pickled)
    with pytest.raises(PspError, match="closed"):
        pickle.dumps(store)


def test_reading_a_torch_dataset_whose_file_was_replaced_is_an_error(path):
    dataset = ClipDataset(path, NAMES[:1])
    path.unlink()
    write_ucla(path, [make_clip(name, 7) for name in NAMES])
    with pytest.raises(PspError, match="content differs"):
        dataset[0]


def test_a_torch_dataset_with_a_relative_path_works_in_another_working_directory(path, monkeypatch, tmp_path):
    monkeypatch.chdir(path.parent)
    dataset = ClipDataset(path.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert int(dataset[2].label) == 9
