"""Tar archives and compressed files: reading in place, untrusted input, and reports of files that are not read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from psptool.common.errors import PspError, RawFormatError
from psptool.formats.readers import ahead, sources, tars
from psptool.formats.readers.ahead import ReadAhead
from psptool.formats.readers.base import ClipSource, FileRef
from psptool.formats.readers.ntu import NtuReader
from psptool.formats.readers.sources import (
    LOST,
    clips_among,
    find_clips,
    list_files,
    read_clip,
    read_file,
)
from psptool.skeletons.keys import UNNAMED

from . import raw
from .raw import PACKERS, pack, write

READER = NtuReader()
TARS = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")


def clip_name(action: int) -> str:
    return f"S001C001P001R001A{action:03d}"


def skeleton(action: int) -> str:
    return f"{clip_name(action)}.skeleton"


def strays_of(path: Path) -> dict[str, str]:
    return {stray.name: stray.reason for stray in find_clips([path], READER)[1]}


def packed_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], packer=bytes) -> Path:
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return write(path, packer(blob.getvalue()))


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, link
    return member


@pytest.mark.parametrize("suffix", TARS)
def test_members_of_every_size_and_name_length_are_read_in_any_order(tmp_path: Path, suffix: str) -> None:
    content = {f"{'long/' * n}{n}": os.urandom(n * n * 11) for n in (0, 1, 7, 30, 60, 100)}
    path = pack(tmp_path / f"raw{suffix}", content)
    files = list_files([path])
    assert {file.path: read_file(file) for file in files[::-1]} == content
    assert [file.size for file in files] == [len(content[file.path]) for file in files]


@pytest.mark.parametrize("name", ["raw.tar", "raw.tar.gz", "raw.tgz"])
@pytest.mark.parametrize("packer", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_the_compression_is_detected_from_the_content_and_not_from_the_name(
    tmp_path: Path, name: str, packer
) -> None:
    path = packed_tar(tmp_path / name, [(info("x", 3), b"123")], packer)
    assert read_file(list_files([path])[0]) == b"123"


def test_the_last_of_two_members_with_the_same_name_is_read(tmp_path: Path) -> None:
    path = packed_tar(tmp_path / "raw.tar", [(info("x", 3), b"old"), (info("x", 4), b"newer"[:4])])
    assert [read_file(file) for file in list_files([path])] == [b"newe"]


@pytest.mark.parametrize("folder", ["../", "/abs/", "a/../../", "C:/", "..\\"])
def test_a_member_with_a_path_outside_of_the_archive_is_a_stray_and_nothing_is_written(
    tmp_path: Path, folder: str
) -> None:
    path = packed_tar(tmp_path / "raw.tar.gz", [(info(folder + skeleton(1), 3), b"123")], gzip.compress)
    assert strays_of(path) == {clip_name(1): sources.OUTSIDE}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["raw.tar.gz"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, tars.LINK),
        (tarfile.LNKTYPE, tars.LINK),
        (tarfile.CHRTYPE, tars.NO_FILE),
        (tarfile.FIFOTYPE, tars.NO_FILE),
        (b"Z", tars.NO_FILE),
    ],
    ids=["symlink", "hard link", "device", "pipe", "unknown"],
)
def test_links_and_devices_are_refused_and_reported(tmp_path: Path, kind: bytes, reason: str) -> None:
    secret = write(tmp_path / "secret", raw.ntu())
    path = packed_tar(
        tmp_path / "raw.tar", [(info(skeleton(1), 0, kind, str(secret)), b""), (info(skeleton(2), 1), b"1")]
    )
    clips, _ = find_clips([path], READER)
    assert [clip.name for clip in clips] == [clip_name(2)]
    assert strays_of(path) == {clip_name(1): reason}


def test_archives_and_compressed_files_that_are_not_read_are_reported(tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.zip", {skeleton(1): raw.ntu()}).read_bytes()
    named = {"more.zip": inner, "more.tar.gz": b"", "a.7z": b"", "b.rar": b"", "c.zip.001": b"", "d.gz": b""}
    folder = tmp_path / "raw"
    for name, blob in named.items():
        write(folder / name, blob)
    pack(folder / "more.zip", {"nested.zip": inner, "nested.tar.xz": inner, skeleton(2): raw.ntu()})
    pack(folder / "more.tar.gz", {"deep/nested.tgz": inner, "x.rar": b"", "notes.txt": b""})
    write(folder / "readme.txt")
    assert strays_of(folder) == {
        "nested.zip": sources.NESTED,
        "nested.tar.xz": sources.NESTED,
        "nested.tgz": sources.NESTED,
        "x.rar": sources.OTHER_ARCHIVE,
        "a.7z": sources.OTHER_ARCHIVE,
        "b.rar": sources.OTHER_ARCHIVE,
        "c.zip.001": sources.OTHER_ARCHIVE,
        "d.gz": sources.OTHER_CONTENT,
    }
    assert set(strays_of(folder).values()) <= LOST


def test_files_with_the_suffix_skeleton_txt_are_read(tmp_path: Path) -> None:
    write(tmp_path / f"{skeleton(1)}.txt", raw.ntu())
    write(tmp_path / f"{clip_name(2)}.Skeleton.TXT.gz", gzip.compress(raw.ntu()))
    clips, strays = find_clips([tmp_path], READER)
    assert ([clip.name for clip in clips], strays) == ([clip_name(1), clip_name(2)], [])
    assert READER.parse(clips[1], read_clip(clips[1])).frames == 4


@pytest.mark.parametrize("suffix", TARS)
@pytest.mark.parametrize("cut", [0.1, 0.3, 0.6])
def test_a_truncated_archive_is_an_error_that_names_it(tmp_path: Path, suffix: str, cut: float) -> None:
    path = pack(tmp_path / f"raw{suffix}", {str(n): os.urandom(5000) for n in range(5)})
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(PspError, match="damaged or not a tar archive") as caught:
        list_files([path])
    assert path.name in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("suffix", TARS)
@pytest.mark.parametrize("step", [19, pytest.param(3, marks=pytest.mark.slow)])
def test_a_corrupted_byte_of_an_archive_is_an_error_or_harmless(
    tmp_path: Path, suffix: str, step: int
) -> None:
    content = os.urandom(300)
    blob = pack(tmp_path / f"raw{suffix}", {skeleton(1): content}).read_bytes()
    name = f"1{suffix}"
    for k in range(0, min(len(blob), 2000), step):
        write(tmp_path / name, blob[:k] + bytes([blob[k] ^ 0x81]) + blob[k + 1 :])
        try:
            found = [read_clip(clip)[0] for clip in find_clips([tmp_path / name], READER)[0]]
        except PspError as error:
            found = [str(error).encode()]
        # A plain tar archive has no checksums of its members' content.
        assert all(
            name.encode() in one or one == content or (suffix == ".tar" and len(one) == 300) for one in found
        )


@pytest.mark.parametrize("content", ["empty", "something else", "data after the end", "no end marker"])
def test_a_file_that_is_not_a_tar_archive_is_an_error(tmp_path: Path, content: str) -> None:
    whole = pack(tmp_path / "whole.tar", {"x": b"123"}).read_bytes()
    blob = {
        "empty": b"",
        "something else": b"no archive at all " * 100,
        "data after the end": whole + whole,
        "no end marker": whole[:1024],
    }[content]
    with pytest.raises(PspError, match="damaged or not a tar archive"):
        list_files([write(tmp_path / "raw.tar", blob)])


def test_headers_with_impossible_sizes_are_errors_and_use_little_memory(tmp_path: Path) -> None:
    huge, negative = info("x", 10**12, tarfile.XHDTYPE), info("x", -512)
    tracemalloc.start()
    try:
        for member in (huge, negative):
            header = member.tobuf(tarfile.GNU_FORMAT)
            with pytest.raises(PspError, match="damaged or not a tar archive"):
                list_files([write(tmp_path / "raw.tar", header + bytes(10240))])
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_decompression_bomb_is_refused_by_its_unpacked_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "FREE_BYTES", 2_000_000)
    path = packed_tar(tmp_path / "raw.tar.gz", [(info("x", 20_000_000), bytes(20_000_000))], gzip.compress)
    tracemalloc.start()
    try:
        with pytest.raises(PspError, match="unpacks to more than 200 times its size"):
            list_files([path])
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", TARS)
def test_a_member_too_large_for_a_recording_is_a_format_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    large, fits = list_files([pack(tmp_path / f"raw{suffix}", {"a": bytes(1001), "b": bytes(1000)})])
    with pytest.raises(RawFormatError, match="too large"):
        read_file(large)
    assert len(read_file(fits)) == 1000


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_compressed_file_that_is_a_bomb_or_damaged_is_a_format_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 100_000)
    path = write(tmp_path / f"x{suffix}", PACKERS[suffix](bytes(20_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(RawFormatError, match="too large"):
            read_file(list_files([path])[0])
        # The xz decoder has a dictionary of 8 MB.
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
    whole = PACKERS[suffix](os.urandom(5000))
    for blob in (whole[:-5], whole[:2000], b"no archive", b""):
        with pytest.raises(RawFormatError, match="damaged compressed file") as caught:
            read_file(list_files([write(path, blob)])[0])
        assert path.name in caught.value.where


def test_an_archive_that_changed_after_it_was_listed_is_an_error(tmp_path: Path) -> None:
    for suffix in (".tar", ".tar.gz"):
        path = pack(tmp_path / f"raw{suffix}", {"x": b"1"})
        (file,) = list_files([path])
        os.utime(path, ns=(1, 1))
        with pytest.raises(PspError, match="the archive was changed"):
            read_file(file)


def test_members_whose_names_are_not_utf8_are_listed_and_printed(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9/") + skeleton(1)
    (clip,), _ = find_clips([pack(tmp_path / "raw.tar", {name: raw.ntu()})], READER)
    assert str(clip.files[0]).endswith(f"raw.tar:caf\\udce9/{skeleton(1)}")
    assert read_clip(clip) == [raw.ntu()]


def sources_of(path: Path, order: list[int]) -> list[ClipSource]:
    files = {file.path: file for file in list_files([path])}
    return [ClipSource(str(n), UNNAMED, (files[str(n)],)) for n in order]


def record_opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Record every archive that is opened, in order."""
    starts = []

    class Counted(tars.TarStream):
        def __init__(self, path: Path) -> None:
            starts.append(path)
            super().__init__(path)

    monkeypatch.setattr(ahead, "TarStream", Counted)
    return starts


