"""An error while batches are made ends the iteration: nothing waits for ever."""

import threading

import pytest
from back_ends import QUICK

from fastimae.loaders import Loader
from fastimae.loaders.images.crops import Crops

pytestmark = pytest.mark.timeout(120)
BACK_ENDS = [name.replace("dataset-1", "dataset-0") for name in QUICK]  # folder-1 has a process


def ends_with(loader: Loader, kind: type[BaseException]) -> None:
    with loader, pytest.raises(kind, match="on purpose"):
        list(loader)


@pytest.mark.parametrize(
    "error", [MemoryError, ZeroDivisionError, SystemError], ids=lambda e: e.__name__
)
@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_an_error_in_the_order_ends_it(data, back_end, error, monkeypatch):
    """Some back ends draw it ahead of time, in a thread."""
    loader = data.loader(back_end, batch_size=4)
    real = loader.sampler.step

    def step(epoch, number):
        if number == 3:
            raise error("on purpose")
        return real(epoch, number)

    monkeypatch.setattr(loader.sampler, "step", step)
    ends_with(loader, error)


@pytest.mark.parametrize("error", [MemoryError, ZeroDivisionError], ids=lambda e: e.__name__)
@pytest.mark.parametrize("back_end", [b for b in BACK_ENDS if not b.startswith("synthetic")])
def test_an_error_in_a_window_ends_it(data, back_end, error, monkeypatch):
    """Windows are drawn where images are decoded or prepared; the fourth call raises the error."""
    lock, calls = threading.Lock(), []
    real = Crops.draw

    def draw(*arguments, **named):
        with lock:
            calls.append(1)
            if len(calls) == 4:
                raise error("on purpose")
        return real(*arguments, **named)

    monkeypatch.setattr(Crops, "draw", draw)
    ends_with(data.loader(back_end, batch_size=4), error)
