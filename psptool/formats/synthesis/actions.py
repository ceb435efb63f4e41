"""The synthetic actions by the datasets' labels, and the generation of one performance."""

from __future__ import annotations

import numpy as np

from psptool.formats.synthesis import pairs, solo
from psptool.formats.synthesis.bodies import CHEST, FOREARM, HEAD, SHIN, THIGH, UPPER_ARM, Array, Pose
from psptool.formats.synthesis.style import LEFT, RIGHT, Action, Style, bow_trunk

NTU_ACTIONS: dict[int, Action] = {
    5: Action(solo.drop),
    6: Action(solo.pickup),
    7: Action(solo.throw),
    8: Action(solo.sit_down),
    9: Action(solo.stand_up),
    10: Action(solo.clap),
    14: Action(solo.wear_jacket, seconds=(2.4, 4.0)),
    15: Action(solo.take_off_jacket, seconds=(2.4, 4.0)),
    22: Action(solo.cheer),
    23: Action(solo.wave),
    24: Action(solo.kick),
    27: Action(solo.jump),
    35: Action(solo.bow),
    38: Action(solo.salute),
    50: Action(pairs.punch, persons=2),
    51: Action(pairs.kick_other, persons=2),
    55: Action(pairs.hug, persons=2),
    58: Action(pairs.handshake, persons=2),
    59: Action(pairs.walk_together, persons=2),
    60: Action(pairs.walk_apart, persons=2),
    80: Action(solo.squat),
    97: Action(solo.arm_circles),
    99: Action(solo.run_on_spot),
}
"""Actions by NTU's action number (1-based)."""

UCLA_ACTIONS: tuple[Action, ...] = (
    NTU_ACTIONS[6], Action(solo.pickup_both), NTU_ACTIONS[5], Action(solo.walk_around), NTU_ACTIONS[8],
    NTU_ACTIONS[9], NTU_ACTIONS[14], NTU_ACTIONS[15], NTU_ACTIONS[7], Action(solo.carry),
)  # fmt: skip
"""Actions by NW-UCLA's label (0-based)."""


def perform(action: Action, frames: int, seconds: float, rng: np.random.Generator) -> list[Pose]:
    """Generate one performance: idle movement of each person, then the action on top; left-handed in 30 % of cases.

    Args:
        action: The action.
        frames: T.
        seconds: Duration of the clip.
        rng: Random generator for all variation.

    Returns:
        One pose per person.
    """
    u = np.linspace(0, 1, frames)  # (T,), normalized time
    # The action's fraction of the clip, at least 1.1 s long, so that limbs do not move implausibly fast.
    length = min(max(rng.uniform(0.45, 0.9), 1.1 / seconds), 0.94)
    start = rng.uniform(0.02, 0.98 - length)
    style = Style(
        u=u,
        seconds=seconds,
        start=start,
        stop=start + length,
        size=rng.uniform(0.6, 1.25),
        rate=rng.uniform(0.9, 1.7),
        phase=rng.uniform(0, 2 * np.pi),
        rng=rng,
    )
    bodies = [_idle(u, seconds, rng) for _ in range(action.persons)]
    action.act(bodies, style)
    return [body.mirrored() for body in bodies] if rng.random() < 0.3 else bodies


def _idle(u: Array, seconds: float, rng: np.random.Generator) -> Pose:
    """An idle standing person: individual posture, slow sway, head turns, and small random movements."""
    body = Pose.standing(u.size)

    def sway(degrees: float) -> Array:
        frequency, phase = rng.uniform(0.1, 0.6), rng.uniform(0, 2 * np.pi)
        return degrees * np.sin(2 * np.pi * frequency * seconds * u + phase)

    bow_trunk(body, rng.normal(2, 4) + sway(1.5))
    body.turn(CHEST, out=sway(1.5), twist=sway(3) + rng.normal(0, 4))
    body.turn(HEAD, flex=rng.normal(4, 8) + sway(3), twist=rng.normal(0, 10) + sway(8))
    for side in (LEFT, RIGHT):
        out = abs(rng.normal(8, 4)) + sway(1.5)
        body.turn(UPPER_ARM[side], flex=rng.normal(0, 6) + sway(2), out=out, twist=rng.normal(0, 12))
        body.turn(FOREARM[side], flex=abs(rng.normal(12, 8)) + sway(2))
        body.turn(THIGH[side], flex=rng.normal(0, 3), out=abs(rng.normal(3, 3)), twist=rng.normal(8, 6))
    if rng.random() < 0.35:
        # Bend the left arm, because actions use the right one.
        bent = rng.uniform(40, 110)
        body.turn(FOREARM[LEFT], flex=bent)
        body.turn(UPPER_ARM[LEFT], out=rng.uniform(0, 25), twist=-bent * rng.uniform(0.1, 0.7))
    body.yaw += np.radians(sway(rng.uniform(0, 15)))
    for _ in range(rng.poisson(1.2)):
        _fidget(body, u, rng)
    return body


def _fidget(body: Pose, u: Array, rng: np.random.Generator) -> None:
    """Add one random movement at a random time: of a hand, of a foot, or a turn of the trunk."""
    middle, half = rng.uniform(0, 1), rng.uniform(0.12, 0.28)
    share = np.clip(1 - np.abs(u - middle) / half, 0, 1)
    there = share * share * (3 - 2 * share)
    side, kind = int(rng.integers(2)), rng.random()
    if kind < 0.5:
        flex, out, twist = rng.uniform(0, 75), rng.uniform(0, 45), rng.uniform(-45, 45)
        body.turn(UPPER_ARM[side], flex=flex * there, out=out * there, twist=twist * there)
        body.turn(FOREARM[side], flex=rng.uniform(0, 110) * there)
    elif kind < 0.75:
        thigh = rng.uniform(5, 30) * there
        body.turn(THIGH[side], flex=thigh, out=rng.uniform(0, 12) * there)
        body.turn(SHIN[side], flex=1.5 * thigh)
    else:
        body.turn(CHEST, flex=rng.uniform(0, 20) * there, twist=rng.uniform(-25, 25) * there)
        body.turn(HEAD, twist=rng.uniform(-35, 35) * there, flex=rng.uniform(-10, 25) * there)
