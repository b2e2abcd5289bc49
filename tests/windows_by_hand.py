"""torchvision's rule for crop windows in plain Python: the reference for the tests."""

import math

from fastimae.loaders.order.philox import philox


def window_by_hand(key, height, width, scale, ratio):
    """Draw one sample's window by RandomResizedCrop's rule, in Python floats."""
    words = [int(w) for block in range(6) for w in philox(key, [block, 0, 0, 1])]
    draw = [word / 2**32 for word in words]
    flip = draw[22] < 0.5
    for attempt in range(10):
        area = height * width * (scale[0] + draw[2 * attempt] * (scale[1] - scale[0]))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + draw[2 * attempt + 1] * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(draw[20] * (height - h + 1)), int(draw[21] * (width - w + 1))
            return (top, left, h, w), flip
    h, w = height, width
    if width / height < min(ratio):
        h = round(width / min(ratio))
    elif width / height > max(ratio):
        w = round(height * max(ratio))
    return ((height - h) // 2, (width - w) // 2, h, w), flip
