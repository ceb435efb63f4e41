from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from psptool.common.errors import PspError, RawFormatError
from psptool.formats.readers import arrays
from psptool.formats.readers.arrays import MAX_MEMBERS, ArraysReader
from psptool.formats.readers.base import FileRef, RawClip
from psptool.schemas.formats import ArraysOptions
from psptool.skeletons.keys import UNNAMED, ClipKey

from .conformance import ReaderConformance
from .general import FLAT, NAME, SKELETON, key_of, npy, npz, positions
from .raw import source_of


def reader_of(dimensions: int = 3, joints: Sequence[str | None] = (), **options: Any) -> ArraysReader:
    skeleton = SKELETON if dimensions == 3 else FLAT
    return ArraysReader(skeleton, ArraysOptions(reader="arrays", **options), key_of, joints)


def parse(blob: bytes, dimensions: int = 3, **options: Any) -> RawClip:
    reader = reader_of(dimensions, **options)
    return reader.parse(*source_of(reader, {f"{NAME}.npz": blob}))


class TestNpyConformance(ReaderConformance):
    reader = reader_of()
    name = NAME
    stray = "run_s03.npy"

    def files(self) -> dict[str, bytes]:
        return {f"{NAME}.npy": npy(positions().astype(np.float32))}


class TestNpzConformance(ReaderConformance):
    reader = reader_of(confidence_key="score")
    name = NAME
    stray = "a/run_s03.npz"

    def files(self) -> dict[str, bytes]:
        arrays = {"xyz": positions(), "score": np.ones((3, 4)), "label": np.array("walk")}
        return {f"{NAME}.npz": npz(np.savez_compressed, **arrays)}


def test_an_array_is_read_as_one_person_from_frame_0() -> None:
    clip = parse(npy(positions()))
    assert (clip.frames, clip.first_frame, clip.key) == (3, 0, ClipKey(1, 3))
    assert (clip.frame.tolist(), clip.body.tolist()) == ([0, 1, 2], [0, 0, 0])
    assert (clip.xyz == positions().astype(np.float32)).all()


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8", "<i2", ">i4", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_dtype_and_memory_order_is_read_as_the_same_values(dtype: str, order: Any) -> None:
    values = np.round(positions() * 10).astype(dtype, order=order)
    for version in ((1, 0), (2, 0)):
        assert (parse(npy(values, version)).xyz == values.astype(np.float32)).all()


@pytest.mark.parametrize("axes", ["TVC", "MTVC", "TMVC", "CTV", "CTVM"])
def test_axes_may_be_in_any_supported_order(axes: str) -> None:
    persons = 2 if "M" in axes else 1
    values = np.stack([positions(), 10 + positions()][:persons])  # (M, T, V, C)
    stored = values.transpose(["MTVC".index(axis) for axis in axes]) if persons == 2 else None
    if stored is None:
        stored = values[0].transpose(["TVC".index(axis) for axis in axes])
    clip = parse(npy(stored), axes=axes)
    assert clip.frame.tolist() == sorted([0, 1, 2] * persons)
    for person in range(persons):
        assert (clip.xyz[clip.body == person] == values[person].astype(np.float32)).all()


def test_2d_positions_get_a_third_coordinate_of_zero() -> None:
    clip = parse(npy(positions(channels=2)), dimensions=2)
    assert (clip.xyz[..., :2] == positions(channels=2).astype(np.float32)).all()
    assert not clip.xyz[..., 2].any()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_joint_with_low_or_no_confidence_is_missing(dimensions: int) -> None:
    values = positions(channels=dimensions)
    score = np.full((3, 4), 0.9)
    score[1, 2], score[2, 3], score[0, 0] = 0.0, 0.3, np.nan
    channel = parse(npy(np.concatenate([values, score[..., None]], axis=2)), dimensions, min_confidence=0.3)
    key = parse(npz(p=values, c=score), dimensions, min_confidence=0.3, confidence_key="c")
    for clip in (channel, key):
        missing = np.isnan(clip.xyz).any(axis=-1)
        assert np.argwhere(missing).tolist() == [[0, 0], [1, 2], [2, 3]]


