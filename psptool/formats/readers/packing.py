"""Which file names mean an archive or a compressed file, and the bytes behind gzip, bzip2 and xz."""

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
"""Archives whose members are read where they lie."""
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
"""Archives and compressed files that are not read."""
UNREAD_PART = re.compile(r"\.([rz]\d\d|(zip|7z|rar|tar|tar\.gz|tgz)\.\d{3})$")
"""The end of the name, in lower case, of a part of an archive: ``.z01`` or ``.zip.001``."""

DAMAGE = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, OverflowError, RecursionError)
"""What tarfile and the decompressors raise for wrong bytes; gzip and bz2 also raise OSError."""
# First bytes, and the class that reads such a file.
_PACKERS = (
    (b"\x1f\x8b", "gzip", "GzipFile"),
    (b"BZh", "bz2", "BZ2File"),
    (b"\xfd7zXZ\x00", "lzma", "LZMAFile"),
)
MAGIC_BYTES = max(len(magic) for magic, _, _ in _PACKERS)


def without_packing(name: str) -> str:
    """The name that a file has once it is unpacked: ``X.skeleton`` for ``X.skeleton.gz``, also ``X.skeleton``."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in PACKED_SUFFIXES else name


def is_packed(head: bytes) -> bool:
    """Whether bytes that begin so are compressed, whatever the file's name says."""
    return any(head.startswith(magic) for magic, _, _ in _PACKERS)


def unpacking(raw: IO[bytes], head: bytes) -> IO[bytes]:
    """A file of the unpacked bytes of ``raw``, which stands at its start; ``raw`` itself where it is not compressed.

    Args:
        raw: A binary file.
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
                    f"this Python cannot read {module} ({error})", fix="Unpack the file first."
                ) from error
            keyword = "fileobj" if module == "gzip" else "filename"
            return cast("IO[bytes]", opener(mode="rb", **{keyword: raw}))
    return raw


def unpack(blob: bytes, most: int) -> bytes:
    """The unpacked bytes of a compressed file, at most the first ``most``, so that a bomb takes no memory.

    Raises:
        ValueError: ``blob`` is not compressed in a way that is read, or is damaged.
    """
    if not is_packed(blob[:MAGIC_BYTES]):
        raise ValueError("not gzip, bzip2 or xz")
    try:
        with unpacking(io.BytesIO(blob), blob[:MAGIC_BYTES]) as file:
            return file.read(most)
    except (*DAMAGE, OSError) as error:
        raise ValueError(str(error)) from error
