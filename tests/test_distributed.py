"""Two processes under torchrun, on the CPU: the same run as one process with the same batch."""

import json
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tiny_data import coco_file
from torch._subclasses.fake_tensor import FakeTensorMode
from two_processes import TORCHRUN, environment, run_two

from lesson_lib import cli
from lesson_lib.cli import train as cli_train
from lesson_lib.data.resizing import Resizing
from lesson_lib.data.smears import draw_smear
from lesson_lib.detectors.criterion import Outputs, retinanet_criterion, ssd_criterion
from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
from lesson_lib.training import checkpoints, distributed
from lesson_lib.training.distributed import (
    FEW_SHAPES,
    all_gather,
    all_reduce,
    broadcast,
    norm_note,
    processes,
    rank_and_world,
    wrap_ddp,
)
from lesson_lib.training.loop import evaluate, train
from lesson_lib.training.recipes import Recipe

FIGURES = ("loss", "val_loss", "cls", "box", "lr", "AP", "AP50", "AR100")


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


#: A prior of .2: or nothing would score over the threshold so early.
#: The little SSD's gradients are large and its first steps wild: at its recipe's rate of 0.004 they
#: made differences of 4e-4 out of rounding (AVX-512); at this one none was over 5e-6.
SMALLER = {
    "ssd-tiny": ("backbone=tiny-8", "lr=3e-4"),
    "retinanet-tiny": ("channels=16", "prior=0.2"),
}


def command(file, out, model):
    return [
        "train",
        "--data",
        f"coco:{file}",
        "--model",
        model,
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
            for setting in (*SMALLER[model], "batch=4", "size=64", "epochs=4", "evaluate=4")
        ),
    ]


