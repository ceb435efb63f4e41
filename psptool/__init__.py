"""Skeleton-based action recognition with few labels: prepare recordings, train PSP, evaluate, predict.

The functions have the names of the commands and do the same::

    psptool.prepare   raw recordings to one HDF5 file
    psptool.split     which training clips keep their label
    psptool.train     a model from a dataset and a split
    psptool.evaluate  accuracy of a run on the test clips
    psptool.predict   the actions in raw recordings
    psptool.open      a prepared dataset, clip by clip
    psptool.load      a trained model, for single clips

For other models in PyTorch::

    psptool.ClipDataset  a prepared dataset for torch.utils.data.DataLoader
    psptool.read_split   the clip names in the parts of a split
    psptool.score        scores of other predictions, for tables beside psptool's own runs

They print nothing. They return typed objects, and raise `psptool.PspError` for bad input. Warnings are `UserWarning`;
messages go to the logger ``psptool``, as information.

The names in ``__all__`` are the public interface. Everything else in the package is internal and may change in any
version.
"""

# Each function imports what it needs when it is called, so that `import psptool` takes milliseconds.
from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from psptool.common.errors import PspError, choice
from psptool.common.version import __version__

if TYPE_CHECKING:
    from psptool.data.batches.clip_dataset import ClipDataset
    from psptool.data.splits.making import MadeSplit
    from psptool.data.store.reading import Store
    from psptool.evaluation.external import Predicted
    from psptool.evaluation.loaded import LoadedModel
    from psptool.preparation.pipeline import Preparation
    from psptool.schemas.dataset import Align
    from psptool.schemas.description import DatasetDescription
    from psptool.schemas.prediction import Prediction
    from psptool.schemas.scores import Part, Scores, Weights
    from psptool.schemas.split import Family, Split
    from psptool.schemas.training import Method, Preset
    from psptool.training.api import Trained
    from psptool.training.loop import Progress
    from psptool.training.runs.unfinished import Resume

    StrPath = str | os.PathLike[str]

