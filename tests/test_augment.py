"""Augmentation: the boxes go where the pixels go,
and the same key always gives the same picture.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from lesson_lib.boxes import pairwise_iou
from lesson_lib.data import augment, changes
from lesson_lib.data.augment import (
    AUGMENTS,
    Augment,
    augmented,
    draw_change,
    find_augment,
    iou_crop,
    photometric,
    seeded,
    zoom_out,
)
from lesson_lib.data.changes import Change, change_boxes, change_pictures, put_window
from lesson_lib.data.samples import Sample

SIDE = 96
COLOURS = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]], dtype=torch.uint8)
STEPS = {
    "mirror": augment.mirror,
    "vertical_flip": augment.vertical_flip,
    "transpose": augment.transpose,
    "zoom_out": zoom_out,
    "iou_crop": iou_crop,
}


def painted(height: int = SIDE, width: int = SIDE) -> Sample:
    """Four rectangles, each of its own colour and exactly as large as its box, on black."""
    boxes = torch.tensor([[4.0, 6, 30, 40], [50, 10, 90, 30], [10, 60, 26, 90], [44, 44, 84, 92]])
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for box, colour in zip(boxes.long().tolist(), COLOURS):
        image[:, box[1] : box[3], box[0] : box[2]] = colour[:, None, None]
    return Sample(
        image,
        boxes,
        torch.arange(4),
        area=torch.tensor([10.0, 20, 30, 40]),
        difficult=torch.tensor([True, False, False, False]),
        crowd=torch.tensor([False, True, False, False]),
    )


def painted_extent(image: Tensor, label: int) -> Tensor | None:
    """xyxy around the pixels that have the colour of an object, by looking at the picture."""
    distance = (image.float() - COLOURS[label].float()[:, None, None]).abs().amax(0)
    ys, xs = (distance < 60).nonzero(as_tuple=True)
    if len(xs) == 0:
        return None
    return torch.stack((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)).float()


def assert_boxes_fit(image: Tensor, boxes: Tensor, labels: Tensor, tolerance: float) -> None:
    for box, label in zip(boxes, labels.tolist()):
        if (box[2:] - box[:2]).min() > 4:  # thinner ones are blurred away
            seen = painted_extent(image, label)
            assert seen is not None and (seen - box).abs().max() <= tolerance, (label, box, seen)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 140)])
def test_boxes_move_with_the_pixels(name, size):
    before, dropped = painted(*size), 0
    for seed in range(12):
        with seeded(seed):
            after = STEPS[name](before)
        assert_boxes_fit(after.image, after.boxes, after.labels, 1e-4)  # whole pixels: exactly
        dropped += 4 - len(after.boxes)
        assert after.difficult.tolist() == [label == 0 for label in after.labels]
        assert after.crowd.tolist() == [label == 1 for label in after.labels]
        old = before.boxes[after.labels]
        share = ((after.boxes[:, 2:] - after.boxes[:, :2]) / (old[:, 2:] - old[:, :2])).prod(1)
        share = torch.ones_like(share) if name == "transpose" else share
        assert torch.allclose(after.area, before.area[after.labels] * share)
    assert (dropped > 0) == (name == "iou_crop")


def test_flips_by_hand():
    one = Sample(
        torch.arange(18, dtype=torch.uint8).view(3, 2, 3),
        torch.tensor([[0.0, 0, 1, 2]]),
        torch.tensor([5]),
    )
    assert augment.mirror(one).image[0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert augment.mirror(one).boxes.tolist() == [[2, 0, 3, 2]]
    assert augment.vertical_flip(one).image[0].tolist() == [[3, 4, 5], [0, 1, 2]]
    assert augment.transpose(one).image[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert augment.transpose(one).boxes.tolist() == [[0, 0, 2, 1]] and augment.transpose(
        one
    ).size == (3, 2)


def test_zoom_out_is_up_to_sixteen_times_the_area_and_crops_hold_a_centre():
    sample, areas, wholes = painted(), [], 0
    for seed in range(60):
        with seeded(seed):
            canvas = zoom_out(sample)
            crop = iou_crop(sample)
        areas.append(canvas.image[0].numel() / sample.image[0].numel())
        if canvas.size != sample.size:
            corners = canvas.image[:, [0, 0, -1, -1], [0, -1, 0, -1]].T.tolist()
            assert list(augment.MEAN_COLOUR) in corners  # at least one corner is canvas
        assert len(canvas.boxes) == 4 and len(crop.boxes) >= 1
        height, width = crop.size
        assert min(height, width) >= int(0.3 * SIDE) and max(height / width, width / height) <= 2
        wholes += crop.size == sample.size
    assert 1 <= min(areas) < 2 and 9 < max(areas) <= 16
    assert 2 <= wholes <= 25


def test_without_objects_and_with_boxes_over_the_border():
    empty = Sample(painted().image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for step in STEPS.values():
        assert len(step(empty).boxes) == 0
    assert torch.equal(iou_crop(empty).image, empty.image)
    across = replace(painted(), boxes=painted().boxes + torch.tensor([-10.0, 0, 0, 0]))
    assert augment.mirror(across).boxes[0].tolist() == [SIDE - 30, 6, SIDE, 40]


def test_photometric_changes_colours_only_and_shuffles_only_when_asked():
    sample = replace(painted(), image=torch.randint(20, 200, (3, SIDE, SIDE), dtype=torch.uint8))
    red = replace(
        sample, image=torch.tensor([200, 30, 30], dtype=torch.uint8)[:, None, None].repeat(1, 8, 8)
    )
    changed, kept_red, shuffled = 0, 0, 0
    for seed in range(40):
        with seeded(seed):
            after = photometric(sample)
        changed += not torch.equal(after.image, sample.image)
        assert torch.equal(after.boxes, sample.boxes) and after.size == sample.size
        with seeded(seed):
            kept_red += int(photometric(red).image.float().mean((1, 2)).argmax() == 0)
        with seeded(seed):
            shuffled += int(photometric(red, shuffle=True).image.float().mean((1, 2)).argmax() == 0)
    assert changed >= 30 and kept_red == 40 and shuffled < 36


@pytest.mark.parametrize("name", AUGMENTS)
def test_the_key_decides_and_nothing_else(name):
    sample = painted()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augmented(sample, name, 3, 2, 1)
    again = augmented(sample, AUGMENTS[name], 3, 2, 1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's chance is untouched
    assert torch.equal(first.image, again.image) and torch.equal(first.boxes, again.boxes)
    for numbers in ((4, 2, 1), (3, 3, 1), (3, 2, 2), (2, 3, 1)):
        others = [
            augmented(sample, name, numbers[0], numbers[1], numbers[2] + 10 * k).image
            for k in range(6)
        ]
        assert name == "none" or any(
            o.shape != first.image.shape or not torch.equal(o, first.image) for o in others
        )


def test_names_and_probabilities():
    assert find_augment("none") == Augment() and find_augment(Augment(crop=0.2)) == Augment(
        crop=0.2
    )
    with pytest.raises(ValueError, match="'sdd'; choose none, mirror.*ssd"):
        find_augment("sdd")
    with pytest.raises(ValueError, match="zoom is 1.5; give a probability"):
        Augment(zoom=1.5)
    for scales in ((0, 1), (2.0, 1.0), (0.5, float("inf"))):
        with pytest.raises(ValueError, match="scales is .*the least and the most"):
            Augment(scales=scales)


# ---- one definition, two executors ----


@pytest.mark.parametrize("by_float", [False, True])
@pytest.mark.parametrize("name", AUGMENTS)
def test_a_worker_and_a_device_come_to_the_same_picture(name, by_float, monkeypatch):
    """Bit for bit on a CPU; by way of float, as on a GPU, within a level before the colours, so
    within what their matrices make of a level in all three.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = [(60, 90), (90, 60), (31, 33), (128, 128)]
    pictures = [
        torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes
    ]
    boxes = np.array([[3.0, 4, 20, 25], [10, 8, 30, 30]])
    drawn = [
        draw_change(AUGMENTS[name], boxes, sizes[k % 4], 5, 0, k) for k in range(len(sizes) * 8)
    ]
    alone = torch.empty(len(drawn), 3, 48, 48, dtype=torch.uint8)
    for k, change in enumerate(drawn):
        put_window(pictures[k % 4], change, alone[k])
    matrices = changes.colour_matrices(drawn)
    in_worker = changes.change_colours(alone, matrices)
    resized = changes.resized
    monkeypatch.setattr(changes, "resized", lambda *a: resized(*a, by_float))
    together = change_pictures(pictures, [k % 4 for k in range(len(drawn))], drawn, 48)
    level = 1 if matrices is None else matrices[..., :3].abs().sum(-1).max()
    assert (together - in_worker).abs().max() <= by_float * level / 255 + 1e-6 * by_float
    assert (len({image.numpy().tobytes() for image in in_worker}) > 4) == (name != "none")


