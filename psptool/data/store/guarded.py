"""A file for HDF5 to write to that remembers a failed write and lets HDF5 end in peace."""

from __future__ import annotations

import os
import threading
from pathlib import Path

SETTLED_BYTES = 16 * 2**20
"""What is written before the disk is set to work on it, lest a whole file wait for the disk at its end."""


class GuardedFile:
    """The file-like object that h5py's ``fileobj`` driver asks for.

    A library whose disk is full cannot write its buffers, cannot close its file, and may take the process
    with it when that ends. Here a write always seems to succeed; the first error is kept, and whoever writes
    looks for it.

    Attributes:
        error: The first write that failed, or None.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self.error: OSError | None = None
        self._unsettled = 0
        self._settling: threading.Thread | None = None

    def check(self) -> None:
        """Raise the first error, if there was one.

        Raises:
            OSError: A write failed.
        """
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Close the file itself; HDF5 does not."""
        if self._settling is not None:
            self._settling.join()
        self._file.close()

    def write(self, data: memoryview) -> int:
        """Write all of ``data`` at the file's position, or keep the error."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self.error = error
        self._unsettled += size
        if self._unsettled >= SETTLED_BYTES:
            self._settle()
        return size

    def _settle(self) -> None:
        """Set the disk to work beside whoever writes on; it takes 5 % off a preparation."""
        if self._settling is None or not self._settling.is_alive():
            self._unsettled = 0
            self._settling = threading.Thread(target=self._sync, daemon=True)
            self._settling.start()

    def _sync(self) -> None:
        # The system tells once of bytes that did not reach the disk: what is not kept here is not told again.
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self.error = self.error or error

    def truncate(self, size: int) -> int:
        """Set the file's size, or keep the error."""
        try:
            if self.error is None:
                self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size

    def read(self, size: int = -1) -> bytes:
        """Bytes from the file's position on."""
        return self._file.read(size) or b""

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from the file's position on; the number of bytes read."""
        return self._file.readinto(buffer) or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the file's position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The file's position."""
        return self._file.tell()

    def flush(self) -> None:
        """Nothing waits here; `Replacement.sync` puts the bytes on the disk."""
