"""python -m benchmarks: the rows of run.py."""

from lesson_lib.threads import prepare

prepare()  # before torch is loaded

from benchmarks.run import main  # noqa: E402

main()