@pytest.mark.parametrize("name", AUGMENTS)
def test_a_sample_is_changed_as_its_picture_in_a_batch_is(name):
    """`augmented` stops at the window's own size; resized to the batch's it has the same boxes."""
    sample, size = replace(painted(SIDE, 140), crowd=torch.tensor([0, 0, 1, 0]).bool()), 64
    for number in range(20):
        after = augmented(sample, name, 0, 3, number)
        real = sample.boxes[~sample.crowd]
        change = draw_change(AUGMENTS[name], real.numpy(), sample.size, 0, 3, number)
        boxes, kept = change_boxes(sample.boxes, change, sample.size, size)
        scale = torch.tensor([size / after.size[1], size / after.size[0]]).repeat(2)
        mine = {int(k): box for k, box in zip(after.labels, after.boxes * scale)}
        theirs = {int(k): box for k, box in zip(sample.labels[kept], boxes[kept])}
        assert theirs.keys() <= mine.keys()  # a pixel of the window may be less than one of 64
        for label, box in theirs.items():
            assert (mine[label] - box).abs().max() <= 0.51  # its target is whole pixels


@pytest.mark.parametrize(
    "window, stored, size, source, target",
    [
        ((0, 0, 40, 30), (30, 40), 20, [0, 0, 40, 30], [0, 0, 20, 20]),
        ((-40, -30, 80, 30), (30, 40), (20, 30), [0, 0, 40, 30], [10, 10, 20, 20]),
        ((39, 0, 1239, 30), (30, 40), 30, [39, 0, 40, 30], [0, 0, 1, 30]),  # 1 px of 1200
        ((-1199, 0, 1, 30), (30, 40), 30, [0, 0, 1, 30], [29, 0, 30, 30]),  # at the other end
        ((40, 0, 60, 30), (30, 40), 30, [0] * 4, [0] * 4),  # beside the picture
        ((-60, 0, 0, 30), (30, 40), 30, [0] * 4, [0] * 4),
    ],
)
def test_where_a_window_lies_by_hand(window, stored, size, source, target):
    assert changes.placement(window, stored, size) == (source, target)
    height, width = (size, size) if isinstance(size, int) else size
    out = torch.zeros(3, height, width, dtype=torch.uint8)
    put_window(torch.full((3, *stored), 255, dtype=torch.uint8), Change(window), out)
    shown = (out[0] == 255).nonzero()
    x1, y1, x2, y2 = target
    assert len(shown) == (x2 - x1) * (y2 - y1)
    assert len(shown) == 0 or shown.min(0).values.tolist() == [y1, x1]
    whole = torch.tensor([[0.0, 0, stored[1], stored[0]], [41, 2, 59, 28]])
    moved, kept = change_boxes(whole, Change(window), stored, size)
    assert moved.isfinite().all()
    assert moved[0].tolist() == target or not kept[0]
    assert not kept[1]  # an object outside the picture, even where the window shows that place


