"""Users' operations in the ffcv library's pipeline: their input, their errors and hangs.

The tests share one loader, since it takes seconds to compile. Its operations are jitted, Python,
jitted; each test sets what the Python one does.
"""

import importlib.util
import sys
import threading

import numpy as np
import pytest
import torch
from quick_ffcv import import_ffcv

from fastimae.loaders import DataError, create_loader
from fastimae.loaders.backends import ffcv_pipeline
from fastimae.loaders.backends.ffcv import FFCVLoader
from fastimae.loaders.backends.ffcv_operations import copy_result, load_operations
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.images.crops import Crops

needs_ffcv = pytest.mark.skipif(
    importlib.util.find_spec("ffcv") is None, reason="the ffcv library is not installed"
)

DAMAGED, SECRET = 13, 77
OPERATIONS = """
import dataclasses

from ffcv.fields.rgb_image import SimpleRGBImageDecoder
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.operation import Operation
from ffcv.transforms import ToTensor


class Inverted(Operation):
    def generate_code(self):
        def inverted(images, memory):
            for i in range(images.size):  # numba compiles slices for seconds
                memory.flat[i] = 255 - images.flat[i]
            return memory

        return inverted

    def declare_state_and_memory(self, previous):
        memory = AllocationQuery(previous.shape, previous.dtype)
        return dataclasses.replace(previous, jit_mode=True), memory


class Hook(Operation):
    def change(self, images, index):
        return images

    def generate_code(self):
        def hook(images, memory, index):
            return self.change(images, index)

        hook.with_indices = True
        return hook

    def declare_state_and_memory(self, previous):
        return dataclasses.replace(previous, jit_mode=False), None


class Marked(Operation):
    def generate_code(self):
        def marked(images, memory, index):
            for i in range(len(images)):
                if images[i, 0, 0, 0] == 77 and images[i, 0, 0, 1] == 0:
                    raise ValueError("found the secret")
                images[i, 0, 0] = index[i]
            return images

        marked.with_indices = True
        return marked

    def declare_state_and_memory(self, previous):
        return dataclasses.replace(previous, jit_mode=True), None


class Refused(Hook):
    def declare_state_and_memory(self, previous):
        raise AssertionError("never")


class Untyped(Inverted):
    def generate_code(self):
        return lambda images, memory: images.no_such_thing


def operations():
    return [Inverted(), Hook(), Marked(), ToTensor()]


def refused():
    return [Refused()]


def untyped():
    return [Untyped()]


def decoder():
    return (SimpleRGBImageDecoder(),)


def classes():
    return [ToTensor]


def generator():
    yield ToTensor()


def failing():
    raise RuntimeError("in two\\nlines")


something = 3
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """Return the name of the module above, which only the current directory has."""
    import_ffcv()
    folder = tmp_path_factory.mktemp("module")
    (folder / "users_ops.py").write_text(OPERATIONS)
    (folder / "broken_ops.py").write_text("1 / 0")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield "users_ops"
    sys.modules.pop("users_ops", None)


@pytest.fixture(scope="module")
def damaged(data, tmp_path_factory):
    return type(data)(tmp_path_factory.mktemp("damaged")).write({DAMAGED: bytes(500)})


def make(data, operations, num_workers=0):
    crops = Crops(size=data.settings["input_size"])
    settings = {"num_workers": num_workers, "max_bad_samples": 9, "pin_mem": False}
    reader = BetonReader(data.beton)
    return FFCVLoader(reader, data.sampler(), crops, operations=operations, **settings)


@pytest.fixture(scope="module")
def shared(damaged, module):
    operations = load_operations(f"{module}:operations")
    with make(damaged, operations, num_workers=2) as loader:
        loader.hook = operations[1]
        list(loader)  # compiles now: a test with a short timeout would take that for a hang
        yield loader


@pytest.fixture
def loader(shared, monkeypatch):
    """Return the shared loader at the start of epoch 0; `loader.change` sets its hook."""
    shared.change = lambda function: monkeypatch.setattr(shared.hook, "change", function)
    shared.set_epoch(0)
    return shared


@needs_ffcv
def test_operations_get_complete_batches(damaged, loader):
    """Even those with replacements; compared with Pillow's pixels."""
    counts = set()
    loader.change(lambda images, index: counts.add(len(images)) or images)
    settings = damaged.settings | {"num_workers": 0}
    with create_loader(ffcv=damaged.beton, decoder="pillow", **settings) as reference:
        for ours, exact in zip(loader, reference, strict=True):
            assert torch.equal(ours.index, exact.index)
            marks = ours.index.to(torch.uint8)[:, None].expand(-1, 3)
            assert torch.equal(ours.images[:, 0, 0], marks)
            difference = (255 - ours.images.int() - exact.images.int())[:, 1:].abs()
            assert difference.float().mean() < 2
        assert set(loader.bad) == set(reference.bad) == {DAMAGED}
    assert counts == {damaged.batch_size}


