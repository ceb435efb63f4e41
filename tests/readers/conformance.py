"""Tests that every reader must pass. The test of a new format inherits `ReaderConformance` and provides a clip."""

from __future__ import annotations

import codecs
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from psptool.common.errors import RawFormatError
from psptool.formats.readers.base import STATE_UNKNOWN, ClipSource, FileRef, RawClip, Reader
from psptool.formats.readers.sources import find_clips, read_clip
from psptool.formats.readers.text import same_text

from .raw import ARCHIVES, PACKERS, pack, source_of, write

GARBAGE = [
    b"\x00" * 100,
    bytes(range(256)),
    b"lorem ipsum\n" * 10,
    b"\xff\xfe1\x00",
    b"1e5",
    b"-",
    b"[[[[",
    b"3\n",
]


def assert_valid_clip(clip: RawClip, reader: Reader) -> None:
    """Check the guarantees of `RawClip`."""
    bodies, joints = len(clip.frame), reader.topology.size
    assert clip.xyz.shape == (bodies, joints, 3)
    assert clip.state.shape == (bodies, joints)
    assert clip.body.shape == clip.frame.shape == (bodies,)
    assert bodies > 0
    assert (clip.xyz.dtype, clip.state.dtype) == (np.float32, np.uint8)
    assert (clip.frame.dtype, clip.body.dtype) == (np.int32, np.int64)
    assert not np.isinf(clip.xyz).any()
    assert set(np.unique(clip.state)) <= {0, 1, 2, STATE_UNKNOWN}
    assert (np.diff(clip.frame) >= 0).all()
    assert clip.frame[0] >= 0
    assert clip.frame[-1] < clip.frames


def assert_same(one: RawClip, other: RawClip) -> None:
    assert (one.name, one.key, one.frames) == (other.name, other.key, other.frames)
    for field in ("frame", "body", "xyz", "state"):
        assert getattr(one, field).tobytes() == getattr(other, field).tobytes()


