"""The papers' ablations, each reduced to three or four settings that a laptop can train. One command runs all:

    python -m lesson_lib.training.experiments run --budget laptop      every setting over three seeds

It may be stopped at any time: each finished run is added to results/experiments.json at once, and the same
command goes on with those that are missing. `--only NAME` runs one table or one setting, `--most N` stops
after N runs, `--out FILE` writes elsewhere. The numbers beside ours are the papers'; what is trained here is a tiny
network on small synthetic smears, so only the order of the settings may be compared, and often not even that.
"""
import argparse
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from lesson_lib.anchors import DefaultBoxes, PyramidAnchors, ssd_scales
from lesson_lib.config import REPOSITORY
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.criterion import anchor_targets
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.detectors.ssd import SSD, SSDConfig
from lesson_lib.losses import binary_cross_entropy, retinanet_loss
from lesson_lib.matching import IGNORE, POSITIVE, match_retinanet, pad_boxes
from lesson_lib.mining import ohem_mask
from lesson_lib.training.loop import Recipe, train
