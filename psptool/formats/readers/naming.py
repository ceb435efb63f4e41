"""Finding the recordings of a general format: files with certain suffixes, whose names are clip names."""

from __future__ import annotations

from collections.abc import Callable

from psptool.common.paths import shown
from psptool.formats.readers.base import ClipSource, FileRef, Stray
from psptool.schemas.clip_names import NameParser
from psptool.schemas.formats import FileOptions
from psptool.skeletons.keys import UNNAMED, ClipKey

KeyOf = Callable[[str], ClipKey | None]
"""A function from a clip's name to its key; None for the name of no clip. It is sent to worker processes."""

OTHER_NAME = "the name is not a clip name of the dataset"


def find_named(
    files: list[FileRef], options: FileOptions, key_of: KeyOf | None
) -> tuple[list[ClipSource], list[Stray]]:
    """The clips among ``files``, one per file, and the files of this format whose name is not a clip name.

    Args:
        files: The files.
        options: ``suffixes`` of the files.
        key_of: Function from a clip's name to its key; None for any name, with the key `UNNAMED`.
    """
    clips, strays = [], []
    for file in files:
        suffix = next((s for s in options.suffixes if file.plain.lower().endswith(s)), None)
        if suffix is None or len(file.name) == len(suffix):
            continue
        name = shown(file.name[: -len(suffix)])
        key = UNNAMED if key_of is None else key_of(name)
        if key is None:
            problem = key_of.problem(name) if isinstance(key_of, NameParser) else ""
            strays.append(Stray(shown(file.name), str(file), problem or OTHER_NAME))
        else:
            clips.append(ClipSource(name, key, (file,)))
    return clips, strays
