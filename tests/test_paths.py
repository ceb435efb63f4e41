"""Reading of files and pipes with a size limit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from psptool.common import paths
from psptool.common.paths import read_bytes, read_text, regular_size

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "PIPE_WAIT", 0.05)
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_file_is_read_up_to_the_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("é" * 5, encoding="utf-8")
    assert read_text(path, 10) == "é" * 5
    with pytest.raises(OSError, match="larger than 9 bytes"):
        read_text(path, 9)
    path.write_bytes(b"")
    assert read_bytes(path, 0) == b""


def test_a_pipe_without_a_writer_is_an_error(pipe: Path) -> None:
    with pytest.raises(OSError, match=r"a pipe without data for 0\.05 s"):
        read_text(pipe, 100)


def test_a_pipe_whose_writer_writes_nothing_is_an_error(pipe: Path) -> None:
    descriptor = os.open(pipe, os.O_RDWR)
    try:
        with pytest.raises(OSError, match="without data"):
            read_text(pipe, 100)
    finally:
        os.close(descriptor)


def test_a_pipe_is_read_until_its_writer_closes_it(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PIPE_WAIT", 60.0)
    text = "0123456789" * 50_000  # more than the capacity of a pipe
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    assert read_text(pipe, len(text)) == text
    writer.join()


def test_an_endless_pipe_is_read_up_to_the_size_limit(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PIPE_WAIT", 60.0)
    code = f"import sys\nfile = open({str(pipe)!r}, 'w')\nwhile True: file.write('0' * 1000)"
    with (
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL),
        pytest.raises(OSError, match="larger than 1,000,000 bytes"),
    ):
        read_text(pipe, 10**6)


def test_only_regular_files_have_a_size(pipe: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        regular_size(pipe)
    with pytest.raises(IsADirectoryError, match="is a folder"):
        regular_size(tmp_path)
    (tmp_path / "file").write_bytes(b"123")
    assert regular_size(tmp_path / "file") == 3
