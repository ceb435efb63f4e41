"""Every command that a README or a ``--help`` shows runs, on small synthetic recordings under the names shown.

``sh`` and ``python`` blocks run. ``bash`` and ``py`` blocks do not: they need Snakemake, a GPU or hours.
"""

import re
import shutil
from pathlib import Path

import pytest

from psptool.cli.main import app
from tests.cli.conftest import run_line

ROOT = Path(__file__).parents[2]
READMES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "psptool/README.md",
        *sorted((ROOT / "workflows").rglob("README.md")),
    )
}
# .ci/run installs the package and runs the tests.
INSTALLING = [
    "python3 -m venv .venv",
    "source .venv/bin/activate",
    "pip install .",
    "pip install '.[test]'",
    "pytest -n 2 --dist loadfile",
]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def shown_commands() -> list[object]:
    """The commands of each section with commands, as parameters (commands,)."""
    found = []
    for file, text in READMES.items():
        for section in re.split(r"^(?=##+ )", text, flags=re.MULTILINE):
            lines = [line for block in blocks(section, "sh") for line in block.splitlines()]
            commands = [line for line in lines if line and line not in INSTALLING]
            if commands:
                title = section.splitlines()[0].strip("# ")
                found.append(pytest.param(commands, id=f"{file}: {title}"))
    return found


def python_blocks() -> list[object]:
    return [
        pytest.param(code, id=f"{file} {number}")
        for file, text in READMES.items()
        for number, code in enumerate(blocks(text, "python"))
    ]


SLOW = re.compile(r"psptool (train|demo|export) |psptool demo$|psptool train$|.*--gif")
"""Commands that take more than about 3 s."""


def help_commands() -> list:
    groups = [app.info, *app.registered_commands]
    lines = [line.strip() for group in groups for line in str(group.epilog).splitlines()]
    commands = sorted({line for line in lines if line.startswith("psptool")})
    return [pytest.param(one, marks=pytest.mark.slow) if SLOW.match(one) else one for one in commands]


def test_readme_shows_the_installation_and_the_four_basic_commands():
    text = READMES["README.md"]
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    assert [line for line in lines if line in INSTALLING] == INSTALLING
    four = "psptool prepare ucla --raw all_sqe\npsptool split --ratio 0.05\npsptool train\npsptool evaluate\n"
    assert four in text


def test_readme_is_short():
    lines = READMES["README.md"].splitlines()
    assert len(lines) <= 200
    assert [line for line in lines if len(line) > 120] == []


@pytest.mark.parametrize("file", READMES)
def test_files_that_a_readme_names_exist(file):
    text, folder = READMES[file], (ROOT / file).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if not link.startswith("http")]
    paths = re.findall(r"`((?:psptool|workflows|tests|schemas)/[\w./-]+)`", text)
    assert [link for link in links if not (folder / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("commands", shown_commands())
def test_shown_commands_run_in_the_order_shown(commands, recordings, small, workspace, tmp_path, monkeypatch):
    # A section that prepares a dataset starts in a folder with only recordings, the others with a trained model.
    fresh = any(command.startswith(("psptool prepare", "psptool demo")) for command in commands)
    shutil.copytree(recordings if fresh else workspace, tmp_path, dirs_exist_ok=True)
    if not fresh:
        # Remove the files that `psptool export-data` is to write.
        shutil.rmtree(tmp_path / "exchange")
    (tmp_path / "workflows").symlink_to(ROOT / "workflows")
    monkeypatch.chdir(tmp_path)
    for command in commands:
        run_line(command)


@pytest.mark.slow
@pytest.mark.parametrize("code", python_blocks())
def test_shown_python_runs(code, workspace, tmp_path, monkeypatch):
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README", "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("command", help_commands())
def test_help_example_runs(workspace, tmp_path, monkeypatch, command):
    if "--onnx" in command:
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    if command.startswith("psptool export-data"):
        # Remove the exported files, which `psptool export-data` does not overwrite.
        shutil.rmtree("exchange")
    run_line(command)
