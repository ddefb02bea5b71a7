"""python -m benchmarks: the rows of run.py."""

from benchmarks.run import main

main()