@pytest.mark.parametrize("order", [list(range(40)), list(range(39, -1, -1)), [n * 7 % 40 for n in range(40)]])
def test_read_ahead_unpacks_a_compressed_archive_once_in_any_order(
    tmp_path: Path, monkeypatch, order
) -> None:
    content = {str(n): os.urandom(1000) for n in range(40)}
    path, starts = pack(tmp_path / "raw.tar.gz", content), record_opened(monkeypatch)
    clips = sources_of(path, order)
    reading = ReadAhead(clips)
    assert [read_clip(reading.attach(clip)) for clip in clips] == [[content[str(n)]] for n in order]
    assert starts == [path]


@pytest.mark.parametrize(("order", "passes"), [(range(40), 1), ([n * 7 % 40 for n in range(40)], 7)])
def test_read_ahead_stays_within_its_memory_limit(tmp_path: Path, monkeypatch, order, passes) -> None:
    content = {str(n): os.urandom(10_000) for n in range(40)}
    path, starts = pack(tmp_path / "raw.tar.gz", content), record_opened(monkeypatch)
    clips = sources_of(path, list(order))
    reading = ReadAhead(clips, most=100_000)
    tracemalloc.start()
    try:
        for clip in clips:
            assert read_clip(reading.attach(clip)) == [content[clip.name]]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert len(starts) <= passes


