"""Only readers, synthesis and the modules in `ALLOWED` contain the name of a built-in dataset or skeleton."""

from __future__ import annotations

import ast
from pathlib import Path

import psptool
from psptool.schemas.builtin import choices
from psptool.schemas.builtin_skeletons import skeleton_names

ROOT = Path(psptool.__file__).parent
NAMES = {*choices(), *skeleton_names(), "ucla20"}
ALLOWED = {
    "cli/demo.py": "prepares synthetic recordings of NTU",
    "exchange/formats.py": "the graph of ST-GCN is that of ntu25",
    "formats/readers/making.py": "maps formats to readers",
    "formats/readers/ntu.py": "the format of NTU",
    "formats/readers/ucla.py": "the formats of NW-UCLA",
    "schemas/builtin_skeletons.py": "the former name of a skeleton",
    "schemas/description.py": "names of formats",
}


def test_only_listed_modules_contain_the_name_of_a_dataset_or_skeleton() -> None:
    found = set()
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        texts = {
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
        }
        if texts & NAMES and not name.startswith("formats/synthesis/"):
            found.add(name)
    assert found == set(ALLOWED)
