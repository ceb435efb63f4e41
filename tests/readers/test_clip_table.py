from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psptool.common.errors import PspError, RawFormatError
from psptool.data.skeletons.datasets import ClipKey
from psptool.formats.readers import clip_table
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Segment
from psptool.formats.readers.clip_table import (
    NOT_FOUND,
    NOT_LISTED,
    ClipRow,
    SegmentReader,
    key_from_fields,
    load_clip_table,
)
from psptool.formats.readers.sources import find_clips, read_clip
from psptool.formats.readers.table import TableReader
from psptool.preparation.worker import prepare_clip, tasks
from psptool.schemas.dataset import PreparationSettings
from psptool.schemas.formats import TableOptions

from .conformance import TextReaderConformance, assert_keeps_contract
from .general import CLASSES, NAME, SKELETON, positions, wide
from .raw import pack, write

KEY = partial(key_from_fields, class_names=CLASSES)


def load(folder: Path, text: str) -> tuple[ClipRow, ...]:
    return load_clip_table(write(folder / "clips.csv", text.encode()), KEY)


def reader_of(rows: Sequence[ClipRow], folders: int = 0) -> SegmentReader:
    return SegmentReader(TableReader(SKELETON, TableOptions(reader="table"), None), rows)


def recording(frames: int = 20, start: int = 100) -> bytes:
    return wide(positions(frames), range(start, start + frames))


class TestSegmentConformance(TextReaderConformance):
    reader = reader_of([ClipRow(NAME, ClipKey(1, 3), "long", Segment(6, 7, "clips.csv, line 2"), "")])
    name = NAME
    stray = "other.csv"

    def files(self) -> dict[str, bytes]:
        return {"long.csv": wide()}


def test_a_table_with_all_columns_gives_names_keys_and_segments(tmp_path: Path) -> None:
    rows = load(
        tmp_path,
        "clip,source,first,last,class,subject,remark\n"
        "a,rec1.csv,100,104,walk,3,good\r\n"
        "\n"
        'b,"day 1/rec2",105.0,NaN,sit,,"x, y"\n',
    )
    assert [(row.name, row.key, row.source) for row in rows] == [
        ("a", ClipKey(1, 3), "rec1.csv"),
        ("b", ClipKey(0), "day 1/rec2"),
    ]
    assert rows[0].segment == Segment(100, 104, f"{tmp_path / 'clips.csv'}, line 2")
    assert rows[1].segment == Segment(105, None, f"{tmp_path / 'clips.csv'}, line 4")


def test_a_table_without_segments_labels_whole_recordings(tmp_path: Path) -> None:
    (row,) = load(tmp_path, "\ufeffClip,Label\nrec1,1\n")
    assert (row.name, row.source, row.segment, row.key) == ("rec1", "rec1", None, ClipKey(1))


def test_clips_without_a_name_have_that_of_source_and_frames(tmp_path: Path) -> None:
    rows = load(tmp_path, "source,first,last,class\nx/rec1,1,2,sit\nrec1,3,,sit\n")
    assert [row.name for row in rows] == ["rec1_1_2", "rec1_3_NaN"]


