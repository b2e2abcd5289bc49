"""Executes the notebooks of docs/ on a run of the demo: `make notebooks` writes their outputs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbclient
import nbformat

from fastimae.demo.__main__ import main as demo

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells with `folder` as working directory. Raises CellExecutionError."""
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(notebook, timeout=600, resources=resources)
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the day


def main() -> None:
    """Run the demo in a temporary folder, and the notebooks there."""
    with tempfile.TemporaryDirectory() as folder:
        if demo(["--output_dir", f"{folder}/demo_output"]):
            raise SystemExit("the demo failed")
        for path in NOTEBOOKS:
            notebook = nbformat.read(path, as_version=4)
            execute(notebook, Path(folder))
            nbformat.write(notebook, path)
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
