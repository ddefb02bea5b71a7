"""Pictures with boxes: synthetic smears, readers for VOC and COCO files, the download catalogue."""
