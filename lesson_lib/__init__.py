"""The package of a course on one-stage object detection: SSD and RetinaNet, readable and tested."""
