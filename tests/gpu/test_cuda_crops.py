"""Windows and crops on a real GPU: the CPU's in every bit, also when a graph replays them."""

import pytest
import torch

from fastimae.kernels import PixelStore, crop_resize, draw_windows, resize_taps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BOUNDS = {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)}
DTYPES = pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)


def moved(parts):
    return type(parts)(*(x.cuda() if isinstance(x, torch.Tensor) else x for x in parts))


def store_of(sizes, channels, dtype):
    top = torch.iinfo(dtype).max
    return PixelStore.of([torch.randint(0, top + 1, (*size, channels)).to(dtype) for size in sizes])


@pytest.mark.parametrize("random", [True, False])
def test_a_million_windows_are_the_cpus(random):
    """exp may differ in its last bit, and then once in 10^12 draws a window."""
    keys = torch.randint(-(2**62), 2**62, (2**20,))
    height, width = torch.randint(1, 700, (2, len(keys)), dtype=torch.int32)
    expected = draw_windows(keys, height, width, **BOUNDS, random=random)
    sizes = keys.cuda(), height.cuda(), width.cuda()
    for impl in ("triton", "torch"):
        got = draw_windows(*sizes, **BOUNDS, random=random, impl=impl)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(got, expected, strict=True))


@DTYPES
@pytest.mark.parametrize("impl", ["triton", "torch"])
@pytest.mark.parametrize(
    ("sizes", "size", "channels"),
    [
        ([(32, 32)] * 50, (32, 32), 3),
        ([(375, 500), (500, 333), (900, 120), (64, 48), (1, 7)], (224, 224), 3),
        ([(61, 47), (120, 33)], (33, 57), 13),
    ],
)
def test_crops_are_the_cpus(sizes, size, channels, impl, dtype):
    store = store_of(sizes, channels, dtype)
    index = torch.arange(60) % len(sizes)
    drawn = draw_windows(index * 7919, store.height[index], store.width[index], **BOUNDS)
    taps = resize_taps(900, size, dtype=dtype)
    expected = crop_resize(store, index, *drawn, taps)
    on_gpu = (x.cuda() for x in (index, *drawn))
    got = crop_resize(moved(store), *on_gpu, type(taps)(*map(moved, taps)), impl=impl)
    assert torch.equal(got.cpu(), expected)


def test_a_graph_replays_both():
    """With other keys and samples in the same tensors; recording fails if the host has to wait."""
    store = store_of([(40, 50), (33, 20), (8, 8)], 3, torch.uint8)
    held, taps = moved(store), resize_taps(50, (16, 16), "cuda")
    key, index = torch.zeros(2, 64, dtype=torch.int64, device="cuda")

    def crops():
        drawn = draw_windows(key, held.height[index], held.width[index], **BOUNDS)
        return crop_resize(held, index, *drawn, taps)

    crops()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = crops()
    for step in range(3):
        keys, samples = torch.randint(2**62, (64,)), torch.arange(step, step + 64) % 3
        key.copy_(keys)
        index.copy_(samples)
        graph.replay()
        drawn = draw_windows(keys, store.height[samples], store.width[samples], **BOUNDS)
        assert torch.equal(
            out.cpu(), crop_resize(store, samples, *drawn, resize_taps(50, (16, 16)))
        )
