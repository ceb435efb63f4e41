from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from psptool.common.errors import RawFormatError
from psptool.formats.readers import segments
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Reader
from psptool.formats.readers.segments import SegmentReader, cut
from psptool.formats.readers.sources import find_clips, read_clip
from psptool.formats.readers.table import TableReader
from psptool.preparation.worker import prepare_clip, tasks
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.formats import TableOptions
from psptool.skeletons.keys import ClipKey

from .conformance import TextReaderConformance, assert_valid_clip
from .general import NAME, SKELETON, key_of, positions, wide
from .raw import pack

FILE = FileRef("rec.csv", None, 1)


def reader_of() -> SegmentReader:
    return SegmentReader(TableReader(SKELETON, TableOptions(reader="table"), None))


def recording(frames: int = 20, start: int = 100) -> bytes:
    return wide(positions(frames), range(start, start + frames))


def segment(first: int, last: int, blob: bytes | None = None) -> RawClip:
    source = ClipSource("a", ClipKey(1), (FILE,), (first, last))
    return reader_of().parse(source, [recording() if blob is None else blob])


class _WithSegments(SegmentReader):
    """A reader that assigns a segment to every recording, as the preparation does with a clip table."""

    def find(self, files):  # type: ignore[no-untyped-def]
        clips, strays = super().find(files)
        return [clip._replace(segment=(6, 7)) for clip in clips], strays


class TestSegmentConformance(TextReaderConformance):
    reader: Reader = _WithSegments(TableReader(SKELETON, TableOptions(reader="table"), key_of))
    name = NAME
    stray = "other.csv"

    def files(self) -> dict[str, bytes]:
        return {f"{NAME}.csv": wide()}


def test_the_range_of_a_segment_is_in_frame_numbers_of_the_recording() -> None:
    clip = segment(6, 7, wide(positions(3), (5, 6, 8)))
    assert_valid_clip(clip, reader_of())
    assert (clip.name, clip.key) == ("a", ClipKey(1))
    assert (clip.first_frame, clip.frames, clip.frame.tolist()) == (6, 2, [0])
    assert (clip.xyz[0] == positions(3)[1].astype(np.float32)).all()
    assert cut(clip, ClipSource("a", ClipKey(1), (FILE,), (6, 7))).xyz.tolist() == clip.xyz.tolist()


def test_a_clip_without_a_segment_is_the_whole_recording() -> None:
    clip = reader_of().parse(ClipSource("a", ClipKey(1), (FILE,)), [recording()])
    assert (clip.frames, clip.first_frame) == (20, 100)


@pytest.mark.parametrize(
    ("first", "last", "inside"), [(95, 104, range(5, 10)), (110, 125, range(10)), (90, 129, range(10, 30))]
)
def test_up_to_half_of_a_segment_may_be_outside_of_the_recording_and_has_no_body(
    first: int, last: int, inside: range
) -> None:
    clip = segment(first, last)
    assert (clip.frames, clip.frame.tolist()) == (last - first + 1, list(inside))
    outside = clip.frames - len(inside)
    assert clip.notes == (
        f"{outside} frames of the range {first} to {last} outside of the recording, without a body",
    )


@pytest.mark.parametrize(("first", "last"), [(110, 109), (500, 600), (80, 104), (-5, 99), (0, 10**9)])
def test_a_wrong_range_excludes_the_clip_and_names_file_clip_and_range(first: int, last: int) -> None:
    with pytest.raises(RawFormatError) as caught:
        segment(first, last)
    assert caught.value.reason == "frame range"
    expected = f"rec.csv, a: frame range: found {first} to {last}, expected frames of 100 to 119"
    assert str(caught.value) == expected


def test_a_range_without_a_body_is_excluded() -> None:
    with pytest.raises(RawFormatError, match="no body in the frames 7 to 8") as caught:
        segment(7, 8, wide(positions(3), (5, 6, 9)))
    assert caught.value.reason == "no body"


def test_segments_are_prepared_and_wrong_ones_reported(tmp_path: Path) -> None:
    (tmp_path / "rec.csv").write_bytes(recording())
    (whole,), _ = find_clips([tmp_path], reader_of())
    outcomes = [
        prepare_clip((whole._replace(segment=part),), reader_of(), PreparationSettings())
        for part in ((100, 104), (110, 125), (500, 600))
    ]
    clips = [outcome.clip for outcome in outcomes]
    assert [clip and clip.joint.shape[1] for clip in clips] == [5, 16, None]
    assert clips[1] is not None
    assert clips[1].present[0].tolist() == [True] * 10 + [False] * 6
    assert "6 frames of the range 110 to 125" in clips[1].notes[0]
    assert outcomes[2].left_out is not None
    assert outcomes[2].left_out.reason == "frame range"


def test_a_recording_is_parsed_once_for_its_segments_unless_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = reader_of()
    other = FileRef("other.csv", None, 1)
    sources = [
        ClipSource(f"{file}{part}", ClipKey(0), (file,), part)
        for file, part in ((FILE, (5, 6)), (FILE, (6, 7)), (other, (5, 7)))
    ]
    parsed: list[str] = []

    def parse(source: ClipSource, blobs: list[bytes]) -> RawClip:
        parsed.append(str(source.files[0]))
        return TableReader.parse(reader.reader, source, blobs)  # type: ignore[arg-type]

    monkeypatch.setattr(reader.reader, "parse", parse)
    for source in (*sources, *sources):
        reader.parse(source, [wide()])
    assert parsed == ["rec.csv", "other.csv"]
    clip = reader.parse(sources[0], [wide(1 + positions())])
    assert parsed == ["rec.csv", "other.csv", "rec.csv"]
    assert clip.xyz[0, 0, 0] == 1.5
    monkeypatch.setattr(segments, "KEPT_BYTES", len(wide()))
    for source in (*sources, *sources):
        reader.parse(source, [wide()])
    assert parsed[3:] == ["rec.csv", "other.csv"] * 2


def test_parsed_recordings_are_not_sent_to_other_processes() -> None:
    reader, source = reader_of(), ClipSource("a", ClipKey(1), (FILE,), (5, 6))
    reader.parse(source, [wide()])
    copy = pickle.loads(pickle.dumps(reader))
    assert len(copy._parsed) == 0
    assert copy.parse(source, [wide()]).frames == 2


@pytest.mark.parametrize("form", [".zip", ".tar", ".tar.gz"])
def test_segments_of_recordings_in_an_archive_are_read_in_any_order(form: str, tmp_path: Path) -> None:
    members = {f"rec{n}.csv": wide(n + positions()) for n in range(3)}
    recordings, _ = find_clips([pack(tmp_path / f"raw{form}", members)], reader_of())
    sources = [
        source._replace(name=f"{first}{source.name}", segment=(first, 7))
        for first in (5, 6)
        for source in recordings
    ]
    reader, found = reader_of(), {}
    for copies in (copies for task in tasks([(source,) for source in sources]) for copies in task):
        found[copies[0].name] = reader.parse(copies[0], read_clip(copies[0])).xyz[0, 0, 0]
    assert found == {f"{5 + k}rec{n}": 0.5 + k + n for k in range(2) for n in range(3)}
