"""docs/own_data.md: its code runs, and loops of other libraries give the losses of a plain loop."""

import importlib
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from test_docs import blocks

import fastimae
from fastimae.loaders import create_loader
from fastimae.objectives import IMAE

SMALLER = {
    "mae_vit_base_patch16": "mae_vit_nano_patch8",
    "224": "32",
    "batch_size=64": "batch_size=8, num_workers=0",
}
EPOCHS = 2
DATASET, LOADER, TRANSFORM, PLAIN, LIGHTNING, ACCELERATE = range(6)


class StandInLightning(types.ModuleType):
    """The parts of Lightning that the page uses, which call the hooks in Lightning's order."""

    class LightningModule(torch.nn.Module):
        global_rank = 0

        def log(self, *_, **__):
            pass

    class Trainer:
        world_size = 1

        def __init__(self, max_epochs, **_):
            self.max_epochs = max_epochs

        def fit(self, module):
            module.trainer, module.current_epoch = self, 0
            loader = module.train_dataloader()
            optimizer = module.configure_optimizers()
            for module.current_epoch in range(self.max_epochs):
                for number, batch in enumerate(loader):
                    optimizer.zero_grad()
                    module.training_step(batch, number).backward()
                    optimizer.step()
                module.on_train_epoch_end()


class StandInAccelerate(types.ModuleType):
    """The parts of Accelerate that the page uses."""

    class Accelerator:
        device, process_index, num_processes = "cpu", 0, 1

        def prepare(self, *things):
            return things

        def backward(self, loss):
            loss.backward()


STAND_INS = {"lightning": StandInLightning, "accelerate": StandInAccelerate}


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """Make the page's class folders; return the folder they are in."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    for number in range(24):
        path = folder / f"flowers/train/{number % 3}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((50, 44), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture
def page(flowers, monkeypatch):
    """Return the page's code blocks, with a small model, and the names that its first defines."""
    monkeypatch.chdir(flowers)
    code, names = blocks("own_data.md"), {"__name__": "page"}
    for before, now in SMALLER.items():
        code = [block.replace(before, now) for block in code]
    exec(code[DATASET], names)
    return code, names


def objective():
    torch.manual_seed(0)
    return IMAE(fastimae.create_model("mae_vit_nano_patch8", img_size=32, heads=2))


def losses_of_a_plain_loop(dataset):
    learner, losses = objective(), []
    optimizer = torch.optim.AdamW(learner.student.parameters(), lr=1e-3)
    with create_loader(dataset=dataset, input_size=(32,), batch_size=8, num_workers=0) as loader:
        for epoch in range(EPOCHS):
            loader.set_epoch(epoch)
            for batch in loader:
                loss = learner(batch)["loss"]
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
    return losses


def test_loaders_of_a_dataset_with_a_transform(page):
    code, names = page
    firsts = []
    for block in (LOADER, TRANSFORM):
        exec(code[block], names)
        with names["loader"] as loader:
            firsts.append(next(iter(loader)))
    assert torch.equal(firsts[0].index, firsts[1].index) and firsts[0].labels.max() == 2
    assert not torch.equal(firsts[0].images, firsts[1].images)


def test_an_own_dataloader(page):
    """It learns: more epochs of the same loop end far below where they began."""
    code, names = page
    ten_epochs = code[PLAIN].replace(
        "for images, labels in DataLoader(", "for images, labels in often("
    )

    def often(*args, **settings):
        for _ in range(10):
            yield from torch.utils.data.DataLoader(*args, **settings)

    torch.manual_seed(0)
    exec(ten_epochs, own := {**names, "often": often})
    assert len(own["losses"]) == 30 and np.mean(own["losses"][-5:]) < 0.7 * own["losses"][0]


@pytest.mark.parametrize("real", [False, True], ids=["stand-in", "installed"])
@pytest.mark.parametrize(
    ("library", "block"), [("lightning", LIGHTNING), ("accelerate", ACCELERATE)]
)
def test_loops_of_other_libraries(page, library, block, real, monkeypatch):
    if real:
        pytest.importorskip(library)
    else:
        monkeypatch.setitem(sys.modules, library, STAND_INS[library](library))
    assert isinstance(importlib.import_module(library), STAND_INS[library]) != real
    code, names = page
    quiet = "enable_progress_bar=False, logger=False, enable_checkpointing=False, accelerator='cpu'"
    text = code[block].replace(f"max_epochs={EPOCHS}", f"max_epochs={EPOCHS}, {quiet}")
    exec(text, own := {**names, "objective": objective()})
    losses = own["module"].losses if library == "lightning" else own["losses"]
    assert losses == pytest.approx(losses_of_a_plain_loop(names["train"]()), rel=1e-5)
    assert len(losses) == 6
