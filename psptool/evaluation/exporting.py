"""Exports trained models as ONNX, torch.export (.pt2) and safetensors, and compares the outputs with the model's.

Notation for tensor shapes: N clips, P persons of all clips, T frames, V joints, K classes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor, nn

from psptool.common.errors import PspError
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.batches.streams import Stream, any_stream
from psptool.evaluation.models import TrainedModel, model_bytes
from psptool.evaluation.scoring import network
from psptool.model.network import Network

Format = Literal["onnx", "torch-export", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
TOLERANCE = 1e-4
"""Largest permitted absolute difference between the logits of a file and those of the model."""
AVERAGE, LOGITS = "average", "logits"
"""Names of the last input and of the first output; all others are named after streams."""
# Sizes unlike all others of the network, so that tracing does not identify two of them or fix one as a constant.
_EXAMPLE_CLIPS, _EXAMPLE_PERSONS = 3, 5

Inputs = tuple[Tensor, ...]
"""Each stream (P, 3, T, V), then the matrix (N, P) that averages over the persons of a clip."""
Predict = Callable[[Inputs], NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """Content of an exported file, compared with the model.

    Attributes:
        format: Format of the file.
        content: Content of the file.
        difference: Largest absolute difference between its logits and those of the model.
    """

    format: Format
    content: bytes
    difference: float


def input_names(streams: Sequence[str]) -> list[str]:
    """Names of the inputs of an exported model, in order."""
    return [*streams, AVERAGE]


def output_names(streams: Sequence[str]) -> list[str]:
    """Names of the outputs of an exported model, in order."""
    return [LOGITS, *(f"{name}_{LOGITS}" for name in streams)]


class PlainNet(nn.Module):
    """The network with plain tensors as inputs and outputs, for tracing.

    Args:
        net: The network.
        streams: Names of its streams.
    """

    def __init__(self, net: Network, streams: Sequence[str]) -> None:
        super().__init__()
        self.net, self.streams = net, tuple(streams)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """`Inputs` -> summed logits (N, K), then the logits (N, K) of each stream."""
        *tensors, average = inputs
        batch = {name: Stream(x, average) for name, x in zip(self.streams, tensors, strict=True)}
        output = self.net(batch)
        return (output.fused, *output.by_stream.values())


@torch.no_grad()
def inputs_at_test(model: TrainedModel, clips: RaggedClips, chosen: Sequence[int]) -> Inputs:
    """Inputs of the network for clips at test time, on the CPU; ``chosen`` are N indices in ``clips``."""
    batcher = Batcher.of(clips, model.config.training)
    batch = batcher.test(torch.tensor(chosen))
    # At test time no frame is random: all streams have the same frames and persons.
    tensors = (*(stream.x for stream in batch.values()), any_stream(batch).average)
    return tuple(x.cpu().contiguous().clone() for x in tensors)


def export(model: TrainedModel, name: Format, inputs: Inputs) -> Exported:
    """Export to memory and compare the logits on ``inputs`` with those of the model.

    The clips are compared as one batch and one by one, to test that the numbers of clips and persons are dynamic.

    Args:
        model: The model, on the CPU.
        name: Format of the export.
        inputs: Inputs of some clips, from `inputs_at_test`.

    Returns:
        The content of the file. No file is written.

    Raises:
        PspError: A package is missing, or the logits differ by more than `TOLERANCE`.
    """
    net = PlainNet(model.net, model.config.training.streams.names).eval()
    exporters: dict[Format, Callable[[], tuple[bytes, Predict]]] = {
        "onnx": lambda: _onnx(model, net, inputs),
        "torch-export": lambda: _torch_export(net, inputs),
        "safetensors": lambda: _safetensors(model),
    }
    content, predict = exporters[name]()
    difference = _difference(net, predict, inputs)
    if not difference <= TOLERANCE:
        raise PspError(
            f"{name}: logits differ from those of the model",
            f"a difference of {difference:.2g}",
            f"at most {TOLERANCE:g}",
            "No file was written. Try other versions of onnx, onnxscript and onnxruntime.",
        )
    return Exported(name, content, difference)


@torch.inference_mode()
def _difference(net: PlainNet, predict: Predict, inputs: Inputs) -> float:
    batches = [inputs, *_one_by_one(inputs)]
    return max(float(np.abs(predict(batch) - net(*batch)[0].numpy()).max()) for batch in batches)


def _one_by_one(inputs: Inputs) -> Iterator[Inputs]:
    *tensors, average = inputs
    for row in average:
        own = row > 0
        yield (*(x[own] for x in tensors), row[own][None])


def _example(inputs: Inputs) -> Inputs:
    """Example inputs for tracing, with the numbers of frames and joints of ``inputs``."""
    shape = (_EXAMPLE_PERSONS, *inputs[0].shape[1:])
    average = torch.full((_EXAMPLE_CLIPS, _EXAMPLE_PERSONS), 1 / _EXAMPLE_PERSONS)
    return (*(torch.zeros(shape) for _ in inputs[:-1]), average)


def _dynamic_shapes(inputs: Inputs) -> tuple[tuple[dict[int, torch.export.Dim], ...]]:
    """The dynamic sizes of the arguments of `PlainNet.forward`."""
    persons, clips = torch.export.Dim("persons", min=1), torch.export.Dim("clips", min=1)
    return ((*({0: persons} for _ in inputs[:-1]), {0: clips, 1: persons}),)


def _torch_export(net: PlainNet, inputs: Inputs) -> tuple[bytes, Predict]:
    buffer = io.BytesIO()
    with _silenced():
        program = torch.export.export(net, _example(inputs), dynamic_shapes=_dynamic_shapes(inputs))
        torch.export.save(program, buffer)
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()

    def predict(batch: Inputs) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = loaded(*batch)[0].detach().numpy()
        return logits

    return buffer.getvalue(), predict


def _safetensors(model: TrainedModel) -> tuple[bytes, Predict]:
    content = model_bytes(model)
    net = network(model.config)
    net.load_state_dict(load(content))
    plain = PlainNet(net, model.config.training.streams.names).eval()

    def predict(batch: Inputs) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = plain(*batch)[0].numpy()
        return logits

    return content, predict


def _onnx(model: TrainedModel, net: PlainNet, inputs: Inputs) -> tuple[bytes, Predict]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise PspError(
            f"--onnx needs the package {error.name}, which is not installed",
            fix="pip install onnx onnxscript onnxruntime",
        ) from error
    with _silenced():
        program = torch.onnx.export(
            net,
            _example(inputs),
            dynamo=True,
            dynamic_shapes=_dynamic_shapes(inputs),
            input_names=input_names(net.streams),
            output_names=output_names(net.streams),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, model_metadata(model))
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def predict(batch: Inputs) -> NDArray[np.float32]:
        feed = {name: x.numpy() for name, x in zip(input_names(net.streams), batch, strict=True)}
        logits: NDArray[np.float32] = session.run([LOGITS], feed)[0]
        return logits

    return content, predict


def model_metadata(model: TrainedModel) -> dict[str, str]:
    """Metadata of an ONNX file: classes by label, topology, frames T, preparation, and the configuration of the run."""
    config = model.config
    return {
        "classes": json.dumps(config.class_names),
        "topology": config.topology.name,
        "frames": str(config.training.sampling.frames),
        "preparation": config.preparation.model_dump_json(),
        "psptool.config": config.model_dump_json(),
        "psptool.weights": model.weights,
    }


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the log and warnings of torch's exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_path(folder: Path, stem: str, name: Format) -> Path:
    """Path of the exported file of a format."""
    return folder / f"{stem}{SUFFIXES[name]}"
