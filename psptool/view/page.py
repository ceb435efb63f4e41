"""The scaffold of every page: one HTML file that needs nothing beside it and asks nothing of the network.

A page's policy (Content-Security-Policy) admits no address at all, and of scripts only those that this module put in,
by their digest: text that came from a file could not run even if it were not escaped. It is escaped all the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from psptool.common.version import __version__

# Signed, with a fraction, with another after ±; or nothing, where a table has no value.
_NUMBER = re.compile(r"([+−-]?[\d,]+(\.\d+)?( ± [\d.]+)?)?")


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: Plain text; none where empty.
        body: HTML, whose texts are escaped.
        wide: It takes the page's whole width, while others share a row where there is room.
    """

    heading: str
    body: str
    wide: bool = True


def page(
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    scripts: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
) -> str:
    """A whole HTML page, for a file of its own.

    Example:
        >>> text = page("Runs", [Section("Accuracy", table(("run", "top-1"), [("a", 0.5)]))])
        >>> text.startswith("<!doctype html>")
        True

    Args:
        title: Plain text, above the page and in the window's title.
        sections: In order.
        lead: Plain text under the title.
        scripts: File names in this package, such as ``player.js``; they run in this order, after the page is there.
        data: What the scripts read, as JSON.
    """
    sources = [_resource(name) for name in scripts]
    body = "".join(_section(section) for section in sections)
    lead_html = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    embedded = "" if data is None else f'<script type="application/json" id="data">{_json(data)}</script>'
    run = "".join(f"<script>{source}</script>" for source in sources)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(sources)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title>"
        # An icon of its own, lest a browser asks a server for one.
        '<link rel="icon" href="data:,">'
        f"<style>{_resource('page.css')}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1>{lead_html}</header>\n"
        f"<main>{body}</main>\n"
        f"<footer>psptool {escape(__version__)}</footer>\n"
        f"{embedded}{run}</body></html>\n"
    )


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; columns of numbers stand to the right, and all text is escaped.

    A number may be written out, such as ``"67.4 ± 5.2"``.

    Args:
        header: The columns' names; no head where empty.
        rows: Each as long as the header.
    """
    columns = [[*column] for column in zip(*rows, strict=True)]
    right = [bool(header) and all(map(_is_number, column)) for column in columns] or [False] * len(header)
    head = "".join(map(_head, header, right))
    lines = "".join(f"<tr>{''.join(map(_cell, row, right))}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table>{top}<tbody>{lines}</tbody></table></div>'


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and _NUMBER.fullmatch(str(value)) is not None


def _head(name: object, right: bool) -> str:
    return f"<th{' class=number' if right else ''}>{escape(str(name))}</th>"


def _cell(value: object, right: bool) -> str:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    text = f"{value:,}" if is_whole else str(value)
    return f"<td{' class=number' if right else ''}>{escape(text)}</td>"


def _section(section: Section) -> str:
    heading = f"<h2>{escape(section.heading)}</h2>" if section.heading else ""
    return f'<section class="{"wide" if section.wide else "shared"}">{heading}{section.body}</section>\n'


def _resource(name: str) -> str:
    return files("psptool.view").joinpath(name).read_text(encoding="utf-8")


def _json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _policy(sources: Sequence[str]) -> str:
    digests = (hashlib.sha256(source.encode("utf-8")).digest() for source in sources)
    admitted = [f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests]
    rules = ("default-src 'none'", "style-src 'unsafe-inline'", "img-src data:")
    return "; ".join((*rules, f"script-src {' '.join(admitted)}") if admitted else rules)
