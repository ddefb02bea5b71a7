"""Two processes under torchrun, on the CPU: the same run as one process with the same batch."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny_data import coco_file

from lesson_lib import cli
from lesson_lib.detectors.criterion import Outputs, retinanet_criterion, ssd_criterion
from lesson_lib.training.distributed import (
    all_gather,
    all_reduce,
    broadcast,
    processes,
    rank_and_world,
    wrap_ddp,
)

FIGURES = ("loss", "cls", "box", "lr", "AP", "AP50", "AR100")


def objects(picture, count):
    """Pictures have unlike numbers of objects, some none: shares of a batch differ in their
    positives.
    """
    return [
        {
            "image_id": 10 + picture,
            "category_id": (3, 7, 20)[i % 3],
            "bbox": [2 * i, i, 9 + i, 8],
            "area": 70,
            "iscrowd": 0,
        }
        for i in range(count)
    ]


def command(file, out):
    return [
        "train",
        "--data",
        f"coco:{file}",
        "--model",
        "ssd-tiny",
        "--budget",
        "ci",
        "--train-split",
        "train",
        "--val-split",
        "train",
        "--out",
        str(out),
        "--norm",
        "group",
        *(
            f"--set={setting}"
            for setting in ("backbone=tiny-8", "batch=4", "size=64", "epochs=4", "evaluate=4")
        ),
    ]


def test_two_processes_make_the_run_of_one(
    tmp_path, capsys
):  # long: one dear run, looked at from all sides
    counts = (5, 0, 1, 3, 0, 2, 4)  # an odd number of pictures to evaluate
    file = coco_file(
        tmp_path,
        pictures=len(counts),
        annotations=[
            a | {"id": i}
            for i, a in enumerate(a for p, n in enumerate(counts) for a in objects(p, n))
        ],
    )
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--standalone",
        "-m",
        "lesson_lib",
    ]
    process = subprocess.Popen(
        [*torchrun, *command(file, tmp_path / "two")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert cli.main(command(file, tmp_path / "one")) == 0
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    assert out.count("Trained:") == 1  # one of them speaks
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 4 and "AP" in one[-1] and one[-1]["AR100"] > 0
    # Gradients are compared while the weights are equal to the last digits: AdamW divides a
    # gradient by its size, and so turns the rounding of those near 0 into steps of the weights.
    for a, b in zip(one[:2], two):
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
    for a, b in zip(one, two):
        assert [b[k] for k in FIGURES if k in b] == pytest.approx(
            [a[k] for k in FIGURES if k in a], rel=1e-4, abs=1e-6
        )


@pytest.mark.parametrize("rule", [ssd_criterion, retinanet_criterion])
def test_shares_of_a_batch_sum_to_its_loss(rule):
    torch.manual_seed(0)
    anchors = torch.tensor(
        [[x, y, x + 20, y + 20] for x in range(0, 80, 10) for y in range(0, 80, 10)]
    ).float()
    outputs = Outputs(torch.randn(3, 64, 4), torch.randn(3, 64, 4))
    targets = [
        {"boxes": anchors[rows] + 2, "labels": torch.arange(len(rows)) % 3}
        for rows in ([0, 9, 40], [], [17])
    ]
    whole = rule(outputs, anchors, targets)
    n, shares = [], [(slice(0, 1), targets[:1]), (slice(1, 3), targets[1:])]
    for rows, part in shares:  # first round: what each would report
        rule(
            Outputs(*(x[rows] for x in outputs)),
            anchors,
            part,
            normaliser=lambda own: n.append(own) or own,
        )
    for name in ("cls", "box"):
        parts = [
            rule(Outputs(*(x[rows] for x in outputs)), anchors, part, normaliser=lambda _: sum(n))[
                name
            ]
            for rows, part in shares
        ]
        assert float(sum(parts)) == pytest.approx(float(whole[name]), rel=1e-5)


def test_losses_averaged_by_picture_are_refused_for_several_processes():
    with pytest.raises(ValueError, match="per_image=False"):
        retinanet_criterion(
            Outputs(torch.zeros(1, 2, 1), torch.zeros(1, 2, 4)),
            torch.rand(2, 4),
            [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}],
            per_image=True,
            normaliser=all_reduce,
        )


def test_one_process_needs_nothing_of_it(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with processes() as device:
        assert device.type == (
            "cuda" if torch.cuda.is_available() else "cpu"
        ) and rank_and_world() == (0, 1)
    model, value = torch.nn.Linear(1, 1), torch.tensor(3.0, requires_grad=True)
    assert wrap_ddp(model) is model and broadcast(5) == 5 and all_gather([1, 2]) == [1, 2]
    assert all_reduce(value) == 3 and not all_reduce(value).requires_grad
