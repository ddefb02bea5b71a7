"""Ours against torchvision, row by row, on the CPU of this machine:

    python -m benchmarks [--rows match,post] [--rounds 7] [--threads 2] [--compile] [--busy]
                         [--out FILE.json]

Each row says first whether both give the same result; the ratio says how many times faster ours is,
"A/A" how far the reference is from itself. The targets are those the course set itself; --compile
adds torch.compile's rows. --busy measures each row a second time beside a process that keeps one
core busy, as on a learner's machine: both in the same conditions, so the ratio still says who is
faster there.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import _utils as tv
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet as TheirRetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD as TheirSSD
from torchvision.ops import FrozenBatchNorm2d, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.timing import Row, busy_core, close, measure, table
from lesson_lib.config import describe_machine, hardware
from lesson_lib.data.feed import Feed
from lesson_lib.data.smears import Smears
from lesson_lib.detectors.criterion import Outputs, anchor_targets, ssd_criterion
from lesson_lib.detectors.inference import retinanet_detections, ssd_detections
from lesson_lib.detectors.retinanet import RETINANET_CONFIGS, TORCHVISION_ANCHORS, RetinaNet
from lesson_lib.detectors.ssd import SSD, SSD_CONFIGS
from lesson_lib.detectors.torchvision_weights import load_torchvision
from lesson_lib.files import write_whole
from lesson_lib.losses import retinanet_loss
from lesson_lib.matching import match_retinanet, match_ssd, pad_boxes
from lesson_lib.mining import hard_negative_mask

SIDE, CLASSES, OBJECTS = 512, 91, 10


def scene(batch: int, side: int, classes: int = CLASSES) -> list[dict[str, Tensor]]:
    """`batch` pictures' targets: ten objects each, of 20 px to half the side."""
    torch.manual_seed(0)
    targets = []
    for _ in range(batch):
        wh = torch.rand(OBJECTS, 2) * (side / 2 - 20) + 20
        xy = torch.rand(OBJECTS, 2) * (side - wh)
        targets.append(
            {"boxes": torch.cat((xy, xy + wh), 1), "labels": torch.randint(1, classes, (OBJECTS,))}
        )
    return targets


def their_matches(matcher, targets: list[dict[str, Tensor]], anchors: Tensor) -> list[Tensor]:
    return [matcher(box_iou(t["boxes"], anchors)) for t in targets]


def same_match(ours, theirs: list[Tensor]) -> None:
    """Theirs: an index, or -1 (negative), -2 (between)."""
    label, index = ours.label.long(), ours.gt_index
    close(torch.where(label > 0, index, -1 + label), torch.stack(theirs), 0, 0)


def anchors_of(kind: str) -> Tensor:
    if kind == "retina":
        return TORCHVISION_ANCHORS.make(SIDE)
    return SSD_CONFIGS["torchvision-300"].anchors.make()


def match_rows(compiled: bool) -> Iterator[Row]:
    anchors, wrap = anchors_of("retina"), torch.compile if compiled else lambda f: f
    their = tv.Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for batch in (4, 16):
        targets = scene(batch, SIDE)
        gt, valid = pad_boxes([t["boxes"] for t in targets])
        yield Row(
            "match.retina" + " compiled" * compiled,
            f"{len(anchors)} anchors, B{batch}, {OBJECTS} objects",
            partial(wrap(match_retinanet), gt, anchors, valid=valid),
            partial(their_matches, their, targets, anchors),
            same_match,
            *((5, 8) if compiled else (2.5, 3.5)),
        )
    if not compiled:
        anchors, targets = anchors_of("ssd"), scene(16, 300)
        gt, valid = pad_boxes([t["boxes"] for t in targets])
        yield Row(
            "match.ssd",
            f"{len(anchors)}, B16, {OBJECTS} objects",
            partial(match_ssd, gt, anchors, best="overwrite", valid=valid),
            partial(their_matches, tv.SSDMatcher(0.5), targets, anchors),
            same_match,
            2.5,
            3.3,
        )


def loss_and_gradients(
    loss: Callable[[Outputs], dict[str, Tensor]], logits: Tensor, deltas: Tensor
) -> list[Tensor]:
    """(cls, box, gradient of the logits, gradient of the offsets)."""
    logits, deltas = logits.detach().requires_grad_(), deltas.detach().requires_grad_()
    losses = list(loss(Outputs(logits, deltas)).values())
    return [*(x.detach() for x in losses), *torch.autograd.grad(sum(losses), (logits, deltas))]


