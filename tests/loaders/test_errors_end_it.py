"""An error in whatever makes batches ends the iteration: nobody waits for ever."""

import threading

import pytest
from back_ends import AVAILABLE

from fastimae.loaders import Loader
from fastimae.loaders.crops import Crops

pytestmark = pytest.mark.timeout(120)


def ends_with(loader: Loader, kind: type[BaseException]) -> None:
    with loader, pytest.raises(kind, match="on purpose"):
        list(loader)


@pytest.mark.parametrize(
    "error", [MemoryError, ZeroDivisionError, SystemError], ids=lambda e: e.__name__
)
@pytest.mark.parametrize("back_end", AVAILABLE)
def test_of_the_order(data, back_end, error, monkeypatch):
    """Which some draw in a thread, ahead of time."""
    loader = data.loader(back_end, batch_size=4)
    real = loader.sampler.step

    def step(epoch, number):
        if number == 3:
            raise error("on purpose")
        return real(epoch, number)

    monkeypatch.setattr(loader.sampler, "step", step)
    ends_with(loader, error)


@pytest.mark.parametrize("error", [MemoryError, ZeroDivisionError], ids=lambda e: e.__name__)
@pytest.mark.parametrize("back_end", [b for b in AVAILABLE if not b.startswith("synthetic")])
def test_of_a_window(data, back_end, error, monkeypatch):
    """Where images are decoded, or their work is prepared: for the fourth time it is an error."""
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
