"""Nothing imports upward, and what must not need Ray or torch does not."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT

LAYERS = [
    *("errors", "seeds", "storage", "weights", "config", "study", "noise", "data", "models", "losses", "metrics"),
    *("presets", "train", "inference", "evaluation", "report", "search", "dashboard", "cli"),
]
MODULES = sorted((ROOT / "raygan").rglob("*.py"))


def imports(node: ast.AST) -> Iterator[str]:
    """The modules imported, at any depth, except for type checkers alone."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, level=level):
            assert level == 0, "imports are absolute"
            yield module or ""
        case _:
            for child in ast.iter_child_nodes(node):
                yield from imports(child)


def imported(path: Path) -> set[str]:
    return set(imports(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_upward_imports(path: Path) -> None:
    own = [name for name in imported(path) if name.split(".")[0] == "raygan"]
    if path == ROOT / "raygan" / "__init__.py":
        assert own == []
        return
    layer = LAYERS.index(path.relative_to(ROOT / "raygan").with_suffix("").parts[0])
    assert [name for name in own if LAYERS.index(name.split(".")[1]) > layer] == []


def test_every_layer_exists() -> None:
    present = {path.relative_to(ROOT / "raygan").with_suffix("").parts[0] for path in MODULES} - {"__init__"}
    assert present == set(LAYERS)


def test_search_files_do_not_import_each_other() -> None:
    for path in (ROOT / "searches").glob("*.py"):
        assert not {name for name in imported(path) if name.startswith(("searches", "raygan.searches"))}


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "raygan.cli, raygan.config.run, raygan.storage, raygan.study.reader, raygan.data.photos, "
            "raygan.data.sources",
            {"torch", "ray"},
        ),
        ("raygan.inference.serve", {"torch"}),
        (
            "raygan.noise, raygan.models, raygan.losses, raygan.metrics, raygan.train.step, raygan.train.loop, "
            "raygan.train.validation, raygan.train.checkpoint, raygan.inference.files, raygan.inference.export, "
            "raygan.evaluation.evaluate",
            {"ray"},
        ),
    ],
)
def test_modules_import_without_heavy_packages(modules: str, absent: set[str]) -> None:
    code = f"import sys\nimport {modules}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) & absent == set()


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [requirement for group in groups for requirement in group]
    declared = {re.split(r"[<>=\[; ]", requirement)[0].lower() for requirement in requirements}
    used = (
        {name.partition(".")[0] for path in MODULES for name in imported(path)} - sys.stdlib_module_names - {"raygan"}
    )
    distributions = packages_distributions()
    # bm3d is looked for, and used where a user has installed it.
    missing = [
        name
        for name in sorted(used - {"bm3d"})
        if not declared & {one.lower() for one in distributions.get(name, [name])}
    ]
    assert missing == []