def loss_rows(compiled: bool) -> Iterator[Row]:
    wrap = torch.compile if compiled else lambda f: f
    anchors = anchors_of("retina")
    for batch in (4, 16):
        targets = scene(batch, SIDE)
        gt, valid = pad_boxes([t["boxes"] for t in targets])
        match = match_retinanet(gt, anchors, valid=valid)
        labels, offsets = anchor_targets(match, gt, targets, anchors, (1.0, 1.0))
        matched = their_matches(tv.Matcher(0.5, 0.4, True), targets, anchors)
        logits, deltas = (
            torch.randn(batch, len(anchors), CLASSES) - 4,
            torch.randn(batch, len(anchors), 4),
        )
        head = RetinaNetHead(8, 9, CLASSES)

        def theirs(o: Outputs, targets=targets, matched=matched, head=head) -> dict[str, Tensor]:
            return head.compute_loss(
                targets,
                {"cls_logits": o.cls_logits, "bbox_regression": o.box_deltas},
                [anchors] * len(targets),
                matched,
            )

        def ours(o: Outputs, labels=labels, offsets=offsets, match=match) -> dict[str, Tensor]:
            return retinanet_loss(*o, labels, offsets, match.label, beta=0.0, per_image=True)

        yield Row(
            "loss.focal+box" + " compiled" * compiled,
            f"{len(anchors)}, B{batch}, K {CLASSES}",
            partial(loss_and_gradients, wrap(ours), logits, deltas),
            partial(loss_and_gradients, theirs, logits, deltas),
            close,
            *((2.7, 3.5) if compiled else (2.2, 2.9)),
        )
    if not compiled:
        yield ssd_loss_row()


def ssd_loss_row() -> Row:
    """Mining, loss and gradient of matches that are given.

    Theirs: labels count the background, ours do not.
    """
    anchors, targets = anchors_of("ssd"), scene(16, 300)
    coder, matched = (
        tv.BoxCoder((10.0, 10.0, 5.0, 5.0)),
        their_matches(tv.SSDMatcher(0.5), targets, anchors),
    )
    logits, deltas = torch.randn(16, len(anchors), CLASSES), torch.randn(16, len(anchors), 4)
    gt, valid = pad_boxes([t["boxes"] for t in targets])
    match = match_ssd(gt, anchors, best="overwrite", valid=valid)
    shifted = [t | {"labels": t["labels"] - 1} for t in targets]

    def ours(o: Outputs) -> dict[str, Tensor]:
        with patch("lesson_lib.detectors.criterion.match_ssd", lambda *_: match):
            return ssd_criterion(o, anchors, shifted)

    def theirs(o: Outputs) -> dict[str, Tensor]:
        found = TheirSSD.compute_loss(
            SimpleNamespace(box_coder=coder, neg_to_pos_ratio=3),
            targets,
            {"cls_logits": o.cls_logits, "bbox_regression": o.box_deltas},
            [anchors] * 16,
            matched,
        )
        return {"cls": found["classification"], "box": found["bbox_regression"]}

    return Row(
        "loss.ssd",
        f"{len(anchors)}, B16, K {CLASSES}",
        partial(loss_and_gradients, ours, logits, deltas),
        partial(loss_and_gradients, theirs, logits, deltas),
        close,
        1.8,
        2.2,
    )


def mine_rows(compiled: bool) -> Iterator[Row]:
    def theirs(loss: Tensor, positive: Tensor) -> Tensor:
        """The lines of their SSD.compute_loss."""
        loss = loss.masked_fill(positive, -float("inf"))
        return loss.sort(1, descending=True)[1].sort(1)[1] < 3 * positive.sum(1, keepdim=True)

    for batch in () if compiled else (4, 16):
        torch.manual_seed(0)
        loss, positive = torch.rand(batch, 8732), torch.rand(batch, 8732) < 0.005
        yield Row(
            "mine",
            f"8732, B{batch}",
            partial(hard_negative_mask, loss, positive, ~positive),
            partial(theirs, loss, positive),
            close,
            8,
            30,
        )


