"""TensorBoard: the records of a training as curves.

An extra: pip install "lesson-lib[tensorboard]".
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

TRAIN = ("loss", "cls", "box", "grad_norm", "lr")
PLACE = ("step", "steps", "epoch", "seconds")  # where a record is, not what was measured
FOLDER = "tensorboard"


def to_tensorboard(records: Iterable[dict], folder: Path) -> Iterator[dict]:
    """The records, each written below folder/tensorboard as it passes: train/loss, val/AP, ...

    What a stopped run did after its last checkpoint is hidden there, as log.jsonl drops it.
    Raises ModuleNotFoundError with one sentence where TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            '--tensorboard needs a package that is not here: pip install "lesson-lib[tensorboard]" '
            "(or pip install tensorboard)."
        ) from error
    return _written(records, folder, SummaryWriter)


def _written(records: Iterable[dict], folder: Path, make_writer: type) -> Iterator[dict]:
    writer = None
    for record in records:
        if writer is None:
            writer = make_writer(str(folder / FOLDER), purge_step=record["step"])
        for name in record.keys() - set(PLACE):
            part = "train" if name in TRAIN else "val"
            writer.add_scalar(f"{part}/{name.removeprefix('val_')}", record[name], record["step"])
        writer.flush()
        yield record
    if writer is not None:
        writer.close()
