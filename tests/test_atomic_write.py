"""Files are written completely or not at all: injected faults and concurrent writers."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import stat
import tempfile
import time
from pathlib import Path

import pytest

from psptool.common.atomic_write import Replacement, replacing, write_together, write_whole
from psptool.common.errors import PspError

FORK = multiprocessing.get_context("fork")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("data", "expected"), [("müde\n", "müde\n".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")]
)
def test_text_and_bytes_are_written_and_the_folder_is_created(
    tmp_path: Path, data: str | bytes, expected: bytes
) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_whole(path, data)
    assert path.read_bytes() == expected
    assert listing(path.parent) == ["file"]


def test_a_shorter_file_replaces_a_longer_one_and_the_partial_file_of_a_killed_process(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    write_whole(path, "long " * 1000)
    (tmp_path / ".file.partial").write_bytes(b"rubbish" * 1000)
    write_whole(path, "short")
    assert path.read_text() == "short"
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_fault_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(
            PspError, match=r"file: cannot be written \(No space left on device\)\. Free disk space"
        ):
            write_whole(path, "new")
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["file"]


def write_with_little_disk(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    try:
        write_whole(path, b"x" * 10_000)
    except PspError as error:
        os._exit(7 if "cannot be written" in str(error) else 8)
    os._exit(9)


def test_a_full_disk_leaves_only_the_old_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "old")
    process = FORK.Process(target=write_with_little_disk, args=(tmp_path / "file",))
    process.start()
    process.join(60)
    assert process.exitcode == 7
    assert (tmp_path / "file").read_text() == "old"
    assert listing(tmp_path) == ["file"]


def write_and_die(path: Path) -> None:
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign,return-value]
    write_whole(path, "new")


def test_a_process_killed_before_the_rename_leaves_the_old_file_and_the_next_write_removes_the_partial_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    process = FORK.Process(target=write_and_die, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_whole(path, "next")
    assert path.read_text() == "next"
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("blocked", ["the file", "its folder"])
def test_a_folder_at_the_path_or_a_file_at_its_parent_is_an_error_that_names_the_path(
    tmp_path: Path, blocked: str
) -> None:
    path = tmp_path / "folder" / "file"
    if blocked == "the file":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("a file")
    with pytest.raises(PspError, match=r"folder/file: cannot be written"):
        write_whole(path, "text")
    assert blocked == "its folder" or listing(path.parent) == ["file"]


def test_a_folder_is_refused_before_the_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        PspError, match=r"folder: cannot be written .*found a folder, expected a new or existing file"
    ):
        Replacement(tmp_path / "folder")
    assert listing(tmp_path) == ["folder"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write_whole(path, "new")
    write_together({path: "newer", tmp_path / "other": "new"})
    assert path.read_text() == "newer"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("new")
    write_whole(tmp_path / "file", "new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def write_often(path: Path, letter: str) -> None:
    for _ in range(100):
        write_whole(path, letter * 10_000)


def test_concurrent_writers_of_one_file_never_mix_their_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "a" * 10_000)
    writers = [FORK.Process(target=write_often, args=(path, letter)) for letter in "bc"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = path.read_text()
        assert len(text) == 10_000
        assert len(set(text)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert listing(tmp_path) == ["file"]


def write_both_often(paths: list[Path]) -> None:
    for _ in range(50):
        write_together(dict.fromkeys(paths, "text"))


def test_two_writers_of_the_same_files_in_opposite_order_do_not_deadlock(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    writers = [FORK.Process(target=write_both_often, args=(order,)) for order in (paths, paths[::-1])]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(20)
    found = [writer.exitcode for writer in writers]
    for writer in writers:
        writer.kill()
    assert found == [0, 0]


def hold_lock(path: Path, seconds: float) -> None:
    locked = Replacement(path)
    (path.parent / "holding").touch()
    time.sleep(seconds)
    locked.abandon()


def test_a_short_write_waits_for_another_process_and_a_long_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    holder = FORK.Process(target=hold_lock, args=(path, 0.5))
    holder.start()
    while not (tmp_path / "holding").exists():
        time.sleep(0.01)
    with pytest.raises(PspError, match="another psptool process is writing this file"):
        Replacement(path)
    assert holder.is_alive()
    write_whole(path, "text")
    holder.join(60)
    assert path.read_text() == "text"
    assert listing(tmp_path) == ["file", "holding"]


def test_neither_of_two_files_is_written_if_the_second_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "a" / "first", tmp_path / "b" / "second"
    second.parent.mkdir()
    second.write_text("old")
    sync = Replacement.sync

    def full(self: Replacement) -> None:
        if self.partial.name == ".second.partial":
            raise OSError(errno.ENOSPC, "No space left on device", str(second))
        sync(self)

    monkeypatch.setattr(Replacement, "sync", full)
    together = replacing([first, second])
    for partial in together.__enter__():
        partial.write_text("new")
    with pytest.raises(PspError, match=r"second: cannot be written \(No space left"):
        together.__exit__(None, None, None)
    assert (listing(first.parent), listing(second.parent)) == ([], ["second"])
    assert second.read_text() == "old"


def test_several_files_are_renamed_together(tmp_path: Path) -> None:
    with replacing([tmp_path / "a", tmp_path / "b"]) as partials:
        for partial in partials:
            partial.write_text(partial.name)
        assert listing(tmp_path) == [".a.partial", ".b.partial"]
    assert listing(tmp_path) == ["a", "b"]


def test_several_files_start_empty_even_if_a_killed_process_left_a_partial_file(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").write_text("left over")
    with replacing([tmp_path / "a", tmp_path / "b"]) as partials:
        assert [partial.read_bytes() for partial in partials] == [b"", b""]


def test_an_error_before_several_files_are_renamed_changes_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fail() -> None:
        assert listing(tmp_path) == [".a.partial", ".b.partial", "a"]
        raise PspError("no")

    with pytest.raises(PspError, match="no"):
        write_together({tmp_path / "a": "new", tmp_path / "b": "new"}, first=fail)
    assert listing(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("several", [True, False], ids=["write_together", "write_whole"])
def test_the_file_is_flushed_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    events: list[object] = []
    replace, fsync = Path.replace, os.fsync

    def spy_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        events.append("folder" if stat.S_ISDIR(status.st_mode) else ("bytes", status.st_size))
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        events.append(("name", target.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    if several:
        write_together({tmp_path / "a": "1", tmp_path / "b": "22"})
        names = [("name", "a"), "folder", ("name", "b"), "folder"]
        assert events == [("bytes", 1), ("bytes", 2), *names]
    else:
        write_whole(tmp_path / "a", "new")
        assert events == [("bytes", 3), ("name", "a"), "folder"]


@pytest.mark.parametrize("chain", [1, 2], ids=["a link", "a link to a link"])
def test_a_symbolic_link_is_kept_and_its_target_is_replaced(tmp_path: Path, chain: int) -> None:
    (tmp_path / "far").mkdir()
    real = tmp_path / "far" / "real"
    real.write_text("old")
    link = tmp_path / "link"
    if chain == 2:
        (tmp_path / "between").symlink_to(Path("far") / "real")
    link.symlink_to("between" if chain == 2 else Path("far") / "real")
    write_whole(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    with replacing([link]) as (partial,):
        # Beside the target: a rename is atomic only within one file system.
        assert partial.parent == real.parent
        partial.write_text("newer")
    assert link.is_symlink()
    assert real.read_text() == "newer"
    assert listing(real.parent) == ["real"]


def test_a_fault_leaves_a_symbolic_link_and_its_target_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "real")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(PspError, match=r"link: cannot be written \(No space"):
        write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").read_text() == "old"
    assert (listing(tmp_path), listing(tmp_path / "far")) == (["far", "link"], ["real"])


def start_to_write(paths: list[Path]) -> None:
    """Write one file, or start to replace several."""
    if len(paths) == 1:
        write_whole(paths[0], "text")
    else:
        replacing(paths).__enter__()


@pytest.mark.parametrize("place", ["the file", "its folder"])
@pytest.mark.parametrize(("target", "why"), [("nowhere", "No such file"), ("link", "Too many levels")])
@pytest.mark.parametrize("several", [True, False], ids=["replacing", "write_whole"])
def test_a_dangling_or_circular_link_is_an_error_that_names_it(
    tmp_path: Path, place: str, target: str, why: str, several: bool
) -> None:
    (tmp_path / "link").symlink_to(target)
    path = tmp_path / "link" if place == "the file" else tmp_path / "link" / "file"
    expected = (
        rf"cannot be written \({why}.*found {tmp_path}/link, a link to {target}, .*Correct or remove the link"
    )
    with pytest.raises(PspError, match=expected):
        start_to_write([tmp_path / "other", path] if several else [path])
    assert listing(tmp_path) == ["link"]


def write_unprivileged(paths: list[Path]) -> None:
    if os.geteuid() == 0:
        os.setuid(65534)
    caught = []
    for path in paths:
        for together in ([path], [path, path.with_name("other")]):
            try:
                start_to_write(together)
            except PspError as error:
                caught.append(f"{path}: cannot be written (Permission denied)" in str(error))
    os._exit(7 if caught == [True] * 2 * len(paths) else 8)


def test_a_read_only_folder_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        # Not in tmp_path, which other users cannot enter: the process gives up root, which ignores permissions.
        folder = Path(name) / "folder"
        folder.mkdir()
        (folder / "old").write_text("old")
        (Path(name) / "link").symlink_to(folder / "old")
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        paths = [folder / "old", folder / "new", folder / "deeper" / "new"]
        process = FORK.Process(target=write_unprivileged, args=(paths,))
        process.start()
        process.join(60)
        assert process.exitcode == 7
        assert (folder / "old").read_text() == "old"
        assert listing(folder) == ["old"]
        folder.chmod(0o755)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=type)
def test_all_old_files_are_restored_if_the_last_of_several_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, fault: BaseException
) -> None:
    first, new, last = (tmp_path / name for name in ("first", "new", "last"))
    first.write_text("old first")
    last.write_text("old last")
    commit = Replacement.commit

    def fail(self: Replacement) -> None:
        if self.target == last:
            assert (first.read_text(), new.read_text()) == ("new", "new")
            raise fault
        commit(self)

    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Replacement, "commit", fail)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    together = replacing([first, new, last])
    for partial in together.__enter__():
        partial.write_text("new")
    with pytest.raises(PspError if isinstance(fault, OSError) else KeyboardInterrupt):
        together.__exit__(None, None, None)
    assert (first.read_text(), last.read_text()) == ("old first", "old last")
    assert listing(tmp_path) == ["first", "last"]


def test_an_old_file_that_cannot_be_restored_is_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    first.write_text("old")
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name in (".first.old.partial", ".last.partial"):
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    together = replacing([first, last])
    for partial in together.__enter__():
        partial.write_text("new")
    with pytest.raises(
        PspError, match=r"first \(old version: .*/\.first\.old\.partial\).*Input/output error"
    ):
        together.__exit__(None, None, None)
    assert (tmp_path / ".first.old.partial").read_text() == "old"
    assert listing(tmp_path) == [".first.old.partial", "first"]


def test_replacing_several_files_leaves_no_old_versions(tmp_path: Path) -> None:
    for name in ("a", "b", ".a.old.partial"):
        (tmp_path / name).write_text("old")
    os.link(tmp_path / "b", tmp_path / ".b.old.partial")  # left by a process killed before the rename
    with replacing([tmp_path / "a", tmp_path / "b"]) as partials:
        for partial in partials:
            partial.write_text("new")
    assert listing(tmp_path) == ["a", "b"]
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_or_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        for write in (
            lambda path: write_whole(path, "text"),
            lambda path: write_together({path.with_name("other"): "text", path: "text"}),
        ):
            with pytest.raises(PspError, match="not a regular file"):
                write(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]
