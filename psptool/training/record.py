"""What a training leaves in its folder while it runs: the log, the best weights, and TensorBoard's events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from psptool.common.atomic_write import write_whole
from psptool.common.paths import shown
from psptool.schemas.run import RunConfig
from psptool.training.curves import curves_png
from psptool.training.loop import Progress
from psptool.training.runs.folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Record:
    """Writes into a run's folder; one process of a training has one.

    Args:
        folder: The run's.
        model: Whose weights are kept.
        config: The run's; replaces that in the folder where the training resumes.
    """

    def __init__(self, folder: RunFolder, model: nn.Module, config: RunConfig) -> None:
        self.folder, self.model, self.config = folder, model, config
        self._events: SummaryWriter | None = None

    def begin(self, step: int) -> None:
        """Write on from ``step`` steps done: what was written of later ones, before the run was stopped, is dropped."""
        if step:
            self.folder.cut_log(step)
            self.config.save(self.folder.config)
        self._events = _events(self.folder, step)

    def add(self, progress: Progress) -> None:
        """Log one word of the loop."""
        entry: dict[str, Any] = {
            "step": progress.step,
            **progress.terms,
            "lr": progress.lr,
            "seconds": round(progress.seconds, 3),
        }
        if progress.validation is not None:
            entry["validation"] = progress.validation
        if self._events is not None:
            for name, value in entry.items():
                if name != "step":
                    self._events.add_scalar(name, value, progress.step)
        self.folder.append_log(entry)

    def keep_best(self) -> None:
        """Keep the weights as the best so far."""
        self.folder.save_weights("best", self.model.state_dict())

    def finish(self) -> None:
        """Write the last weights and the curves; what the training could have gone on from is not needed any more."""
        write_whole(self.folder.curves, curves_png(self.folder.read_log(), self.folder.path.name))
        self.folder.save_weights("last", self.model.state_dict())
        self.folder.resume.unlink(missing_ok=True)

    def close(self) -> None:
        """Write what TensorBoard's writer still holds."""
        if self._events is not None:
            self._events.close()


def _events(folder: RunFolder, step: int) -> SummaryWriter | None:
    """Where TensorBoard is installed, a writer of its events into the run's folder.

    It takes no folder whose name is not UTF-8; the log has the same values.
    """
    if shown(folder.path) != str(folder.path):
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Events that a killed process wrote after its last checkpoint are hidden.
    return SummaryWriter(str(folder.path), purge_step=step + 1 if step else None)
