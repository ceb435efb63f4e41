"""File names of archives and compressed files, and decompression of gzip, bzip2 and xz."""

from __future__ import annotations

import importlib
import io
import lzma
import re
import tarfile
import zlib
from typing import IO, cast

from psptool.common.errors import PspError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
ARCHIVE_SUFFIXES = (".zip", *TAR_SUFFIXES)
"""Archives whose members are read without unpacking them to disk."""
PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
"""Compressed single files, such as ``X.skeleton.gz``."""
UNREAD_SUFFIXES = frozenset(
    (
        ".7z",
        ".rar",
        ".zst",
        ".tzst",
        ".lz4",
        ".lz",
        ".lzma",
        ".lzh",
        ".z",
        ".tz",
        ".arj",
        ".cab",
        ".iso",
        ".zipx",
    )
)
"""Archives and compressed files of unsupported formats."""
UNREAD_PART = re.compile(r"\.([rz]\d\d|(zip|7z|rar|tar|tar\.gz|tgz)\.\d{3})$")
"""The end of the lower-case name of a part of a split archive: ``.z01`` or ``.zip.001``."""

DAMAGE = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, OverflowError, RecursionError)
"""Exceptions of tarfile and the decompressors for damaged data; gzip and bz2 also raise OSError."""
# Magic bytes, and the module and class that decompress such a file.
_PACKERS = (
    (b"\x1f\x8b", "gzip", "GzipFile"),
    (b"BZh", "bz2", "BZ2File"),
    (b"\xfd7zXZ\x00", "lzma", "LZMAFile"),
)
MAGIC_BYTES = max(len(magic) for magic, _, _ in _PACKERS)


def without_packing(name: str) -> str:
    """The name without a compression suffix: ``X.skeleton`` for ``X.skeleton.gz`` and for ``X.skeleton``."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in PACKED_SUFFIXES else name


def is_packed(head: bytes) -> bool:
    """Whether a file that begins with the bytes ``head`` is compressed, regardless of its name."""
    return any(head.startswith(magic) for magic, _, _ in _PACKERS)


def unpacking(raw: IO[bytes], head: bytes) -> IO[bytes]:
    """A file object with the decompressed bytes of ``raw``; ``raw`` itself if it is not compressed.

    Args:
        raw: A binary file, positioned at its start.
        head: Its first `MAGIC_BYTES` bytes.

    Raises:
        PspError: This Python was built without the compression library.
    """
    for magic, module, name in _PACKERS:
        if head.startswith(magic):
            try:
                opener = getattr(importlib.import_module(module), name)
            except ImportError as error:
                raise PspError(
                    f"this Python installation cannot read {module} files ({error})",
                    fix="Unpack the file first.",
                ) from error
            keyword = "fileobj" if module == "gzip" else "filename"
            return cast("IO[bytes]", opener(mode="rb", **{keyword: raw}))
    return raw


def unpack(blob: bytes, most: int) -> bytes:
    """The decompressed bytes of a file, at most the first ``most``, so that a bomb does not fill the memory.

    Raises:
        ValueError: ``blob`` is not a gzip, bzip2 or xz file, or is damaged.
    """
    if not is_packed(blob[:MAGIC_BYTES]):
        raise ValueError("not gzip, bzip2 or xz")
    try:
        with unpacking(io.BytesIO(blob), blob[:MAGIC_BYTES]) as file:
            return file.read(most)
    except (*DAMAGE, OSError) as error:
        raise ValueError(str(error)) from error
