"""NTU RGB+D `.skeleton` text, NTU 60 and 120: 25 Kinect-v2 joints, any number of bodies a frame.

The format, as the dataset's authors publish it (Shahroudy et al. 2016; Liu et al. 2019): a file is the number of
frames; for each frame the number of bodies; for each body a line of 10 fields that begins with its id, the joint count,
and a line of 12 fields a joint, of which x, y, z (metres, camera frame) and the last, the tracking state, are kept.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from psptool.errors import RawFormatError
from psptool.readers.base import ClipSource, FileRef, RawClip, Stray
from psptool.readers.text import excerpt, is_not_finite, no_body, require_text
from psptool.skeletons.datasets import parse_ntu
from psptool.skeletons.topologies import NTU25

if TYPE_CHECKING:
    from psptool.readers.scanner import Scan

SUFFIX = ".skeleton"


class NtuReader:
    """Reads NTU RGB+D clips; see `psptool.readers.base.Reader`."""

    format = "ntu-skeleton"
    topology = NTU25

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """A clip is a ``SsssCcccPpppRrrrAaaa.skeleton``; a `.skeleton` of another name is a stray."""
        clips, strays = [], []
        for file in files:
            path = PurePosixPath(file.path)
            if path.suffix.lower() != SUFFIX:
                continue
            key = parse_ntu(path.stem)
            if key is None:
                strays.append(Stray(path.name, str(file), "name is not SsssCcccPpppRrrrAaaa"))
            else:
                clips.append(ClipSource(path.stem, key, (file,)))
        return clips, strays

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Turn one file's bytes into a clip of V = 25 joints.

        Raises:
            RawFormatError: The file is not whole and well-formed, or shows no body; names line and finding.
        """
        # Here, so that whoever only looks for clips need not wait for numba.
        from psptool.readers.scanner import FINE, scan

        (blob,), (file,) = blobs, source.files
        require_text(file, blob)
        found = scan(blob, self.topology.size)
        if found.problem != FINE:
            raise _explain(file, blob, found)
        if not len(found.frame):
            raise no_body(source, found.frames)
        return RawClip(source.name, source.key, found.frames, found.frame, found.body, found.xyz, found.state)


def _explain(file: FileRef, blob: bytes, found: Scan) -> RawFormatError:
    """The error for what the scanner found: line, what stood there, what was expected."""
    from psptool.readers import scanner as at

    line = blob.count(b"\n", 0, found.offset) + 1
    where = f"{file}, line {line}"
    stage, expected = {
        at.FRAME_COUNT: ("frame count", "the number of frames"),
        at.BODY_COUNT: ("body count", "the number of bodies in the frame"),
        at.BODY_LINE: ("field count", f"a body line of {at.BODY_FIELDS} fields"),
        at.JOINT_COUNT: ("joint count", f"the joint count {NTU25.size}"),
        at.JOINT_LINE: ("field count", f"a joint line of {at.JOINT_FIELDS} fields"),
        at.REST: ("data after the last frame", f"the end of the file after {found.frames} frames"),
    }[found.stage]
    whole = blob[found.offset :].split(b"\n", 1)[0]
    word = (whole.split(None, 1) or [b""])[0]
    field = excerpt(word)
    if found.problem == at.TRUNCATED:
        after = f" after {excerpt(whole)}" if whole.strip() else ""
        return RawFormatError("truncated", where, f"the end of the file{after}", expected)
    if found.problem == at.NUMBER:
        # A word that `float` takes for a number, such as nan, is one that cannot be used.
        reason = "not finite" if is_not_finite(word.decode()) else "not a number"
        return RawFormatError(reason, where, field, "a number")
    if found.problem == at.INFINITE:
        return RawFormatError("not finite", where, field, "a number that float32 holds")
    if found.problem == at.STATE:
        return RawFormatError("joint state", where, field, "0, 1 or 2")
    if found.problem == at.BODY_ID:
        return RawFormatError("body id", where, field, "an integer of 64 bits")
    count = f"{len(whole.split())} fields, " if stage == "field count" else ""
    return RawFormatError(stage, where, f"{count}{excerpt(whole)}", expected)
