"""Batches gathered on the device, compared with the arrays of the store."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from psptool.common.errors import PspError
from psptool.data.batches.ragged import Batcher, RaggedClips, _fits
from psptool.data.batches.streams import Batch, central_difference, root_relative
from psptool.data.store.reading import Store, open_store
from psptool.schemas.recipes import resolve
from psptool.schemas.training import AugmentSettings, SamplingSettings, StreamSettings
from tests.builtin import UCLA20

from ..stores import make_clip, write_ucla

ALL = (True,) * 6
HALF = (True, True, False, False, True, True)
LATE = (False, False, True, True, True, False)
# Presence per clip, person and frame. In a06, frames 0 and 5 are empty.
PRESENT = {
    "a01_s01_e00_v01": [ALL],
    "a02_s01_e00_v01": [ALL, HALF],
    "a05_s01_e00_v01": [(True,)],
    "a06_s01_e00_v01": [LATE, (False, True, False, False, False, False)],
    "a08_s01_e00_v01": [(True,) * 40],
}
SIX = SamplingSettings(frames=6)
AUGMENT = AugmentSettings(
    yaw=30, pitch_roll=15, shear=0.2, scale=0.2, jitter=0.1, mask_joints=0.2, mirror=0.5
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    write_ucla(
        tmp_path / "u.h5", [make_clip(name, n, present) for n, (name, present) in enumerate(PRESENT.items())]
    )
    with open_store(tmp_path / "u.h5") as opened:
        yield opened


@pytest.fixture
def clips(store: Store) -> RaggedClips:
    return RaggedClips.from_store(store, UCLA20, torch.device("cpu"))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_indices(clips: RaggedClips) -> Tensor:
    return torch.arange(len(clips.label))


def test_labels_are_those_of_the_table_in_the_same_order(store: Store, clips: RaggedClips) -> None:
    assert clips.label.tolist() == store.table.label.tolist() == [0, 1, 4, 5, 6]


def test_a_test_batch_has_the_stored_frames_of_every_visible_person(store: Store, clips: RaggedClips) -> None:
    chosen = torch.tensor([4, 0, 3, 1, 2])
    streams = Batcher(clips, SIX).test(chosen)
    for stream, name in ((streams["joint"], "joint"), (streams["motion"], "motion")):
        expected = []
        for index in chosen.tolist():
            clip = store.clip(index)
            visible = np.flatnonzero(clip.present.any(0))
            frames = [visible[int(i * len(visible) / 6)] for i in range(6)]
            expected += list(getattr(clip, name)[:, frames])
        np.testing.assert_array_equal(stream.x.permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_average_weights_the_persons_of_a_clip_equally_and_no_others(clips: RaggedClips) -> None:
    average = Batcher(clips, SIX).test(torch.tensor([0, 1, 2]))["joint"].average
    assert average.tolist() == [[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]


def test_a_person_absent_from_all_sampled_frames_is_not_in_the_batch(clips: RaggedClips) -> None:
    # Two of four visible frames are sampled: frame 1 contains the second person, frame 3 the first.
    both = Batcher(clips, SamplingSettings(frames=2)).test(torch.tensor([3]))["joint"]
    assert both.average.tolist() == [[0.5, 0.5]]
    one = Batcher(clips, SamplingSettings(frames=1)).test(torch.tensor([3]))["joint"]
    assert one.average.tolist() == [[1.0]]
    assert len(one.x) == 1


def test_with_zeros_every_clip_is_padded_to_two_persons(store: Store, clips: RaggedClips) -> None:
    skipped = Batcher(clips, SIX).test(all_indices(clips))["joint"]
    padded = Batcher(clips, SIX, absent_persons="zeros").test(all_indices(clips))["joint"]
    assert padded.x.shape[0] == 2 * len(PRESENT)
    assert torch.equal(padded.average, torch.eye(len(PRESENT)).repeat_interleave(2, dim=1) / 2)
    slots = [
        2 * clip + person for clip, persons in enumerate(PRESENT.values()) for person in range(len(persons))
    ]
    assert torch.equal(padded.x[slots], skipped.x)
    assert not padded.x[sorted(set(range(10)) - set(slots))].any()


def test_with_zeros_a_third_person_in_the_loaded_clips_is_an_error(tmp_path: Path) -> None:
    names = ("a01_s01_e00_v01", "a02_s01_e00_v01")
    write_ucla(
        tmp_path / "u.h5",
        [
            make_clip(name, n, [ALL] * count)
            for n, (name, count) in enumerate(zip(names, (2, 3), strict=True))
        ],
    )
    recipe = resolve(preset="paper")
    zeros = recipe.model_copy(update={"model": recipe.model.model_copy(update={"absent_persons": "zeros"})})
    with open_store(tmp_path / "u.h5") as store:
        both, first = (
            RaggedClips.from_store(store, UCLA20, torch.device("cpu"), chosen=np.arange(count))
            for count in (2, 1)
        )
    with pytest.raises(PspError, match="found a clip with 3 persons, expected at most 2"):
        Batcher.of(both, zeros)
    assert len(Batcher.of(both, recipe).test(torch.arange(2))["joint"].x) == 5
    assert len(Batcher.of(first, zeros).test(torch.arange(1))["joint"].x) == 2


@pytest.mark.parametrize("mode", ["skip", "zeros"])
def test_every_row_of_average_sums_to_one(clips: RaggedClips, mode: str) -> None:
    batcher = Batcher(clips, SamplingSettings(frames=2, draw="crop"), AUGMENT, mode)
    for seed in range(20):
        streams = batcher.train(all_indices(clips), seeded(seed))
        for stream in streams.values():
            torch.testing.assert_close(stream.average.sum(1), torch.ones(len(PRESENT)))
            assert stream.average.shape[1] == len(stream.x)


@pytest.mark.parametrize("draw", ["released", "crop"])
def test_a_frame_without_persons_is_never_sampled(clips: RaggedClips, draw: str) -> None:
    batcher = Batcher(clips, SamplingSettings(frames=5, draw=draw), absent_persons="zeros")  # type: ignore[arg-type]
    for seed in range(50):
        x = batcher.train(torch.tensor([3]), seeded(seed))["joint"].x
        assert bool((x != 0).any(3).any(1).any(0).all())  # someone is present in each frame


def test_training_frames_of_a_clip_are_distinct_stored_frames_in_order(
    store: Store, clips: RaggedClips
) -> None:
    x = Batcher(clips, SamplingSettings(frames=8)).train(torch.tensor([4]), seeded())["joint"].x[0]
    stored = store.clip(4).joint[0]
    numbers = [int(np.flatnonzero((stored == frame).all((1, 2)))[0]) for frame in x.permute(1, 2, 0).numpy()]
    assert numbers == sorted(set(numbers))
    assert numbers != [i * 40 // 8 for i in range(8)]


def test_absent_frames_of_a_person_remain_zero_with_every_augmentation(clips: RaggedClips) -> None:
    # All six frames of the second clip are sampled in order; its second person is absent from two of them.
    x = Batcher(clips, SIX, AUGMENT).train(torch.tensor([1]), seeded())["joint"].x
    assert (x[1] != 0).any(2).any(0).tolist() == list(HALF)
    assert (x[0] != 0).any(2).any(0).all()


def same(first: Batch, second: Batch) -> bool:
    pairs = ((first["joint"], second["joint"]), (first["motion"], second["motion"]))
    return all(torch.equal(a.x, b.x) and torch.equal(a.average, b.average) for a, b in pairs)


def test_a_training_batch_depends_only_on_the_generator_state(clips: RaggedClips) -> None:
    batcher = Batcher(clips, SamplingSettings(frames=4, draw="crop"), AUGMENT)
    first, again, other = (batcher.train(all_indices(clips), seeded(seed)) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)


def test_without_random_sampling_and_augmentation_a_training_batch_is_the_test_batch(
    clips: RaggedClips,
) -> None:
    # Six frames of clips with six visible frames or one: released sampling is not random.
    batcher, chosen = Batcher(clips, SIX), torch.tensor([0, 1, 2])
    assert same(batcher.train(chosen, seeded()), batcher.test(chosen))


def test_noise_is_added_to_positions_only(clips: RaggedClips) -> None:
    noisy = Batcher(clips, SIX, AugmentSettings(jitter=0.1)).train(all_indices(clips), seeded())
    clean = Batcher(clips, SIX).train(all_indices(clips), seeded())
    assert not torch.equal(noisy["joint"].x, clean["joint"].x)
    assert torch.equal(noisy["motion"].x, clean["motion"].x)


SHARED = SamplingSettings(frames=40, shared=True)


def test_shared_augmentation_transforms_motion_in_the_same_way_as_positions(clips: RaggedClips) -> None:
    # All 40 frames of the clip: motion is the difference of positions after any linear map of both.
    changes = AugmentSettings(
        yaw=30, pitch_roll=15, shear=0.2, scale=0.2, mirror=1, mask_joints=0.2, shared=True
    )
    streams = Batcher(clips, SHARED, changes).train(torch.tensor([4]), seeded())
    joint, motion = streams["joint"].x[0], streams["motion"].x[0]
    torch.testing.assert_close(motion[:, :-1], joint[:, 1:] - joint[:, :-1], atol=1e-5, rtol=0)
    assert motion.any()
    separate = Batcher(clips, SHARED, changes.model_copy(update={"shared": False})).train(
        torch.tensor([4]), seeded()
    )
    assert not torch.allclose(separate["motion"].x, streams["motion"].x, atol=1e-2)


def test_frames_of_joint_and_motion_are_shared_or_sampled_separately_as_configured(
    store: Store, clips: RaggedClips
) -> None:
    stored = store.clip(4)

    def numbers(shared: bool) -> list[list[int]]:
        settings = SamplingSettings(frames=8, draw="crop", crop=0.5, shared=shared)
        streams = Batcher(clips, settings).train(torch.tensor([4]), seeded())
        pairs = ((streams["joint"], stored.joint[0]), (streams["motion"], stored.motion[0]))
        return [
            [
                int(np.flatnonzero((rows == frame).all((1, 2)))[0])
                for frame in stream.x[0].permute(1, 2, 0).numpy()
            ]
            for stream, rows in pairs
        ]

    shared, separate = numbers(True), numbers(False)
    assert shared[0] == shared[1] == separate[0]
    assert separate[0] != separate[1]


def test_half_precision_storage_needs_half_the_memory_and_batches_are_float32(store: Store) -> None:
    half = RaggedClips.from_store(store, UCLA20, torch.device("cpu"), torch.float16)
    full = RaggedClips.from_store(store, UCLA20, torch.device("cpu"))
    assert 2 * half.joint.nbytes == full.joint.nbytes
    found, expected = (Batcher(clips, SIX).test(all_indices(clips))["joint"].x for clips in (half, full))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.half().float())


@pytest.mark.parametrize("mode", ["skip", "zeros"])
def test_batches_gathered_on_the_host_are_the_same(
    clips: RaggedClips, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    batcher = Batcher(clips, SamplingSettings(frames=2, draw="crop"), AUGMENT, mode)
    expected = batcher.train(all_indices(clips), seeded())
    monkeypatch.setattr(RaggedClips, "place", "host")
    assert same(batcher.train(all_indices(clips), seeded()), expected)


def test_clips_are_stored_on_the_device_if_they_need_at_most_half_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert _fits(500, torch.device("cuda"))
    assert not _fits(501, torch.device("cuda"))
    assert _fits(10**15, torch.device("cpu"))


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_central_difference_is_the_next_minus_the_previous_frame_if_both_are_present(frames: int) -> None:
    x, present = (
        torch.randn(4, frames, 3, 3, generator=seeded()),
        torch.rand(4, frames, generator=seeded(1)) < 0.7,
    )
    found, defined = central_difference(x, present)
    for person in range(4):
        for frame in range(frames):
            inner = 0 < frame < frames - 1
            both = inner and bool(present[person, frame - 1] and present[person, frame + 1])
            expected = x[person, frame + 1] - x[person, frame - 1] if both else torch.zeros(3, 3)
            assert torch.equal(found[person, frame], expected)
            assert defined[person, frame] == both


def test_root_relative_positions_are_relative_to_the_root_which_is_unchanged() -> None:
    x = torch.randn(2, 4, 5, 3, generator=seeded())
    found = root_relative(x, 1)
    assert torch.equal(found[:, :, 1], x[:, :, 1])
    for joint in (0, 2, 3, 4):
        assert torch.equal(found[:, :, joint], x[:, :, joint] - x[:, :, 1])


def test_motion_and_root_relative_streams_are_computed_from_the_sampled_positions(clips: RaggedClips) -> None:
    settings, chosen = StreamSettings(motion="drawn", origin="frame"), all_indices(clips)
    plain, found = Batcher(clips, SIX).test(chosen), Batcher(clips, SIX, streams=settings).test(chosen)
    positions = plain["joint"].x.permute(0, 2, 3, 1)
    assert torch.equal(found["joint"].x.permute(0, 2, 3, 1), root_relative(positions, UCLA20.center))
    first = positions[0, 2] - positions[0, 0]
    expected = first - first[UCLA20.center]
    expected[UCLA20.center] = first[UCLA20.center]
    torch.testing.assert_close(found["motion"].x.permute(0, 2, 3, 1)[0, 1], expected)
    assert not found["motion"].x[:, :, [0, -1]].any()


def test_a_masked_joint_is_zero_in_drawn_motion(clips: RaggedClips) -> None:
    changes = AugmentSettings(mask_joints=0.5)
    streams = StreamSettings(motion="drawn", origin="frame")
    x = Batcher(clips, SIX, changes, streams=streams).train(torch.tensor([0] * 40), seeded())["motion"].x
    masked = (x == 0).all(2).all(1)  # (P, V)
    assert 0.3 < masked.float().mean() < 0.7


def test_a_batcher_has_all_batch_settings_of_the_training_configuration(clips: RaggedClips) -> None:
    recipe = resolve(preset="best", changes=["model.absent_persons=zeros"])
    found = Batcher.of(clips, recipe)
    assert (found.sampling, found.augmentation, found.streams) == (
        recipe.sampling,
        recipe.augment,
        recipe.streams,
    )
    assert found.absent_persons == "zeros"


@pytest.mark.parametrize("slice_rows", [1, 4, 7, 1000])
@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4], [1, 3], [4, 0, 1], []])
def test_slices_are_the_rows_of_the_chosen_clips_in_their_order(
    store: Store, chosen: list[int], slice_rows: int
) -> None:
    parts = list(store.positions(np.array(chosen, dtype=int), slice_rows))
    assert all(0 < len(part.joint) == len(part.present) <= slice_rows for part in parts)
    clips = [store.clip(index) for index in chosen]
    for name, shape in (("joint", (UCLA20.size, 3)), ("present", ())):
        found = [getattr(part, name) for part in parts]
        expected = [getattr(clip, name).reshape(-1, *shape) for clip in clips]
        assert len(found) == len(expected) == 0 or np.array_equal(
            np.concatenate(found), np.concatenate(expected)
        )


def test_batches_of_selected_clips_equal_those_of_the_whole_dataset(store: Store, clips: RaggedClips) -> None:
    chosen = torch.tensor([3, 1, 4])
    some = RaggedClips.from_store(store, UCLA20, torch.device("cpu"), chosen=chosen.numpy())
    assert len(some.joint) == sum(clip.present.size for clip in map(store.clip, chosen.tolist()))
    few, all_clips = (Batcher(one, SamplingSettings(frames=3), AUGMENT) for one in (some, clips))
    assert same(few.test(chosen), all_clips.test(chosen))
    assert same(few.train(chosen, seeded()), all_clips.train(chosen, seeded()))


@pytest.mark.parametrize("mode", ["skip", "zeros"])
def test_motion_equals_the_stored_motion(store: Store, clips: RaggedClips, mode: str) -> None:
    for index in range(len(store)):
        clip = store.clip(index)
        visible = np.flatnonzero(clip.present.any(0))
        batcher = Batcher(clips, SamplingSettings(frames=len(visible)), absent_persons=mode)
        found = batcher.test(torch.tensor([index]))["motion"].x.permute(0, 2, 3, 1).numpy()  # (P, T, V, 3)
        np.testing.assert_array_equal(found[: len(clip.motion)], clip.motion[:, visible])
        assert not found[len(clip.motion) :].any()


def test_loading_allocates_memory_for_the_positions_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The additional memory is one slice and a few numbers per clip and frame."""
    names = [f"a01_s{subject:02d}_e{n:02d}_v01" for subject in range(1, 11) for n in range(10)]
    write_ucla(tmp_path / "large.h5", [make_clip(name, 0, [(True,) * 200]) for name in names])
    with open_store(tmp_path / "large.h5") as store:
        monkeypatch.setattr(Store.positions, "__defaults__", (500,))
        tracemalloc.start()
        try:
            loaded = RaggedClips.from_store(store, UCLA20, torch.device("cpu"))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # tracemalloc traces NumPy arrays, but not the tensor of the positions.
    assert loaded.joint.nbytes == 100 * 200 * UCLA20.size * 3 * 4
    assert peak < 0.3 * loaded.joint.nbytes


class DeviceOperations(TorchDispatchMode):
    """Counts operations that allocate on the meta device; on a GPU, each would launch a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device.type == "meta":
            self.count += not func.is_view
        return result


def test_batches_of_preset_best_need_few_operations_on_the_device(
    clips: RaggedClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batcher, "_device_generator", lambda self, generator: None)
    device = torch.device("meta")
    batcher = Batcher.of(replace(clips, joint=clips.joint.to(device), device=device), resolve(preset="best"))
    with DeviceOperations() as train:
        batcher.train(all_indices(clips), seeded())
    with DeviceOperations() as test:
        batcher.test(all_indices(clips))
    assert 0 < train.count <= 28
    assert 0 < test.count <= 14
