"""Actions of one person. Each function adds rotations to a standing pose; angles are in degrees.

Actions use the right hand and foot. The person faces z.
"""

from __future__ import annotations

import numpy as np

from psptool.formats.synthesis.bodies import (
    CHEST,
    FOOT,
    FOREARM,
    HAND,
    HEAD,
    NECK,
    SHIN,
    THIGH,
    UPPER_ARM,
    Array,
    Pose,
)
from psptool.formats.synthesis.style import LEFT, RIGHT, Style, bow_trunk, legs


def drop(bodies: list[Pose], style: Style) -> None:
    """One hand reaches out and lets something fall."""
    out = style.stage(0, 0.35) - style.stage(0.6, 1)
    bodies[0].turn(UPPER_ARM[RIGHT], flex=style.draw(30, 60) * style.size * out, out=8 * out)
    bodies[0].turn(FOREARM[RIGHT], flex=style.draw(30, 60) * out)
    bodies[0].turn(HAND[RIGHT], flex=(-40 * style.stage(0.3, 0.45) + 40 * style.stage(0.6, 0.8)))
    bodies[0].turn(HEAD, flex=20 * out)


def pickup(bodies: list[Pose], style: Style) -> None:
    """Bends down, from the knees or the back, and comes up with something in one hand."""
    down = style.stage(0, 0.45) - style.stage(0.55, 1)
    knees = style.draw(15, 75)
    legs(bodies[0], knees * down, 1.25 * knees * down)
    bow_trunk(bodies[0], (105 - 0.6 * knees) * style.size * down)
    bodies[0].turn(UPPER_ARM[RIGHT], flex=60 * down)
    bodies[0].turn(UPPER_ARM[LEFT], flex=style.draw(0, 50) * down)
    bodies[0].turn(FOREARM[RIGHT], flex=35 * style.stage(0.5, 0.7) - 20 * style.stage(0.8, 1))


def pickup_both(bodies: list[Pose], style: Style) -> None:
    """As `pickup`, with both hands."""
    pickup(bodies, style)
    bodies[0].angles[:, UPPER_ARM[LEFT]] = bodies[0].angles[:, UPPER_ARM[RIGHT]]
    bodies[0].angles[:, FOREARM[LEFT]] = bodies[0].angles[:, FOREARM[RIGHT]]


def throw(bodies: list[Pose], style: Style) -> None:
    """One hand goes back over the shoulder and forward."""
    body = bodies[0]
    back = style.stage(0, 0.4) - style.stage(0.45, 0.6)
    forward = style.stage(0.45, 0.65) - style.stage(0.75, 1)
    body.turn(UPPER_ARM[RIGHT], flex=110 * style.size * forward - 10 * back, out=80 * back, twist=75 * back)
    body.turn(FOREARM[RIGHT], flex=95 * back + 15 * forward)
    body.turn(CHEST, twist=-25 * style.size * back + 25 * style.size * forward, flex=15 * forward)
    body.turn(UPPER_ARM[LEFT], flex=25 * back, out=15 * back)
    step = style.draw(0, 1) * style.stage(0.35, 0.6) * (1 - style.stage(0.75, 1))
    body.turn(THIGH[LEFT], flex=25 * step)
    body.turn(THIGH[RIGHT], flex=-15 * step)


def _seat(body: Pose, style: Style, seated: Array) -> None:
    """Sit down to the degree ``seated`` (0 stands, 1 sits), leaning forward in between."""
    legs(body, 88 * seated, style.draw(80, 100) * seated)
    way = 4 * seated * (1 - seated)
    bow_trunk(body, 38 * style.size * way + style.draw(-8, 8) * seated)
    for side in (LEFT, RIGHT):
        body.turn(UPPER_ARM[side], flex=style.draw(5, 40) * seated + 15 * way)
        body.turn(FOREARM[side], flex=style.draw(20, 70) * seated)


def sit_down(bodies: list[Pose], style: Style) -> None:
    """Sits down on a chair and stays."""
    _seat(bodies[0], style, style.stage(0, 0.8))


def stand_up(bodies: list[Pose], style: Style) -> None:
    """Gets up from a chair."""
    _seat(bodies[0], style, 1 - style.stage(0.2, 1))


def clap(bodies: list[Pose], style: Style) -> None:
    """Claps before the chest."""
    hold, apart = style.during(), style.beats(1.6)
    lift = style.draw(10, 45)
    for side in (LEFT, RIGHT):
        bodies[0].turn(UPPER_ARM[side], flex=lift * hold, out=6 * hold, hold=hold)
        twist = (-46 + 42 * style.size * apart) * hold
        bodies[0].turn(UPPER_ARM[side], twist=twist)
        bodies[0].turn(FOREARM[side], flex=style.draw(78, 88) * hold, hold=hold)


