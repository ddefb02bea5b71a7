"""The columns of the GPU script, one by one: what is timed against what, with a stand-in for CUDA
where they ask it.
"""

import gc
import json
import pickle
import warnings
import weakref
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks import gpu_columns
from benchmarks.gpu_columns import COLUMNS, Setting
from lesson_lib.detectors.norms import FrozenBatchNorm, GroupNorm

TOY = Setting("retina", 64, 1, 1, 1, "smears")


def test_a_column_that_fails_says_why(monkeypatch, capsys):
    def broken(_):
        raise RuntimeError("no kernel | here\nfor this")

    monkeypatch.setitem(COLUMNS, "graph", broken)
    assert gpu_columns.measured("graph", TOY) == "RuntimeError: no kernel / here"
    assert "Traceback" in capsys.readouterr().err  # where it was, for the log
    monkeypatch.setitem(COLUMNS, "graph", lambda _: 12.34567)
    assert gpu_columns.measured("graph", TOY) == 12.35
    monkeypatch.setitem(COLUMNS, "graph", lambda _: {"ours": 12.34567})
    assert gpu_columns.measured("graph", TOY) == {"ours": 12.35}


def test_a_column_is_written_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(COLUMNS, "graph", lambda setting: float(setting.side))
    out = tmp_path / "graph.json"
    gpu_columns.main(["graph", "--setting", json.dumps(TOY), "--out", str(out)])
    assert json.loads(out.read_text()) == 64


# ---- like with like ----


def test_both_kinds_are_timed_in_turns(monkeypatch):
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in ("ours", "theirs")}
    setting = TOY._replace(batch=4, steps=2)
    monkeypatch.setattr(gpu_columns, "SECONDS", 0.0)
    monkeypatch.setattr(gpu_columns, "WARM_UP", 1)
    found = gpu_columns.beside(setting, lambda _: steps["ours"], lambda _: steps["theirs"])
    assert calls[:2] == ["ours", "theirs"]  # to warm up
    turns = ["theirs"] * 2 + ["ours"] * 2 + ["theirs"] * 2
    assert calls[2:] == turns and found.keys() == {"ours", "theirs", "ratio", "noise"}
    timed = SimpleNamespace(ours=2.0, theirs=4.0, ratio=2.0, noise=1.0)
    monkeypatch.setattr(gpu_columns, "in_turns", lambda *_: timed)
    found = gpu_columns.beside(setting, lambda _: steps["ours"], lambda _: steps["theirs"])
    assert (found["ours"], found["theirs"], found["ratio"]) == (4, 2, 2)


