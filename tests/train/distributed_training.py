"""Train in float64 and write the losses to a file: with torchrun distributed, without it the single-process reference.

Usage: ``distributed_training.py DATA SPLIT OUT STEPS``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from psptool.common.distributed import ProcessGroup, init_distributed
from psptool.data.batches.ragged import Batcher, RaggedClips
from psptool.data.store.reading import open_store
from psptool.model.classifier import PSPNet
from psptool.model.synced_norm import synchronize_norms
from psptool.schemas.split import Split
from psptool.schemas.training import TeacherSettings
from psptool.training import api, loop, step
from tests.builtin import UCLA20

from .tiny import change


class FlatNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on (P, C, T, 1), in place of a batch norm over 2-D inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.squeeze(3)).unsqueeze(3)


def train_and_record(data: Path, split: Path, out: Path, steps: int, ranks: ProcessGroup) -> None:
    torch.set_default_dtype(torch.float64)
    config = change(
        optim={"steps": steps, "lr": 0.05, "labelled_batch": 5, "pool_batch": 8, "clip_norm": 5.0}
    )
    config = config.model_copy(
        update={
            "model": config.model.model_copy(update={"pose_width": 4, "pose_dropout": 0.0}),
            "teacher": TeacherSettings(weight=0.5, momentum=0.9, start=0.0, ramp=0.0),
            "augment": config.augment.model_copy(update={"yaw": 30.0, "jitter": 0.05, "mask_joints": 0.1}),
        }
    )
    with open_store(data) as store:
        clips = RaggedClips.from_store(store, UCLA20, torch.device("cpu"))
        pools = api._pools(store, split, Split.load(split), config)
    clips = RaggedClips(**{**vars(clips), "joint": clips.joint.double()})
    torch.manual_seed(0 if ranks.is_main else 1)  # the weights of rank 0 must be broadcast to the others
    model = PSPNet(config.model, UCLA20, 10)
    assert model.pose_branch is not None
    model.pose_branch.input_projection[2] = FlatNorm(
        config.model.pose_width
    )  # both kinds of batch norm in one training
    if ranks.size > 1:
        synchronize_norms(model)
        ranks.broadcast_weights(model)
    persons: list[int] = []
    original = step.total_loss

    def record_persons(model: PSPNet, streams: object, *rest: object) -> object:
        persons.append(len(streams["joint"].x))  # type: ignore[attr-defined]
        return original(model, streams, *rest)  # type: ignore[arg-type]

    step.total_loss = record_persons  # type: ignore[assignment]
    losses: list[dict[str, float]] = []
    original_step = loop.Loop._step

    def record_loss(self: loop.Loop, *arguments: object) -> step.Terms:
        names, values = original_step(self, *arguments)  # type: ignore[arg-type]
        losses.append(dict(zip(names, values.tolist(), strict=True)))
        return names, values

    loop.Loop._step = record_loss  # type: ignore[method-assign, assignment]
    batcher = Batcher.of(clips, config)
    loop.Loop(model, batcher, pools, config, 0, torch.float64, ranks).run(lambda progress: None)
    # Running statistics of the batch norms, which evaluation uses.
    state = model.state_dict().items()
    saved_state = {
        name: x.flatten().tolist() for name, x in state if not name.endswith("num_batches_tracked")
    }
    out.with_name(f"{out.name}-{ranks.rank}of{ranks.size}.json").write_text(
        json.dumps({"losses": losses, "persons": persons, "state": saved_state})
    )


if __name__ == "__main__":
    with init_distributed() as ranks:
        train_and_record(*map(Path, sys.argv[1:4]), int(sys.argv[4]), ranks)  # type: ignore[misc, arg-type]
