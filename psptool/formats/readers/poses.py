"""Files of SLEAP, read with sleap-io, an optional dependency (``pip install sleap-io``).

One file is one recording in 2D: ``.slp``, or ``.h5`` of the analysis export. sleap-io also reads other formats, which
are left out: it drops DeepLabCut's and COCO's frames whose images are not next to the file, and does not keep the frame
numbers of NWB files.

- *Persons*: the tracks. Instances without a track are numbered by their order in the frame, after the tracks.
- *Joints*: the nodes by name, without upper and lower case, spaces and punctuation.
- *Missing*: a joint that is invisible, NaN, or with a score that is not above ``options.min_confidence``. Instances
  that a user labelled have no score; their joints are certain. They replace the prediction that they were made from.
- *Frame numbers*: those of the video.

Files are untrusted. Before sleap-io reads a file, links to other files and large data are refused. Videos are not
opened.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from psptool.common.errors import PspError, RawFormatError
from psptool.formats.readers.base import ClipSource, FileRef, RawClip, Stray
from psptool.formats.readers.detections import Detections, drop_uncertain, require_finite, to_clip
from psptool.formats.readers.naming import KeyOf, find_named
from psptool.formats.readers.table_layout import plain_name, require_joints
from psptool.formats.readers.text import excerpt, no_body
from psptool.schemas.formats import PosesOptions
from psptool.skeletons.topology import Topology

MAX_UNPACKED = 2**28
"""Maximum size of a file's data once unpacked, in bytes."""
MAX_VALUES = 2**25
"""Maximum number of joints times bodies of a recording."""


class PosesReader:
    """Reads files of SLEAP; see `psptool.formats.readers.base.Reader`, and this module for the formats.

    Args:
        topology: The skeleton in 2D, with V joints.
        options: Options of this format.
        key_of: Function from a clip's name to its key; None for any name.

    Raises:
        PspError: The skeleton is in 3D, or an option names an unknown joint.
    """

    def __init__(self, topology: Topology, options: PosesOptions, key_of: KeyOf | None) -> None:
        self.format = "poses"
        self.topology, self.options, self.key_of = topology, options, key_of
        if topology.dimensions != 2:
            found = f"{topology.dimensions} dimensions of the skeleton {topology.name}"
            raise PspError("format: reader poses", found, "2 dimensions", "Write dimensions: 2.")
        require_joints(options.joint_names, topology)

    def find(self, files: list[FileRef]) -> tuple[list[ClipSource], list[Stray]]:
        """Clips are files with the suffixes of the options whose name is a clip name; others are strays."""
        return find_named(files, self.options, self.key_of)

    def parse(self, source: ClipSource, blobs: list[bytes]) -> RawClip:
        """Parse the bytes of one file to a clip.

        Raises:
            RawFormatError: The file is damaged, has several videos, or lacks a joint of the skeleton.
            PspError: sleap-io is not installed.
        """
        (blob,), (file,) = blobs, source.files
        labels = _labels(file, blob)
        try:
            detections, confidence = self._detections(file, labels)
        except RawFormatError:
            raise
        except Exception as error:
            # What sleap-io reads from damaged bytes may hold about anything.
            raise _damaged(file, error) from None
        if not len(detections.number):
            raise no_body(source, len(labels.labeled_frames))
        require_finite(detections.positions, str(file), ("instance",), self.topology)
        drop_uncertain(detections.positions, confidence, self.options.min_confidence)
        ends = int(detections.number.min()), int(detections.number.max())
        return to_clip(source, f"{file}, frame numbers", detections, self.options.max_gap, ends)

    def _detections(self, file: FileRef, labels: Any) -> tuple[Detections, NDArray[np.float64]]:
        """The instances of all frames, and the confidences of their joints (B, V)."""
        frames = labels.labeled_frames
        videos = {id(frame.video) for frame in frames if len(frame.instances)}
        if len(videos) > 1:
            expected = "one video; write a file for each video"
            raise RawFormatError("several videos", str(file), f"{len(videos)} videos", expected)
        bodies = sum(len(frame.instances) for frame in frames)
        if bodies * self.topology.size > MAX_VALUES:
            found = f"{bodies} bodies of {self.topology.size} joints"
            raise RawFormatError("too large", str(file), found, f"at most {MAX_VALUES} joints in all")
        track_ids = {id(track): number for number, track in enumerate(labels.tracks)}
        orders: dict[int, NDArray[np.intp]] = {}
        number, person, positions, confidence = [], [], [], []
        for frame in frames:
            for body, instance in enumerate(_used(frame.instances)):
                skeleton = instance.skeleton
                if id(skeleton) not in orders:
                    orders[id(skeleton)] = self._order(file, list(map(str, skeleton.node_names)))
                order = orders[id(skeleton)]
                number.append(int(frame.frame_idx))
                person.append(track_ids.get(id(instance.track), len(track_ids) + body))
                positions.append(np.asarray(instance.numpy(), np.float64)[order, :2])
                points = instance.points
                scored = "score" in (points.dtype.names or ())
                confidence.append(points["score"][order] if scored else np.ones(len(order)))
        shape = (-1, self.topology.size)
        detections = Detections(
            np.array(number, np.int64),
            np.array(person, np.int64),
            np.array(positions, np.float64).reshape(*shape, 2),
        )
        return detections, np.array(confidence, np.float64).reshape(shape)

    def _order(self, file: FileRef, nodes: list[str]) -> NDArray[np.intp]:
        """For each joint of the skeleton, its index among the nodes, intp (V,)."""
        names: Mapping[str, str] = self.options.joint_names
        plain = [plain_name(node) for node in nodes]
        order = []
        for joint in self.topology.joints:
            name = names.get(joint, joint)
            places = [v for v, node in enumerate(nodes) if node == name]
            places = places or [v for v, node in enumerate(plain) if node == plain_name(name)]
            if len(places) != 1:
                listed = ", ".join(map(excerpt, nodes[:5])) + (", …" if len(nodes) > 5 else "")
                expected = f"one node {name!r} (option `joint_names`)"
                raise RawFormatError("joint names", f"{file}, nodes", listed or "no nodes", expected)
            order += places
        return np.array(order, np.intp)


