"""The scaffold of pages: text from files stays text, and nothing outside the page is named."""

import base64
import hashlib
import re

from psptool.view.charts import bars, curves, heat_map
from psptool.view.page import Section, page, table

HOSTILE = '</script><script>alert(1)</script><img src="https://x.example/y">'


def test_text_from_files_never_becomes_markup():
    import numpy as np

    parts = (
        table((HOSTILE,), [(HOSTILE,)])
        + bars([(HOSTILE, 0.5, True)])
        + curves(HOSTILE, {HOSTILE: [(1, 2.0), (2, 3.0)], "other": [(1, 1.0)]})
        + heat_map(np.eye(2, dtype=int), (HOSTILE, "b"))
    )
    text = page(
        HOSTILE, [Section(HOSTILE, parts)], lead=HOSTILE, scripts=["player.js"], data={"name": HOSTILE}
    )
    assert HOSTILE not in text
    assert "<script>alert" not in text
    assert "<img" not in text
    assert text.count("</script>") == 2  # the data and the player


def test_policy_admits_no_address_and_only_the_scripts_put_in():
    text = page("t", [], scripts=["player.js"], data={})
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert "http" not in policy
    assert "script-src" not in page("t", [])


def test_columns_of_numbers_stand_to_the_right():
    shown = table(("n", "x", "mean", "name"), [(1234, 0.5, "67.4 ± 5.2", "a"), (1, 2.0, "", 3)])
    assert "<th class=number>n</th>" in shown
    assert (
        "<td class=number>1,234</td><td class=number>0.5</td><td class=number>67.4 ± 5.2</td><td>a</td>"
        in shown
    )
    assert "<td class=number></td><td>3</td>" in shown
    # In a list of facts numbers and texts stand in one column.
    assert "number" not in table((), [("seed", 3)])


def test_heat_map_leaves_out_classes_that_do_not_occur_and_says_shares():
    import numpy as np

    shown = heat_map(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]), ("sit", "stand", "absent"))
    assert "absent" not in shown
    assert ">75</text>" in shown
    assert "sit taken for stand: 1 of 4" in shown
