"""The store as a torch dataset."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from psptool.common.errors import PspError
from psptool.data.store.torch_dataset import ClipDataset
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