def _sleeve(body: Pose, side: int, reach: Array, style: Style) -> None:
    """One arm goes back and out as into a sleeve, and the other hand comes across to help."""
    other = 1 - side
    body.turn(UPPER_ARM[side], flex=-35 * style.size * reach, out=45 * reach)
    body.turn(FOREARM[side], flex=60 * reach * (1 - reach) * 4)
    body.turn(UPPER_ARM[other], flex=50 * reach, twist=-55 * reach)
    body.turn(FOREARM[other], flex=85 * reach)
    body.turn(CHEST, twist=(15 if side == LEFT else -15) * reach)


def wear_jacket(bodies: list[Pose], style: Style) -> None:
    """One sleeve, the other sleeve, the front pulled together."""
    _sleeve(bodies[0], RIGHT, style.stage(0, 0.2) - style.stage(0.25, 0.45), style)
    _sleeve(bodies[0], LEFT, style.stage(0.4, 0.6) - style.stage(0.65, 0.8), style)
    shrug = style.stage(0.75, 0.88) - style.stage(0.9, 1)
    for side in (LEFT, RIGHT):
        bodies[0].turn(UPPER_ARM[side], flex=30 * shrug, twist=-30 * shrug)
        bodies[0].turn(FOREARM[side], flex=100 * shrug)


def take_off_jacket(bodies: list[Pose], style: Style) -> None:
    """Off the shoulders, then out of the sleeves."""
    both = style.stage(0, 0.2) - style.stage(0.3, 0.45)
    for side in (LEFT, RIGHT):
        bodies[0].turn(UPPER_ARM[side], flex=-30 * style.size * both, out=25 * both)
        bodies[0].turn(FOREARM[side], flex=70 * both)
    _sleeve(bodies[0], RIGHT, style.stage(0.4, 0.6) - style.stage(0.8, 1), style)


def cheer(bodies: list[Pose], style: Style) -> None:
    """Both hands up, pumping."""
    hold, beat = style.during(), style.beats()
    for side in (LEFT, RIGHT):
        bodies[0].turn(UPPER_ARM[side], flex=25 * hold, out=(135 + 20 * style.size * beat) * hold, hold=hold)
        bodies[0].turn(UPPER_ARM[side], twist=80 * hold)
        bodies[0].turn(FOREARM[side], flex=(55 - 40 * beat) * hold, hold=hold)


def wave(bodies: list[Pose], style: Style) -> None:
    """Waves one raised hand, high or low."""
    hold, swing = style.during(), style.swing(1.4)
    high = style.draw(40, 120)
    bodies[0].turn(UPPER_ARM[RIGHT], flex=style.draw(0, 35) * hold, out=high * hold, hold=hold)
    bodies[0].turn(UPPER_ARM[RIGHT], twist=style.draw(70, 100) * hold)
    bodies[0].turn(FOREARM[RIGHT], flex=(150 - 0.75 * high + 26 * style.size * swing) * hold, hold=hold)
    bodies[0].turn(HAND[RIGHT], out=15 * swing * hold)


def kick(bodies: list[Pose], style: Style) -> None:
    """Kicks something before the feet."""
    kick_leg(bodies[0], style, style.draw(45, 75))


def kick_leg(body: Pose, style: Style, height: float) -> None:
    """One leg swings back and kicks; ``height`` is the largest angle of the thigh in degrees."""
    back = style.stage(0, 0.3) - style.stage(0.3, 0.5)
    forth = style.stage(0.3, 0.55) - style.stage(0.65, 1)
    body.turn(THIGH[RIGHT], flex=height * style.size * forth - 20 * back)
    body.turn(SHIN[RIGHT], flex=60 * back + 65 * (style.stage(0.3, 0.42) - style.stage(0.42, 0.56)))
    bow_trunk(body, -12 * forth)
    body.turn(UPPER_ARM[LEFT], flex=30 * forth, out=20 * forth)
    body.turn(UPPER_ARM[RIGHT], flex=-20 * forth, out=25 * forth)
    on_left = style.stage(0, 0.15) - style.stage(0.9, 1)
    body.stance[:, LEFT], body.stance[:, RIGHT] = 0.5 + 0.5 * on_left, 0.5 - 0.5 * on_left


def jump(bodies: list[Pose], style: Style) -> None:
    """Crouches, leaves the floor, lands."""
    body = bodies[0]
    crouch = style.stage(0, 0.28) - style.stage(0.28, 0.48) + style.stage(0.6, 0.75) - style.stage(0.78, 1)
    share = np.clip((style.u - style.at(0.4)) / (style.at(0.68) - style.at(0.4)), 0, 1)
    legs(body, style.draw(30, 55) * crouch, style.draw(70, 90) * crouch)
    bow_trunk(body, 25 * crouch)
    body.lift += 4 * share * (1 - share) * style.draw(0.12, 0.3) * style.size
    up = style.stage(0.2, 0.52) - style.stage(0.55, 0.9)
    raised = style.draw(20, 110)
    for side in (LEFT, RIGHT):
        body.turn(UPPER_ARM[side], flex=-30 * crouch + raised * up, out=10 * up)
        body.turn(FOREARM[side], flex=20 * crouch)