@pytest.fixture
def one_thread():
    """Sums are added in one order here and in the two processes, which have a thread each.

    Else rounding alone may mine another of two negatives of nearly the same loss.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("model", SMALLER)
def test_two_processes_make_the_run_of_one(
    model, tmp_path
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
    # Each begins with one thread and nothing computed before, the single one too: a process that
    # had two threads once rounds otherwise, and of two negatives of nearly the same loss then
    # mines the other.
    starts = {"one": [sys.executable], "two": TORCHRUN}
    running = {
        name: subprocess.Popen(
            [*start, "-m", "lesson_lib", *command(file, tmp_path / name, model)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, start in starts.items()
    }
    try:
        for process in running.values():
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, err[-3000:]
            assert out.count("Trained:") == 1  # one of them speaks
    finally:
        for process in running.values():
            process.terminate()  # torchrun ends its own, where a kill would leave them
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 4 and "AP" in one[-1]
    assert one[-1]["AR100"] > 0 or model == "ssd-tiny"  # whose steps are too small to find much
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


@pytest.mark.parametrize("shapes, tried", [(0, False), (1, True), (7, True), (9, False)])
def test_cudnn_tries_its_algorithms_where_shapes_are_few(shapes, tried, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not tried)
    with processes(shapes) as device:
        assert device.type == "cuda" and torch.backends.cudnn.benchmark is tried


@pytest.mark.parametrize("number, count", [(1, 1), (2, 2), (7, 4)])
def test_more_processes_than_gpus_are_told(number, count, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", str(number))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: pytest.fail("there is no such GPU"))
    words = f"Process {number + 1} of .*to be seen: {count}\\); .*--nproc-per-node {count}\\."
    with pytest.raises(ValueError, match=words), processes():
        pass


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_after_an_error_nobody_waits_for_the_others_to_part(error, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    parted = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda _: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: parted.append(1))
    with pytest.raises(error) if error else nullcontext(), processes():
        if error:
            raise error
    assert parted == ([] if error else [1])


def test_a_training_says_how_many_shapes_it_has(tmp_path, monkeypatch):
    asked = []

    def processes(shapes):
        asked.append(shapes)
        raise ValueError("enough is known")

    monkeypatch.setattr(cli_train, "processes", processes)
    command = ["train", "--data", f"coco:{coco_file(tmp_path)}", "--budget", "ci"]
    command += ["--train-split", "train", "--out", str(tmp_path / "run"), "--set=size=64"]
    for way in ("square", "shorter"):
        assert cli.main([*command, f"--set=resize={way}"]) == 1
    assert asked == [1, len(Resizing(64, "shorter").canvases())] and 1 < asked[1] <= FEW_SHAPES


def test_two_processes_are_on_the_cpu_wherever_tests_start_them():
    """By `two_processes` alone: CUDA is hidden there."""
    assert environment(A="b").items() >= {"A": "b", "CUDA_VISIBLE_DEVICES": ""}.items()
    files = sorted(Path(__file__).parent.rglob("*.py"))
    word = ".".join(("torch", "distributed", "run"))
    starters = {f.name for f in files if word in f.read_text(encoding="utf-8")}
    assert starters == {"two_processes.py"}


def norms(network):
    kinds = (torch.nn.BatchNorm2d, torch.nn.SyncBatchNorm)
    return [type(module) for module in network.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("sync_norm", [True, False, None])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batch_norm_goes_over_all_processes_where_it_is_asked_for(device, sync_norm, monkeypatch):
    """And by itself on a GPU alone; parameters stay the same objects, which the optimizer has."""
    monkeypatch.setattr(distributed, "rank_and_world", lambda: (0, 2))
    options = {}
    monkeypatch.setattr(
        distributed, "DistributedDataParallel", lambda net, **given: options.update(given) or net
    )
    with FakeTensorMode(), torch.device(device):
        model = RetinaNet(RetinaNetConfig(3, backbone="tiny-8", norm="batch", channels=16))
        before, parameters = norms(model), list(map(id, model.parameters()))
        note = norm_note(model)
        network = wrap_ddp(model, sync_norm)
    assert options == {"gradient_as_bucket_view": True}  # or all gradients are there twice
    assert len(before) > 5 and set(before) == {torch.nn.BatchNorm2d}
    synced = device == "cuda" if sync_norm is None else sync_norm
    after = torch.nn.SyncBatchNorm if synced else torch.nn.BatchNorm2d
    assert norms(network) == [after] * len(before)
    assert list(map(id, network.parameters())) == parameters
    told = f"{len(before)} batch norms go over the pictures of all processes"
    assert note.startswith(told) if device == "cuda" else note == ""


@pytest.mark.parametrize("norm, world", [("group", 2), ("batch", 1)])
def test_nothing_is_said_of_norms_that_go_over_no_other_process(norm, world, monkeypatch):
    monkeypatch.setattr(distributed, "rank_and_world", lambda: (0, world))
    with FakeTensorMode(), torch.device("cuda"):
        model = RetinaNet(RetinaNetConfig(3, backbone="tiny-8", norm=norm, channels=16))
        assert norm_note(model) == ""


#: The second process fails where the first waits for it. To part waits for the other, as in NCCL.
FAILING = textwrap.dedent(
    """
    import sys, time
    import torch, torch.distributed as dist
    from lesson_lib import cli
    from lesson_lib.cli import train as cli_train
    from lesson_lib.training.distributed import all_reduce, rank_and_world

    def train(*args, **options):
        if rank_and_world()[0] == 1:
            raise ValueError("The picture broken.jpg cannot be read.")
        all_reduce(torch.ones(1))

    cli_train.train = train
    dist.destroy_process_group = lambda: time.sleep(600)
    sys.exit(cli.main(sys.argv[1:]))
    """
)


def test_an_error_in_one_process_is_told_and_ends_both(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    file = coco_file(tmp_path)
    arguments = command(file, tmp_path / "run", "ssd-tiny")
    status, told = run_two(str(tmp_path / "failing.py"), *arguments, timeout=240)
    assert status == 1
    assert "\nThe picture broken.jpg cannot be read.\n" in "\n" + told
    assert "exitcode  : 1 " in told  # of the process that failed


#: Batches in parts, averaged weights, pictures that keep their aspect.
PARTED = dict(epochs=2, batch=4, size=64, lr=1e-3, optimizer="sgd", ema=0.5, resize="shorter")
TWO = f"PARTED = {PARTED!r}\n" + textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import torch
    from lesson_lib.data.smears import draw_smear
    from lesson_lib.detectors.retinanet import RetinaNet, RetinaNetConfig
    from lesson_lib.training.distributed import processes, rank_and_world
    from lesson_lib.training.loop import Diverged, evaluate, train
    from lesson_lib.training.recipes import Recipe

    folder = Path(sys.argv[1])
    smears = [draw_smear(0, i, size=64) for i in range(11)]
    recipe = Recipe(epochs=2, batch=4, size=64, evaluate=1)

    def model(seed, norm="batch"):
        torch.manual_seed(seed)
        small = dict(backbone="tiny-8", norm=norm, channels=16, prior=0.2, image_size=64)
        config = RetinaNetConfig(3, **small)
        return RetinaNet(config)

    def digest(module):
        return sum(float(x.double().abs().sum()) for x in module.parameters())

    with processes():
        rank, world = rank_and_world()
        said = {"rank": rank}
        whole = model(rank)  # all begin with the first one's weights
        records = list(train(whole, smears, recipe, smears, folder / "whole" / "last.pt"))
        said["whole"], said["val"] = digest(whole), [records[-1][k] for k in ("AP50", "val_loss")]
        for record in train(model(rank), smears, recipe, smears, folder / "again" / "last.pt"):
            if record["step"] == 3:
                break
        again = model(10 + rank)
        rest = list(train(again, smears, recipe, smears, folder / "again" / "last.pt"))
        said["again"], said["steps"] = digest(again), [r["step"] for r in rest]

        parted = Recipe(**PARTED, accumulate=2)
        records = list(train(model(rank, "group"), smears, parted, smears))
        said["parted"] = [r["loss"] for r in records] + [records[-1]["val_loss"]]

        once = train(model(rank), smears, recipe, checkpoint=folder / "x.pt", stop=lambda: not rank)
        said["stopped"] = [r["step"] for r in once]  # the first one's word counts for both

        broken, calls = model(rank), []
        def spoil(module, inputs, outputs):
            calls.append(0)
            if rank == 1 and len(calls) == 2:
                return type(outputs)(outputs.cls_logits * torch.nan, outputs.box_deltas)
        broken.register_forward_hook(spoil)
        try:
            list(train(broken, smears, recipe))
        except Diverged as error:
            said["diverged"] = str(error)
        (folder / f"said-{rank}.json").write_text(json.dumps(said))  # two would share one stdout
    """
)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes says: (rank 0's, rank 1's, the folder)."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "two.py").write_text(TWO)
    status, errors = run_two(str(folder / "two.py"), str(folder), timeout=400)
    assert status == 0, errors[-3000:]
    said = [json.loads((folder / f"said-{rank}.json").read_text()) for rank in (0, 1)]
    return *said, folder


