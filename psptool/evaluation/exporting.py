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
from psptool.data.batches.streams import Stream, Streams
from psptool.evaluation.models import TrainedModel, model_bytes
from psptool.evaluation.scoring import network
from psptool.model.classifier import PSPNet

Format = Literal["onnx", "torch-export", "safetensors"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
TOLERANCE = 1e-4
"""Largest difference between a file's logits and the live model's."""
INPUTS = ("joint", "motion", "average")
OUTPUTS = ("logits", "joint_logits", "motion_logits")
# Sizes that are nobody's own, so that tracing takes no two of them for the same, nor any for a constant.
_EXAMPLE_CLIPS, _EXAMPLE_PERSONS = 3, 5

Inputs = tuple[Tensor, Tensor, Tensor]
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


class PlainNet(nn.Module):
    """The network as a function of tensors: joint and motion (P, 3, T, V), average (N, P) -> three times (N, K)."""

    def __init__(self, net: PSPNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, joint: Tensor, motion: Tensor, average: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both streams' summed logits, which are the prediction, then those of each."""
        of_joint, of_motion = self.net(Streams(Stream(joint, average), Stream(motion, average)))
        return of_joint + of_motion, of_joint, of_motion


@torch.no_grad()
def inputs_at_test(model: TrainedModel, clips: RaggedClips, chosen: Sequence[int]) -> Inputs:
    """What the network sees of clips at test: joint, motion (P, 3, T, V) and average (N, P), on the CPU."""
    training = model.config.training
    batcher = Batcher.of(clips, training)
    streams = batcher.test(torch.tensor(chosen))
    # Nothing is drawn at test, so that both streams see the same frames and persons.
    tensors = (streams.joint.x, streams.motion.x, streams.joint.average)
    return tuple(x.cpu().contiguous().clone() for x in tensors)  # type: ignore[return-value]


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
    net = PlainNet(model.net).eval()
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
    joint, motion, average = inputs
    for row in average:
        own = row > 0
        yield joint[own], motion[own], row[own][None]


def _example(inputs: Inputs) -> Inputs:
    """Inputs to trace with, of the right frames and joints."""
    shape = (_EXAMPLE_PERSONS, *inputs[0].shape[1:])
    average = torch.full((_EXAMPLE_CLIPS, _EXAMPLE_PERSONS), 1 / _EXAMPLE_PERSONS)
    return torch.zeros(shape), torch.zeros(shape), average


def _free_sizes() -> dict[str, dict[int, torch.export.Dim]]:
    persons, clips = torch.export.Dim("persons", min=1), torch.export.Dim("clips", min=1)
    return {"joint": {0: persons}, "motion": {0: persons}, "average": {0: clips, 1: persons}}


def _torch_export(net: PlainNet, inputs: Inputs) -> tuple[bytes, Answer]:
    buffer = io.BytesIO()
    with _quietly():
        program = torch.export.export(net, _example(inputs), dynamic_shapes=_free_sizes())
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
    plain = PlainNet(net).eval()

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
            dynamic_shapes=_free_sizes(),
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, described(model))
    content: bytes = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def answer(some: Inputs) -> NDArray[np.float32]:
        feed = {name: x.numpy() for name, x in zip(INPUTS, some, strict=True)}
        found: NDArray[np.float32] = session.run(["logits"], feed)[0]
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