def post_rows(compiled: bool) -> Iterator[Row]:  # long: one table of rows, each with its own inputs
    if compiled:
        return
    torch.manual_seed(0)
    anchors, counts = anchors_of("retina"), TORCHVISION_ANCHORS.counts(SIDE)
    logits = torch.randn(4, len(anchors), CLASSES) * 1.5 - 7
    deltas = torch.randn(4, len(anchors), 4) * 0.1  # so that no box leaves the picture
    their = SimpleNamespace(
        box_coder=tv.BoxCoder((1.0,) * 4),
        score_thresh=0.05,
        topk_candidates=1000,
        nms_thresh=0.5,
        detections_per_img=300,
    )
    heads = {"cls_logits": logits.split(counts, 1), "bbox_regression": deltas.split(counts, 1)}
    yield Row(
        "post.retina",
        f"{SIDE}x{SIDE}, B4, K {CLASSES}",
        partial(
            retinanet_detections,
            Outputs(logits, deltas),
            anchors,
            (SIDE, SIDE),
            counts=counts,
            max_detections=300,
        ),
        partial(
            TheirRetinaNet.postprocess_detections,
            their,
            heads,
            [anchors.split(counts)] * 4,
            [(SIDE, SIDE)] * 4,
        ),
        same_detections,
        2.0,
        2.6,
    )
    anchors = anchors_of("ssd")
    logits, deltas = torch.randn(16, len(anchors), CLASSES) * 1.5, torch.randn(16, len(anchors), 4)
    their = SimpleNamespace(
        box_coder=tv.BoxCoder((10.0, 10.0, 5.0, 5.0)),
        score_thresh=0.01,
        topk_candidates=400,
        nms_thresh=0.45,
        detections_per_img=200,
    )
    yield Row(
        "post.ssd",
        f"{len(anchors)}, B16, K {CLASSES}",
        partial(ssd_detections, Outputs(logits, deltas), anchors, (300, 300)),
        partial(
            TheirSSD.postprocess_detections,
            their,
            {"cls_logits": logits, "bbox_regression": deltas},
            [anchors] * 16,
            [(300, 300)] * 16,
        ),
        partial(same_detections, shift=1),
        5,
        7,
    )


def same_detections(ours: list[dict], theirs: list[dict], shift: int = 0) -> None:
    """The same boxes, classes and scores, whatever the order of equal scores; shift: theirs count
    background.
    """
    assert all(len(d["boxes"]) >= 50 for d in theirs), "too little was found to compare"
    for here, there in zip(ours, theirs, strict=True):
        here = here | {"labels": here["labels"] + shift}
        for name, atol in (("labels", 0), ("scores", 1e-5), ("boxes", 1e-2)):
            close(
                *(d[name][np.lexsort((-d["scores"], d["labels"]))] for d in (here, there)), 0, atol
            )


def step_rows(compiled: bool) -> Iterator[Row]:
    """Whole training steps with the same weights: pictures to updated weights.

    Theirs in float32.
    """
    if compiled:
        return
    equal16, equal32 = partial(close, rtol=0.05, atol=0.05), partial(close, rtol=1e-3)
    for kind, side, targets in (("retina", 256, (1.8, 2.05)), ("ssd", 300, (2.1, 2.3))):
        for precision, must_aim in (("bf16", targets), ("fp32", (1.05, 1.12))):
            torch.manual_seed(0)
            theirs, ours = _models(kind, side)  # new ones: the steps of a row move its weights
            images, truth = torch.rand(4, 3, side, side), scene(4, side)
            shifted = [t | {"labels": t["labels"] - int(kind == "ssd")} for t in truth]
            boxes = _their_default_boxes(theirs) if kind == "ssd" else ours.anchors(side)
            loss = partial(_our_losses, ours, images, boxes, shifted, precision == "bf16")
            yield Row(
                f"step.{kind}",
                f"{side}x{side} B4, ours {precision}",
                partial(_step, _optimiser(ours, True), loss),
                partial(
                    _step,
                    _optimiser(theirs, False),
                    lambda m=theirs, i=images, t=truth: m(list(i), t),
                ),
                equal32 if precision == "fp32" else equal16,
                *must_aim,
            )


