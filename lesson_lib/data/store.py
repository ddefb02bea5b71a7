"""Decoded pictures in one block of bytes: kept by one process, or shared by those of a machine.

Several processes that train one model all need every picture, now and then. Each decodes its share
of them into one file that all have mapped into memory, so that the machine holds them once.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesson_lib.data.transfer import need_room

#: From this process's value to those of all processes, by rank.
Gather = Callable[[list[Any]], list[Any]]


def views(block: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The pictures (3, h, w) in a block of bytes, one after the other, each laid out channels
    last.
    """
    lengths = [3 * height * width for height, width in sizes]
    parts = block[: sum(lengths)].split(lengths)
    return [
        part.view(height, width, 3).permute(2, 0, 1)
        for part, (height, width) in zip(parts, sizes, strict=True)
    ]


class Block:
    """Room for `count` bytes, uint8, that the processes of one machine share.

    gather       None: this process is alone, and the room is its own
    part, parts  this process of how many of this machine: it is to decode every parts-th picture,
                 from number `part` on
    """

    def __init__(self, count: int, gather: Gather | None):
        self.gather, self.part, self.parts, self.first = gather, 0, 1, 0
        if gather is None:
            self.bytes = torch.empty(count, dtype=torch.uint8)
            return
        self.part = int(os.environ.get("LOCAL_RANK", 0))
        self.parts = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        file = _room_for(count) if self.part == 0 else None
        rank = int(os.environ.get("RANK", 0))
        self.first = rank - self.part  # the first process of this machine
        self.file = gather([file])[self.first]
        self.bytes = torch.from_file(self.file, shared=True, size=count, dtype=torch.uint8)

    def complete(self, found: list[Any]) -> list[Any]:
        """What the processes of this machine found about their shares, by picture; when it comes
        back, all have written theirs.
        """
        if self.gather is None:
            return found
        shares = self.gather([found])[self.first : self.first + self.parts]
        if self.part == 0:
            with suppress(OSError):  # Windows keeps a file that is mapped, for the system to clear
                Path(self.file).unlink()
        count = sum(map(len, shares))
        return [shares[row % self.parts][row // self.parts] for row in range(count)]


def _room_for(count: int) -> str:
    """A new file of `count` bytes, in the folder for temporary files; NoRoom where it is full."""
    need_room(Path(tempfile.gettempdir()), count)
    number, name = tempfile.mkstemp(prefix="lesson-lib-", suffix=".pictures")
    with os.fdopen(number, "wb") as file:
        file.truncate(max(count, 1))
    return name
