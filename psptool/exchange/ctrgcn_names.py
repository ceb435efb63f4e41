"""The clip names for CTR-GCN's npz file, which contains none: from psptool's names file, or from CTR-GCN's list.

psptool writes ``NPZ.names.txt`` with one line per row: part, tab, name. CTR-GCN's preparation
(data/ntu/seq_transformation.py) keeps ``statistics/skes_available_name.txt`` with one name per line. It orders the rows
of a part by the protocol's field (subject, camera or setup), and by the order of the list within it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from psptool.common.errors import PspError, cannot_read
from psptool.common.paths import MAX_JSON, read_bytes
from psptool.exchange.contents import dataset_named, stem
from psptool.schemas.description import DatasetDescription
from psptool.schemas.protocols import FieldProtocol
from psptool.skeletons.keys import ClipKey

LISTED = "skes_available_name.txt"
_PROTOCOLS = {"CS": "xsub", "CSub": "xsub", "CV": "xview", "CSet": "xset"}
"""The protocol for the word in the name of CTR-GCN's npz file, such as ``NTU60_CS.npz``."""
_FIX = "Write one line per clip, 'PART<tab>NAME' with PART train or test, in the order of the rows."

Labels = Sequence[int | None]


def names_beside(path: Path) -> Path:
    """The path of psptool's names file for the npz file ``path``."""
    return path.with_name(f"{path.stem}.names.txt")


def read_names(path: Path, labels: Mapping[str, Labels]) -> dict[str, tuple[str, ...]]:
    """The clip names of the rows of the npz file ``path``, by part.

    Args:
        path: The npz file.
        labels: Labels of the rows by part; None for a row without label.

    Raises:
        PspError: There is no names file, or the names do not match the rows.
    """
    own = names_beside(path)
    lists = [path.with_name(LISTED), path.parent / "statistics" / LISTED]
    listed = next((file for file in lists if file.exists()), None)
    if listed is not None and not own.exists():
        return _of_list(path, listed, labels)
    names: dict[str, list[str]] = {part: [] for part in labels}
    for number, line in _lines(own):
        part, tab, name = line.partition("\t")
        if not tab or not name:
            raise PspError(f"{own}: line {number}", repr(line[:60]), "PART<tab>NAME")
        if part not in names:
            raise PspError(
                f"{own}: line {number}", f"part {part[:60]!r}", f"one of {', '.join(names)}, as in {path}"
            )
        names[part].append(stem(name))
    for part, found in names.items():
        if len(found) != len(labels[part]):
            what, rows = f"{own}: names of part {part}", len(labels[part])
            raise PspError(what, str(len(found)), f"{rows}, one for each row of x_{part}", _FIX)
    return {part: tuple(found) for part, found in names.items()}


def _lines(path: Path) -> list[tuple[int, str]]:
    """The non-empty lines of a text file with their 1-based numbers. A byte order mark determines the encoding."""
    try:
        data = read_bytes(path, MAX_JSON)
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = data.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        expected = f"the names of the clips in the npz file, in this file or in {LISTED} in the same folder"
        raise cannot_read(path, error, _FIX, expected) from error
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _of_list(path: Path, listed: Path, labels: Mapping[str, Labels]) -> dict[str, tuple[str, ...]]:
    """The names of the rows in CTR-GCN's order, for the protocol that matches the number of rows and their labels.

    Raises:
        PspError: No protocol matches, or several do.
    """
    lines = [(number, stem(line.strip())) for number, line in _lines(listed)]
    dataset = dataset_named(name for _, name in lines)
    keys: dict[str, ClipKey] = {}
    for number, name in lines:
        key = dataset.parse(name) if dataset else None
        if key is None:
            raise PspError(f"{listed}: line {number}", repr(name[:60]), "a clip name of NTU RGB+D")
        keys[name] = key
    assert dataset is not None or not keys
    told = next((_PROTOCOLS[word] for word in re.split(r"[_.\-]", path.stem) if word in _PROTOCOLS), None)
    orders = {} if dataset is None else _orders(dataset, keys, told)
    fitting = [order for order in orders.values() if _fits(order, keys, labels)]
    if len(fitting) != 1:
        rows = " and ".join(f"{len(own)} {part}" for part, own in labels.items())
        tried = ", ".join(
            f"{name} ({len(order['train'])} train, {len(order['test'])} test)"
            for name, order in orders.items()
        )
        raise PspError(
            f"{listed}: {'several protocols match' if fitting else 'no protocol matches'} the {rows} rows of {path}",
            tried or "no names",
            "one protocol with the same number of names and the same labels",
            f"Write {names_beside(path).name} to the same folder: one line per clip, 'PART<tab>NAME', in the order of "
            "the rows.",
        )
    return {part: fitting[0][part] for part in labels}


def _orders(
    dataset: DatasetDescription, keys: Mapping[str, ClipKey], told: str | None
) -> dict[str, dict[str, tuple[str, ...]]]:
    """By protocol and part, the names in CTR-GCN's order; only for the protocol ``told`` unless it is None."""
    return {
        name: {part: _part(keys, protocol, part) for part in ("train", "test")}
        for name, protocol in dataset.protocols.items()
        if told in (None, name) and isinstance(protocol, FieldProtocol)
    }


def _part(keys: Mapping[str, ClipKey], protocol: FieldProtocol, part: str) -> tuple[str, ...]:
    values = {name: getattr(key, protocol.field) for name, key in keys.items()}

    def belongs(value: int) -> bool:
        if part == "train" or value in protocol.train:
            return part == "train" and value in protocol.train
        return protocol.test is None or value in protocol.test

    # The sort is stable: names with equal values keep the order of the list.
    return tuple(sorted((name for name in keys if belongs(values[name])), key=values.__getitem__))


def _fits(
    order: Mapping[str, Sequence[str]], keys: Mapping[str, ClipKey], labels: Mapping[str, Labels]
) -> bool:
    return all(
        len(order.get(part, ())) == len(own)
        and all(
            label in (None, keys[name].label) for name, label in zip(order.get(part, ()), own, strict=True)
        )
        for part, own in labels.items()
    )
