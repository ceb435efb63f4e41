"""Pages from templates: text from files is escaped, and the page is self-contained."""

import base64
import hashlib
import re

import numpy as np
from markupsafe import Markup

from psptool.evaluation.confusion import confusion_svg
from psptool.training.curves import curves_svgs
from psptool.view.page import _environment, render, table

HOSTILE = '</script><script>alert(1)</script><img src="https://x.example/y">$x^{$'


def macro(name, *values):
    return str(getattr(_environment().get_template("components.html").module, name)(*values))


def viewer(title="t", **values):
    return render("viewer.html", title, **{"entries": [], "note": "", "cards": [], **values})


def test_text_from_files_never_becomes_markup():
    card = {"heading": HOSTILE, "facts": [HOSTILE], "predicted": [(HOSTILE, 0.5, True)]}
    text = viewer(
        HOSTILE, lead=HOSTILE, note=HOSTILE, cards=[card], scripts=["player.js"], data={"name": HOSTILE}
    )
    text += macro("table", table((HOSTILE,), [(HOSTILE,)]))
    text += confusion_svg(np.eye(2, dtype=int), (HOSTILE, "b"))
    text += "".join(curves_svgs([{"step": n, HOSTILE: 2.0, "other": 1.0, "lr": 0.1} for n in (1, 2)]))
    assert HOSTILE not in text
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("</script>") == 2  # the data and the player


def test_policy_allows_no_url_and_only_the_scripts_of_the_package():
    text = viewer(scripts=["player.js"], data={})
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert "http" not in policy
    assert "script-src" not in viewer()


def test_columns_of_numbers_are_aligned_to_the_right():
    shown = macro(
        "table", table(("n", "x", "mean", "name"), [(1234, 0.5, "67.4 ± 5.2", "a"), (1, 2.0, "", 3)])
    )
    assert "<th class=number>n</th>" in shown
    assert (
        "<td class=number>1,234</td><td class=number>0.5</td><td class=number>67.4 ± 5.2</td><td>a</td>"
        in shown
    )
    assert "<td class=number></td><td>3</td>" in shown
    # A list of key-value pairs has numbers and texts in one column.
    assert "number" not in macro("table", table((), [("seed", 3)]))


def test_a_fraction_that_is_missing_is_an_empty_cell():
    assert "<td></td>" in macro("heatmap", ["", "a", "b"], [("sit", [0.5, None])])


def test_figures_use_the_colours_of_the_page_and_contain_no_url():
    figures = [
        confusion_svg(np.array([[3, 1], [0, 2]]), ("sit", "stand")),
        *curves_svgs([{"step": n, "loss": 2.0, "ce": 1.0, "lr": 0.1, "validation": 0.5} for n in (1, 2)]),
    ]
    page = viewer(note=Markup("".join(figures)))
    assert "--heat: #2563eb" in page
    assert "--heat: #6096ff" in page
    for figure in figures:
        assert "http" not in figure
        assert "var(--ink)" in figure
        # A colour that is not a variable would be unreadable in one of the two modes.
        assert re.findall(r"#[0-9a-f]{6}", figure) == []
