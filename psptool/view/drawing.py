"""Pictures of clips for papers and for pages without scripts: a sheet of frames, and an animated GIF.

Notation for array shapes: M persons, T frames, V joints.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from psptool.common.figures import LIGHT
from psptool.view.scene import AXES, FPS, PITCH, YAW, Scene, ViewedClip

FINER = 3
"""Supersampling factor: pictures are drawn larger and scaled down, which smooths edges."""
EVERY = 2
"""A GIF has every second frame, to limit its size."""
SHEET_FRAMES = 8
COLOURS = tuple(LIGHT[f"person{n}"] for n in range(4))
PAPER, FLOOR, INK, SOFT = (LIGHT[name] for name in ("card", "line", "ink", "soft"))


def contact_sheet(clips: Sequence[ViewedClip], frames: int = SHEET_FRAMES, size: int = 170) -> bytes:
    """A PNG with one row per clip: evenly spaced frames from first to last.

    Args:
        clips: Their last scene (normalized) is drawn.
        frames: Maximum number of pictures per clip.
        size: Width of each, in pixels.
    """
    tall, head = round(size * 1.25), 26
    most = min(frames, max(clip.frames for clip in clips))
    sheet = Image.new("RGB", (size * most, (tall + head) * len(clips)), PAPER)
    for row, clip in enumerate(clips):
        drawer = _Drawer(clip.scenes[-1], clip, size, tall)
        chosen = np.unique(np.linspace(0, clip.frames - 1, most).round().astype(int))
        for column, frame in enumerate(chosen.tolist()):
            sheet.paste(
                drawer.frame(frame, f"{frame / FPS:.2f} s"), (column * size, row * (tall + head) + head)
            )
        pen = ImageDraw.Draw(sheet)
        pen.text((8, row * (tall + head) + 8), f"{clip.name}  {clip.action}", INK, _font(13))
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    return png.getvalue()


def moving_gif(clips: Sequence[ViewedClip], size: int = 300) -> bytes:
    """A GIF at the speed of the recording: clips side by side, shorter clips hold their last frame.

    Args:
        clips: Their last scene (normalized) is drawn.
        size: Width of each, in pixels.
    """
    head = 26
    drawers = [_Drawer(clip.scenes[-1], clip, size, size) for clip in clips]
    numbers = range(0, max(clip.frames for clip in clips), EVERY)
    pictures = []
    for number in numbers:
        whole = Image.new("RGB", (size * len(clips), size + head), PAPER)
        pen = ImageDraw.Draw(whole)
        for column, (clip, drawer) in enumerate(zip(clips, drawers, strict=True)):
            whole.paste(drawer.frame(min(number, clip.frames - 1)), (column * size, head))
            pen.text((column * size + 8, 8), clip.action, INK, _font(13))
        pictures.append(whole)
    # One palette for all frames: separate palettes would flicker.
    palette = pictures[len(pictures) // 2].quantize(64)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    gif = io.BytesIO()
    first.save(
        gif,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=_durations(len(pictures)),
        loop=0,
        optimize=True,
    )
    return gif.getvalue()


def _durations(pictures: int) -> list[int]:
    """Duration of each picture in ms, rounded to the 10 ms of the GIF format without accumulating error."""
    ends = [round((n + 1) * EVERY * 100 / FPS) for n in range(pictures)]
    return [10 * (end - begin) for begin, end in zip([0, *ends], ends, strict=False)]


class _Drawer:
    """Draws frames of one scene with the same view and scale."""

    def __init__(self, scene: Scene, clip: ViewedClip, width: int, height: int) -> None:
        self.scene, self.topology = scene, clip.topology
        self.width, self.height = width, height
        seen = scene.xyz @ np.array(AXES[scene.up], float).T  # right, up, near; (M, T, V, 3)
        there = seen[np.isfinite(seen).all(axis=-1)]
        self.low, self.high = there.min(axis=0), there.max(axis=0)
        self.points: NDArray[np.float64] = seen
        half = np.maximum((self.high - self.low) / 2, 1e-3)
        across = float(np.hypot(half[0], half[2]))
        self.scale = FINER * min(height * 0.42 / (half[1] + across * 0.16), width * 0.46 / across)
        neck, head = next(bone for bone in self.topology.bones if self.topology.joints[bone[1]] == "head")
        lengths = np.linalg.norm(seen[..., neck, :] - seen[..., head, :], axis=-1)
        # The median: the head keeps its size although its joint jitters.
        self.head, self.skull = head, 0.55 * self.scale * float(np.nanmedian(lengths))
        # A tenth of the spine, the unit of a normalized clip.
        self.thick = max(1.5 * FINER, 0.1 * self.scale)

    def frame(self, number: int, caption: str = "") -> Image.Image:
        """The picture of one frame."""
        image = Image.new("RGB", (self.width * FINER, self.height * FINER), PAPER)
        pen = ImageDraw.Draw(image)
        self._floor(pen)
        bodies = [m for m in range(len(self.points)) if self.scene.present[m, number] and self.scene.kept[m]]
        for body in bodies:
            self._body(pen, self.points[body, number], COLOURS[body % len(COLOURS)])
        small = image.resize((self.width, self.height), Image.Resampling.LANCZOS)
        if caption or not bodies:
            said = caption if bodies else f"{caption} no person".strip()
            ImageDraw.Draw(small).text((8, self.height - 20), said, SOFT, _font(12))
        return small

    def _project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(…, 3) right, up, near -> (…, 3) x, y in pixels, and depth."""
        x, y, z = np.moveaxis(points - (self.low + self.high) / 2, -1, 0)
        right, near = x * np.cos(YAW) + z * np.sin(YAW), z * np.cos(YAW) - x * np.sin(YAW)
        up, close = y * np.cos(PITCH) - near * np.sin(PITCH), y * np.sin(PITCH) + near * np.cos(PITCH)
        middle = FINER * np.array([self.width, self.height]) / 2
        return np.stack((middle[0] + right * self.scale, middle[1] - up * self.scale, -close), axis=-1)

    def _floor(self, pen: ImageDraw.ImageDraw) -> None:
        x0, z0 = np.floor(self.low[[0, 2]] / 0.5) * 0.5
        x1, z1 = np.ceil(self.high[[0, 2]] / 0.5) * 0.5
        ends = [((x, z0), (x, z1)) for x in np.arange(x0, x1 + 1e-6, 0.5)]
        ends += [((x0, z), (x1, z)) for z in np.arange(z0, z1 + 1e-6, 0.5)]
        for line in ends:
            points = self._project(np.array([(x, self.low[1], z) for x, z in line]))
            pen.line([tuple(point[:2]) for point in points], FLOOR, FINER)

    def _body(self, pen: ImageDraw.ImageDraw, body: NDArray[np.float64], colour: str) -> None:
        points = self._project(body)
        bones = [bone for bone in self.topology.bones if np.isfinite(points[list(bone)]).all()]
        for bone in sorted(bones, key=lambda bone: -float(points[list(bone), 2].sum())):
            ends = [tuple(points[joint, :2]) for joint in bone]
            for ink, wide in ((PAPER, self.thick + FINER), (colour, self.thick)):
                pen.line(ends, ink, round(wide))
                for end in ends:
                    _disc(pen, end, wide / 2, ink)
            if bone[1] == self.head:
                _disc(pen, ends[1], self.skull, colour)


def _disc(pen: ImageDraw.ImageDraw, at: tuple[float, ...], radius: float, ink: str) -> None:
    pen.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=ink)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
