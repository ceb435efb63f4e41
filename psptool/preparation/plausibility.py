"""Checks of ``unit`` and ``up`` of a description against prepared clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psptool.schemas.description import METRES, DatasetDescription

SPINES = (0.03, 3.0)
"""Plausible lengths of a spine in metres, from a mouse to far above a human. A wrong unit is a factor of 10 to 1000."""
USUAL = 0.5
"""Length of a human spine in metres. Of several plausible units, the one nearest to it is suggested."""
FEWEST, SHARE = 5, 0.9
"""Minimum number of clips to check the vertical axis, and share of them with another axis for a warning."""


def coordinate_warnings(
    dataset: DatasetDescription, scale: NDArray[np.float64], rotation: NDArray[np.float64]
) -> tuple[str, ...]:
    """Warnings if the coordinates of N clips contradict the description; none in 2D. Lengths in pixels are not checked.

    Args:
        dataset: The description.
        scale: float64 (N,), metres or pixels per unit, which is about the length of the spine.
        rotation: float64 (N, 3, 3), the body axes as rows; those that were not found are the recorded axes.
    """
    if dataset.topology.dimensions == 2 or not len(scale):
        return ()
    found = []
    spine, (least, most) = float(np.median(scale)), SPINES
    if dataset.unit != "px" and not least <= spine <= most:
        other = fitting_unit(spine / dataset.metres, SPINES, USUAL)
        hint = "" if other is None else f" (unit: {other[0]} gives {other[1]:.2g} m)"
        found.append(
            f"{dataset.name}: the spine has a median length of {spine:.2g} m, expected {least:g} to {most:g} m{hint}. "
            f"Check unit: {dataset.unit} of the description"
        )
    along = rotation[(rotation != np.eye(3)).any(axis=(1, 2)), 2]  # (n, 3), the direction of the spine
    axis = np.abs(along).argmax(axis=1)
    signs = np.where(np.take_along_axis(along, axis[:, None], axis=1)[:, 0] < 0, "-", "")
    ups = [f"{sign}{'xyz'[n]}" for sign, n in zip(signs, axis, strict=True)]
    usual = max(sorted(set(ups)), key=ups.count, default=dataset.up)
    if len(ups) >= FEWEST and usual != dataset.up and ups.count(usual) >= SHARE * len(ups):
        found.append(
            f"{dataset.name}: the spine points to {usual} in {ups.count(usual)} of {len(ups)} clips tried. "
            f"Check up: {dataset.up} of the description"
        )
    return tuple(found)


def fitting_unit(length: float, limits: tuple[float, float], usual: float) -> tuple[str, float] | None:
    """The unit in which ``length`` is plausible, and the length in metres; None without one.

    Args:
        length: In the unit of the files.
        limits: The least and the largest plausible length in metres.
        usual: Of several units, the one whose length is nearest to this, as a ratio, is chosen.
    """
    found = {unit: length * metres for unit, metres in METRES.items()}
    plausible = [unit for unit, metres in found.items() if limits[0] <= metres <= limits[1]]
    if not plausible:
        return None
    best = min(plausible, key=lambda unit: abs(np.log(found[unit] / usual)))
    return best, found[best]