def bow(bodies: list[Pose], style: Style) -> None:
    """Bows, deep or shallow."""
    down = style.during(ease=0.25)
    deep = style.draw(25, 75) * style.size
    bow_trunk(bodies[0], deep * down)
    bodies[0].turn(NECK, flex=12 * down)
    bodies[0].turn(HEAD, flex=18 * down)
    for side in (LEFT, RIGHT):
        bodies[0].turn(THIGH[side], flex=-0.12 * deep * down)
        bodies[0].turn(UPPER_ARM[side], flex=style.draw(0, 0.7) * deep * down)


def salute(bodies: list[Pose], style: Style) -> None:
    """One hand at the forehead."""
    hold = style.during()
    bodies[0].turn(UPPER_ARM[RIGHT], flex=30 * hold, out=style.draw(65, 90) * hold, hold=hold)
    bodies[0].turn(UPPER_ARM[RIGHT], twist=65 * hold)
    bodies[0].turn(FOREARM[RIGHT], flex=style.draw(128, 140) * hold, hold=hold)


def squat(bodies: list[Pose], style: Style) -> None:
    """Squats, and stays down or comes up again."""
    stay = style.draw(0, 1) > 0.5
    down = style.stage(0, 0.6) if stay else style.stage(0, 0.45) - style.stage(0.55, 1)
    deep = style.draw(85, 120) * style.size
    legs(bodies[0], deep * down, 1.18 * deep * down)
    bow_trunk(bodies[0], style.draw(20, 45) * down)
    arms = style.draw(10, 85)
    for side in (LEFT, RIGHT):
        bodies[0].turn(UPPER_ARM[side], flex=arms * down)
        bodies[0].turn(FOREARM[side], flex=(80 - 0.8 * arms) * down)


def arm_circles(bodies: list[Pose], style: Style) -> None:
    """Both straight arms circle at the sides."""
    hold, angle = style.during(), style.angle()
    for side in (LEFT, RIGHT):
        flex, out = 35 * style.size * np.sin(angle), 85 + 35 * style.size * np.cos(angle)
        bodies[0].turn(UPPER_ARM[side], flex=flex * hold, out=out * hold, hold=hold)
        bodies[0].turn(FOREARM[side], hold=hold)


def gait(body: Pose, style: Style, going: Array, swing: Array, lift: Array) -> None:
    """Add the leg and arm movements of walking; ``swing`` and ``lift`` are sine and cosine of the gait phase."""
    stride = 24 * style.size
    for side, sign in ((LEFT, 1), (RIGHT, -1)):
        thigh = stride * sign * swing * going
        shin = (8 + 42 * np.clip(sign * lift, 0, 1)) * going
        body.turn(THIGH[side], flex=thigh + 4 * going)
        body.turn(SHIN[side], flex=shin)
        body.turn(FOOT[side], flex=0.6 * (shin - thigh))
        body.turn(UPPER_ARM[side], flex=-0.8 * thigh)
        body.turn(FOREARM[side], flex=12 * going)


def walk(body: Pose, style: Style, going: Array, speed: float = 1.0) -> Array:
    """Walk while ``going`` is 1. Returns the distance walked (T,), in metres, for the caller to apply along a path."""
    pace = 0.95 * style.rate**0.5 * speed
    angle = 2 * np.pi * pace * style.seconds * style.u + style.phase
    gait(body, style, going, np.sin(angle), np.cos(angle))
    body.stance *= (1 - going)[:, None]
    step = np.diff(style.u, prepend=style.u[0]) * style.seconds
    gone: Array = np.cumsum(going * step) * pace * 1.1 * style.size
    return gone


def walk_around(bodies: list[Pose], style: Style) -> None:
    """Walks in an arc."""
    gone = walk(bodies[0], style, style.during())
    bend = style.draw(0.3, 0.9)
    bodies[0].yaw += bend * gone
    bodies[0].place += np.stack([1 - np.cos(bend * gone), np.sin(bend * gone)], axis=1) / bend


def carry(bodies: list[Pose], style: Style) -> None:
    """Walks with something in both hands."""
    walk_around(bodies, style)
    for side in (LEFT, RIGHT):
        bodies[0].turn(UPPER_ARM[side], flex=style.draw(15, 40), hold=1.0)
        bodies[0].turn(FOREARM[side], flex=style.draw(55, 85), hold=1.0)


def run_on_spot(bodies: list[Pose], style: Style) -> None:
    """Runs without getting anywhere."""
    body, hold, swing = bodies[0], style.during(), style.swing(1.6)
    for side, sign in ((LEFT, 1), (RIGHT, -1)):
        raised = np.clip(sign * swing, 0, 1) * hold
        legs(body, 60 * style.size * raised, 85 * raised, (side,))
        body.turn(UPPER_ARM[side], flex=-40 * sign * swing * hold)
        body.turn(FOREARM[side], flex=80 * hold, hold=hold)
