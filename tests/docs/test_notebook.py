"""The tutorial's notebook, from its first to its last cell."""

import json
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "tutorials" / "search-in-a-notebook.ipynb", as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    search, trials, epochs, denoised = (cell for cell in notebook.cells if cell.cell_type == "code")
    text = "".join(output.get("text", "") for output in search.outputs)
    # One table that is redrawn, not a line per epoch; the winner's epochs come after it.
    assert "trial-0001 epoch" not in text
    assert any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in search.outputs)
    assert "trial-0003" in json.dumps(trials.outputs)
    assert "trial-0001" in json.dumps(epochs.outputs)
    lines = next(output["text"] for output in denoised.outputs if output.output_type == "stream").splitlines()
    own, synthetic = (float(line.split()[-2]) for line in lines[1:])
    # Trained for seconds, and on a GPU for hours.
    assert synthetic > own
