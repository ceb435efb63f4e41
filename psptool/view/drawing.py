"""Images of clips: a contact sheet (PNG) and an animated GIF.

Notation for array shapes: M persons, T frames, V joints.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from psptool.common.figures import LIGHT
from psptool.view.scene import AXES, PITCH, YAW, Scene, ViewedClip, head_of

SUPERSAMPLING = 3
"""Supersampling factor for smooth edges: frames are drawn larger and scaled down."""
GIF_STRIDE = 2
"""Every second frame is in the GIF, which limits its size; fewer above 100 frames/s, see `_stride`."""
GIF_COLUMNS = 4
"""Maximum number of clips in a row of the GIF."""
SHEET_FRAMES = 8
COLOURS = tuple(LIGHT[f"person{n}"] for n in range(4))
PAPER, FLOOR, INK, SOFT = (LIGHT[name] for name in ("card", "line", "ink", "soft"))


def contact_sheet(clips: Sequence[ViewedClip], frames: int = SHEET_FRAMES, size: int = 170) -> bytes:
    """A PNG with one row per clip: evenly spaced frames from first to last.

    Args:
        clips: Their last scene (normalized) is drawn.
        frames: Maximum number of frames per clip.
        size: Width of a frame in pixels.
    """
    height, caption = round(size * 1.25), 26
    columns = min(frames, max(clip.frames for clip in clips))
    sheet = Image.new("RGB", (size * columns, (height + caption) * len(clips)), PAPER)
    for row, clip in enumerate(clips):
        drawer = _Drawer(clip.scenes[-1], clip, size, height)
        chosen = np.unique(np.linspace(0, clip.frames - 1, columns).round().astype(int))
        for column, frame in enumerate(chosen.tolist()):
            sheet.paste(
                drawer.frame(frame, f"{frame / clip.frame_rate:.2f} s"),
                (column * size, row * (height + caption) + caption),
            )
        pen = ImageDraw.Draw(sheet)
        pen.text((8, row * (height + caption) + 8), f"{clip.name}  {clip.action}", INK, _font(13))
    png = io.BytesIO()
    sheet.save(png, "PNG", optimize=True)
    return png.getvalue()


def moving_gif(clips: Sequence[ViewedClip], size: int = 300) -> bytes:
    """A GIF in real time, with up to `GIF_COLUMNS` clips in a row; shorter clips stop at their last frame.

    Args:
        clips: Their last scene (normalized) is drawn.
        size: Width of a clip in pixels.
    """
    caption = 26
    rows = -(-len(clips) // GIF_COLUMNS)
    # Rows of about equal length: 5 clips are 3 and 2, not 4 and 1.
    columns = -(-len(clips) // rows)
    drawers = [_Drawer(clip.scenes[-1], clip, size, size) for clip in clips]
    frame_rate = clips[0].frame_rate
    stride = _stride(frame_rate)
    numbers = range(0, max(clip.frames for clip in clips), stride)
    images = []
    for number in numbers:
        image = Image.new("RGB", (size * columns, (size + caption) * rows), PAPER)
        pen = ImageDraw.Draw(image)
        for place, (clip, drawer) in enumerate(zip(clips, drawers, strict=True)):
            left, top = place % columns * size, place // columns * (size + caption)
            image.paste(drawer.frame(min(number, clip.frames - 1)), (left, top + caption))
            pen.text((left + 8, top + 8), clip.action, INK, _font(13))
        images.append(image)
    # One palette for all frames: separate palettes would flicker.
    palette = images[len(images) // 2].quantize(64)
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    gif = io.BytesIO()
    first.save(
        gif,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=_durations(len(images), stride, frame_rate),
        loop=0,
        optimize=True,
    )
    return gif.getvalue()


def _stride(frame_rate: float) -> int:
    """Frames from one image to the next: at least 20 ms, because browsers slow down shorter images."""
    return max(GIF_STRIDE, math.ceil(frame_rate / 50))


def _durations(images: int, stride: int, frame_rate: float) -> list[int]:
    """Duration of each image in ms, rounded to the 10 ms of the GIF format without accumulating errors."""
    ends = [round((n + 1) * stride * 100 / frame_rate) for n in range(images)]
    return [10 * (end - begin) for begin, end in zip([0, *ends], ends, strict=False)]


class _Drawer:
    """Draws the frames of one scene with a fixed view and scale."""

    def __init__(self, scene: Scene, clip: ViewedClip, width: int, height: int) -> None:
        self.scene, self.topology = scene, clip.topology
        # A skeleton in 2D is seen from the front and has no floor, as in `player.js`.
        self.flat = clip.topology.dimensions == 2
        self.yaw, self.pitch = (0.0, 0.0) if self.flat else (YAW, PITCH)
        self.width, self.height = width, height
        points = scene.xyz @ np.array(AXES[scene.up], float).T  # right, up, near; (M, T, V, 3)
        valid = points[np.isfinite(points).all(axis=-1)]
        self.low, self.high = valid.min(axis=0), valid.max(axis=0)
        self.points: NDArray[np.float64] = points
        half = np.maximum((self.high - self.low) / 2, 1e-3)
        across = float(np.hypot(half[0], half[2]))
        self.scale = SUPERSAMPLING * min(height * 0.42 / (half[1] + across * 0.16), width * 0.46 / across)
        self.head = head_of(self.topology)
        self.skull = 0.0
        for neck in (parent for parent, child in self.topology.bones if child == self.head):
            lengths = np.linalg.norm(points[..., neck, :] - points[..., self.head, :], axis=-1)
            # The median keeps the head size constant although the joint jitters.
            self.skull = 0.55 * self.scale * float(np.nanmedian(lengths))
        # A tenth of the spine, the unit of a normalized clip.
        self.thick = max(1.5 * SUPERSAMPLING, 0.1 * self.scale)

    def frame(self, number: int, caption: str = "") -> Image.Image:
        """The image of one frame."""
        image = Image.new("RGB", (self.width * SUPERSAMPLING, self.height * SUPERSAMPLING), PAPER)
        pen = ImageDraw.Draw(image)
        if not self.flat:
            self._floor(pen)
        bodies = [m for m in range(len(self.points)) if self.scene.present[m, number] and self.scene.kept[m]]
        for body in bodies:
            self._body(pen, self.points[body, number], COLOURS[body % len(COLOURS)])
        small = image.resize((self.width, self.height), Image.Resampling.LANCZOS)
        if caption or not bodies:
            text = caption if bodies else f"{caption} no person".strip()
            ImageDraw.Draw(small).text((8, self.height - 20), text, SOFT, _font(12))
        return small

    def _project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(…, 3) right, up, near -> (…, 3) x, y in pixels, and depth."""
        x, y, z = np.moveaxis(points - (self.low + self.high) / 2, -1, 0)
        (cy, cp), (sy, sp) = np.cos((self.yaw, self.pitch)), np.sin((self.yaw, self.pitch))
        right, near = x * cy + z * sy, z * cy - x * sy
        up, close = y * cp - near * sp, y * sp + near * cp
        middle = SUPERSAMPLING * np.array([self.width, self.height]) / 2
        return np.stack((middle[0] + right * self.scale, middle[1] - up * self.scale, -close), axis=-1)

    def _floor(self, pen: ImageDraw.ImageDraw) -> None:
        x0, z0 = np.floor(self.low[[0, 2]] / 0.5) * 0.5
        x1, z1 = np.ceil(self.high[[0, 2]] / 0.5) * 0.5
        ends = [((x, z0), (x, z1)) for x in np.arange(x0, x1 + 1e-6, 0.5)]
        ends += [((x0, z), (x1, z)) for z in np.arange(z0, z1 + 1e-6, 0.5)]
        for line in ends:
            points = self._project(np.array([(x, self.low[1], z) for x, z in line]))
            pen.line([tuple(point[:2]) for point in points], FLOOR, SUPERSAMPLING)

    def _body(self, pen: ImageDraw.ImageDraw, body: NDArray[np.float64], colour: str) -> None:
        points = self._project(body)
        bones = [bone for bone in self.topology.bones if np.isfinite(points[list(bone)]).all()]
        for bone in sorted(bones, key=lambda bone: -float(points[list(bone), 2].sum())):
            ends = [tuple(points[joint, :2]) for joint in bone]
            for ink, wide in ((PAPER, self.thick + SUPERSAMPLING), (colour, self.thick)):
                pen.line(ends, ink, round(wide))
                for end in ends:
                    _disc(pen, end, wide / 2, ink)
            if bone[1] == self.head:
                _disc(pen, ends[1], self.skull, colour)


def _disc(pen: ImageDraw.ImageDraw, at: tuple[float, ...], radius: float, ink: str) -> None:
    pen.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=ink)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
