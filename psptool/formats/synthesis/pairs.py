"""Actions of two persons who face each other along z; the first one acts. Angles are in degrees."""

from __future__ import annotations

import numpy as np

from psptool.formats.synthesis.bodies import CHEST, FOREARM, NECK, UPPER_ARM, Array, Pose
from psptool.formats.synthesis.solo import gait, kick_leg, walk
from psptool.formats.synthesis.style import LEFT, RIGHT, Style, bow_trunk


def face_each_other(bodies: list[Pose], apart: Array | float) -> None:
    """Place two bodies at a distance of ``apart`` metres along z, facing each other."""
    for body, sign in zip(bodies, (-1, 1), strict=True):
        body.place[:, 1] += sign * np.asarray(apart) / 2
    bodies[1].yaw += np.pi


def _recoil(body: Pose, style: Style, hit: Array) -> None:
    bow_trunk(body, -22 * style.size * hit)
    body.turn(NECK, flex=-15 * hit)
    body.place[:, 1] += 0.18 * style.size * hit
    for side in (LEFT, RIGHT):
        body.turn(UPPER_ARM[side], flex=style.draw(10, 50) * hit)
        body.turn(FOREARM[side], flex=style.draw(10, 70) * hit)


def punch(bodies: list[Pose], style: Style) -> None:
    """The first punches; the second recoils."""
    face_each_other(bodies, style.draw(0.75, 1.05))
    draw_back = style.stage(0, 0.3) - style.stage(0.35, 0.5)
    out = style.stage(0.35, 0.5) - style.stage(0.6, 1)
    bodies[0].turn(UPPER_ARM[RIGHT], flex=style.draw(75, 95) * out - 25 * draw_back, out=15 * draw_back)
    bodies[0].turn(FOREARM[RIGHT], flex=95 * draw_back + 12 * out)
    bodies[0].turn(CHEST, twist=30 * style.size * out - 18 * draw_back, flex=10 * out)
    bodies[0].turn(FOREARM[LEFT], flex=style.draw(0, 90) * style.during())
    bodies[0].place[:, 1] += 0.12 * out
    _recoil(bodies[1], style, style.stage(0.45, 0.6) - style.stage(0.65, 1))


def kick_other(bodies: list[Pose], style: Style) -> None:
    """The first kicks; the second recoils."""
    face_each_other(bodies, style.draw(0.85, 1.15))
    kick_leg(bodies[0], style, style.draw(50, 85))
    _recoil(bodies[1], style, style.stage(0.48, 0.6) - style.stage(0.7, 1))


def hug(bodies: list[Pose], style: Style) -> None:
    """Both step forward and put their arms around each other."""
    near = style.stage(0, 0.45) - style.stage(0.75, 1) * style.draw(0, 1)
    apart = style.draw(0.9, 1.5)
    face_each_other(bodies, apart - (apart - 0.32) * near)
    for body in bodies:
        _gait_for_approach(body, style, near)
        lift = style.stage(0.1, 0.4) - style.stage(0.8, 1)
        high = style.draw(50, 100)
        for side in (LEFT, RIGHT):
            body.turn(UPPER_ARM[side], flex=high * lift, out=22 * lift * (1 - near), twist=-20 * lift)
            body.turn(FOREARM[side], flex=(20 + 45 * near) * lift)
        bow_trunk(body, 10 * near)


def _gait_for_approach(body: Pose, style: Style, near: Array) -> None:
    """Add steps while the distance changes."""
    moving = np.clip(np.abs(np.gradient(near)) * style.u.size / 2.5, 0, 1)
    angle = 2 * np.pi * 1.2 * style.seconds * style.u + style.phase
    gait(body, style, 0.6 * moving, np.sin(angle), np.cos(angle))
    body.stance *= (1 - moving)[:, None]


def handshake(bodies: list[Pose], style: Style) -> None:
    """Both shake hands without walking."""
    face_each_other(bodies, style.draw(0.85, 1.15))
    hold, swing = style.during(0.2), style.swing(1.8)
    high = style.draw(28, 45)
    for body in bodies:
        body.turn(UPPER_ARM[RIGHT], flex=(high + 5 * style.size * swing) * hold, out=-12 * hold, hold=hold)
        body.turn(FOREARM[RIGHT], flex=(40 + 9 * style.size * swing) * hold, hold=hold)
        bow_trunk(body, style.draw(0, 15) * hold)


def walk_together(bodies: list[Pose], style: Style) -> None:
    """Both walk towards each other."""
    going = style.during()
    gone = [walk(body, style, going) for body in bodies]
    face_each_other(bodies, gone[0][-1] + gone[1][-1] + style.draw(0.5, 0.9))
    for body, way, sign in zip(bodies, gone, (1, -1), strict=True):
        body.place[:, 1] += sign * way


def walk_apart(bodies: list[Pose], style: Style) -> None:
    """Both turn away from each other and walk away."""
    turned = style.stage(0, 0.25)
    gone = [walk(body, style, style.during(0.2)) for body in bodies]
    face_each_other(bodies, style.draw(0.6, 0.9))
    for body, way, sign in zip(bodies, gone, (-1, 1), strict=True):
        body.place[:, 1] += sign * way * turned
        body.yaw += np.pi * turned * (1 if style.draw(0, 1) > 0.5 else -1)