@needs_ffcv
def test_kept_batches_stay_what_they_were(loader):
    """The operations' memory is used again for every batch."""
    copies = [batch.images.clone() for batch in loader]
    loader.set_epoch(0)
    kept = [batch.images for batch in loader]
    assert all(torch.equal(a, b) for a, b in zip(copies, kept, strict=True))
    assert len({images.data_ptr() for images in kept}) == len(copies) == len(loader)


def fails_in_python(images, index):
    if 9 in index:
        raise KeyError("in\ntwo lines")
    return images


def fails_when_jitted(images, index):
    images[index == 9, 0, 0] = SECRET, 0, 0
    return images


@needs_ffcv
@pytest.mark.parametrize(
    "change, error, said",
    [(fails_in_python, KeyError, "KeyError: 'in"), (fails_when_jitted, ValueError, "the secret")],
)
def test_an_error_names_the_sample_and_all_threads_end(loader, change, error, said, resources):
    before = resources.at_rest()
    loader.change(change)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert f"--ffcv_ops failed at sample 9 of {loader.reader.path}: {error.__name__}" in str(
        caught.value
    )
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert type(caught.value.__cause__) is error
    assert resources.settle_at(before)


@needs_ffcv
def test_an_error_of_no_single_sample_names_the_batch(loader):
    def fail(images, index):
        raise (ZeroDivisionError if len(images) > 1 else IndexError)(len(images))

    loader.change(fail)
    with pytest.raises(DataError, match=r"ZeroDivisionError: 8$") as caught:
        next(iter(loader))
    names = ", ".join(map(str, loader.sampler.step(0, 0).index.tolist()))
    assert f"samples {names} of {loader.reader.path}" in str(caught.value)


@needs_ffcv
def test_a_result_of_another_type_is_an_error(loader):
    loader.change(lambda images, index: images.astype(np.int32))
    with pytest.raises(DataError, match=r"--ffcv_ops: .*Tensor torch.int32 \[8, 24, 32, 3\]"):
        next(iter(loader))


