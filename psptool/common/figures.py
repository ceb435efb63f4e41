"""Figures for files and pages: one drawing becomes a PNG, or an SVG whose colours follow the page's light or dark mode.

A figure is drawn in the colours of `LIGHT`. `to_svg` replaces each by a CSS variable of the same name, which
``psptool/view/page.css`` sets from `LIGHT` or `DARK`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT = {
    "paper": "#f6f7f9", "card": "#ffffff", "ink": "#1b2330", "soft": "#5d6878", "line": "#dde2ea",
    "faint": "#eef1f5", "accent": "#2563eb", "right": "#15803d", "wrong": "#c62f3c", "stage": "#fbfcfd",
    "grid": "#d5dbe4", "tracked": "#1b2330", "inferred": "#e09f00", "lost": "#d92d3a", "unknown": "#98a2b1",
    "dropped": "#a9b2bf", "person0": "#2f6fde", "person1": "#d03d8f", "person2": "#1f9d63",
    "person3": "#7c4ddb", "plus": "#d9480f", "minus": "#1971c2", "brown": "#8d6e1f", "heat": "#2563eb",
}  # fmt: skip
DARK = {
    "paper": "#10141b", "card": "#181e27", "ink": "#e8edf4", "soft": "#98a4b5", "line": "#2b3441",
    "faint": "#202834", "accent": "#6ea0ff", "right": "#4ac27a", "wrong": "#ff7b82", "stage": "#131820",
    "grid": "#2a3340", "tracked": "#f1f5fb", "inferred": "#ffc53d", "lost": "#ff5c66", "unknown": "#7f8b9c",
    "dropped": "#5b6675", "person0": "#5b96ff", "person1": "#f06bb3", "person2": "#3ecb8b",
    "person3": "#a68bff", "plus": "#ff8c42", "minus": "#4dabf7", "brown": "#c9a94a", "heat": "#6096ff",
}  # fmt: skip
SERIES = ("person0", "person1", "person2", "person3", "plus", "brown")
"""Colours of the lines or rows of one chart; only one of the two blues."""
FIGURE_COLOURS = ("card", "ink", "soft", "line", "heat", *SERIES)
"""The only colours that a figure may use: no two have the same light value."""
_SVG = "{http://www.w3.org/2000/svg}"
_FONT = re.compile(r"font: ([^;']*?)([\d.]+px)[^;]*")
_FAMILY = re.compile(r"font-family: [^;]*;?")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` x ``height`` inches without pyplot: no display, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, size: float) -> None:
    """Set the colours of the axes' labels, ticks and frame, and their font size in points."""
    axes.set_facecolor("none")
    axes.tick_params(colors=LIGHT["soft"], labelcolor=LIGHT["ink"], labelsize=size, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.title):
        label.set_color(LIGHT["ink"])
        label.set_fontsize(size + 1)
    for spine in axes.spines.values():
        spine.set_color(LIGHT["line"])


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG on white."""
    png = io.BytesIO()
    figure.savefig(png, format="png", bbox_inches="tight", pad_inches=0.15)
    return png.getvalue()


def to_svg(figure: Figure, label: str, tooltips: Mapping[str, Sequence[str]] | None = None) -> str:
    """The figure as an ``<svg>`` element for an HTML page, one CSS pixel per point, scaled down where space is short.

    Args:
        figure: Drawn in `FIGURE_COLOURS`.
        label: Text for screen readers.
        tooltips: By group id (`Artist.set_gid`), one text per path of that group.
    """
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "psptool"}):
        figure.savefig(file, format="svg", bbox_inches="tight", pad_inches=0.02, transparent=True)
    root = ElementTree.fromstring(file.getvalue())
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    for group in root.iter(f"{_SVG}g"):
        # Several figures in a page must not share ids. Those in `defs` stay: they are hashes of their content.
        texts = (tooltips or {}).get(group.attrib.pop("id", ""), ())
        for path, text in zip(group.findall(f"{_SVG}path"), texts, strict=bool(texts)):
            ElementTree.SubElement(path, f"{_SVG}title").text = text
    width = root.attrib.pop("width").removesuffix("pt")
    root.attrib.pop("height")
    root.attrib |= {"role": "img", "aria-label": label, "style": f"width:{float(width):.0f}px"}
    return _inline(root)


def _inline(root: ElementTree.Element) -> str:
    """An SVG element as HTML has it: no namespace prefixes, colours as CSS variables, the page's font."""
    names = {LIGHT[name]: f"var(--{name})" for name in FIGURE_COLOURS}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for key in [key for key in element.attrib if key.startswith("{")]:
            element.attrib[key.partition("}")[2]] = element.attrib.pop(key)
        css = element.get("style")
        if css is not None:
            css = _FAMILY.sub("", _FONT.sub(r"font-size: \2", css))
            for value, variable in names.items():
                css = css.replace(value, variable)
            element.set("style", css)
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