def test_zoom_and_crop_of_pictures_of_a_pixel():
    """Their window is 1 to 4 pixels wide, and never 0."""
    everything = Augment(colour=1, zoom=1, crop=1, mirror=1, vertical_flip=1, transpose=1)
    for size in ((1, 1), (1, 300), (300, 1), (2, 3)):
        boxes = torch.tensor([[0.0, 0, size[1], size[0]], [-9, -9, -1, -1]])
        sample = Sample(
            torch.full((3, *size), 7, dtype=torch.uint8), boxes, torch.zeros(2, dtype=torch.long)
        )
        for number in range(40):
            change = draw_change(everything, boxes.numpy(), size, number)
            x1, y1, x2, y2 = change.window
            assert x2 > x1 and y2 > y1
            images = change_pictures([sample.image], [0], [change], 32)
            moved, kept = change_boxes(boxes, change, size, 32)
            assert images.shape == (1, 3, 32, 32) and moved.isfinite().all() and not kept[1]
            after = augmented(sample, everything, 0, 0, number)
            assert len(after.boxes) <= 1


# ---- whole batches ----


@pytest.mark.parametrize("stored, size", [(SIDE, SIDE), (SIDE, 64), (SIDE, 150)])
@pytest.mark.parametrize("name", ["none", "flips", "crops", "zoom", "all"])
def test_boxes_of_a_batch_move_with_the_pixels(name, stored, size):
    sample, flips = painted(), dict(mirror=0.5, vertical_flip=0.5, transpose=0.5)
    kind = {"zoom": Augment(zoom=1, **flips), "all": Augment(zoom=0.5, crop=1, **flips)}.get(
        name
    ) or find_augment(name)
    changes = [draw_change(kind, sample.boxes.numpy(), SIDE, 7, picture) for picture in range(24)]
    images = change_pictures(sample.image[None], [0] * 24, changes, size)
    assert images.shape == (24, 3, size, size) and images.min() >= 0 and images.max() <= 1
    counts = []
    for image, change in zip(images, changes):
        boxes, kept = change_boxes(sample.boxes, change, SIDE, size)
        blur = 1e-4 if change.window == (0, 0, SIDE, SIDE) and size == SIDE else 1 + size / SIDE
        assert_boxes_fit(image * 255, boxes[kept], torch.arange(4)[kept], blur)
        counts.append(int(kept.sum()))
    assert min(counts) >= 1 and (min(counts) < 4) == (name in ("crops", "all"))
    assert len({change.views for change in changes}) == (1 if name == "none" else 8)


