"""Augmentation, manifest and viewer use the same vertical axis, for every alignment and for imports."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from psptool.data.batches.augmentation import draw_augmentation
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.store.reading import open_store
from psptool.exchange.formats import FORMATS
from psptool.exchange.importing import import_clips
from psptool.exchange.parts import parts_of
from psptool.exchange.positions import Coordinates
from psptool.formats.synthesis.writing import write_ucla
from psptool.preparation.pipeline import prepare
from psptool.schemas.dataset import Align, PreparationSettings, prepared_up
from psptool.schemas.training import AugmentSettings, SamplingSettings
from psptool.skeletons.keys import UpAxis
from psptool.view.sources import find
from tests.builtin import UCLA, UCLA20

CPU = torch.device("cpu")
UPS: dict[Align, UpAxis] = {"body": "z", "robust": "z", "released": "z", "none": "y"}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample_matrices(settings: AugmentSettings, up: UpAxis) -> torch.Tensor:
    return draw_augmentation(500, 20, settings, seeded(), up=up).matrix


@pytest.mark.parametrize(("up", "axis"), [("z", 2), ("y", 1)])
def test_yaw_changes_both_horizontal_coordinates_but_not_the_vertical_one(up: UpAxis, axis: int) -> None:
    matrix = sample_matrices(AugmentSettings(yaw=30), up)
    unit = torch.zeros(3)
    unit[axis] = 1
    assert torch.equal(matrix[:, axis], unit.expand(500, 3))
    assert torch.equal(matrix[:, :, axis], unit.expand(500, 3))
    first, second = (n for n in range(3) if n != axis)
    angle = torch.rad2deg(torch.atan2(matrix[:, second, first], matrix[:, first, first]))
    assert 29 < angle.abs().max() <= 30.001


@pytest.mark.parametrize(("up", "axis"), [("z", 2), ("y", 1)])
def test_pitch_and_roll_rotate_the_vertical_about_both_horizontal_axes(up: UpAxis, axis: int) -> None:
    vertical = sample_matrices(AugmentSettings(pitch_roll=15), up)[:, axis]
    others = [n for n in range(3) if n != axis]
    degrees = torch.rad2deg(torch.arcsin(vertical[:, others]))
    assert degrees.abs().max() <= 15.001
    assert (degrees.abs().amax(0) > 14).all()


def test_with_z_up_the_matrix_is_the_product_of_rotations_about_x_y_and_z() -> None:
    angles = (
        (2 * torch.rand(500, 3, generator=seeded()) - 1) * torch.tensor([15.0, 15.0, 30.0]) * (math.pi / 180)
    )
    expected = []
    for a, b, c in angles.double().tolist():
        about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
        about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
        about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
        expected.append(about_x @ about_y @ about_z)
    found = sample_matrices(AugmentSettings(yaw=30, pitch_roll=15), "z").double().numpy()
    np.testing.assert_allclose(found, np.array(expected), atol=1e-6)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[Align, Path]:
    folder = tmp_path_factory.mktemp("data")
    write_ucla(folder, ["a01_s01_e00_v01", "a05_s02_e00_v02"])
    raw = [folder / "all_sqe"]
    return {
        align: prepare("ucla", raw, folder / f"{align}.h5", PreparationSettings(align=align)).path
        for align in UPS
    }


@pytest.mark.parametrize("align", UPS)
def test_training_batches_are_rotated_about_the_vertical_axis_in_the_manifest(
    datasets: dict[Align, Path], align: Align
) -> None:
    with open_store(datasets[align]) as store:
        assert store.manifest.up == UPS[align] == prepared_up("y", align)
        clips = RaggedClips.from_store(store, UCLA20, CPU)
    axis = "xyz".index(UPS[align])
    plain = SamplingSettings(frames=16)
    chosen = torch.arange(2)
    unchanged, rotated = (
        Batcher(clips, plain, augmentation).train(chosen, seeded(1))["joint"].x
        for augmentation in (AugmentSettings(), AugmentSettings(yaw=90))
    )
    assert torch.equal(unchanged[:, axis], rotated[:, axis])
    for other in {0, 1, 2} - {axis}:
        assert not torch.allclose(unchanged[:, other], rotated[:, other], atol=0.05)


def test_heads_are_above_feet_along_the_vertical_axis_of_each_dataset(datasets: dict[Align, Path]) -> None:
    head, foot = UCLA20.joints.index("head"), UCLA20.joints.index("left foot")
    for path in datasets.values():
        with open_store(path) as store:
            axis = "xyz".index(store.manifest.up)
            joint = store.clip(0).joint[0, 0]
        assert joint[head, axis] - joint[foot, axis] > 1.5


@pytest.mark.parametrize("align", UPS)
def test_the_viewer_shows_recorded_and_normalized_positions_upright(
    datasets: dict[Align, Path], align: Align
) -> None:
    raw = datasets[align].parent / "all_sqe" / "a01_s01_e00_v01.json"
    for found in (find(datasets[align]), find(raw, settings=PreparationSettings(align=align))):
        assert [scene.up for scene in found.clips[0].scenes] == [UCLA.up, UPS[align]]


@pytest.mark.parametrize("align", UPS)
@pytest.mark.parametrize("coordinates", ["recorded", "normalized"])
def test_an_imported_dataset_has_the_vertical_axis_of_its_alignment(
    datasets: dict[Align, Path], tmp_path: Path, align: Align, coordinates: Coordinates
) -> None:
    form, path = FORMATS["pyskl"], tmp_path / "u.pkl"
    with open_store(datasets[align]) as store:
        form.write(store, parts_of(store, form, None), coordinates, path)
        first = store.clip(0).joint[0, 0]
    done = import_clips(
        [form.read(path)], tmp_path / "back.h5", coordinates, PreparationSettings(align=align)
    )
    with open_store(done.path) as store:
        assert store.manifest.up == UPS[align]
        np.testing.assert_allclose(store.clip(0).joint[0, 0], first, atol=1e-4)
