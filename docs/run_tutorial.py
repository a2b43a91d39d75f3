"""Runs docs/tutorial.ipynb and keeps its table and plot in it, for readers who do not run it.

`python docs/run_tutorial.py`, after a change of the notebook. Progress bars and warnings are not kept;
the CI runs the notebook anew (tests/test_docs.py).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nbclient
import nbformat

NOTEBOOK = Path(__file__).parent / "tutorial.ipynb"


def is_kept(output: Any) -> bool:
    """Whether a reader wants to see it: what was printed, and pictures."""
    return output.get("name") == "stdout" or "image/png" in output.get("data", {})


def run(notebook: Any, folder: str) -> None:
    """Run all cells in a folder, and keep their outputs in the notebook."""
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if is_kept(output)]
            for output in cell.outputs:
                output.pop("execution_count", None)


if __name__ == "__main__":
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, folder)
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, NOTEBOOK)
