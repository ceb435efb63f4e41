"""Readers that change what another reader parses."""

from __future__ import annotations

from psptool.formats.readers.base import ClipSource, FileRef, Reader, Stray
from psptool.skeletons.topology import Topology


class Adapted:
    """A reader that changes what another reader parses.

    Args:
        reader: The reader of the files.
        topology: The joints of the clips.
    """

    def __init__(self, reader: Reader, topology: Topology) -> None:
        self.reader, self.format, self.topology = reader, reader.format, topology

    def compile(self) -> None:
        """Load or compile the functions of the other reader."""
        compile_reader = getattr(self.reader, "compile", None)
        if compile_reader is not None:
            compile_reader()

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """The clips that the other reader finds."""
        return self.reader.find(files)
