"""Division of the clips into tasks for workers."""

import pickle
from pathlib import Path

from psptool.formats.readers.base import ClipSource, FileRef
from psptool.preparation.worker import PACK_BYTES, TASK_BYTES, TASK_CLIPS, tasks
from psptool.skeletons.keys import UNNAMED


def sources(name: str, size: int) -> tuple[ClipSource, ...]:
    return (ClipSource(name, UNNAMED, (FileRef(name, None, size),)),)


def test_tasks_contain_all_clips_in_order_and_become_shorter_towards_the_end():
    clips = [sources(f"{n:04}", 250_000) for n in range(1000)]
    found = list(tasks(clips))
    assert [clip for task in found for clip in task] == clips
    most, least = (-(-size // 250_000) for size in (TASK_BYTES, PACK_BYTES))
    lengths = [len(task) for task in found]
    assert (lengths[0], lengths[-2]) == (most, least)
    assert lengths == sorted(lengths, reverse=True)


def test_a_task_has_at_least_one_long_clip_and_at_most_the_maximum_of_short_clips():
    short = [sources(f"{n:04}", 1) for n in range(TASK_CLIPS + 1)]
    assert [len(task) for task in tasks(short)] == [TASK_CLIPS, 1]
    assert [len(task) for task in tasks([sources(f"{n}", 10 * TASK_BYTES) for n in range(3)])] == [1, 1, 1]
    assert list(tasks([])) == []


def test_a_clip_source_is_unchanged_by_pickling():
    (source,) = sources("a", 3)
    in_archive = source._replace(files=(FileRef("b", Path("c.zip"), 2, 5),))
    for one in (source, in_archive):
        loaded = pickle.loads(pickle.dumps(one))
        assert loaded == one
        assert (type(loaded), type(loaded.key), type(loaded.files[0])) == (ClipSource, type(UNNAMED), FileRef)