class ReaderConformance:
    """Inherit, set the three attributes and implement `files`.

    Attributes:
        reader: The reader under test.
        name: The name of the clip that the reader must find.
        stray: The name of a file of the format that is not a clip name.
    """

    reader: Reader
    name: str
    stray: str

    def files(self) -> dict[str, bytes]:
        """The files of a valid clip of at least two frames: name as in the distribution -> content."""
        raise NotImplementedError

    def source(self) -> tuple[ClipSource, list[bytes]]:
        return source_of(self.reader, self.files())

    def outcome(self, source: ClipSource, blobs: list[bytes]) -> RawClip | None:
        """The parsed and checked clip, or None after a `RawFormatError`; any other exception is a failure."""
        try:
            clip = self.reader.parse(source, blobs)
        except RawFormatError:
            return None
        assert_valid_clip(clip, self.reader)
        return clip

    def test_the_reader_finds_its_own_clip_and_ignores_other_files(self) -> None:
        others = [
            "README.md",
            "a/notes.txt",
            "thumbs.db",
            "view_1/a01_s02_e03/frame_1_tc_5_rgb.jpg",
            "skeleton",
        ]
        files = [FileRef(name, None, 1) for name in (*others, *self.files())]
        clips, strays = self.reader.find(files)
        assert [clip.name for clip in clips] == [self.name]
        assert strays == []

    def test_a_file_of_the_format_without_a_clip_name_is_a_stray_with_a_reason(self) -> None:
        clips, (stray,) = self.reader.find([FileRef(self.stray, None, 1)])
        assert clips == []
        assert stray.name == Path(self.stray).name
        assert stray.source == self.stray
        assert stray.reason

    def test_a_valid_clip_satisfies_the_contract(self) -> None:
        source, blobs = self.source()
        clip = self.reader.parse(source, blobs)
        assert_valid_clip(clip, self.reader)
        assert (clip.name, clip.key) == (self.name, source.key)

    def test_parsing_the_same_input_twice_returns_the_same_clip(self) -> None:
        source, blobs = self.source()
        assert_same(self.reader.parse(source, blobs), self.reader.parse(source, blobs))

    def parsed(self, raw: Path) -> RawClip:
        """The only clip of a folder or archive, parsed."""
        (source,), strays = find_clips([raw], self.reader)
        assert strays == []
        return self.reader.parse(source, read_clip(source))

    def write_to(self, folder: Path) -> Path:
        """Write the clip to a folder and return the folder."""
        for name, blob in self.files().items():
            write(folder / name, blob)
        return folder

    @pytest.mark.parametrize("suffix", ARCHIVES)
    def test_a_folder_and_an_archive_are_read_as_the_same_clip(self, suffix: str, tmp_path: Path) -> None:
        packed = pack(
            tmp_path / f"raw{suffix}", {f"data/{name}": blob for name, blob in self.files().items()}
        )
        clip = self.parsed(self.write_to(tmp_path / "raw"))
        assert_same(self.parsed(packed), clip)
        (tmp_path / "inside").mkdir()
        packed.rename(tmp_path / "inside" / packed.name)
        assert_same(self.parsed(tmp_path / "inside"), clip)

    @pytest.mark.parametrize("suffix", PACKERS)
    def test_individually_compressed_files_are_read_as_the_same_clip(
        self, suffix: str, tmp_path: Path
    ) -> None:
        packed = {f"{name}{suffix}": PACKERS[suffix](blob) for name, blob in self.files().items()}
        for name, blob in packed.items():
            write(tmp_path / "packed" / name, blob)
        clip = self.parsed(self.write_to(tmp_path / "raw"))
        assert_same(self.parsed(tmp_path / "packed"), clip)
        assert_same(self.parsed(pack(tmp_path / "raw.tar", packed)), clip)

    def test_an_archive_with_backslashes_or_macos_metadata_is_read_as_the_same_clip(
        self, tmp_path: Path
    ) -> None:
        files = {f"data/{name}": blob for name, blob in self.files().items()}
        metadata = {
            f"__MACOSX/{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}": b"\0\5" for name in files
        }
        backslashed = {name.replace("/", "\\"): blob for name, blob in (files | metadata).items()}
        clip = self.parsed(self.write_to(tmp_path / "raw"))
        for suffix in (".zip", ".tar"):
            assert_same(self.parsed(pack(tmp_path / f"metadata{suffix}", files | metadata)), clip)
            assert_same(self.parsed(pack(tmp_path / f"backslashes{suffix}", backslashed)), clip)

    @pytest.mark.skipif(
        sys.platform in ("win32", "darwin"), reason="these file systems allow only Unicode names"
    )
    def test_a_folder_whose_name_is_not_utf8_is_read_as_the_same_clip(self, tmp_path: Path) -> None:
        folder = self.write_to(tmp_path / os.fsdecode(b"caf\xe9"))
        (source,), _ = find_clips([folder], self.reader)
        assert "caf\\udce9" in str(source.files[0])
        assert_same(
            self.reader.parse(source, read_clip(source)), self.parsed(self.write_to(tmp_path / "raw"))
        )

    def test_a_file_truncated_at_any_position_is_a_clip_or_a_format_error(self) -> None:
        source, blobs = self.source()
        for k, blob in enumerate(blobs):
            for length in range(0, len(blob), max(1, len(blob) // 300)):
                self.outcome(source, [*blobs[:k], blob[:length], *blobs[k + 1 :]])

    @pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage[:12]))
    def test_other_content_is_a_format_error_that_names_the_file(self, garbage: bytes) -> None:
        source, blobs = self.source()
        with pytest.raises(RawFormatError) as caught:
            self.reader.parse(source, [garbage for _ in blobs])
        assert any(str(file) in str(caught.value) for file in source.files)
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)

    def test_an_empty_file_is_a_format_error(self) -> None:
        source, blobs = self.source()
        assert self.outcome(source, [b"" for _ in blobs]) is None

    def test_format_errors_can_be_pickled(self) -> None:
        source, blobs = self.source()
        with pytest.raises(RawFormatError) as caught:
            self.reader.parse(source, [b"\xff" for _ in blobs])
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.reason, copy.where) == (
            str(caught.value),
            caught.value.reason,
            caught.value.where,
        )

    def test_clip_sources_can_be_pickled(self) -> None:
        source, _ = self.source()
        assert pickle.loads(pickle.dumps(source)) == source


class TextReaderConformance(ReaderConformance):
    """`ReaderConformance` with additional tests for text formats."""

    def test_a_byte_order_mark_is_skipped(self) -> None:
        source, blobs = self.source()
        marked = [codecs.BOM_UTF8 + blob for blob in blobs]
        assert_same(self.reader.parse(source, marked), self.reader.parse(source, blobs))

    def test_lf_and_crlf_line_endings_are_read_as_the_same_text(self) -> None:
        source, blobs = self.source()
        crlf = [blob.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for blob in blobs]
        lf = [blob.replace(b"\r\n", b"\n") for blob in blobs]
        assert_same(self.reader.parse(source, crlf), self.reader.parse(source, lf))
        assert all(map(same_text, crlf, lf))
        assert not any(map(same_text, crlf, [blob + b"1" for blob in lf]))