__all__ = [
    "ClipDataset",
    "PspError",
    "__version__",
    "evaluate",
    "load",
    "open",
    "predict",
    "prepare",
    "read_split",
    "score",
    "split",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "ClipDataset":
        from psptool.data.batches.clip_dataset import ClipDataset

        return ClipDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def prepare(
    dataset: StrPath | DatasetDescription,
    raw: StrPath | Sequence[StrPath],
    out: StrPath | None = None,
    *,
    align: Align | None = None,
    jobs: int | None = None,
    strict: bool = False,
    force: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Preparation:
    """Prepare raw recordings: one HDF5 file of normalized joints and motion, and a report beside it.

    Args:
        dataset: ``ntu`` (NTU RGB+D 60 or 120), ``ucla`` (NW-UCLA), or a YAML file with the description of a dataset.
        raw: One or several folders, zip or tar archives, or files.
        out: The file to write; ``data/<dataset>.h5`` if None.
        align: Axes of the normalized joints: ``body`` (from the first frames), ``robust`` (from all frames),
            ``released`` (original implementation) or ``none`` (camera).
            By default ``body``, and ``none`` for 2D skeletons.
        jobs: Worker processes; one per core if None. The file is the same for any number.
        strict: Raise an error if a clip is malformed, instead of excluding the clip.
        force: Prepare again even if the file is current.
        on_progress: Called with the number of clips done and the number of all clips.

    Returns:
        The ``path`` of the dataset and its ``report``: which clips are in it, which are not, and why.

    Raises:
        PspError: No clip is usable, or a file cannot be read or written. Files of an earlier preparation stay.

    Example:
        >>> import psptool
        >>> done = psptool.prepare("ucla", "all_sqe")
        >>> print(done.path, done.report.counts.clips)
        data/ucla.h5 60
    """
    import logging

    import joblib

    from psptool.preparation import pipeline
    from psptool.schemas.dataset import Align
    from psptool.schemas.description import DatasetDescription

    if align is not None:
        choice(align, get_args(Align), "align")
    if jobs is not None and jobs < 1:
        raise PspError("jobs", str(jobs), "at least 1 worker")
    jobs = jobs or int(joblib.cpu_count())
    given = dataset if isinstance(dataset, DatasetDescription) else os.fspath(dataset)
    return pipeline.prepare(
        given,
        _paths(raw),
        _path(out),
        pipeline.settings_for(given, align),
        jobs=jobs,
        strict=strict,
        force=force,
        progress=on_progress,
        on_message=logging.getLogger("psptool").info,
        on_warning=_warn,
    )


def split(
    data: StrPath,
    ratio: float | None = None,
    *,
    count: int | None = None,
    protocol: str | None = None,
    family: Family = "per-class",
    seed: int = 0,
    test_view: int | None = None,
    validation: str | None = None,
    out: StrPath | None = None,
) -> MadeSplit:
    """Choose the training clips that keep their label, and save the split as JSON.

    Args:
        data: The dataset that `prepare` wrote.
        ratio: Share of the labels to keep, above 0 and at most 1. Either this or ``count``.
        count: Labelled clips per class.
        protocol: NTU 60: ``xsub`` or ``xview``; NTU 120: ``xsub`` or ``xset``; NW-UCLA: ``xview``; for other datasets
            one of the description, or one value of leave-one-out, such as ``loso-3``. The first if None.
        family: ``per-class``, ``per-class-ratio`` or ``global``.
        seed: Seed of the random choice.
        test_view: The camera whose clips are the test set, if the protocol lets you choose it; for NW-UCLA 3 if None.
        validation: Training clips to hold out: ``view=2``, ``subject=3,7`` or ``fraction=0.1``.
        out: The file to write; named by the request, in ``splits/``, if None.

    Returns:
        The ``path`` of the file and the ``split``: clip names of its four parts.

    Raises:
        PspError: The dataset cannot be read, it has no such protocol or view, or a class has too few clips.

    Example:
        >>> import psptool
        >>> made = psptool.split("data/ucla.h5", count=1)
        >>> print(made.path, len(made.split.labelled), len(made.split.unlabelled), len(made.split.test))
        splits/ucla-xview-k1-s0.json 10 30 20
    """
    from psptool.data.splits.making import SplitRequest
    from psptool.data.splits.stored import make_file
    from psptool.data.store.reading import open_store

    request = SplitRequest(ratio, count, protocol, family, seed, test_view, validation)
    with open_store(data) as store:
        return make_file(store, request, _path(out))


def read_split(path: StrPath) -> Split:
    """Read a split that `split` or ``psptool split`` wrote.

    Args:
        path: The JSON file.

    Returns:
        The split: ``labelled``, ``unlabelled``, ``validation`` and ``test`` are tuples of clip names. It equals the
        ``split`` that `split` returns.

    Raises:
        PspError: The file is absent, or not a split.

    Example:
        >>> import psptool
        >>> split = psptool.read_split("splits/ucla-xview-k1-s0.json")
        >>> print(split.protocol, len(split.labelled), split.labelled[0])
        xview 10 a01_s01_e00_v02
    """
    from psptool.schemas.split import Split

    return Split.load(Path(path))


def train(
    data: StrPath,
    split: StrPath,
    *,
    method: Method | None = None,
    preset: Preset | None = None,
    config: StrPath | None = None,
    settings: Mapping[str, object] | None = None,
    device: str = "auto",
    precision: str | None = None,
    seed: int | None = None,
    out: StrPath | None = None,
    resume: Resume = "auto",
    on_progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a model, and write configuration, log, curves and weights into a run folder.

    Args:
        data: The dataset that `prepare` wrote.
        split: The split of it.
        method: ``psp``, or ``supervised``: the same encoder, trained on the labelled clips only. ``psp`` if None.
        preset: The training configuration to start from; ``fast`` if None.
        config: A YAML file of settings that replace the preset's.
        settings: Single settings that replace those of both, by dotted key, such as ``{"optim.lr": 0.005}``.
            ``psptool schemas --show training`` lists all keys.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        precision: ``auto``, ``float32`` or ``bfloat16``; the configuration's if None.
        seed: Random seed of initialization and sampling; the split's if None.
        out: The run folder; a new one in ``runs/`` if None.
        resume: What to do with an unfinished run of the same training: ``auto`` resumes it if there is one,
            ``required`` raises an error if there is none, ``off`` starts a new run, in a new or empty folder.
        on_progress: Called with step, loss terms, learning rate and validation accuracy.

    Returns:
        The run's ``folder``, its ``config``, the ``final`` loss terms, and the ``best`` accuracy on the validation
        clips, or None. A warning names settings that may not do what was meant, such as fewer labelled clips than
        classes.

    Raises:
        PspError: A setting does not exist or does not fit, a file cannot be read or written, or the loss is not finite.
        KeyboardInterrupt: The training was interrupted. Its state is saved; the same call resumes it.

    Example:
        >>> import psptool
        >>> done = psptool.train(
        ...     "data/ucla.h5", "splits/ucla-xview-k1-s0.json", preset="fast",
        ...     settings={"optim.steps": 2}, out="runs/first",
        ... )
        >>> print(done.folder, done.final.step, done.final.terms["loss"] > 0)
        runs/first 2 True
    """
    import json
    import logging

    from psptool.device import choose_device
    from psptool.schemas.recipes import resolve
    from psptool.schemas.training import Method, Precision
    from psptool.training import api
    from psptool.training.runs.unfinished import Resume

    if method is not None:
        choice(method, get_args(Method), "method")
    choice(resume, get_args(Resume), "resume")
    values: dict[str, Any] = dict(settings or {})
    if precision is not None:
        values["precision"] = choice(precision, get_args(Precision), "precision")
    recipe = resolve(
        method=method,
        preset=preset,
        file=_path(config),
        # JSON is YAML, in which `resolve` expects values. The text of a NumPy number is that number.
        changes=[f"{key}={json.dumps(value, default=str)}" for key, value in values.items()],
        seed=seed,
    )
    return api.train(
        Path(data),
        Path(split),
        recipe,
        device=choose_device(device),
        out=_path(out),
        resume=resume,
        on_progress=on_progress or (lambda progress: None),
        on_message=logging.getLogger("psptool").info,
        on_warning=_warn,
    )


def evaluate(
    run: StrPath,
    *,
    weights: Weights = "last",
    part: Part = "test",
    data: StrPath | None = None,
    split: StrPath | None = None,
    device: str = "auto",
) -> Scores:
    """Measure a run on the test clips, and write scores, predictions and ``confusion.png`` into its folder.

    The command writes ``report.html`` too.

    Args:
        run: The run folder that `train` wrote.
        weights: ``last``, or ``best`` on the validation clips.
        part: The clips to measure on: ``test`` or ``validation``.
        data: The dataset; the path that the run was trained from if None.
        split: The split; likewise.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Returns:
        Top-1 and top-5 accuracy of the fusion of all streams and of each stream, accuracy per class, and the confusion
        matrix. Accuracies are fractions from 0 to 1.

    Raises:
        PspError: A file is absent or damaged, or dataset or split are not those of the training.

    Example:
        >>> import psptool
        >>> scores = psptool.evaluate("runs/first")
        >>> print(scores.clips, scores.part, 0 <= scores.top1 <= 1)
        20 test True
    """
    from psptool.device import choose_device
    from psptool.evaluation import api
    from psptool.schemas.scores import Part, Weights

    choice(weights, get_args(Weights), "weights")
    choice(part, get_args(Part), "part")
    where = choose_device(device)
    return api.evaluate(
        Path(run), data=_path(data), split=_path(split), weights=weights, part=part, device=where
    )


def score(
    data: StrPath,
    split: StrPath,
    predictions: Mapping[str, Predicted],
    *,
    method: str,
    seed: int | None = None,
    out: StrPath | None = None,
) -> Scores:
    """Measure predictions of another program on the test clips, and write scores that ``psptool table`` reads.

    Args:
        data: The dataset that `prepare` wrote.
        split: The split of it.
        predictions: The prediction for each test clip, by clip name: the class, as a name or a 0-based label; or a
            probability or logit for each class, as an array in the order of the dataset's ``class_names`` or by class
            name. Without numbers for all classes, top-5 accuracy is unknown.
        method: Name of the method in tables, such as ``stgcn``.
        seed: Random seed of the training; the split's if None.
        out: The file to write; named by split and method, in ``scores/``, if None.

    Returns:
        The scores, with the measures of `evaluate`.

    Raises:
        PspError: A test clip has no prediction, a prediction is of another clip or not of the dataset's classes, or
            a file cannot be read or written.

    Example:
        >>> import psptool
        >>> split = psptool.read_split("splits/ucla-xview-k1-s0.json")
        >>> predictions = {name: "stand up" for name in split.test}
        >>> scores = psptool.score(
        ...     "data/ucla.h5", "splits/ucla-xview-k1-s0.json", predictions, method="stgcn", out="scores/stgcn.json"
        ... )
        >>> print(scores.top1, scores.per_class["stand up"])
        0.1 1.0
    """
    from psptool.evaluation.external import score_predictions

    return score_predictions(Path(data), Path(split), predictions, method=method, seed=seed, out=_path(out))


def predict(
    model: StrPath | LoadedModel,
    raw: StrPath | Sequence[StrPath],
    *,
    top: int = 5,
    logits: bool = False,
    weights: Weights = "last",
    device: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Recognize the actions in raw recordings of any name, prepared as the model's training clips were.

    For one clip, or an array of positions, see `load`.

    Args:
        model: A run folder, an exported ``.safetensors`` file, or a model that `load` returned.
        raw: One or several folders, zip or tar archives, or files.
        top: Number of classes to return per recording.
        logits: Return the logits of all classes too.
        weights: ``last``, or ``best`` on the validation clips; for a run folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; for a run folder or file.
        on_progress: Called with the number of recordings done and the number of all recordings.

    Returns:
        ``clips``: for each recording the most probable classes; ``unusable``: files that cannot be used, and why.

    Raises:
        PspError: There is no such model, or none of the recordings can be used.

    Example:
        >>> import psptool
        >>> found = psptool.predict("runs/first", "all_sqe/a01_s01_e00_v03.json", top=3)
        >>> clip = found.clips[0]
        >>> print(clip.name, clip.frames > 0, len(clip.top))
        a01_s01_e00_v03 True 3
        >>> clip.top[0].probability >= clip.top[1].probability
        True
    """
    from psptool.evaluation import predicting
    from psptool.evaluation.loaded import LoadedModel

    loaded = model if isinstance(model, LoadedModel) else load(model, weights=weights, device=device)
    return predicting.predict(loaded.trained, _paths(raw), top=top, logits=logits, on_progress=on_progress)


def open(path: StrPath) -> Store:
    """Open a prepared dataset, a context manager: its clips as arrays, by index, by name, or in a loop.

    Args:
        path: The file that `prepare` wrote.

    Returns:
        The opened dataset: ``names`` of the clips; ``class_names``, indexed by label; ``table``, columns of int64 with
        label, subject, camera, frames and persons of each clip. ``dataset[0]`` or ``dataset[name]``, which is
        ``dataset.clip(name)``, reads one clip: ``joint`` and ``motion``, float32 (M, T, V, 3), zero in frames where
        the person is absent; ``present``, bool (M, T); ``recorded()``, metres in camera coordinates, NaN where absent.
        M persons, T frames, V joints.

    Raises:
        PspError: The file is absent, no HDF5 file, truncated, or not a psptool dataset of this version.

    Example:
        >>> import psptool
        >>> with psptool.open("data/ucla.h5") as dataset:
        ...     print(dataset)
        ...     clip = dataset["a01_s01_e00_v01"]
        ...     print(dataset.names[0], dataset.table.frames[0] == clip.joint.shape[1])
        ...     print(clip.class_name, clip.joint.shape == clip.motion.shape)
        ...     print(sum(clip.joint.shape[0] for clip in dataset))
        <Store data/ucla.h5: ucla, 60 clips, 10 classes, kinect20>
        a01_s01_e00_v01 True
        pick up with one hand True
        60
    """
    from psptool.data.store.reading import open_store

    return open_store(path)


def load(path: StrPath, *, weights: Weights = "last", device: str = "auto") -> LoadedModel:
    """Load a trained model, to predict single clips: ``model.predict(clip)``, ``model.predict(joints=array)``.

    Args:
        path: A run folder, a ``.safetensors`` file that ``psptool export`` wrote, or ``ucla``, a model that is part
            of the package.
        weights: ``last``, or ``best`` on the validation clips; for a run folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Returns:
        The model; see `psptool.evaluation.loaded.LoadedModel.predict`.

    Raises:
        PspError: There is no such model, or a file of it is damaged.

    Example:
        >>> import psptool
        >>> model = psptool.load("runs/first", device="cpu")
        >>> model
        <LoadedModel runs/first: psp (preset fast), ucla, 10 classes, kinect20, last checkpoint, cpu>
        >>> with psptool.open("data/ucla.h5") as dataset:
        ...     probabilities = model.predict(dataset.clip("a01_s01_e00_v03"))
        >>> len(probabilities), round(sum(probabilities.values()), 6)
        (10, 1.0)
        >>> import numpy as np
        >>> joints = np.random.default_rng(0).normal(size=(40, 20, 3))  # (T, V, 3), metres
        >>> best, *others = model.predict(joints=joints, frame_rate=30)  # most probable class first
        >>> best in model.class_names
        True
    """
    from psptool.device import choose_device
    from psptool.evaluation.loaded import LoadedModel
    from psptool.evaluation.models import open_model
    from psptool.schemas.scores import Weights

    choice(weights, get_args(Weights), "weights")
    return LoadedModel(open_model(Path(path), weights, choose_device(device)))


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _paths(raw: StrPath | Sequence[StrPath]) -> list[Path]:
    return [Path(raw)] if isinstance(raw, (str, os.PathLike)) else [Path(path) for path in raw]


def _warn(text: str) -> None:
    """Warn with the line of the user's code, however deep in this package the warning arises."""
    import sys
    import warnings

    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == __name__:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
