"""`python -m lesson_lib`: the command line."""

import sys

from lesson_lib.allocator import keep_freed_memory
from lesson_lib.threads import leave_busy_cores, prepare

prepare()  # before torch is loaded
leave_busy_cores()
keep_freed_memory()

from lesson_lib.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
