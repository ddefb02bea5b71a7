"""`python -m lesson_lib`: the command line."""

import sys

from lesson_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
