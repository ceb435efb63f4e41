"""A file for HDF5 to write to that remembers a failed write and lets HDF5 end in peace."""

from __future__ import annotations

from pathlib import Path


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

    def check(self) -> None:
        """Raise the first error, if there was one.

        Raises:
            OSError: A write failed.
        """
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Close the file itself; HDF5 does not."""
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
        return size

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
