"""Names of synthetic clips in NTU's format. Every protocol has training and test clips among them."""

from __future__ import annotations

from collections.abc import Sequence

from psptool.formats.synthesis.actions import NTU_ACTIONS
from psptool.schemas.builtin import builtin_dataset
from psptool.schemas.protocols import FieldProtocol

DEMO_ACTIONS = (7, 8, 10, 22, 23, 24, 27, 35, 50, 58, 59, 80)
"""Throw, sit down, clap, cheer, wave, kick, jump, bow; punch, shake hands, walk together; squat.

Kicking the other person is left out: with few labels, both methods confuse it with punching.
"""
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
    """One clip name for each combination, in order, without the clips on the missing-skeleton lists.

    Args:
        actions: NTU's action numbers (1-based).
        train_subjects: Number of training subjects of the cross-subject protocol, at most 20.
        test_subjects: Number of test subjects of the cross-subject protocol, at most 20.
        repetitions: 1, 2 or both.
        cameras: Any of 1, 2 and 3; the cross-view protocol trains on 2 and 3.
    """
    protocol = builtin_dataset("ntu60").protocols["xsub"]
    assert isinstance(protocol, FieldProtocol)
    train_all = sorted(subject for subject in protocol.train if isinstance(subject, int))
    train = train_all[:train_subjects]
    test = sorted(set(range(1, 41)) - set(train_all))[:test_subjects]
    names = [
        f"S{_setup(subject, repetition):03d}C{camera:03d}P{subject:03d}R{repetition:03d}A{action:03d}"
        for action in actions
        for subject in sorted(train + test)
        for repetition in repetitions
        for camera in cameras
    ]
    missing = frozenset(builtin_dataset("ntu120").missing)
    return [name for name in names if name not in missing]


def _setup(subject: int, repetition: int) -> int:
    """A setup number, even and odd equally often; the cross-setup protocol separates even and odd setups."""
    return (subject * 7 + repetition) % _SETUPS + 1


def demo_names() -> list[str]:
    """The clips of the demo: 12 actions with 60 clips each, 42 for training and 18 for test by subject.

    One of the actions belongs to NTU RGB+D 120 (squat), so the clips are prepared as ``ntu120``.
    """
    return clip_names(DEMO_ACTIONS, DEMO_TRAIN_SUBJECTS, DEMO_TEST_SUBJECTS, repetitions=(1,))