def _used(instances: Any) -> list[Any]:
    """The instances of a frame without the predictions that a user has corrected."""
    corrected = {id(getattr(instance, "from_predicted", None)) for instance in instances}
    return [instance for instance in instances if id(instance) not in corrected]


def _labels(file: FileRef, blob: bytes) -> Any:
    """What sleap-io reads, a ``sleap_io.Labels``."""
    if not blob:
        raise RawFormatError("empty file", str(file), "0 bytes", "a file of SLEAP")
    try:
        import sleap_io
    except ImportError as error:
        raise PspError(
            f"{file}: reading files of SLEAP needs sleap-io ({error})",
            fix="Install it with `pip install sleap-io`, or save the file as CSV.",
        ) from error
    suffix = PurePath(file.plain.lower()).suffix
    with tempfile.TemporaryDirectory(prefix="psptool-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, f"recording{suffix}")  # sleap-io tells the format by the suffix
        path.write_bytes(blob)
        try:
            _require_safe(file, path)
            if suffix == ".slp":
                return sleap_io.load_slp(str(path), open_videos=False)
            unopened = sleap_io.Video(filename="video", open_backend=False)
            return sleap_io.load_analysis_h5(str(path), video=unopened)
        except RawFormatError:
            raise
        except Exception as error:
            # Damaged bytes may raise about anything, in h5py or sleap-io.
            raise _damaged(file, error) from None


def _require_safe(file: FileRef, path: Path) -> None:
    """Check that an HDF5 file needs no other files and is not too large.

    Raises:
        RawFormatError: ``unsafe`` or ``too large``.
    """
    size = 0

    def look(name: str, item: Any) -> None:
        nonlocal size
        where = f"{file}, {excerpt(name)}"
        if isinstance(item, h5py.Dataset):
            size += int(item.nbytes)
            if item.is_virtual or item.external:
                raise RawFormatError("unsafe", where, "data in other files", "data in the file itself")
            return
        for key in item:
            if isinstance(item.get(key, getlink=True), h5py.ExternalLink):
                raise RawFormatError("unsafe", where, "a link to another file", "data in the file itself")

    with h5py.File(path, "r") as content:
        look("/", content)
        content.visititems(look)
    if size > MAX_UNPACKED:
        raise RawFormatError(
            "too large", str(file), f"{size} bytes once unpacked", f"at most {MAX_UNPACKED} bytes"
        )


def _damaged(file: FileRef, error: BaseException) -> RawFormatError:
    text = f"{error}" or type(error).__name__
    return RawFormatError("damaged", str(file), excerpt(text), "a complete file of SLEAP")