class Spied(nn.Module):
    """Stands for torchvision's: remembers cuDNN's flag going forward and back, and the gradient."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Identity(), nn.Sequential()
        self.weight, self.seen = nn.Parameter(torch.ones(())), []
        self.weight.register_hook(self.look)

    def look(self, gradient):
        self.seen += [torch.backends.cudnn.benchmark, gradient.item()]

    def forward(self, images, truth):
        self.seen.append(torch.backends.cudnn.benchmark)
        return {"one": self.weight * 1}


@pytest.fixture
def spied(monkeypatch):
    model = Spied()
    monkeypatch.setattr(gpu_columns, "_models", lambda *_: (model, None))
    return model


@pytest.mark.parametrize(
    "tuned, precision, seen",
    [
        (False, "bf16", [False, False, 1]),
        (True, "bf16", [True, True, 1]),
        (True, "fp16", [True, True, 2.0**16]),  # enlarged, as fp16 needs it
    ],
)
def test_only_torchvision_as_shipped_has_its_algorithms_unchosen(spied, tuned, precision, seen):
    with gpu_columns.algorithms_chosen(True):
        gpu_columns.theirs(TOY._replace(precision=precision), tuned)()
        assert torch.backends.cudnn.benchmark
    assert spied.seen == seen


def test_torchvision_is_compiled_where_the_library_is(spied, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda module, backend: made.append(module) or module)
    gpu_columns.theirs(TOY, tuned=True)
    assert made == []
    gpu_columns.theirs(TOY, tuned=True, compile_=True)
    assert made == [spied.backbone, spied.head]


def test_the_compiled_network_goes_through_the_librarys_step(monkeypatch):
    made, seen = [], []
    monkeypatch.setattr(torch, "compile", lambda model, backend: made.append(model) or seen.append)
    step = gpu_columns.compiled(TOY)
    network, model = step.args[:2]
    assert step.func is gpu_columns.one_step and made == [model] and network == seen.append


def test_from_scratch_the_norms_are_those_that_learn():
    retina = gpu_columns.from_scratch(TOY)
    kinds = {type(module) for module in retina.modules()}
    assert GroupNorm in kinds and not kinds & {FrozenBatchNorm, nn.BatchNorm2d}
    assert any(isinstance(module, GroupNorm) for module in retina.heads.modules())
    ssd = gpu_columns.from_scratch(TOY._replace(kind="ssd", side=300))
    assert any(isinstance(module, nn.BatchNorm2d) for module in ssd.modules())
    step = gpu_columns.library(TOY, model_of=lambda _: retina)
    assert step.args[1] is retina


def test_the_rehearsed_model_is_the_measured_one(monkeypatch):
    setting, rehearsed = TOY._replace(kind="ssd", side=300), []
    own = gpu_columns.step_costs
    monkeypatch.setattr(
        gpu_columns, "step_costs", lambda *asked: rehearsed.append(own(*asked)) or rehearsed[0]
    )
    gpu_columns.memory_rehearsed(setting)
    measured = sum(p.numel() for p in gpu_columns.ours(setting).parameters())
    assert rehearsed[0].parameters == measured


# ---- the loader ----


QUEUE = 16  # batches that eight workers read ahead


@pytest.fixture
def simulated(monkeypatch):
    """simulated(step, tick): `train`, on a clock of its own: a step takes so long, the workers give
    a batch each tick, and QUEUE of them lie there when the first step has taken its long time.
    """
    clock = SimpleNamespace(now=0.0)

    def put(step, tick):
        def train(_, samples, recipe, every):
            read, due = 0, 0.0
            clock.now = 100.0
            for number in range(1, recipe.steps + 1):
                while read < number + QUEUE and (due <= clock.now or read < number):
                    due = max(due, clock.now - tick) + tick if read >= QUEUE else clock.now
                    clock.now = max(clock.now, due) if read < number else clock.now
                    for row in range(recipe.batch):
                        _ = samples[row]
                    read += 1
                clock.now += step
                if number % every == 0:
                    yield {"step": number}

        monkeypatch.setattr(gpu_columns, "train", train)

    monkeypatch.setattr(gpu_columns, "ours", lambda _: None)
    monkeypatch.setattr(gpu_columns, "real_pictures", lambda _: list(range(8)))
    monkeypatch.setattr(gpu_columns, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return put


@pytest.mark.parametrize("step, tick", [(0.01, 0.1), (0.09, 0.1), (0.1, 0.1), (0.1, 0.02)])
def test_the_loader_is_timed_by_what_it_reads_not_by_what_lay_there(simulated, step, tick):
    simulated(step, tick)
    setting = TOY._replace(batch=8, steps=5, turns=4)  # 60 batches, of which 16 lay there
    found = gpu_columns.fed_rate(setting, "workers")
    assert found == pytest.approx(8 / max(step, tick), rel=0.04)


def test_reads_are_counted_in_the_workers_too():
    samples = gpu_columns.CountedReads(list(range(6)))
    loader = torch.utils.data.DataLoader(samples, num_workers=2, generator=torch.Generator())
    assert len(list(loader)) == 6 and samples.read() == 6
    _ = samples[0]
    assert samples.read() == 7 and samples.index(3) == 3  # what else it has is the data set's own
    assert pickle.loads(pickle.dumps(gpu_columns.CountedReads([1]))).read() == 0


# ---- with a stand-in for CUDA ----


class Cuda:
    """What the columns ask of torch.cuda, in the order of the calls."""

    def __init__(self):
        self.calls, self.replay = [], lambda: self.calls.append("replay")

    def Stream(self):
        return SimpleNamespace(wait_stream=lambda _: self.calls.append("wait"))

    current_stream = Stream

    def stream(self, _):
        return nullcontext()

    def CUDAGraph(self):
        return SimpleNamespace(replay=self.replay)

    def graph(self, _):
        self.calls.append("capture")
        return nullcontext()

    def synchronize(self):
        self.calls.append("synchronize")

    def get_sync_debug_mode(self):
        return 0

    def set_sync_debug_mode(self, mode):
        self.calls.append(f"mode {mode}")
        if mode:
            warnings.warn("Synchronization debug mode is a prototype", stacklevel=1)

    def memory_allocated(self):
        return 2**30

    def reset_peak_memory_stats(self):
        self.calls.append("reset")

    def max_memory_allocated(self):
        return 4 * 2**30


@pytest.fixture
def cuda(monkeypatch):
    stand_in = Cuda()
    monkeypatch.setattr(gpu_columns.torch, "cuda", stand_in)
    return stand_in


def test_a_step_becomes_a_graph_after_three_to_warm_up(cuda):
    gpu_columns.graphed(lambda: cuda.calls.append("step"))()
    assert cuda.calls == ["wait", *["step"] * 3, "wait", "capture", "step", "replay"]


def test_what_a_graph_reads_lives_as_long_as_its_replay(cuda):
    class Work:
        def __call__(self):
            pass

    work = Work()
    held, replay = weakref.ref(work), gpu_columns.graphed(work)
    del work
    gc.collect()
    assert held() is not None
    replay()
    del replay
    gc.collect()
    assert held() is None


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_waits_of_a_step_are_counted_and_nothing_else(cuda):
    def step():
        for _ in range(2):  # the second of the same place counts too
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("lr_scheduler before optimizer", stacklevel=1)

    assert gpu_columns.waits_of(step) == 2 and gpu_columns.waits_of(lambda: None) == 0
    assert cuda.calls == ["synchronize", "mode warn", "mode 0"] * 2


def test_memory_is_measured_of_one_step_when_all_is_made(cuda, monkeypatch):
    monkeypatch.setattr(gpu_columns, "library", lambda _: lambda: cuda.calls.append("step"))
    assert gpu_columns.memory_measured(TOY) == 3
    assert cuda.calls == ["step", "reset", "step", "synchronize"]
