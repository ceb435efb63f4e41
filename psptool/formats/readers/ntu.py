"""The ``.skeleton`` text format of NTU RGB+D 60 and 120: 25 Kinect-v2 joints, any number of bodies per frame.

The format, as published by the dataset's authors (Shahroudy et al. 2016; Liu et al. 2019): the number of frames; for
each frame the number of bodies; for each body a line of 10 fields that begins with its id, the joint count, and one
line of 12 fields per joint. Of these fields, x, y, z (metres, camera coordinates) and the last one, the tracking state,
are kept. The others are counted but not parsed: they may contain any values, such as infinities.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from psptool.common.errors import RawFormatError
from psptool.common.paths import shown
from psptool.common.text import counted
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Stray
from psptool.formats.readers.text import (
    MOST_SHOWN,
    excerpt,
    line_of,
    no_body,
    number_error,
    require_text,
    without_mark,
)
from psptool.schemas import builtin
from psptool.schemas.description import DatasetDescription, NtuFormat
from psptool.skeletons.keys import UNNAMED

if TYPE_CHECKING:
    from psptool.formats.readers.scanner import Scan

SUFFIXES = (".skeleton", ".skeleton.txt")

_FIELD = re.compile(rb"[^ \t\r\n]+")


class NtuReader:
    """Reads NTU RGB+D clips; see `psptool.formats.readers.base.Reader`.

    Args:
        any_name: Also find recordings with other names; their key is `UNNAMED`.
        description: The dataset, which has the names and the 25 joints; that of NTU RGB+D 120 if None.
    """

    format = "ntu-skeleton"

    def __init__(self, any_name: bool = False, description: DatasetDescription | None = None) -> None:
        description = description or builtin.builtin_dataset("ntu120")
        self.any_name = any_name
        self.key_of, self.names = description.parse, description.clips.in_words
        self.topology = description.skeleton.topology

    def compile(self) -> None:
        """Load the compiled scanner, or compile it."""
        from psptool.formats.readers.scanner import scan

        scan(b"0", NtuFormat.joints)

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """Clips are files ``SsssCcccPpppRrrrAaaa.skeleton`` or ``.skeleton.txt``; others are strays."""
        clips, strays = [], []
        for file in files:
            if not file.plain.lower().endswith(SUFFIXES):
                continue
            name = shown(file.name)
            stem = name[: name.lower().rindex(SUFFIXES[0])]
            key = self.key_of(stem) or (UNNAMED if self.any_name and stem else None)
            if key is None:
                strays.append(Stray(name, str(file), f"the name is not {self.names}"))
            else:
                clips.append(ClipSource(stem, key, (file,)))
        return clips, strays

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the bytes of one file to a clip of V = 25 joints.

        Raises:
            RawFormatError: The file is malformed or truncated, or contains no body. The message names the line.
        """
        # Imported here, because loading numba takes long and `find` does not need it.
        from psptool.formats.readers import kernel
        from psptool.formats.readers.scanner import scan

        (blob,), (file,) = map(without_mark, blobs), source.files
        require_text(file, blob)
        found = scan(blob, NtuFormat.joints)
        if found.problem != kernel.FINE:
            raise _explain(file, blob, found)
        if not len(found.frame):
            raise no_body(source, found.frames)
        return RawClip(source.name, source.key, found.frames, found.frame, found.body, found.xyz, found.state)


def _explain(file: FileRef, blob: bytes, found: Scan) -> RawFormatError:
    """The error for a problem of the scanner, with the line, the text found and the text expected."""
    from psptool.formats.readers import kernel

    where = line_of(file, blob, found.offset)
    line = blob[found.offset : found.offset + MOST_SHOWN].split(b"\n", 1)[0].strip()
    field = _FIELD.match(blob, found.offset)
    word = field[0].decode("ascii") if field else ""
    reason, expected = {
        kernel.FRAME_COUNT: ("frame count", f"the number of frames, 0 to {kernel.MAX_COUNT}"),
        kernel.BODY_COUNT: ("body count", f"the number of bodies in the frame, 0 to {kernel.MAX_COUNT}"),
        kernel.BODY_LINE: ("field count", f"a body line of {kernel.BODY_FIELDS} fields"),
        kernel.JOINT_COUNT: ("joint count", f"the joint count {NtuFormat.joints}"),
        kernel.JOINT_LINE: ("field count", f"a joint line of {kernel.JOINT_FIELDS} fields"),
        kernel.REST: (
            "data after the last frame",
            f"the end of the file after {counted(found.frames, 'frame')}",
        ),
    }[found.stage]
    if found.problem in (kernel.NUMBER, kernel.INFINITE):
        return number_error(word, where)
    if found.problem == kernel.TRUNCATED:
        after = f" after {excerpt(line)}" if line else ""
        return RawFormatError("truncated", where, f"the end of the file{after}", expected)
    if found.problem == kernel.STATE:
        return RawFormatError("joint state", where, excerpt(word), "0, 1 or 2")
    if found.problem == kernel.BODY_ID:
        return RawFormatError("body id", where, excerpt(word), "a 64-bit integer")
    fields = f"{len(line.split())} fields, " if reason == "field count" else ""
    return RawFormatError(reason, where, f"{fields}{excerpt(line)}", expected)
