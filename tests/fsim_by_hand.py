"""FSIM by its formulas (Zhang et al., 2011) in float64, with Kovesi's phase congruency."""

import numpy as np
from scipy import signal

ORIENTATIONS, SCALES = 4, 4


def fsim_by_hand(one, two) -> float:
    """Return FSIM of two pictures of one channel, FSIMc of three: [H, W, C] in 0..255."""
    luma, chroma = zip(*(_channels(np.asarray(each, float)) for each in (one, two)), strict=True)
    congruency = [_phase_congruency(each) for each in luma]
    gradient = [_gradient(each) for each in luma]
    similar = _similarity(*congruency, 0.85) * _similarity(*gradient, 160)
    if chroma[0]:
        colour = np.prod([_similarity(*pair, 200) for pair in zip(*chroma, strict=True)], axis=0)
        similar = similar * np.real(colour.astype(complex) ** 0.03)
    weight = np.maximum(*congruency)
    return float((similar * weight).sum() / weight.sum())


def _channels(picture):
    """Return luma, and I and Q of a picture with colours."""
    if picture.shape[-1] == 1:
        return picture[..., 0], ()
    red, green, blue = np.moveaxis(picture, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    i = 0.596 * red - 0.274 * green - 0.322 * blue
    return luma, (i, 0.211 * red - 0.523 * green + 0.312 * blue)


def _similarity(a, b, constant):
    return (2 * a * b + constant) / (a * a + b * b + constant)


def _gradient(image):
    scharr = np.array([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
    return np.hypot(*(signal.convolve2d(image, k, mode="same") for k in (scharr, scharr.T)))


def _phase_congruency(image):
    """Return the share of the amplitudes of all filters that are in phase, beyond noise."""
    spectrum, in_phase, amplitudes = np.fft.fft2(image), 0.0, 0.0
    for filters in _filters(*image.shape):
        responses = [np.fft.ifft2(spectrum * each) for each in filters]
        mean = sum(responses)
        mean /= abs(mean) + 1e-8
        along = sum(r.real * mean.real + r.imag * mean.imag for r in responses)
        across = sum(abs(r.real * mean.imag - r.imag * mean.real) for r in responses)
        in_phase += np.maximum(along - across - _noise(filters, responses[0]), 0)
        amplitudes += sum(map(abs, responses))
    return in_phase / (amplitudes + 1e-8)


def _filters(rows, columns):
    """Return log-Gabor filters, for each orientation those of all scales."""
    y, x = np.meshgrid(np.fft.fftfreq(rows), np.fft.fftfreq(columns), indexing="ij")
    radius, angle = np.hypot(x, y), np.arctan2(-y, x)
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1
    bands = []
    for scale in range(SCALES):
        octaves = np.log(radius * 6 * 2**scale) / np.log(0.55)
        bands.append(np.exp(-(octaves**2) / 2) * low_pass)
        bands[-1][0, 0] = 0
    of_all = []
    for number in range(ORIENTATIONS):
        off = angle - number * np.pi / ORIENTATIONS
        off = abs(np.arctan2(np.sin(off), np.cos(off))) * 1.2 * ORIENTATIONS / np.pi
        of_all.append([band * np.exp(-(off**2) / 2) for band in bands])
    return of_all


def _noise(filters, finest):
    """Return the energy that noise has, by the response of the finest scale: mean + 2 deviations
    of a Rayleigh distribution."""
    power = np.median(abs(finest) ** 2) / np.log(2) / (filters[0] ** 2).sum()
    kernels = [np.fft.ifft2(each).real * np.sqrt(each.size) for each in filters]
    squares = sum((k * k).sum() for k in kernels)
    crosses = (sum(kernels) ** 2).sum() - squares  # twice the sum over pairs
    sigma = np.sqrt(power * (squares + crosses))
    return sigma * (np.sqrt(np.pi / 2) + 2 * np.sqrt(2 - np.pi / 2)) / 1.7
