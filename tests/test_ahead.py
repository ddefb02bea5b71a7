"""One batch ahead on a GPU, whose stream a stand-in is for: the same batches, one thread, no more
ahead.
"""

import itertools
import threading

import pytest
import torch
from test_feed import assert_same, noise

from lesson_lib.data.ahead import one_ahead
from lesson_lib.data.feed import Feed

CUDA = torch.device("cuda", 0)
LONG = 60  # seconds, after which a thread that was to begin never will


@pytest.fixture(autouse=True)
def streams(monkeypatch):
    """[(thread, stream)] as they were set: of each device there is one."""
    taken = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(
        torch.cuda, "set_stream", lambda stream: taken.append((threading.current_thread(), stream))
    )
    return taken


class Maker:
    """Doubles numbers, and knows which it has begun, by whom; `held` waits for `go`."""

    def __init__(self, held=None):
        self.held, self.go = held, threading.Event()
        self.begun, self.threads = [], set()
        self.events = [threading.Event() for _ in range(9)]

    def __call__(self, number):
        self.begun.append(number)
        self.threads.add(threading.current_thread())
        self.events[number].set()
        if number == self.held:
            assert self.go.wait(LONG)
        if number == 5:
            raise ValueError("The picture broken.jpg cannot be read.")
        return 2 * number


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_order_and_number_are_those_of_the_steps(count):
    assert list(one_ahead(Maker(), range(count), CUDA)) == [2 * n for n in range(count)]


def test_with_a_batch_that_is_handed_out_the_next_is_begun_and_no_other(streams):
    make = Maker(held=2)
    batches = one_ahead(make, itertools.count(), CUDA)
    assert make.begun == []  # before the first is asked for
    assert next(batches) == 0 and make.events[1].wait(LONG)
    assert next(batches) == 2 and make.events[2].wait(LONG)
    assert make.begun == [0, 1, 2] and len(make.threads) == 1
    assert streams == [(*make.threads, "stream of cuda:0")]
    assert threading.current_thread() not in make.threads
    make.go.set()
    batches.close()
    assert not any(thread.is_alive() for thread in make.threads)


def test_an_error_is_raised_where_its_batch_would_come():
    batches, found = one_ahead(Maker(), itertools.count(), CUDA), []
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        for batch in batches:
            found.append(batch)
    assert found == [0, 2, 4, 6, 8] and next(batches, None) is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_feed_makes_the_same_batches_ahead_on_a_gpu_alone(device, monkeypatch):
    options = dict(size=32, batch=4, augment="ssd", seed=3)
    feed, threads = Feed(noise(), **options), []
    feed._fill()  # what is decoded stays on the CPU here
    plain = Feed(noise(), **options)

    def made(step):
        threads.append(threading.current_thread())
        return plain._from_memory(step)

    plain._fill()
    monkeypatch.setattr(feed, "_from_memory", made)
    feed.device = torch.device(device)
    batches = list(itertools.islice(feed.batches(1), 7))
    assert_same(batches, itertools.islice(Feed(noise(), **options).batches(1), 7))
    here = threading.current_thread()
    assert [thread is here for thread in set(threads)] == [device == "cpu"]
    assert len(threads) == (7 if device == "cpu" else 8)
