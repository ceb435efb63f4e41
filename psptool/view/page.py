"""Pages from the templates in ``psptool/view/templates``: each is one HTML file that works offline.

All text is escaped. In addition, a page's Content-Security-Policy forbids network access and every script except those
of this package, which it allows by their digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from psptool.common.figures import DARK, LIGHT
from psptool.common.text import counted
from psptool.common.version import __version__

# A number with optional sign, decimals, deviation after ± and percent sign; or empty, for an absent value.
_NUMBER = re.compile(r"([+−-]?[\d,]+(\.\d+)?( ± [\d.]+)?( %)?)?")


@dataclass(frozen=True)
class Table:
    """Content of the template macro ``table``.

    Attributes:
        header: Column names; empty for a table without a header row.
        rows: The cells as text.
        numeric: For each column, whether it has only numbers. Numbers are aligned to the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]


def table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> Table:
    """Build a `Table` and determine its numeric columns.

    Text such as ``"67.4 ± 5.2"`` counts as a number. A table without a header has no numeric columns.

    Args:
        header: Column names; empty for no header row.
        rows: Each as long as the header.
    """
    columns = [[*column] for column in zip(*rows, strict=True)]
    numeric = [bool(header) and all(map(_is_number, column)) for column in columns]
    cells = tuple(tuple(map(_text, row)) for row in rows)
    return Table(tuple(map(str, header)), cells, tuple(numeric or [False] * len(header)))


def render(
    template: str,
    title: str,
    *,
    lead: str = "",
    scripts: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    **values: Any,
) -> str:
    """A whole HTML page.

    Args:
        template: File name of a template that extends ``page.html``.
        title: Heading and window title.
        lead: Text below the heading.
        scripts: File names in this package, such as ``player.js``, in the order of execution.
        data: JSON for the scripts.
        values: Variables of the template. Text is escaped, except `Markup`.
    """
    sources = [_resource(name) for name in scripts]
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            lead=lead,
            version=__version__,
            policy=_policy(sources),
            light=LIGHT,
            dark=DARK,
            css=Markup(_resource("page.css")),
            scripts=[Markup(source) for source in sources],
            data=None if data is None else Markup(_json(data)),
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("psptool.view"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    environment.filters["percent"] = percent
    return environment


def percent(share: float) -> str:
    """A fraction as % with one decimal place, without the sign."""
    return f"{100 * share:.1f}"


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and _NUMBER.fullmatch(str(value)) is not None


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _resource(name: str) -> str:
    return files("psptool.view").joinpath(name).read_text(encoding="utf-8")


def _json(data: Mapping[str, Any]) -> str:
    """JSON without the characters that could end the enclosing script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _policy(sources: Sequence[str]) -> str:
    digests = (hashlib.sha256(source.encode("utf-8")).digest() for source in sources)
    allowed = [f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests]
    rules = ("default-src 'none'", "style-src 'unsafe-inline'", "img-src data:")
    return "; ".join((*rules, f"script-src {' '.join(allowed)}") if allowed else rules)
