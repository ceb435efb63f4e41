from __future__ import annotations

import difflib
import multiprocessing
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from psptool.common.errors import PspError, RawFormatError
from psptool.formats.readers import archives, sources
from psptool.formats.readers.base import FileRef
from psptool.formats.readers.ntu import NtuReader
from psptool.formats.readers.sources import find_clips, list_files, read_clip, read_file

from . import raw

READER = NtuReader()


def clip_name(action: int) -> str:
    return f"S001C001P001R001A{action:03d}"


def write(path: Path, blob: bytes = b"1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)
    return path


def pack(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, blob in members.items():
            archive.writestr(name, blob)
    return path


def patch(path: Path, old: bytes, new: bytes, count: int = -1) -> None:
    blob = path.read_bytes()
    assert old in blob
    path.write_bytes(blob.replace(old, new, count))


def names(paths: list[Path]) -> list[str]:
    return [Path(file.path).name for file in list_files(paths)]


def test_files_of_a_folder_are_sorted_by_path_at_any_depth(tmp_path: Path) -> None:
    for name in ("b/2", "a/z/1", "a/b", "c", "b/1"):
        write(tmp_path / name)
    found = [Path(file.path).relative_to(tmp_path).as_posix() for file in list_files([tmp_path])]
    assert found == ["a/b", "a/z/1", "b/1", "b/2", "c"]


def test_a_folder_tree_deeper_than_the_recursion_limit_is_listed(tmp_path: Path) -> None:
    home = Path.cwd()
    try:
        os.chdir(tmp_path)
        for _ in range(300):
            Path("d").mkdir()
            os.chdir("d")
        Path("x").touch()
    finally:
        os.chdir(home)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(250)
    try:
        assert names([tmp_path]) == ["x"]
    finally:
        sys.setrecursionlimit(limit)


def test_symlinks_are_followed_once_and_loops_terminate(tmp_path: Path) -> None:
    write(tmp_path / "real" / "x")
    (tmp_path / "raw").mkdir()
    for name, target in (
        ("data", "../real"),
        ("again", "../real"),
        ("up", ".."),
        ("self", "self"),
        ("gone", "gone2"),
    ):
        (tmp_path / "raw" / name).symlink_to(target)
    assert names([tmp_path / "raw"]) == ["x"]


def test_several_paths_are_listed_in_order_and_duplicate_paths_once(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x")
    archive = pack(tmp_path / "b" / "b.ZIP", {"y": b"1", "z/": b"", "z/w": b"1"})
    assert names([archive, tmp_path / "a", tmp_path / "b", tmp_path / "a"]) == ["y", "w", "x"]


def test_a_path_may_be_a_single_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.skeleton", b"123")
    assert list_files([path]) == [FileRef(str(path), None, 3, path.stat().st_mtime_ns)]


def test_macos_metadata_files_are_ignored(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "._x")
    pack(tmp_path / "raw" / "a.zip", {"__MACOSX/d/._x": b"1", "d/x": b"1"})
    assert names([tmp_path / "raw"]) == ["x"]


def test_a_missing_path_is_an_error_that_suggests_similar_paths(tmp_path: Path) -> None:
    write(tmp_path / "nturgbd_skeletons" / "x")
    with pytest.raises(PspError, match="no such file or folder") as caught:
        list_files([tmp_path / "nturgb_skeletons" / "sub"])
    assert str(tmp_path / "nturgb_skeletons" / "sub") in caught.value.what
    assert str(tmp_path / "nturgbd_skeletons") in str(caught.value.fix)
    assert difflib.get_close_matches("q", ["nturgbd_skeletons"]) == []
    with pytest.raises(PspError) as caught:
        list_files([tmp_path / "q"])
    assert caught.value.fix == "Check the path."


@pytest.mark.parametrize(
    "damage",
    [
        lambda blob: blob[:-30],
        lambda blob: b"",
        lambda blob: b"not a zip at all",
        lambda blob: blob.replace(b"PK\x01\x02", b"PK.."),
    ],
    ids=["truncated", "empty", "something else", "central directory overwritten"],
)
def test_a_damaged_archive_is_an_error_that_names_it(tmp_path: Path, damage: object) -> None:
    path = pack(tmp_path / "raw.zip", {f"{clip_name(n)}.skeleton": os.urandom(50) for n in range(1, 5)})
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(PspError, match="damaged or not a zip archive") as caught:
        list_files([path])
    assert str(path) in caught.value.what
    assert caught.value.fix


def test_a_corrupted_byte_of_an_archive_is_an_error_or_harmless(tmp_path: Path) -> None:
    content = "1\n" * 40
    blob = pack(tmp_path / "raw.zip", {f"{clip_name(1)}.skeleton": content.encode()}).read_bytes()
    for k in range(len(blob)):
        for bit in (1, 0x80):
            path = tmp_path / f"{k}-{bit}.zip"
            path.write_bytes(blob[:k] + bytes([blob[k] ^ bit]) + blob[k + 1 :])
            try:
                found = [read_clip(clip)[0].decode() for clip in find_clips([path], READER)[0]]
            except PspError as error:
                found = [str(error)]
            assert all(path.name in text or text == content for text in found)


@pytest.mark.parametrize("name", ["raw.7z", "raw.RAR", "raw.tar.zst", "raw.zip.001", "raw.z01"])
def test_unsupported_archive_formats_are_refused_with_a_fix(tmp_path: Path, name: str) -> None:
    with pytest.raises(PspError, match=r"unsupported archive format.*\.tar\.gz") as caught:
        list_files([write(tmp_path / name)])
    assert caught.value.fix == "Unpack it and use the folder instead."


def test_a_folder_without_read_permission_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    if os.access(tmp_path / "closed", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(PspError, match="closed: cannot be read"):
        list_files([tmp_path])


def test_clips_are_sorted_by_name_across_sources_and_duplicates_are_both_returned(tmp_path: Path) -> None:
    write(tmp_path / "raw" / "z" / f"{clip_name(1)}.skeleton")
    write(tmp_path / "raw" / "a" / f"{clip_name(3)}.skeleton")
    archive = pack(tmp_path / "more.zip", {f"{clip_name(n)}.skeleton": b"1" for n in (2, 3)})
    clips, strays = find_clips([tmp_path / "raw", archive], READER)
    assert [clip.name for clip in clips] == [clip_name(n) for n in (1, 2, 3, 3)]
    assert strays == []


@pytest.mark.parametrize("folder", ["../", "/abs/", "a/../../", "C:/", "..\\", "\\\\host\\"])
def test_a_member_with_a_path_outside_of_the_archive_is_a_stray_and_nothing_is_written(
    tmp_path: Path, folder: str
) -> None:
    path = tmp_path / "raw.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(f"{folder}{clip_name(1)}.skeleton"), raw.ntu())
        archive.writestr(f"{clip_name(2)}.skeleton", raw.ntu())
    clips, (stray,) = find_clips([path], READER)
    assert [clip.name for clip in clips] == [clip_name(2)]
    assert clip_name(1) in stray.name
    assert "a path outside of the archive" in stray.reason
    read_clip(clips[0])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["raw.zip"]


def test_a_folder_in_an_archive_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    path = raw.pack(tmp_path / "raw.zip", {f"10:30/{clip_name(1)}.skeleton": raw.ntu()})
    (clip,), strays = find_clips([path], READER)
    assert (clip.name, strays) == (clip_name(1), [])


def member(path: Path) -> FileRef:
    (file,) = list_files([path])
    return file


def test_an_encrypted_member_is_a_format_error(tmp_path: Path) -> None:
    path = pack(tmp_path / "raw.zip", {"x": b"secret"}, zipfile.ZIP_STORED)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        blob = bytearray(path.read_bytes())
        blob[blob.index(signature) + flags] |= 1
        path.write_bytes(blob)
    with pytest.raises(RawFormatError) as caught:
        read_file(member(path))
    assert (caught.value.reason, caught.value.where) == ("encrypted", f"{path}:x")


def test_a_member_with_a_wrong_checksum_is_a_format_error(tmp_path: Path) -> None:
    path = pack(tmp_path / "raw.zip", {"x": b"some text"}, zipfile.ZIP_STORED)
    patch(path, b"some text", b"some tests"[:9])
    with pytest.raises(RawFormatError) as caught:
        read_file(member(path))
    assert caught.value.reason == "damaged in the archive"
    assert f"{path}:x" in str(caught.value)


def test_a_member_with_an_unsupported_compression_is_a_format_error(tmp_path: Path) -> None:
    pytest.importorskip("bz2")
    path = pack(tmp_path / "raw.zip", {"x": b"some text"}, zipfile.ZIP_BZIP2)
    with pytest.raises(RawFormatError) as caught:
        read_file(member(path))
    assert caught.value.reason == "compression"


def test_a_zip_bomb_uses_little_memory_whatever_size_its_header_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 100_000)
    bomb, size = tmp_path / "bomb.zip", 20_000_000
    for stated in (size, 1000, 100_001):
        pack(bomb, {"x": bytes(size)})
        if stated != size:
            patch(bomb, size.to_bytes(4, "little"), stated.to_bytes(4, "little"))
        file = member(bomb)
        tracemalloc.start()
        try:
            with pytest.raises(RawFormatError) as caught:
                read_file(file)
            assert tracemalloc.get_traced_memory()[1] < 2_000_000
        finally:
            tracemalloc.stop()
        assert caught.value.reason == ("too large" if stated > 100_000 else "damaged in the archive")


def test_a_file_too_large_for_a_recording_is_a_format_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    path = write(tmp_path / "x", bytes(1001))
    with pytest.raises(RawFormatError) as caught:
        read_file(member(path))
    assert caught.value.reason == "too large"
    with pytest.raises(RawFormatError, match="more than 1000 bytes"):
        read_file(FileRef(str(path), None, 1))
    path.write_bytes(bytes(1000))
    assert len(read_file(member(path))) == 1000


def test_a_deleted_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    gone = member(write(tmp_path / "x"))
    (tmp_path / "x").unlink()
    with pytest.raises(PspError, match="x: cannot be read"):
        read_file(gone)
    archive = pack(tmp_path / "raw.zip", {"y": b"1"})
    in_archive = member(archive)
    pack(archive, {"z": b"1"})
    with pytest.raises(PspError, match="y: no longer in the archive"):
        read_file(in_archive)


def test_an_archive_that_was_overwritten_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "raw.zip"
    for content in (b"first", b"then another"):
        pack(path, {"x": content})
        assert read_file(member(path)) == content


def test_the_last_of_two_members_with_the_same_name_is_read(tmp_path: Path) -> None:
    path = tmp_path / "raw.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", b"old")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x", b"new")
    assert read_file(member(path)) == b"new"


def test_threads_can_read_the_same_archive_concurrently(tmp_path: Path) -> None:
    content = {f"{n:03d}": os.urandom(20_000) + bytes(20_000) for n in range(60)}
    path = pack(tmp_path / "raw.zip", content)
    files = list_files([path]) * 4
    with ThreadPoolExecutor(8) as pool:
        blobs = list(pool.map(read_file, files))
    assert blobs == [content[file.path] for file in files]


def test_more_archives_can_be_read_concurrently_than_are_kept_open(tmp_path: Path) -> None:
    paths = [pack(tmp_path / f"{n}.zip", {"x": b"%d" % n}) for n in range(3 * archives.MAX_OPEN)]
    files = list_files(paths) * 2
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_file, files)) == [b"%d" % n for n in range(len(paths))] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_can_read_while_its_parent_reads(tmp_path: Path) -> None:
    content = {f"{n:02d}": os.urandom(5000) for n in range(40)}
    files = list_files([pack(tmp_path / "raw.zip", content)])
    with archives._ARCHIVES.opening, archives._ARCHIVES._listing:
        # Locked, because another thread of the parent may hold these locks at the time of the fork.
        process = multiprocessing.get_context("fork").Process(
            target=_assert_same_content, args=(files, content)
        )
        process.start()
    reading = threading.Thread(target=_assert_same_content, args=(files, content))
    reading.start()
    reading.join()
    process.join(60)
    assert process.exitcode == 0


def _assert_same_content(files: list[FileRef], content: dict[str, bytes]) -> None:
    for _ in range(20):
        for file in files:
            assert read_file(file) == content[file.path]


def test_finding_clips_imports_no_heavy_package() -> None:
    modules = ", ".join(f"psptool.formats.readers.{name}" for name in ("base", "ntu", "ucla", "sources"))
    heavy = "'numba', 'llvmlite', 'scipy', 'h5py', 'torch'"
    code = f"import {modules}, sys; print([name for name in ({heavy}) if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("listed", [0, 1, 4, 5, 6, 10**6])
def test_a_file_is_read_completely_whatever_its_size_was_when_listed(tmp_path, listed):
    path = tmp_path / "grown or shrunk"
    path.write_bytes(b"12345")
    assert read_file(FileRef(str(path), None, listed)) == b"12345"
