"""Which clips to make: names in NTU's manner that every protocol splits into train and test clips."""

from __future__ import annotations

from collections.abc import Sequence

from psptool.data.skeletons.datasets import NTU60
from psptool.data.skeletons.missing import missing_clips
from psptool.formats.synthesis.actions import NTU_ACTIONS

DEMO_ACTIONS = (7, 8, 10, 23, 24, 27, 35, 50, 51, 58, 59, 80)
"""Throw, sit down, clap, wave, kick, jump, bow; punch, kick the other, shake hands, walk together; squat."""
DEMO_TRAIN_SUBJECTS = 14
DEMO_TEST_SUBJECTS = 6

_CAMERAS = (1, 2, 3)
_REPETITIONS = (1, 2)
_SETUPS = 32


def clip_names(
    actions: Sequence[int] = tuple(NTU_ACTIONS),
    train_subjects: int = 20,
    test_subjects: int = 20,
    repetitions: Sequence[int] = _REPETITIONS,
    cameras: Sequence[int] = _CAMERAS,
) -> list[str]:
    """Names of one clip for each combination, in order; clips on the missing-skeleton lists are left out.

    Args:
        actions: NTU's action numbers, from 1.
        train_subjects: How many of the 20 subjects that the cross-subject protocol trains on, 1 to 40.
        test_subjects: How many of the 20 that it tests on.
        repetitions: 1, 2 or both.
        cameras: Of 1, 2 and 3; the cross-view protocol trains on 2 and 3.
    """
    train_all = sorted(NTU60.protocols["xsub"].train)
    train = train_all[:train_subjects]
    test = sorted(set(range(1, 41)) - set(train_all))[:test_subjects]
    names = [
        f"S{_setup(subject, repetition):03d}C{camera:03d}P{subject:03d}R{repetition:03d}A{action:03d}"
        for action in actions
        for subject in sorted(train + test)
        for repetition in repetitions
        for camera in cameras
    ]
    missing = missing_clips("ntu120")
    return [name for name in names if name not in missing]


def _setup(subject: int, repetition: int) -> int:
    """Even as often as odd, which is what the cross-setup protocol splits by."""
    return (subject * 7 + repetition) % _SETUPS + 1


def demo_names() -> list[str]:
    """The demo's clips: 12 actions, 60 clips each, 42 for training and 18 for testing by subject.

    Squatting is an action of NTU RGB+D 120, so that the set is prepared as ``ntu120``;
    one label in twenty is two labels an action.
    """
    return clip_names(DEMO_ACTIONS, DEMO_TRAIN_SUBJECTS, DEMO_TEST_SUBJECTS, repetitions=(1,))
