"""Nothing imports upward: the parts of the package stand in one order, and what must not need Ray does not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LAYERS = [
    "weights",
    "errors",
    "section",
    "config",
    "presets",
    "seeds",
    "storage",
    "progress",
    "data",
    "models",
    "losses",
    "metrics",
    "denoise",
    "classical",
    "train",
    "denoiser",
    "image_files",
    "export",
    "evaluate",
    "report",
    "search",
    "dashboard",
    "cli",
]
MODULES = sorted((ROOT / "raygan").rglob("*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
    return names


def layer_of(name: str) -> int:
    return LAYERS.index(name.split(".")[1])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_upward(path: Path) -> None:
    if path == ROOT / "raygan" / "__init__.py":
        assert not imported(path)
        return
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = [name for name in imported(path) if name.split(".")[0] == "raygan"]
    assert [name for name in own if layer_of(name) > layer_of(module)] == []


def test_search_files_import_no_search_file() -> None:
    for path in (ROOT / "searches").glob("*.py"):
        assert {name for name in imported(path) if name.startswith("searches")} == set()


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_raygan_loads_neither_ray_nor_torch() -> None:
    assert modules_after("import raygan, raygan.config, raygan.cli") & {"ray", "torch", "pandas"} == set()


def test_training_evaluation_and_denoising_import_without_ray() -> None:
    loaded = modules_after(
        "import raygan.train.loop, raygan.evaluation.evaluate, raygan.inference.tiles, raygan.data.photos"
    )
    assert "torch" in loaded
    assert "ray" not in loaded


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert [path for path, length in lengths.items() if length > 350] == []
