"""What a person sees while a run trains: a bar or plain lines, and a line for each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastimae.log import log
from fastimae.progress import Bar, Due, TimeLeft, duration, in_terminal

# Values in words, in the order of lines. Values that are not listed are in log.txt only.
_WORDS = {
    "loss": "loss {:.4f}",
    "test_loss": "test loss {:.4f}",
    "test_acc1": "acc1 {:.2f} %",
    "test_acc5": "acc5 {:.2f} %",
    "test_mIoU": "mIoU {:.2f} %",
    "test_AP": "AP {:.2f} %",
    "test_AP_mask": "mask AP {:.2f} %",
    "probe_linear_acc1": "linear {:.2f} %",
    "probe_knn_acc1": "kNN {:.2f} %",
    "probe_rankme": "RankMe {:.1f}",
    "probe_ema_linear_acc1": "EMA linear {:.2f} %",
    "probe_ema_knn_acc1": "EMA kNN {:.2f} %",
    "probe_ema_rankme": "EMA RankMe {:.1f}",
    "lr": "lr {:.2e}",
    "img_per_s": "{:.0f} img/s",
    "data_wait": "waiting {:.0%}",
    "mfu": "MFU {:.0%}",
    "memory_gb": "{:.1f} GB",
    "input_size": "{} px",
    "bad_samples": "{} broken images",
}
_FIRST_IN_BAR = ("img_per_s", "data_wait", "loss")
"""The values that a narrow terminal has room for; the time left follows, then the others."""
MEASURES = ("lr", "img_per_s", "mfu", "memory_gb", "data_wait")
"""The values of a reading that are not parts of the loss."""

Values = Mapping[str, float]


class Console:
    """Shows a run's progress on stderr, by itself if `quiet` not at all.

    In a terminal it is a bar. Elsewhere there is a line after the first step, and later when one is
    `Due`: preferably at a step where the losses are read (--log_steps), which waits for the GPU; if
    these are far apart, lines between them have no loss. Both have a line for each epoch.
    """

    def __init__(self, *, epochs: int, total: int, done: int, quiet: bool = False) -> None:
        """epochs, total, done: as for `Reporter`."""
        self.epochs, self.total, self.done = epochs, total, done
        self.each, self.first = max(total // epochs, 1), done + 1
        self.quiet, self.lines = quiet, not quiet and not in_terminal()
        self.values: Values = {}
        self.lacks_loss = True
        """Whether the loss is not in the last line, as at the start."""
        self.due, self.left = Due(), TimeLeft(total, done)
        self.bar = Bar(total, done, self._epoch(), self._bar_values, quiet=quiet)

    def advance(self, steps: int = 1) -> None:
        """Count optimizer steps; the first one comes alone."""
        self.done += steps
        if self.done == self.first:  # it also compiles: its time says nothing about the others
            self.left = TimeLeft(self.total, self.done)
        self.bar.set_name(self._epoch())
        self.bar.update(steps)

    def show(self, values: Values) -> None:
        """Show the losses and speed of the last steps: on the bar, or in a line if one is due."""
        self.values = values
        self.bar.refresh()
        epoch_ends = self.done % self.each == 0  # its line follows
        if self.lines and not epoch_ends and self.due(0.0 if self.lacks_loss else 0.5):
            self._line(values)
            self.lacks_loss = False

    def show_between(self, values: Callable[[], Values]) -> None:
        """Write a line without losses, at a step where they are not read, if one is due.

        values: returns the other values.
        """
        if self.lines and self.due():
            self._line(values())
            self.lacks_loss = True

    def finish_epoch(self, values: Mapping[str, Any], seconds: float) -> None:
        """Write the epoch's line. values: its means; seconds: how long it took."""
        self.left.mark(self.done)
        if not self.quiet:
            words = [*_in_words(values).values(), f"in {duration(seconds)}"]
            log.info("%s: %s", self._epoch(), ", ".join(words + self.left.words(self.done)))

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def _line(self, values: Values) -> None:
        where = f"{self._epoch()}, step {(self.done - 1) % self.each + 1}/{self.each}"
        words = [*_in_words(values).values(), *self.left.words(self.done)]
        log.info("%s: %s", where, ", ".join(words))

    def _epoch(self) -> str:
        """Return "epoch 3/800": that of the last step, or of the first one to come."""
        return f"epoch {(max(self.done, self.first) - 1) // self.each + 1}/{self.epochs}"

    def _bar_values(self) -> list[str]:
        words = _in_words(self.values)
        first = [words.pop(name) for name in _FIRST_IN_BAR if name in words]
        left = self.left.words(self.done)
        return [*first, *left, *words.values(), f"step {self.done}/{self.total}"]


def _in_words(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that are worth showing, by name, in the order of `_WORDS`."""
    shown = {name: text for name, text in _WORDS.items() if name in values}
    if not values.get("bad_samples"):
        shown.pop("bad_samples", None)
    return {name: text.format(values[name]) for name, text in shown.items()}
