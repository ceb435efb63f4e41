"""Slow reference implementation of CTR-GCN's body track rules in plain Python; shares no code with the package."""

from __future__ import annotations

import math


def extent(frame, axis):
    values = [joint[axis] for joint in frame]
    return max(values) - min(values)


def is_spread(frame):
    return extent(frame, 0) > 0.8 * extent(frame, 1)


def variance_sum(frames):
    total = 0.0
    for axis in range(3):
        values = [joint[axis] for frame in frames for joint in frame]
        mean = math.fsum(values) / len(values)
        total += math.fsum((value - mean) ** 2 for value in values) / len(values)
    return total


def motion(frames):
    calm = [frame for frame in frames if not is_spread(frame)]
    total = variance_sum(frames)
    return min(total, variance_sum(calm)) if calm else total


def spread_share(frames):
    return sum(map(is_spread, frames)) / len(frames)


def persons_of(tracks, most=2):
    """Join and drop tracks.

    Args:
        tracks: ``{id: {frame: [[x, y, z], ...]}}``.
        most: Maximum number of persons.

    Returns:
        For each person ``{frame: (id, joints)}``, and the (id, rule) of each joined or dropped track.
    """
    motions = {track: motion(list(frames.values())) for track, frames in tracks.items()}
    remaining, notes = dict(tracks), []

    def weakness(track):
        return (motions[track], -min(tracks[track]), -track)

    if len(tracks) > 1:
        for track in sorted(tracks, key=lambda track: (len(tracks[track]), weakness(track))):
            if len(tracks[track]) <= 11 and len(remaining) > 1:
                del remaining[track]
                notes.append((track, "length"))
        shares = {track: spread_share(list(frames.values())) for track, frames in remaining.items()}
        for track in sorted(shares, key=lambda track: (-shares[track], weakness(track))):
            if shares[track] >= 0.69754 and len(remaining) > 1:
                del remaining[track]
                notes.append((track, "spread"))
    persons = []
    for track in sorted(remaining, key=weakness, reverse=True):
        for person in persons:
            if not any(frame in person for frame in remaining[track]):
                person.update({frame: (track, joints) for frame, joints in remaining[track].items()})
                notes.append((track, "joined"))
                break
        else:
            if len(persons) < most:
                persons.append({frame: (track, joints) for frame, joints in remaining[track].items()})
            else:
                notes.append((track, "overlap"))
    return persons, notes