def test_read_ahead_ignores_files_outside_of_compressed_tar_archives(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "1", b"here")
    pack(tmp_path / "raw.tar", {"2": b"plain"})
    pack(tmp_path / "raw.zip", {"3": b"zip"})
    starts = record_opened(monkeypatch)
    clips = [ClipSource(file.path, UNNAMED, (file,)) for file in list_files([tmp_path])]
    reading = ReadAhead(clips)
    assert not reading
    assert [reading.attach(clip) for clip in clips] == clips
    assert starts == []


def test_a_file_that_is_too_large_is_not_read_ahead(tmp_path: Path) -> None:
    (clip,) = sources_of(pack(tmp_path / "raw.tar.gz", {"0": bytes(2000)}), [0])
    assert not ReadAhead([clip], largest=1000)


def test_a_file_that_is_too_large_is_excluded_and_the_others_are_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    content = {"0": bytes(10), "1": bytes(2000), "2": bytes(20)}
    clips = sources_of(pack(tmp_path / "raw.tar.gz", content), [0, 1, 2])
    reading = ReadAhead(clips, largest=1000)
    assert read_clip(reading.attach(clips[0])) == [content["0"]]
    with pytest.raises(RawFormatError, match="too large"):
        read_clip(reading.attach(clips[1]))
    assert read_clip(reading.attach(clips[2])) == [content["2"]]


def test_the_same_clip_in_a_folder_and_in_archives_is_found_each_time(tmp_path: Path) -> None:
    write(tmp_path / skeleton(1), raw.ntu())
    write(tmp_path / f"{skeleton(1)}.gz", gzip.compress(raw.ntu()))
    for suffix in (".zip", *TARS):
        pack(tmp_path / f"raw{suffix}", {skeleton(1): raw.ntu()})
    clips, strays = find_clips([tmp_path], READER)
    assert ([clip.name for clip in clips], strays) == ([clip_name(1)] * 7, [])
    assert {read_clip(clip)[0] for clip in clips} == {raw.ntu()}


def test_files_that_a_reader_accepts_are_not_strays(tmp_path: Path) -> None:
    file = FileRef(str(write(tmp_path / f"{skeleton(1)}.bz2", bz2.compress(raw.ntu()))), None, 1)
    clips, strays = clips_among([file], READER)
    assert (len(clips), strays) == (1, [])
