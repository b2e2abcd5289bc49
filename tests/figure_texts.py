"""The texts of a matplotlib figure that are drawn, and those of them that its edges cut off."""

from matplotlib.figure import Figure
from matplotlib.text import Text


def texts_of(figure: Figure) -> list[Text]:
    """Return all texts that are drawn: labels of ticks beyond the axes' limits are not."""
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    hidden = {label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)
              for label in _beyond(axis)}  # fmt: skip
    return [text for text in found if text not in hidden]


def texts_outside(figure: Figure) -> list[str]:
    """Return the texts that reach beyond the figure by more than a pixel."""
    x0, y0, x1, y1 = figure.bbox.padded(1).extents
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts_of(figure)]
    return [
        text for text, box in boxes
        if box.x0 < x0 or box.y0 < y0 or box.x1 > x1 or box.y1 > y1
    ]  # fmt: skip


def _beyond(axis) -> list[Text]:
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [
        label for tick in ticks if not low <= tick.get_loc() <= high
        for label in (tick.label1, tick.label2)
    ]  # fmt: skip