def test_axes_of_persons_with_confidence_may_be_in_any_order() -> None:
    values = np.stack([positions(), 10 + positions()])
    score = np.ones((2, 3, 4))
    score[1, 2, 3] = 0
    for axes in ("MTVC", "TMVC"):
        arranged = values.transpose(["MTVC".index(axis) for axis in axes])
        scores = score.transpose(["MTV".index(axis) for axis in axes[:-1]])
        clip = parse(npz(p=arranged, c=scores), axes=axes, confidence_key="c")
        assert np.argwhere(np.isnan(clip.xyz).any(axis=-1)).tolist() == [[5, 3]]


def test_a_body_without_any_joint_is_absent_and_its_frame_is_kept() -> None:
    values = np.stack([positions(4), 10 + positions(4)])
    values[0, 1], values[1, 2:] = np.nan, 0
    clip = parse(npy(values))
    assert clip.frames == 4
    assert (clip.frame.tolist(), clip.body.tolist()) == ([0, 0, 1, 2, 3], [0, 1, 1, 0, 0])


def test_padding_at_the_end_is_removed_if_requested() -> None:
    values = positions(6)
    values[0], values[4:] = 0, 0
    assert parse(npy(values)).frames == 6
    clip = parse(npy(values), padded=True)
    assert (clip.frames, clip.frame.tolist()) == (4, [1, 2, 3])


def test_a_joint_with_one_nan_coordinate_keeps_its_other_coordinates() -> None:
    values = positions()
    values[1, 2, 0] = np.nan
    assert np.argwhere(np.isnan(parse(npy(values)).xyz)).tolist() == [[1, 2, 0]]


def test_short_gaps_are_interpolated_and_long_ones_are_kept() -> None:
    values = positions(9)
    values[1:3], values[5:8] = np.nan, np.nan
    clip = parse(npy(values), max_gap=2)
    assert clip.frame.tolist() == [0, 1, 2, 3, 4, 8]
    assert np.allclose(clip.xyz[:5], positions(5))


def test_a_file_may_have_another_joint_order_and_more_joints_than_the_skeleton() -> None:
    order = (None, "right hand", "neck", "hip", "left hand")
    values = positions(joints=5)
    clip = parse(npy(values), joints=order)
    assert (clip.xyz == values[:, [3, 2, 4, 1]].astype(np.float32)).all()
    with pytest.raises(PspError, match="no joint 'neck' of the skeleton small4"):
        reader_of(joints=("hip", "left hand", "right hand"))


def test_other_arrays_in_an_archive_are_ignored() -> None:
    objects = np.array([{}], object)
    clip = parse(npz(xyz=positions(), label=np.array(3), names=np.array(["a"]), more=objects))
    assert clip.frames == 3
    clip = parse(npz(a=positions(), b=1 + positions()), key="b")
    assert clip.xyz[0, 0, 0] == 1.5


def test_clips_of_any_name_are_found_for_prediction() -> None:
    reader = ArraysReader(SKELETON, ArraysOptions(reader="arrays"), None)
    (clip, other), _ = reader.find([FileRef("x/walk/3.npy", None, 1), FileRef("4.NPZ", None, 1)])
    assert (clip.name, clip.key, other.name) == ("3", UNNAMED, "4")


class Bomb:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("unpickled",)