def test_an_object_whose_centre_is_outside_the_window_goes():
    change = draw_change(Augment(), np.zeros((0, 4)), SIDE, 0)._replace(window=(0, 0, 48, 48))
    boxes = torch.tensor([[0.0, 0, 90, 90], [0, 0, 98, 20], [30, 30, 65, 65], [40, 40, 54, 54]])
    moved, kept = change_boxes(boxes, change, SIDE, 96)
    assert kept.tolist() == [True, False, True, True]  # centres 45, 49 (of 48), 47.5, 47
    assert moved[2].tolist() == [60, 60, 96, 96]  # twice as large, cut at the border


def test_a_batch_without_change_is_the_stored_pictures():
    stored = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    nothing = draw_change(Augment(), np.zeros((0, 4)), SIDE, 0)
    assert torch.equal(
        change_pictures(stored, [2, 0], [nothing] * 2, SIDE), stored[[2, 0]].float() * (1 / 255)
    )


def test_windows_are_cut_as_interpolate_cuts_them():
    stored = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    change = draw_change(Augment(), np.zeros((0, 4)), SIDE, 0)._replace(window=(10, 20, 58, 92))
    expected = torch.nn.functional.interpolate(
        stored[:, :, 20:92, 10:58].float(), (50, 50), mode="bilinear", antialias=True
    )
    assert (change_pictures(stored, [0], [change], 50) * 255 - expected).abs().max() <= 1.01


def test_crops_of_a_batch_are_distributed_as_torchvisions():
    """Area, and share of whole pictures; the tolerances are 3.5 standard errors of 300 and 4000
    draws.
    """
    boxes, crop = torch.tensor([[10.0, 10, 80, 80], [20, 0, 50, 60]]), v2.RandomIoUCrop()
    image = tv_tensors.Image(torch.zeros(3, SIDE, SIDE, dtype=torch.uint8))
    theirs = []
    with seeded(0):
        for _ in range(300):
            found = crop.make_params(
                [image, tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(SIDE, SIDE))]
            )
            theirs.append(found.get("height", SIDE) * found.get("width", SIDE) / SIDE**2)
    rng, whole = np.random.default_rng(0), np.array([0, 0, SIDE, SIDE])
    windows = np.stack([augment.crop_window(whole, boxes.numpy(), rng) for _ in range(4000)])
    ours = (windows[:, 2:] - windows[:, :2]).prod(1) / SIDE**2
    theirs = np.array(theirs)
    assert abs(theirs.mean() - ours.mean()) < 0.063
    assert abs((theirs == 1).mean() - (ours == 1).mean()) < 0.08
    assert 0.3 < ours.mean() < 0.8 and (ours < 1).any()


@pytest.mark.parametrize("scales", [(0.8, 1.25), (0.1, 2.0)])
def test_jitter_draws_scales_as_torchvisions_does(scales):
    """torchvision's ScaleJitter scales a picture that is then cut, or filled up, to the old size:
    a window of 1 / s its side, here. The tolerance is 3.5 standard errors of both.
    """
    count, side = 2000, 1000
    rng, whole = np.random.default_rng(0), np.array([0, 0, side, side])
    windows = np.stack([augment.jitter_window(whole, scales, rng) for _ in range(count)])
    sides = windows[:, 2:] - windows[:, :2]
    assert (sides[:, 0] == sides[:, 1]).all()
    ours = side / sides[:, 0]
    jitter, image = v2.ScaleJitter((side, side), scales), torch.zeros(1, side, side)
    with seeded(0):
        theirs = np.array([jitter.make_params([image])["size"][0] / side for _ in range(count)])
    for drawn in (ours, theirs):
        assert scales[0] - 0.01 < drawn.min() and drawn.max() < scales[1] + 0.01
    spread = (scales[1] - scales[0]) / 12**0.5
    assert abs(ours.mean() - theirs.mean()) < 3.5 * spread * (2 / count) ** 0.5
    assert abs(ours.std() - theirs.std()) < 3.5 * spread * (2 / count) ** 0.5


