"""One clip from text to HDF5, compared with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

import psptool
from psptool.preparation.pipeline import prepare
from psptool.schemas.dataset import PreparationSettings
from tests.prepare.raw import ntu_text

# Positions by joint number in NTU's documentation. The spine (1 to 21) is 0.5 m long and parallel to the
# camera's y axis. The shoulder line (9 to 5) points along x and y; only its component orthogonal to the
# spine is used. The line that the released code uses (21 to 6) points towards the camera.
FIRST = {
    1: (1, 2, 3),
    21: (1, 2.5, 3),
    9: (0.75, 2.25, 3),
    5: (1.25, 2.5, 3),
    6: (1, 2.5, 2.5),
    4: (1.5, 3, 2.5),
}
STEPS = ((0, 0, 0), (0.125, 0, 0), (0.125, 0, -0.25))
ROTATIONS = {
    "body": [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
    "released": [[0, 0, -1], [-1, 0, 0], [0, 1, 0]],
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
}
# The head (4) is (0.5, 1, -0.5) m from joint 1, that is (1, 2, -1) spine lengths; below in the body's axes.
HEAD = {"body": (1, 1, 2), "released": (1, -1, 2), "none": (1, 2, -1)}
# The second frame is moved by 0.125 m = 0.25 spine lengths along the camera's x, the third by 0.5 towards it.
MOTION = {
    "body": ((0.25, 0, 0), (0, 0.5, 0), (0, 0, 0)),
    "released": ((0, -0.25, 0), (0.5, 0, 0), (0, 0, 0)),
    "none": ((0.25, 0, 0), (0, 0, -0.5), (0, 0, 0)),
}


@pytest.fixture
def raw(tmp_path):
    body = np.tile(np.array(FIRST[1], float), (25, 1))
    for number, position in FIRST.items():
        body[number - 1] = position
    text = ntu_text([[(72057594037931101, body + np.array(step))] for step in STEPS], state=1)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "S001C002P003R002A013.skeleton").write_text(text, newline="")
    return tmp_path / "raw"


@pytest.mark.parametrize("align", ["body", "released", "none"])
def test_a_clip_of_three_frames_equals_the_values_computed_by_hand(tmp_path, raw, align):
    done = prepare("ntu", [raw], tmp_path / "ntu.h5", PreparationSettings(align=align))
    assert (done.report.counts.clips, done.report.counts.frames, done.report.dataset) == (1, 3, "ntu60")
    with psptool.open(done.path) as store:
        clip = store.clip("S001C002P003R002A013")
    key = clip.key
    assert (key.label, key.subject, key.camera, key.setup, key.repetition) == (12, 3, 2, 1, 2)
    assert clip.joint.shape == (1, 3, 25, 3)
    assert clip.present.all()
    assert (clip.state == 1).all()
    assert clip.origin.tolist() == [1, 2, 3]
    assert clip.scale == 0.5
    assert clip.rotation.tolist() == ROTATIONS[align]
    assert clip.joint[0, 0, 0].tolist() == [0, 0, 0]
    assert clip.joint[0, 0, 3].tolist() == list(HEAD[align])
    for joint in (0, 3, 20):
        assert clip.motion[0, :, joint].tolist() == [list(step) for step in MOTION[align]]
    np.testing.assert_array_equal(clip.recorded()[0, 2, 3], (1.625, 3, 2.25))
