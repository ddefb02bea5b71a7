"""`python -m lesson_lib`: the command line."""

import sys

from lesson_lib.threads import prepare

prepare()  # before torch is loaded

from lesson_lib.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