@needs_ffcv
def test_a_hang_elsewhere_in_the_process_has_its_own_error(loader, monkeypatch):
    monkeypatch.setattr(ffcv_pipeline, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(loader._pipeline, "_timeout", 0.2)
    with ffcv_pipeline._ONE_BATCH_AT_A_TIME, pytest.raises(DataError, match="another loader"):
        next(iter(loader))


@pytest.fixture
def hanging(loader, monkeypatch, resources):
    """Leave the shared loader in its second batch, which ends only with the test."""
    before, reached, go_on = resources.at_rest(), threading.Event(), threading.Event()

    def hang(images, index):
        if len(images) == loader.sampler.batch_size and loader.sampler.step(0, 1).index[3] in index:
            reached.set()
            go_on.wait()
        return images

    loader.change(hang)
    monkeypatch.setattr(ffcv_pipeline, "COMPILE_SECONDS", 0.0)
    monkeypatch.setattr(loader._pipeline, "_timeout", 0.5)
    monkeypatch.setattr(loader, "_hang", "")
    batches = iter(loader)
    next(batches)
    assert reached.wait(10)
    yield batches
    go_on.set()
    assert resources.settle_at(before), "the thread goes on when it can, and ends"


@needs_ffcv
def test_a_hang_after_decoding_names_the_batch_and_stays(loader, hanging, monkeypatch):
    with pytest.raises(DataError) as caught:
        next(hanging)
    names = ", ".join(map(str, loader.sampler.step(0, 1).index.tolist()))
    names = f"samples {names} of {loader.reader.path}"
    assert str(caught.value) == f"--ffcv_ops hangs: the operations on {names} took over 0.5 s"
    monkeypatch.setattr(loader._pipeline, "_timeout", 600.0)  # would be too long to wait for again
    with pytest.raises(DataError, match=r"--ffcv_ops hangs: .* took over 0.5 s"):
        next(iter(loader))


@needs_ffcv
def test_closing_during_a_hang_gives_up_with_a_warning(hanging, caplog):
    hanging.close()
    assert "--ffcv_ops hangs: the operations on samples" in caplog.text


@needs_ffcv
@pytest.mark.parametrize(
    "function, said",
    [
        ("refused", "ffcv refuses the operations: AssertionError: never"),
        ("untyped", "numba cannot compile it: TypingError"),
    ],
)
def test_operations_that_cannot_be_used(data, module, function, said):
    operations = load_operations(f"{module}:{function}")
    with pytest.raises(DataError, match=f"--ffcv_ops: {said}"):
        next(iter(make(data, operations)))


@needs_ffcv
def test_operations_are_loaded_from_the_current_directory(module):
    path, threads = list(sys.path), torch.get_num_threads()
    names = [type(operation).__name__ for operation in load_operations(f"{module}:operations")]
    assert names == ["Inverted", "Hook", "Marked", "ToTensor"]
    assert sys.path == path and torch.get_num_threads() == threads


@needs_ffcv
@pytest.mark.parametrize(
    "spec, said",
    [
        ("users_ops", "not of the form module:function"),
        (":operations", "not of the form module:function"),
        ("no_such_module:operations", "No module named 'no_such_module'"),
        ("broken_ops:operations", "cannot be imported .ZeroDivisionError"),
        ("users_ops:missing", "users_ops has no function missing"),
        ("users_ops:something", "users_ops has no function something"),
        ("users_ops:failing", r"failing\(\) failed .RuntimeError: in two lines"),
        ("users_ops:decoder", "leave SimpleRGBImageDecoder out"),
        ("users_ops:classes", "is not an ffcv Operation"),
        ("users_ops:generator", "not a generator"),
    ],
)
def test_operations_that_cannot_be_loaded(module, spec, said):
    with pytest.raises(DataError, match=rf"^--ffcv_ops.*{said}"):
        load_operations(spec)


@pytest.mark.parametrize("as_given", [np.array, torch.tensor, lambda x: x[:, :, ::-1]])
def test_results_that_fit_are_copied(as_given):
    result = as_given(np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3))
    expected, out = np.asarray(result).copy(), np.zeros((2, 2, 4, 3), np.uint8)
    copy_result(result, out)
    result[:] = 0
    assert np.array_equal(out, expected) and out.any()


@pytest.mark.parametrize(
    "result, said",
    [
        (torch.zeros(2, 3, 2, 4, dtype=torch.uint8), r"Tensor torch.uint8 \[2, 3, 2, 4\]"),
        (torch.zeros(2, 2, 4, 3), r"torch.float32 \[2, 2, 4, 3\]"),
        (torch.zeros(2, 2, 4, 3, dtype=torch.uint8, device="meta"), "on meta"),
        (np.zeros((1, 2, 4, 3), np.uint8), r"ndarray uint8 \[1, 2, 4, 3\]"),
        (np.zeros((2, 2, 4, 3)), "ndarray float64"),
        (None, "NoneType"),
    ],
)
def test_results_that_do_not_fit_are_errors(result, said):
    out = np.ones((2, 2, 4, 3), np.uint8)
    with pytest.raises(DataError, match=rf"--ffcv_ops: .*{said}.* not uint8 \[2, 2, 4, 3\]"):
        copy_result(result, out)
    assert out.all()