def test_two_processes_go_on_to_the_same_weights(two):
    first, second, _ = two
    assert first["steps"] == second["steps"] == [3, 4]
    for one in (first, second):
        assert one["again"] == pytest.approx(one["whole"], rel=1e-9)
    assert first["whole"] == pytest.approx(second["whole"], rel=1e-9)


def test_two_processes_stop_at_the_word_of_the_first(two):
    first, second, folder = two
    assert first["stopped"] == second["stopped"] == [1]
    assert checkpoints.read(folder / "x.pt")["step"] == 1


def test_two_processes_in_parts_make_the_run_of_one(two, one_thread):
    """Each process cuts its share once more; the averaged weights are evaluated by both."""
    first, second, _ = two
    torch.manual_seed(0)
    config = RetinaNetConfig(
        3, backbone="tiny-8", norm="group", channels=16, prior=0.2, image_size=64
    )
    smears = [draw_smear(0, i, size=64) for i in range(11)]
    records = list(train(RetinaNet(config), smears, Recipe(**PARTED), smears))
    expected = [r["loss"] for r in records] + [records[-1]["val_loss"]]
    assert first["parted"] == second["parted"] == pytest.approx(expected, rel=1e-4)


def test_what_two_processes_evaluate_is_what_was_saved(two):
    """Batch norm's statistics differ between the processes, until all take the first one's."""
    first, second, folder = two
    config = RetinaNetConfig(
        3, backbone="tiny-8", norm="batch", channels=16, prior=0.2, image_size=64
    )
    model, state = RetinaNet(config), checkpoints.read(folder / "whole" / "last.pt")
    checkpoints.load_weights(model, state["model"], folder)
    smears = [draw_smear(0, i, size=64) for i in range(11)]
    figures = evaluate(model, smears, Recipe(size=64))
    assert first["val"] == second["val"]
    assert first["val"] == pytest.approx([figures["AP50"], figures["val_loss"]], rel=1e-5)


def test_what_diverges_in_one_process_stops_both_with_the_sentence(two):
    first, second, _ = two
    for one in (first, second):
        assert "Training diverged in step 2: cls, box and gradient are nan" in one["diverged"]
        assert "Its pictures" in one["diverged"] and one["diverged"].count("smear-") == 4
