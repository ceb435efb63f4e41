"""What workers get at a time."""

import pickle
from pathlib import Path

from psptool.prepare.working import TASK_BYTES, TASK_CLIPS, tasks
from psptool.readers.base import ClipSource, FileRef
from psptool.skeletons.datasets import UNNAMED


def copies(name: str, size: int) -> tuple[ClipSource, ...]:
    return (ClipSource(name, UNNAMED, (FileRef(name, None, size),)),)


def test_a_task_is_of_so_many_bytes_or_clips_and_all_clips_come_in_order():
    clips = [copies(f"{n:04}", 250_000) for n in range(500)]
    found = list(tasks(clips))
    assert [clip for task in found for clip in task] == clips
    assert {len(task) for task in found[:-1]} == {-(-TASK_BYTES // 250_000)}
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
