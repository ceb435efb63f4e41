"""Files that a training writes to its run folder: log, weights, learning curves, and TensorBoard events."""

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
    """Writes to the run folder, on rank 0.

    Args:
        folder: The run folder.
        model: The model whose weights are saved.
        config: The run configuration. It replaces ``config.json`` if the training is resumed.
    """

    def __init__(self, folder: RunFolder, model: nn.Module, config: RunConfig) -> None:
        self.folder, self.model, self.config = folder, model, config
        self._events: SummaryWriter | None = None

    def start(self, step: int) -> None:
        """Prepare the folder for the steps after ``step``; log entries of later steps are removed."""
        if step:
            self.folder.cut_log(step)
            self.config.save(self.folder.config)
        self._events = _events(self.folder, step)

    def add(self, progress: Progress) -> None:
        """Append ``progress`` to the log and to the TensorBoard events."""
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

    def save_best(self) -> None:
        """Save the weights as the best so far."""
        self.folder.save_weights("best", self.model.state_dict())

    def finish(self) -> None:
        """Write learning curves and last weights, and remove the checkpoint."""
        write_whole(self.folder.curves, curves_png(self.folder.read_log(), self.folder.path.name))
        self.folder.save_weights("last", self.model.state_dict())
        self.folder.resume.unlink(missing_ok=True)

    def close(self) -> None:
        """Flush and close the TensorBoard writer."""
        if self._events is not None:
            self._events.close()


def _events(folder: RunFolder, step: int) -> SummaryWriter | None:
    """A TensorBoard writer for the run folder; None if TensorBoard is not installed or the name is not UTF-8."""
    # TensorBoard cannot write to a folder whose name is not UTF-8. The log has the same values.
    if shown(folder.path) != str(folder.path):
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Hide events that a killed process wrote after its last checkpoint, or before its first one.
    return SummaryWriter(str(folder.path), purge_step=step + 1)
