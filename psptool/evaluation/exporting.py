"""A trained model for other programs: ONNX, torch.export and safetensors, each compared with the live model before it
is written.

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
"""Largest difference between a file's logits and the live model's."""
AVERAGE, LOGITS = "average", "logits"
"""Names of the last input and of the first output; the others are the streams'."""
# Sizes that are nobody's own, so that tracing takes no two of them for the same, nor any for a constant.
_EXAMPLE_CLIPS, _EXAMPLE_PERSONS = 3, 5

Inputs = tuple[Tensor, ...]
"""(P, 3, T, V) of each stream, and the average (N, P)."""
Answer = Callable[[Inputs], NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """One file, compared and ready to be written.

    Attributes:
        format: Which.
        content: Its bytes.
        difference: Largest absolute difference of its logits from the live model's.
    """

    format: Format
    content: bytes
    difference: float


def input_names(streams: Sequence[str]) -> list[str]:
    """Names of an exported model's inputs, in their order."""
    return [*streams, AVERAGE]


def output_names(streams: Sequence[str]) -> list[str]:
    """Names of an exported model's outputs, in their order."""
    return [LOGITS, *(f"{name}_{LOGITS}" for name in streams)]


class PlainNet(nn.Module):
    """The network as a function of tensors: those of `Inputs` -> (N, K) of each of `output_names`.

    Args:
        net: The network.
        streams: Names of its streams.
    """

    def __init__(self, net: Network, streams: Sequence[str]) -> None:
        super().__init__()
        self.net, self.streams = net, tuple(streams)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The summed logits, which are the prediction, then those of each stream."""
        *tensors, average = inputs
        batch = {name: Stream(x, average) for name, x in zip(self.streams, tensors, strict=True)}
        output = self.net(batch)
        return (output.fused, *output.by_stream.values())


@torch.no_grad()
def inputs_at_test(model: TrainedModel, clips: RaggedClips, chosen: Sequence[int]) -> Inputs:
    """The network's input for clips at test, as `Inputs`, on the CPU."""
    batcher = Batcher.of(clips, model.config.training)
    batch = batcher.test(torch.tensor(chosen))
    # Test frames are not random: all streams have the same frames and persons.
    tensors = (*(stream.x for stream in batch.values()), any_stream(batch).average)
    return tuple(x.cpu().contiguous().clone() for x in tensors)


def export(model: TrainedModel, formats: Sequence[Format], inputs: Inputs) -> list[Exported]:
    """Make each format's file in memory and compare its answers on ``inputs`` with the live model's.

    The clips go in all at once and one by one, so that the number of clips and persons is seen to be free.

    Args:
        model: On the CPU.
        formats: Which.
        inputs: Of some clips, as `inputs_at_test` gives them.

    Raises:
        PspError: A package is missing; a file's logits are off by more than `TOLERANCE`. Nothing is written here.
    """
    net = PlainNet(model.net, model.config.training.streams.names).eval()
    makers: dict[Format, Callable[[], tuple[bytes, Answer]]] = {
        "onnx": lambda: _onnx(model, net, inputs),
        "torch-export": lambda: _torch_export(net, inputs),
        "safetensors": lambda: _safetensors(model),
    }
    done = []
    for name in formats:
        content, answer = makers[name]()
        difference = _difference(net, answer, inputs)
        if not difference <= TOLERANCE:
            raise PspError(
                f"{name}: its logits are not the live model's",
                f"a difference of {difference:.2g}",
                f"at most {TOLERANCE:g}",
                "Nothing was written. Try other versions of the packages of psptool[export].",
            )
        done.append(Exported(name, content, difference))
    return done


@torch.inference_mode()
def _difference(net: PlainNet, answer: Answer, inputs: Inputs) -> float:
    parts = [inputs, *_one_by_one(inputs)]
    return max(float(np.abs(answer(part) - net(*part)[0].numpy()).max()) for part in parts)


def _one_by_one(inputs: Inputs) -> Iterator[Inputs]:
    *tensors, average = inputs
    for row in average:
        own = row > 0
        yield (*(x[own] for x in tensors), row[own][None])


def _example(inputs: Inputs) -> Inputs:
    """Inputs to trace with, of the right frames and joints."""
    shape = (_EXAMPLE_PERSONS, *inputs[0].shape[1:])
    average = torch.full((_EXAMPLE_CLIPS, _EXAMPLE_PERSONS), 1 / _EXAMPLE_PERSONS)
    return (*(torch.zeros(shape) for _ in inputs[:-1]), average)


def _free_sizes(inputs: Inputs) -> tuple[tuple[dict[int, torch.export.Dim], ...]]:
    """The sizes of `PlainNet.forward`'s arguments that are free."""
    persons, clips = torch.export.Dim("persons", min=1), torch.export.Dim("clips", min=1)
    return ((*({0: persons} for _ in inputs[:-1]), {0: clips, 1: persons}),)


def _torch_export(net: PlainNet, inputs: Inputs) -> tuple[bytes, Answer]:
    buffer = io.BytesIO()
    with _quietly():
        program = torch.export.export(net, _example(inputs), dynamic_shapes=_free_sizes(inputs))
        torch.export.save(program, buffer)
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()

    def answer(some: Inputs) -> NDArray[np.float32]:
        found: NDArray[np.float32] = loaded(*some)[0].detach().numpy()
        return found

    return buffer.getvalue(), answer


def _safetensors(model: TrainedModel) -> tuple[bytes, Answer]:
    content = model_bytes(model)
    net = network(model.config)
    net.load_state_dict(load(content))
    plain = PlainNet(net, model.config.training.streams.names).eval()

    def answer(some: Inputs) -> NDArray[np.float32]:
        found: NDArray[np.float32] = plain(*some)[0].numpy()
        return found

    return content, answer


def _onnx(model: TrainedModel, net: PlainNet, inputs: Inputs) -> tuple[bytes, Answer]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise PspError(
            f"--onnx needs the package {error.name}, which is not installed",
            fix="pip install 'psptool[export]'",
        ) from error
    with _quietly():
        program = torch.onnx.export(
            net,
            _example(inputs),
            dynamo=True,
            dynamic_shapes=_free_sizes(inputs),
            input_names=input_names(net.streams),
            output_names=output_names(net.streams),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, described(model))
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def answer(some: Inputs) -> NDArray[np.float32]:
        feed = {name: x.numpy() for name, x in zip(input_names(net.streams), some, strict=True)}
        found: NDArray[np.float32] = session.run([LOGITS], feed)[0]
        return found

    return content, answer


def described(model: TrainedModel) -> dict[str, str]:
    """What a file's metadata says: classes by label, joints, frames T, preparation, and the whole configuration."""
    config = model.config
    return {
        "classes": json.dumps(config.class_names),
        "topology": config.topology,
        "frames": str(config.training.sampling.frames),
        "preparation": config.preparation.model_dump_json(),
        "psptool.config": config.model_dump_json(),
        "psptool.weights": model.weights,
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporters tell of their own inner workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def file_of(folder: Path, stem: str, name: Format) -> Path:
    """Where a format's file goes."""
    return folder / f"{stem}{SUFFIXES[name]}"
