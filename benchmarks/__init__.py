"""Speed: this package against torchvision in one process, on this machine.

See run.py, and gpu_run.py with gpu_speed.py and gpu_columns.py.
"""
