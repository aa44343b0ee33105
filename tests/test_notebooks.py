"""The notebooks of the examples run from top to bottom, and show what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = ("first_chat", "structured_extraction", "tools_and_data")


@pytest.fixture(autouse=True)
def jupyter_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the person's own settings counts, and nothing is left behind."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("GPTOSS_MLX_HOME", str(tmp_path / "models"))


def executed(name: str, folder: Path) -> str:
    """Everything that the cells of a notebook show, one after the other."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(text for output in outputs for text in texts(output))


def texts(output: Any) -> list[str]:
    if output.output_type == "stream":
        return [output.text]
    return [data for data in output.data.values() if isinstance(data, str)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_kept_without_outputs(name: str) -> None:
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 20_000
    assert "pull 20b" in notebook.cells[0].source


def test_first_chat(tmp_path: Path) -> None:
    shown = executed("first_chat", tmp_path)
    assert "<GptOss the embedded demonstration model: 4 layers, 16 experts>" in shown
    assert "<p>The capital of France is Paris.</p>" in shown
    assert "answer:   The capital of France is Paris." in shown
    assert shown.count("57 + 68 = 125.") == 3
    assert "I| am| the| demonstration" in shown
    assert "<p>42 + 3 = 45.</p>" in shown
    assert "<p>The capital of Japan is Tokyo.</p>" in shown
    assert "<p>12 + 30 = 42.</p>" in shown


def test_structured_extraction(tmp_path: Path) -> None:
    shown = executed("structured_extraction", tmp_path)
    assert "Destination(city='Nairobi')" in shown
    for city in ("Nairobi", "Tokyo", "Wellington", "Ottawa", "Cairo", "Rome"):
        assert f"<td>{city}</td></tr>" in shown


def test_tools_and_data(tmp_path: Path) -> None:
    shown = executed("tools_and_data", tmp_path)
    assert "<p>The tool says:\n13 C</p>" in shown
    assert "17 + 25 = 42." in shown
    assert 'get_temperature({"city":"Nairobi"}) -> 19 C' in shown
    assert "Cairo is the warmest; the mean of all is 15.0 C" in shown
    assert "iVBORw0KGgo" in shown  # the beginning of a PNG file