def header(text: str, data: bytes = b"") -> bytes:
    """An npy file with this header."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blob in members.items():
            archive.writestr(f"{name}.npy", blob)
    return stream.getvalue()


def encrypted() -> bytes:
    blob = bytearray(zipped(a=npy(positions())))
    blob[6] |= 1
    blob[blob.index(b"PK\x01\x02") + 8] |= 1
    return bytes(blob)


GOOD = npy(positions())
HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 4, 3)}\n"
# name, bytes, options, reason, text that the message must contain
FAULTS: list[tuple[str, bytes, dict[str, Any], str, str]] = [
    ("no bytes", b"", {}, "empty file", "0 bytes"),
    ("another format", b"1,2,3\n", {}, "damaged", "npy or npz file"),
    ("magic bytes only", b"\x93NUMPY", {}, "damaged", "npy or npz file"),
    ("version 9", b"\x93NUMPY\x09\x00" + GOOD[8:], {}, "damaged", "version"),
    ("a header that is not a dictionary", header("[1, 2]\n"), {}, "damaged", "npy or npz file"),
    ("a header with code", header("{'descr': open('x')}\n"), {}, "damaged", "npy or npz file"),
    ("too short", GOOD[:-1], {}, "truncated", "288 bytes, and 287 bytes"),
    ("too long", GOOD + b"\0", {}, "size", "288 bytes, and 289 bytes"),
    ("a huge shape", header(HUGE, b"\0" * 64), {}, "truncated", "64 bytes"),
    ("a negative shape", header(HUGE.replace("1000000000", "-1")), {}, "size", "(-1, 4, 3)"),
    ("objects", npy(np.array([Bomb()], object)), {}, "type", "never unpickled"),
    ("strings", npy(np.array([["walk"]])), {}, "type", "never unpickled"),
    ("complex numbers", npy(positions().astype(complex)), {}, "type", "complex128"),
    ("booleans", npy(positions() > 1), {}, "type", "bool"),
    ("two axes", npy(positions()[0]), {}, "shape", "shape (4, 3), expected TVC or MTVC"),
    ("axes that differ from the option", GOOD, {"axes": "MTVC"}, "shape", "4 axes MTVC"),
    ("five joints", npy(positions(joints=5)), {}, "shape", "5 joints of 3 channels"),
    ("two coordinates", npy(positions(channels=2)), {}, "shape", "4 joints of 2 channels"),
    ("no frames", npy(positions()[:0]), {}, "no body", "0 frames"),
    (
        "infinity",
        npy(np.where(positions() == 1.51, np.inf, positions())),
        {},
        "not finite",
        "inf at frame 1, person 0 (from 0), y of joint 'hip'",
    ),
    ("beyond float32", npy(positions() * 1e39), {}, "not finite", "e+38"),
    ("NaN only", npy(positions() * np.nan), {}, "no body", "3 frames"),
    ("confidence 0", npz(a=positions(), c=np.zeros((3, 4))), {"confidence_key": "c"}, "no body", "3 frames"),
    (
        "confidence of fewer frames",
        npz(a=positions(), c=np.zeros((2, 4))),
        {"confidence_key": "c"},
        "shape",
        ", c: ",
    ),
    (
        "confidence that is text",
        npz(a=positions(), c=np.array("a")),
        {"confidence_key": "c"},
        "type",
        "c.npy",
    ),
    ("no confidence array", npz(a=positions()), {"confidence_key": "c"}, "keys", "an array named 'c'"),
    ("no array of this name", npz(a=positions()), {"key": "xyz"}, "keys", "the arrays 'a'"),
    ("two arrays", npz(a=positions(), b=positions()), {}, "keys", "the option `key`"),
    ("an empty archive", zipped(), {}, "keys", "no array"),
    ("a damaged archive", npz(a=positions())[:-30], {}, "damaged", "npy or npz file"),
    (
        "a damaged member",
        npz(a=positions()).replace(npy(positions())[-8:], b"\1" * 8, 1),
        {},
        "damaged",
        "a.npy",
    ),
    ("a zip bomb", zipped(a=npy(np.zeros((10**5, 25, 3)))), {}, "too large", "times the file"),
    ("many arrays", zipped(**{f"a{n}": b"" for n in range(MAX_MEMBERS + 1)}), {}, "too large", "1001 arrays"),
    ("a password-protected archive", encrypted(), {}, "encrypted", "password"),
]


def test_the_size_limit_counts_values_and_not_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = np.ones((4, 4, 3), np.int8)
    monkeypatch.setattr(arrays, "MAX_VALUES", small.size)
    assert parse(npy(small)).frames == 4
    with pytest.raises(RawFormatError, match=r"too large: found 60 values .* expected at most 48 values"):
        parse(npy(np.ones((5, 4, 3), np.int8)))


@pytest.mark.parametrize(
    ("blob", "options", "reason", "text"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_broken_file_is_a_format_error_with_file_and_reason(
    blob: bytes, options: dict[str, Any], reason: str, text: str
) -> None:
    with pytest.raises(RawFormatError) as caught:
        parse(blob, **options)
    assert caught.value.reason == reason
    assert caught.value.where.startswith(f"{NAME}.npz")
    assert text in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
