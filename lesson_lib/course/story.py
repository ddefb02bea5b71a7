"""The one smear that goes through the course: its anchors, its matches, its loss, its
detections are all of this picture.
"""

from lesson_lib.data.samples import Sample
from lesson_lib.data.smears import Smears

SPLIT, NUMBER = "val", 1  # of a split that no shipped detector was trained on


def running_smear(size: int = 300) -> Sample:
    """14 red cells, one white cell and two platelets, `size` x `size` px, with their true boxes."""
    return Smears(SPLIT, NUMBER + 1, size)[NUMBER]
