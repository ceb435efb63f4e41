"""One clip from text to HDF5, with every number computed on paper."""

from __future__ import annotations

import numpy as np
import pytest

import psptool
from psptool.preparation.pipeline import prepare
from psptool.schemas.dataset import PreparationSettings
from tests.prepare.raw import ntu_text

# Joints by their number in NTU's documentation. The spine (1 to 21) is half a metre long and stands along
# the camera's y; the shoulder line (9 to 5) runs along x and rises, and only its part orthogonal to the
# spine counts; the line that the released code takes (21 to 6) runs towards the camera.
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
# The head (4) lies (0.5, 1, -0.5) m from joint 1, that is (1, 2, -1) spines; in the body's axes x, y, z
# below.
HEAD = {"body": (1, 1, 2), "released": (1, -1, 2), "none": (1, 2, -1)}
# The second frame lies 0.125 m = 0.25 spines further along the camera's x, the third 0.5 spines nearer.
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
def test_a_clip_of_three_frames_comes_out_as_on_paper(tmp_path, raw, align):
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
