"""Freed memory stays with the process that trains, instead of going back to the kernel.

glibc gives a large block back as soon as it is freed, and so the next step gets pages that the
kernel has to find and to clear again, 4 KB at a time: some ten thousand page faults a step.
Measured on two cores of a virtual machine: ssd-tiny at 288 px in batches of 8 took 189 ms a step
before, 174 after, the process as large as before (925 and 932 MB); SSD300-VGG16 in batches of 4
took 5 % less time and 6 % more memory. Neither macOS nor Windows has glibc, and nothing is changed
there.
"""

import ctypes
import os
import sys
from collections.abc import Mapping

#: mallopt(3): what to set (malloc.h), to how many bytes. Blocks up to glibc's limit for this come
#: from the heap, and so much may lie free at its end.
MMAP_THRESHOLD, TRIM_THRESHOLD = (-3, 32 * 2**20), (-1, 512 * 2**20)
#: Whoever has set one of these has chosen how memory is allocated.
CHOICES = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Tells glibc so, unless the environment's owner has chosen otherwise; whether it obeyed."""
    if not sys.platform.startswith("linux") or any(
        name.startswith(CHOICES) for name in environment
    ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # musl
        return False
    return all(libc.mallopt(*option) == 1 for option in (MMAP_THRESHOLD, TRIM_THRESHOLD))
