"""``psptool embed``: a run's features of all clips, and their accuracy with k-NN and a linear probe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from psptool.cli.console import choice, examples, grid, next_step, note, say, say_json
from psptool.cli.evaluate import percent
from psptool.cli.newest import RUN, choose
from psptool.common.text import counted

EXAMPLES = examples(
    "psptool embed",
    "psptool embed runs/ucla-xview-0.05-s0-psp-fast --out features.npz --json",
    "psptool embed --neighbours 1",
)


def embed(
    run: Annotated[
        Path | None, typer.Argument(help="The run folder; by default the newest in runs/.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The .npz or .parquet file to write; by default RUN/features.npz.")
    ] = None,
    neighbours: Annotated[int | None, typer.Option(help="k of the k-NN classifier; by default 5.")] = None,
    weights: Annotated[str, typer.Option(help="Checkpoint: last, or best on the validation clips.")] = "last",
    data: Annotated[Path | None, typer.Option(help="The dataset; by default that of the run.")] = None,
    split: Annotated[Path | None, typer.Option(help="The split; by default that of the run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write features of all clips; measure k-NN and linear probe."""
    from psptool.common.atomic_write import write_whole
    from psptool.data.store.reading import open_store
    from psptool.data.store.verifying import verify
    from psptool.device import choose_device
    from psptool.evaluation import features, models, probing
    from psptool.evaluation.api import check_dataset, check_split, recorded_path
    from psptool.schemas.scores import Weights
    from psptool.schemas.split import Split

    which = cast(Weights, choice(weights, get_args(Weights), "--weights"))
    computing_on = choose_device(device)
    folder = choose(RUN, run)
    target = out or folder / "features.npz"
    # Before the features are computed, which takes minutes for a large dataset.
    features.check_file_name(target)
    model = models.open_model(folder, which, computing_on)
    split_path = split or recorded_path(folder, model.config.latest.split_path, "split")
    label_split = Split.load(split_path)
    with open_store(data or recorded_path(folder, model.config.latest.data_path, "data")) as store:
        check_dataset(folder, model.config, store)
        check_split(folder, model.config, split_path, label_split)
        if neighbours is not None:
            probing.check_neighbours(neighbours, len(label_split.labelled))
        verify(store)
        note(f"computing features of {counted(len(store.names), 'clip')}")
        found = features.embed(model, store, label_split)
    content = features.features_file(found, model.config.class_names, target)
    note("computing k-NN and linear probe")
    measures = probing.probe_accuracies(found, neighbours)
    write_whole(target, content)
    if as_json:
        sizes = {"clips": len(found.names), "features": int(found.concatenated.shape[1])}
        say_json({"file": str(target), "weights": which, **sizes, "measures": measures})
        return
    width = next(iter(found.by_stream.values())).shape[1]
    say(f"{target}: {counted(len(found.names), 'clip')}, {width} features per stream")
    rows = [
        (
            f"{one['labels']} ({one['clips']})",
            one["neighbours"],
            percent(one["nearest"]),
            percent(one["linear"]),
        )
        for one in measures
    ]
    grid("", ("training labels (clips)", "k", "k-NN top-1 %", "linear probe top-1 %"), rows)
    next_step("psptool evaluate {}", folder)