def test_jitter_keeps_to_the_picture_or_keeps_all_of_it():
    whole = np.array([10, 20, 110, 220])
    for seed in range(200):
        x1, y1, x2, y2 = augment.jitter_window(whole, (0.1, 2.0), np.random.default_rng(seed))
        assert abs((x2 - x1) * 2 - (y2 - y1)) <= 2  # of the picture's shape
        if x2 - x1 <= 100:
            assert x1 >= 10 and x2 <= 110 and y1 >= 20 and y2 <= 220
        else:
            assert x1 <= 10 and x2 >= 110 and y1 <= 20 and y2 >= 220
    still = Augment(mirror=0.5)
    for picture in range(5):  # without jitter nothing else is drawn than before
        boxes = np.array([[10.0, 10, 80, 80]])
        other = draw_change(replace(still, scales=(0.5, 2.0)), boxes, 96, 0, 0, picture)
        assert draw_change(still, boxes, 96, 0, 0, picture).views == other.views


def test_a_crop_keeps_its_promise():
    boxes = torch.tensor([[10.0, 10, 80, 80]])
    rng, ious = np.random.default_rng(1), []
    for _ in range(200):
        window = torch.from_numpy(
            augment.crop_window(np.array([0, 0, SIDE, SIDE]), boxes.numpy(), rng)
        ).float()
        centre = (boxes[0, :2] + boxes[0, 2:]) / 2
        assert (centre >= window[:2]).all() and (centre <= window[2:]).all()
        ious.append(float(pairwise_iou(boxes, window[None])))
    limits = [sum(iou >= limit for iou in ious) / 200 for limit in (0.3, 0.5, 0.7)]
    assert limits[0] > 0.6 and limits[1] > 0.4 and limits[2] > 0.15


def test_colours_of_a_batch():
    grey, rng = np.full(3, 0.5), np.random.default_rng(0)
    matrices = np.stack([augment.colour_matrix(rng) for _ in range(500)])
    found = matrices[..., :3] @ grey + matrices[..., 3]
    assert np.allclose(found, found[:, :1])  # grey stays grey, whatever the hue
    # Contrast turns about mid-grey, so only brightness moves it: .5 + 1.5 * (.125 * .5) at most.
    assert 0.40625 <= found.min() < 0.43 and 0.57 < found.max() <= 0.59375
    spread = matrices[..., :3].sum(-1)[:, 0]  # contrast x brightness
    assert spread.min() < 0.6 and spread.max() > 1.4
    same = np.isclose(matrices, np.eye(3, 4)).all((1, 2)).mean()
    assert 0.02 < same < 0.12  # one in sixteen


def test_a_batch_with_colours_applies_the_matrix():
    stored = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    change = draw_change(Augment(colour=1), np.zeros((0, 4)), 8, 3)
    assert not np.allclose(change.colour, np.eye(3, 4))
    x, y = 5, 2
    expected = change.colour[:, :3] @ (stored[0, :, y, x].numpy() / 255) + change.colour[:, 3]
    assert np.allclose(
        change_pictures(stored, [0], [change], 8)[0, :, y, x], expected.clip(0, 1), atol=1e-5
    )


def test_the_way_by_float_resizes_as_the_way_of_a_cpu():
    """CUDA cannot resize uint8; smaller, larger, and unlike in the two directions."""
    part = torch.randint(0, 256, (3, 37, 52), generator=torch.Generator().manual_seed(0))
    part = part.to(torch.uint8)
    for size in ((20, 20), (80, 80), (37, 90)):
        bytes_, floats = (changes.resized(part, size, by_float=f) for f in (False, True))
        assert bytes_.dtype == floats.dtype == torch.uint8 and floats.shape == (3, *size)
        assert (bytes_.int() - floats.int()).abs().max() <= 1
        assert not torch.equal(floats, torch.zeros_like(floats))
    for by_float in (False, True):
        assert changes.resized(part, (37, 52), by_float) is part
