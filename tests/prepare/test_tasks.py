"""What workers get at a time."""

import pickle
from pathlib import Path

from psptool.formats.readers.base import ClipSource, FileRef
from psptool.preparation.worker import PACK_BYTES, TASK_BYTES, TASK_CLIPS, tasks
from psptool.skeletons.keys import UNNAMED


def copies(name: str, size: int) -> tuple[ClipSource, ...]:
    return (ClipSource(name, UNNAMED, (FileRef(name, None, size),)),)


def test_tasks_are_all_clips_in_order_and_get_shorter_towards_the_end():
    clips = [copies(f"{n:04}", 250_000) for n in range(1000)]
    found = list(tasks(clips))
    assert [clip for task in found for clip in task] == clips
    most, least = (-(-size // 250_000) for size in (TASK_BYTES, PACK_BYTES))
    lengths = [len(task) for task in found]
    assert (lengths[0], lengths[-2]) == (most, least)
    assert lengths == sorted(lengths, reverse=True)


def test_a_task_has_a_clip_however_long_and_no_more_than_so_many_however_short():
    short = [copies(f"{n:04}", 1) for n in range(TASK_CLIPS + 1)]
    assert [len(task) for task in tasks(short)] == [TASK_CLIPS, 1]
    assert [len(task) for task in tasks([copies(f"{n}", 10 * TASK_BYTES) for n in range(3)])] == [1, 1, 1]
    assert list(tasks([])) == []


def test_a_clip_comes_back_from_another_process_as_it_went():
    (source,) = copies("a", 3)
    in_archive = source._replace(files=(FileRef("b", Path("c.zip"), 2, 5),))
    for one in (source, in_archive):
        back = pickle.loads(pickle.dumps(one))
        assert back == one
        assert (type(back), type(back.key), type(back.files[0])) == (ClipSource, type(UNNAMED), FileRef)
