"""Damaged files of the three formats are read or refused with an error that names the file."""

import random

import numpy as np
import pytest

from psptool.common.errors import PspError
from psptool.data.store.reading import open_store
from psptool.exchange.ctrgcn_names import names_beside
from psptool.exchange.formats import FORMATS
from psptool.exchange.importing import collect
from psptool.exchange.parts import parts_of
from psptool.formats.synthesis.writing import write_ntu
from psptool.preparation.pipeline import prepare

ROUNDS = 150
NAMES = [f"S001C00{c}P00{p}R001A007" for c in (1, 2, 3) for p in (1, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a file of each format and a compressed npz."""
    folder = tmp_path_factory.mktemp("good")
    write_ntu(folder / "raw", NAMES)
    with open_store(prepare("ntu", [folder / "raw"], folder / "n.h5").path) as store:
        for form in FORMATS.values():
            form.write(store, parts_of(store, form, None), "normalized", folder / f"good{form.ending}")
    np.savez_compressed(folder / "packed.npz", **np.load(folder / "good.npz"))
    names_beside(folder / "packed.npz").write_bytes(names_beside(folder / "good.npz").read_bytes())
    return folder


def damaged(data, rng):
    """``data`` with a few bytes changed, deleted or inserted, most of them in headers."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        size = max(len(found), 1)
        position = rng.choice(
            (
                rng.randrange(min(size, 400)),
                size - 1 - rng.randrange(min(size, 600)),
                rng.randrange(size),
            )
        )
        operation = rng.random()
        if operation < 0.6:
            found[position : position + 1] = bytes([rng.randrange(256)])
        elif operation < 0.8:
            del found[position : position + rng.choice((1, 4, 50))]
        elif operation < 0.95:
            found[position:position] = bytes([rng.randrange(256)]) * rng.choice((1, 4, 8))
        else:
            del found[position:]
    return bytes(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "path", "part"),
    [
        ("pyskl", "good.pkl", "good.pkl"),
        ("ctrgcn", "good.npz", "good.npz"),
        ("ctrgcn", "packed.npz", "packed.npz"),
        ("ctrgcn", "good.npz", "good.names.txt"),
        ("stgcn", "good", "good/train_data.npy"),
        ("stgcn", "good", "good/train_label.pkl"),
    ],
)
def test_a_damaged_file_is_read_or_refused(folder, kind, path, part):
    rng, refused = random.Random(part), []
    good = (folder / part).read_bytes()
    try:
        for _ in range(ROUNDS):
            (folder / part).write_bytes(damaged(good, rng))
            try:
                contents = FORMATS[kind].read(folder / path)
                collect([contents])
                for position in range(len(contents.names)):
                    contents.read(position)
            except PspError as error:
                refused.append(str(error))
    finally:
        (folder / part).write_bytes(good)
    assert len(refused) > ROUNDS // 4
    assert all(str(folder) in message for message in refused)
