"""The command ``table``."""

import json
from pathlib import Path

from psptool.schemas.table import ScoreTable

RESULTS = Path(__file__).parents[1] / "evaluate" / "scores"


def test_text_shows_groups_and_differences(psptool):
    out = psptool("table", RESULTS, "--against", "supervised").out
    assert "67.4 ± 5.2" in out
    assert "+3.1 ± 0.2" in out


def test_the_file_extension_determines_the_format(psptool):
    for name, start in (("t.md", "ucla, "), ("t.csv", "dataset,"), ("t.json", "{")):
        assert psptool("table", RESULTS, "--out", name).out == f"{name}\n"
        assert Path(name).read_text().startswith(start)
    assert len(ScoreTable.load(Path("t.json")).groups) == 2


def test_text_in_a_file_equals_that_on_stdout(psptool):
    printed = psptool("table", RESULTS, "--against", "supervised").out
    for options in (("--out", "t.txt"), ("--out", "t.md", "--format", "text")):
        psptool("table", RESULTS, "--against", "supervised", *options)
        assert Path(options[1]).read_text() == printed


def test_json_is_the_only_output_on_stdout(psptool):
    assert json.loads(psptool("table", RESULTS, "--json").out)["clips"] == 464


def test_a_page_is_written_in_addition_to_the_printed_table(psptool):
    ran = psptool("table", RESULTS, "--against", "supervised", "--html", "t.html", "--json")
    assert len(json.loads(ran.out)["groups"]) == 2
    assert "t.html (" in ran.err
    assert "+3.1 ± 0.2" in Path("t.html").read_text()


def test_errors_have_exit_code_2_and_a_suggestion(psptool):
    assert "psptool evaluate RUN" in psptool("table", ".", code=2).err
    assert "Did you mean markdown?" in psptool("table", RESULTS, "--format", "markdwn", code=2).err
    assert "Did you mean supervised" in psptool("table", RESULTS, "--against", "supervise", code=2).err
    assert "--html t.html" in psptool("table", RESULTS, "--out", "t.html", code=2).err
    Path("x.json").write_text("{}")
    assert "x.json: has no scores" in psptool("table", "x.json", code=2).err
