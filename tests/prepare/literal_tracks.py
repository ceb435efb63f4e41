"""CTR-GCN's rules for body tracks as slow literal formulas on Python numbers; shares no code with the package."""

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
    everything = variance_sum(frames)
    return min(everything, variance_sum(calm)) if calm else everything


def spread_share(frames):
    return sum(map(is_spread, frames)) / len(frames)


def persons_of(tracks, most=2):
    """Persons and notes.

    Args:
        tracks: ``{id: {frame: [[x, y, z], ...]}}``.
        most: Persons at most.

    Returns:
        For each person ``{frame: (id, joints)}``, and the (id, rule) of every track that was joined or dropped.
    """
    moves = {who: motion(list(seen.values())) for who, seen in tracks.items()}
    left, notes = dict(tracks), []

    def weakness(who):
        return (moves[who], -min(tracks[who]), -who)

    if len(tracks) > 1:
        for who in sorted(tracks, key=lambda who: (len(tracks[who]), weakness(who))):
            if len(tracks[who]) <= 11 and len(left) > 1:
                del left[who]
                notes.append((who, "length"))
        shares = {who: spread_share(list(seen.values())) for who, seen in left.items()}
        for who in sorted(shares, key=lambda who: (-shares[who], weakness(who))):
            if shares[who] >= 0.69754 and len(left) > 1:
                del left[who]
                notes.append((who, "spread"))
    persons = []
    for who in sorted(left, key=weakness, reverse=True):
        for person in persons:
            if not any(frame in person for frame in left[who]):
                person.update({frame: (who, joints) for frame, joints in left[who].items()})
                notes.append((who, "joined"))
                break
        else:
            if len(persons) < most:
                persons.append({frame: (who, joints) for frame, joints in left[who].items()})
            else:
                notes.append((who, "overlap"))
    return persons, notes