def _models(kind: str, side: int) -> tuple[nn.Module, nn.Module]:
    """torchvision's detector and ours with its weights, both training in every layer."""
    if kind == "ssd":
        theirs, ours = (
            ssd300_vgg16(weights=None, weights_backbone=None),
            SSD(SSD_CONFIGS["torchvision-300"]),
        )
        theirs.transform.min_size, theirs.transform.image_std = (side,), [1 / 255] * 3
    else:
        body = _resnet_fpn_extractor(
            resnet50(norm_layer=FrozenBatchNorm2d),
            5,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        theirs, ours = (
            TheirRetinaNet(body, 91, side, side),
            RetinaNet(RETINANET_CONFIGS["torchvision"]),
        )
        overwrite_eps(theirs, 0.0)
    load_torchvision(ours, theirs)
    return theirs.train(), ours.train().to(memory_format=torch.channels_last)


def _their_default_boxes(model: TheirSSD) -> Tensor:
    """torchvision's default boxes of SSD300, (8732, 4).

    Ours lie up to 3e-5 px beside them, by rounding; between two boxes of the same IoU with an
    object that decides, and then the losses differ by a thousandth.
    """
    spec = SSD_CONFIGS["torchvision-300"].anchors
    maps = [torch.zeros(1, 1, grid, grid) for grid in spec.grids]
    pictures = torch.zeros(1, 3, spec.image_size, spec.image_size)
    sizes = [(spec.image_size, spec.image_size)]
    return model.anchor_generator(ImageList(pictures, sizes), maps)[0]


def _optimiser(model: nn.Module, fused: bool) -> torch.optim.Optimizer:
    """SGD as in both papers; the rate is so low that the weights stay comparable."""
    return torch.optim.SGD(
        model.parameters(), lr=1e-13, momentum=0.9, weight_decay=1e-4, fused=fused or None
    )


def _our_losses(
    model: nn.Module, images: Tensor, anchors: Tensor, targets: list[dict], bf16: bool
) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, bf16):
        outputs = model(images.to(memory_format=torch.channels_last))
    return model.criterion(outputs, anchors, targets)


def _step(
    optimiser: torch.optim.Optimizer, losses: Callable[[], dict[str, Tensor]]
) -> list[Tensor]:
    """One step -> (class loss, box loss), whatever they are called."""
    optimiser.zero_grad()
    found = losses()
    sum(found.values()).backward()
    optimiser.step()
    return [
        value.detach() for _, value in sorted(found.items(), key=lambda item: "cl" not in item[0])
    ]


def loader_rows(compiled: bool) -> Iterator[Row]:
    """A batch of eight at 256 px from JPEG files of 640 x 480, and from the cache; unlike by JPEG
    and resampling.
    """
    if compiled:
        return
    with tempfile.TemporaryDirectory() as folder:
        pictures = Smears("train", 8, (480, 640), cache=False)
        for k, sample in enumerate(pictures):
            Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(
                f"{folder}/{k}.jpg", quality=90
            )
        feed = Feed(pictures, 256, 8)
        order = feed.order(0)[0]

        def theirs() -> Tensor:
            files = [
                Image.open(f"{folder}/{k}.jpg").convert("RGB").resize((256, 256)) for k in order
            ]
            return (
                torch.stack([torch.from_numpy(np.array(f)).permute(2, 0, 1) for f in files]) / 255
            )

        yield Row(
            "loader",
            "8 pictures, 256x256",
            lambda: next(feed.epoch(0))[0],
            theirs,
            lambda ours, theirs: close((ours - theirs).abs().mean(), torch.zeros(()), 0, 0.03),
            8,
            13,
        )


GROUPS = {
    "match": match_rows,
    "mine": mine_rows,
    "loss": loss_rows,
    "post": post_rows,
    "loader": loader_rows,
    "step": step_rows,
}


def _print_last(found: list[dict]) -> None:
    """The newest row, below the heading if it is the first."""
    print("\n".join(table(found).splitlines()[-1 - (len(found) == 1) :]), flush=True)


def main() -> None:
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    p.add_argument(
        "--rows", default=",".join(GROUPS), help="groups, joined by commas (default: %(default)s)"
    )
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--compile", action="store_true", help="also the rows under torch.compile")
    p.add_argument("--busy", action="store_true", help="each row beside a busy core too")
    p.add_argument("--out", help="a file for the figures, JSON")
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    found = []
    for group in args.rows.split(","):
        for compiled in (False, True)[: 1 + args.compile]:
            for row in GROUPS[group](compiled):
                found.append(measure(row, args.rounds))
                _print_last(found)
                if args.busy:
                    with busy_core():
                        found.append(measure(row._replace(name=row.name + " busy"), args.rounds))
                    _print_last(found)
                if args.out:  # after every row: what comes later may fail
                    _keep(args.out, args.threads, found)


def _keep(path: str, threads: int, found: list[dict]) -> None:
    """The rows found so far, and where and when, as a JSON file."""
    about = {
        "machine": describe_machine(),
        "hardware": hardware(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "threads": threads,
    }
    write_whole(Path(path), json.dumps(about | {"rows": found}, indent=1).encode())


if __name__ == "__main__":
    main()