def prepared(folder: Path, files: Mapping[str, bytes], text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The usable clips by name, and the reasons for all others."""
    raw = folder / "raw"
    for name, blob in files.items():
        write(raw / name, blob)
    reader = reader_of(load(folder, text))
    sources, strays = find_clips([raw], reader)
    clips, reasons = {}, {stray.name: stray.reason for stray in strays}
    for source in sources:
        outcome = prepare_clip((source,), reader, PreparationSettings())
        if outcome.clip is not None:
            clips[source.name] = outcome.clip
        else:
            assert outcome.left_out is not None
            reasons[source.name] = outcome.left_out.detail or ""
    return clips, reasons


def test_segments_of_recordings_become_clips_and_wrong_ranges_are_reported(tmp_path: Path) -> None:
    clips, reasons = prepared(
        tmp_path,
        {"rec1.csv": recording(), "sub/rec2.csv": recording(), "rec3.csv": recording(), "bad.csv": b"x"},
        "clip,source,first,last,class\n"
        "a,rec1,100,104,walk\n"
        "b,rec1.csv,103,119,sit\n"
        "c,sub/rec2,110,125,sit\n"
        "nan,rec1,NaN,NaN,sit\n"
        "back,rec1,110,109,sit\n"
        "far,rec1,500,600,sit\n"
        "half,rec1,95,104,sit\n"
        "most,rec1,80,104,sit\n"
        "lost,rec9,1,2,sit\n"
        "other folder,day/rec2,1,2,sit\n"
        "malformed,bad,1,2,sit\n",
    )
    assert {name: clip.joint.shape[1] for name, clip in clips.items()} == {
        "a": 5,
        "b": 17,
        "c": 16,
        "half": 10,
    }
    assert clips["c"].present[0].tolist() == [True] * 10 + [False] * 6
    assert clips["half"].present[0].tolist() == [False] * 5 + [True] * 5
    assert "6 frames of the range 110 to 125 outside of the recording" in clips["c"].notes[0]
    table, raw = tmp_path / "clips.csv", tmp_path / "raw"
    expected = {
        "rec3.csv": NOT_LISTED,
        "lost": NOT_FOUND,
        "other folder": NOT_FOUND,
        "nan": f"{table}, line 5: frame range: found NaN to NaN, expected the first and the last frame of the clip",
        "back": f"{table}, line 6: frame range: found 110 to 109, expected the first and the last frame of the clip",
        "far": f"{table}, line 7: frame range: found 500 to 600, expected frames of {raw / 'rec1.csv'}, 100 to 119",
        "most": f"{table}, line 9: frame range: found 80 to 104, expected frames of {raw / 'rec1.csv'}, 100 to 119",
    }
    assert {name: reasons[name] for name in expected} == expected
    assert str(raw / "bad.csv") in reasons["malformed"]
    assert set(reasons) == {*expected, "malformed"}


def test_a_segment_has_the_frames_of_its_range_in_the_recordings_numbers(tmp_path: Path) -> None:
    reader = reader_of(load(tmp_path, "source,first,last,class\nrec,6,7,sit\n"))
    (source,), _ = reader.find([FileRef("rec.csv", None, 1)])
    clip = reader.parse(source, [wide(positions(3), (5, 6, 8))])
    assert_keeps_contract(clip, reader)
    assert (clip.name, clip.start, clip.frames, clip.frame.tolist()) == ("rec_6_7", 6, 2, [0])
    assert (clip.xyz[0] == positions(3)[1].astype(np.float32)).all()


def test_a_range_without_a_body_is_excluded(tmp_path: Path) -> None:
    reader = reader_of(load(tmp_path, "source,first,last,class\nrec,7,8,sit\n"))
    (source,), _ = reader.find([FileRef("rec.csv", None, 1)])
    with pytest.raises(RawFormatError, match=r"no body in the frames 7 to 8 of rec\.csv") as caught:
        reader.parse(source, [wide(positions(3), (5, 6, 9))])
    assert caught.value.reason == "no body"


def test_a_recording_is_parsed_once_for_its_segments_unless_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = reader_of(load(tmp_path, "source,first,last,class\nrec,5,6,sit\nrec,6,7,sit\nother,5,7,sit\n"))
    sources, _ = reader.find([FileRef("rec.csv", None, 1), FileRef("other.csv", None, 1)])
    parsed: list[str] = []

    def parse(source: ClipSource, blobs: list[bytes]) -> RawClip:
        parsed.append(str(source.files[0]))
        return TableReader.parse(reader.recordings, source, blobs)  # type: ignore[arg-type]

    monkeypatch.setattr(reader.recordings, "parse", parse)
    for source in (*sources, *sources):
        reader.parse(source, [wide()])
    assert parsed == ["rec.csv", "other.csv"]
    clip = reader.parse(sources[0], [wide(1 + positions())])
    assert parsed == ["rec.csv", "other.csv", "rec.csv"]
    assert clip.xyz[0, 0, 0] == 1.5
    monkeypatch.setattr(clip_table, "KEPT_BYTES", len(wide()))
    for source in (*sources, *sources):
        reader.parse(source, [wide()])
    assert parsed[3:] == ["rec.csv", "other.csv"] * 2


def test_a_reader_is_sent_to_other_processes_without_its_table(tmp_path: Path) -> None:
    reader = reader_of(load(tmp_path, "source,first,last,class\nrec,5,6,sit\n"))
    (source,), _ = reader.find([FileRef("rec.csv", None, 1)])
    reader.parse(source, [wide()])
    copy = pickle.loads(pickle.dumps(reader))
    assert (copy.rows, len(copy._parsed)) == ((), 0)
    assert copy.parse(source, [wide()]).frames == 2


@pytest.mark.parametrize("form", [".zip", ".tar.gz"])
def test_segments_of_recordings_in_an_archive_are_read(form: str, tmp_path: Path) -> None:
    names = [f"rec{n}" for n in range(3)]
    packed = pack(tmp_path / f"raw{form}", {f"{n}.csv": wide(n_ + positions()) for n_, n in enumerate(names)})
    text = "clip,source,first,last,class\n" + "".join(
        f"{k}{n},{n},{5 + k},7,sit\n" for k in range(2) for n in names
    )
    reader = reader_of(load(tmp_path, text))
    sources, strays = find_clips([packed], reader)
    assert not strays
    found = {}
    for (source,) in (copies for task in tasks([(source,) for source in sources]) for copies in task):
        found[source.name] = reader.parse(source, read_clip(source)).xyz[0, 0, 0]
    assert found == {f"{k}rec{n}": 0.5 + k + n for k in range(2) for n in range(3)}


FAULTS = [
    ("", "columns: found 'nothing'"),
    ("name,class\n", "expected `clip` or `source`"),
    ("sources,class\nx,sit\n", "Did you mean sources?"),
    ("clip,class,class\n", "class twice"),
    ("clip,first,class\n", "`first` and `last`, or neither"),
    ("clip,class\n", "no row after the header"),
    ("clip,class\na\n", "line 2: 1 field, expected 2"),
    ("clip,class\na,sit,1\n", "line 2: 3 fields, expected 2"),
    ("clip,class\na,sits\n", "line 2: class 'sits', which the description does not have. Did you mean sit?"),
    ("clip,class\na,\n", "class ''"),
    ("clip,label\na,2\n", "label 2, expected 0 to 1"),
    ("clip,label\na,-1\n", "label '-1', expected an integer"),
    ("clip,label\na,x\n", "label 'x', expected an integer"),
    ("clip,subject\na,1\n", "no field `class` or `label`"),
    ("clip,class,subject\na,sit,x\n", "subject 'x', expected an integer"),
    ("clip,class\n,sit\n", "no source"),
    ("clip,class\na,sit\na,sit\n", "line 3: the clip name 'a' is also in line 2"),
    ("clip,first,last,class\na,x,2,sit\n", "first 'x', expected a frame number, or NaN"),
    ("clip,first,last,class\na,1,2.5,sit\n", "last '2.5', expected a frame number, or NaN"),
    ("clip,class\n\x1b[0m,sit\n", "expected printable characters"),
    ("clip,class\n" + "a,x\n" * 30, "30 wrong rows: line 2: class 'x'"),
    ("clip,class\na,x\nb,y\n", "line 2: class 'x', which the description does not have; line 3: class 'y'"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_a_wrong_table_is_an_error_that_names_all_lines(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PspError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "clips.csv"))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_table_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PspError, match=r"clips.csv: cannot be read"):
        load_clip_table(tmp_path / "clips.csv", KEY)
    write(tmp_path / "clips.csv", b"clip,class\n\xff,sit\n")
    with pytest.raises(PspError, match=r"clips.csv: cannot be read"):
        load_clip_table(tmp_path / "clips.csv", KEY)


def test_labels_may_start_at_1_and_other_fields_are_ignored() -> None:
    fields = {"label": "2", "camera": "4", "setup": "", "repetition": "1", "weather": "x"}
    assert key_from_fields(fields, CLASSES, first_label=1) == ClipKey(1, -1, 4, -1, 1)
