"""The teaching half: what the notebooks use on top of the library, and no other user needs."""

from lesson_lib.allocator import keep_freed_memory
from lesson_lib.threads import leave_busy_cores

keep_freed_memory()
leave_busy_cores()  # a kernel starts beside a browser, and often beside another kernel
