"""The notebooks of docs/ run, and were committed with the outputs of a run."""

import nbformat
import pytest

from fastimae import cli
from fastimae.demo.drawing import draw_dataset

pytest.importorskip("nbclient")
from notebooks import NOTEBOOKS, ROOT, execute


@pytest.fixture(scope="module")
def demo_output(tmp_path_factory):
    """What the demo leaves, of few images and one epoch."""
    folder = tmp_path_factory.mktemp("demo")
    images, beton, run = (folder / "demo_output" / name for name in ("images", "demo.beton", "run"))
    draw_dataset(images, per_class=8)
    assert cli.convert([str(images), str(beton)]) == 0
    flags = ["--epochs", "1", "--warmup_epochs", "0", "--ffcv", str(beton)]
    assert cli.train(["--recipe", "demo", *flags, "--output_dir", str(run)]) == 0
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, demo_output):
    """With a training of one epoch."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("epochs = 4", "epochs = 1")
    execute(notebook, demo_output)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 600_000, "smaller figures"


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 2, [path.relative_to(ROOT) for path in NOTEBOOKS]
