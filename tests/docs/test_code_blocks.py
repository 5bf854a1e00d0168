"""The code blocks of README and documentation: Python is run, commands are parsed, and run where that is quick.

Blocks that cannot be run are preceded by `<!-- test: skip: the reason -->`; commands of RayGAN in them are parsed.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = ROOT / "docs" / "examples"
BLOCK = re.compile(
    # Blocks of snippets are written ``` { .python }, which ruff does not format.
    r"(?:^ *<!-- test: skip: (?P<reason>[^\n]+) -->\n)?"
    r"^ *``` ?(?:{ \.)?(?P<language>\w+)(?: })?\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
SNIPPET = re.compile(r'^--8<-- "(?P<file>[^":]+):(?P<section>\w+)"$', re.MULTILINE)
SEARCH_FILE = re.compile(r"searches/(\w+)\.py")
TINY = [
    *("--trials", "2", "--trial-epochs", "1", "--epochs", "1"),
    *("--set", "training/steps_per_epoch=2", "--set", "training/batch_size=4", "--set", "discriminator/base_width=4"),
    *("--set", "data/val_crops=2", "--set", "data/val_photos=2", "--set", "data/train_photos=8"),
]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    skipped: bool


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, their snippets included."""
    return [
        Block(match["language"], SNIPPET.sub(_snippet, textwrap.dedent(match["code"])), match["reason"] is not None)
        for match in BLOCK.finditer(page.read_text())
    ]


def _snippet(match: re.Match[str]) -> str:
    text = (ROOT / match["file"]).read_text()
    start, end = (f"# --8<-- [{mark}:{match['section']}]\n" for mark in ("start", "end"))
    assert start in text
    assert end in text
    return text.split(start)[1].split(end)[0].strip()


def commands(block: Block) -> list[list[str]]:
    """The commands of a shell block."""
    lines = block.code.replace("\\\n", " ").splitlines()
    split = [shlex.split(part, comments=True) for line in lines for part in line.split(" && ")]
    return [command for command in split if command]


def check_page(page: Path, folder: Path) -> None:
    """Run and parse the blocks of a page, in the empty folder `folder`."""
    _provide(folder)
    found = blocks(page)
    python = [block.code for block in found if block.language == "python" and not block.skipped]
    if python:
        (folder / "page.py").write_text("\n\n".join(python))
        _run_python(folder / "page.py")
    experiment = next((code for code in python if "SEARCH = " in code), "")
    for block in found:
        if block.language == "bash":
            for command in commands(block):
                _check_command(command, block, experiment)


def _provide(folder: Path) -> None:
    """What the blocks presuppose: studies, images."""
    os.chdir(folder)
    for study in ("v1", "v1-quick", "mine", "finetune", "own-kinds-quick"):
        shutil.copytree(ROOT / "raygan" / "weights" / "baseline", folder / "studies" / study / "best")
    for name in ("noisy.jpg", "noisy.png"):
        Image.fromarray(_noisy()).save(folder / name)
    shutil.copy(EXAMPLES / "own_kinds.py", folder)


def _noisy() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def _run_python(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    module.noisy = _noisy()
    sys.modules[file.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[file.stem]


def _check_command(command: list[str], block: Block, experiment: str) -> None:
    environment = [word for word in command if re.match(r"[A-Z_]+=", word)]
    words = command[len(environment) :]
    searches = [index for index, word in enumerate(words) if SEARCH_FILE.fullmatch(word)]
    if words[:1] == ["raygan"]:
        _check_raygan(words[1:], experiment)
    elif searches:
        [name] = SEARCH_FILE.findall(words[searches[0]])
        arguments = words[searches[0] + 1 :]
        _parse_experiment(name, arguments[1:] if arguments[:1] == ["--"] else arguments)
    elif words[0] == "sbatch":
        [name] = SEARCH_FILE.findall(" ".join(environment)) or ["v1"]
        _parse_experiment(name, words[2:])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    else:
        assert block.skipped, f"not a command of RayGAN: {shlex.join(command)}"


def _check_raygan(arguments: list[str], experiment: str) -> None:
    if arguments[0] in ("search", "train"):
        if arguments[1].endswith(".py") and not Path(arguments[1]).exists():
            assert experiment, f"{arguments[1]} is not on the page"
            Path(arguments[1]).write_text(experiment)
        _parse_experiment(arguments[1], arguments[2:])
        return
    from raygan import cli

    runs = (arguments[0] == "denoise" and Path(arguments[1]).is_file()) or arguments[-1].endswith(".safetensors")
    functions = [name for name in vars(cli) if name == f"_{arguments[0]}"]
    assert functions, f"there is no raygan {arguments[0]}"
    [name] = functions
    called: list[str] = []
    original = getattr(cli, name)
    if not runs:
        setattr(cli, name, _recorded(original, called))
    try:
        cli.main(arguments)
    except SystemExit as end:
        raise AssertionError(f"raygan {shlex.join(arguments)} is refused ({end.code})") from end
    finally:
        setattr(cli, name, original)
    assert runs or called


def _recorded(function: Callable[..., None], called: list[str]) -> Callable[..., None]:
    @functools.wraps(function)
    def record(*_: object, **__: object) -> None:
        called.append(function.__name__)

    return record


def _parse_experiment(name: str, arguments: list[str]) -> None:
    from raygan.cli import load_experiment
    from raygan.search.options import parse_options

    try:
        experiment, _ = parse_options(load_experiment(name), f"raygan search {name}", arguments)
    except SystemExit as end:
        raise AssertionError(f"raygan search {name} {shlex.join(arguments)} is refused ({end.code})") from end
    experiment.check()


def _defines_classes(page: Path) -> bool:
    return any(block.language == "python" and "class " in block.code for block in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_code_blocks(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if not _defines_classes(page):
        check_page(page, tmp_path)
        return
    # Kinds are found by subclassing: those of the documentation must not be found by other tests.
    command = [sys.executable, __file__, str(page), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=170)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if "tutorials" in page.parts or page.name == "README.md"])
def test_skipped_blocks_have_a_reason(page: Path) -> None:
    marks = re.findall(r"<!-- test:.*", page.read_text())
    reasons = [match["reason"] for match in BLOCK.finditer(page.read_text()) if match["reason"]]
    assert len(reasons) == len(marks)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"])
def test_relative_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        assert (ROOT / file).exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\s-]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("section", ["noise", "generator", "loss"])
def test_each_class_takes_under_30_lines(section: str) -> None:
    page = ROOT / "docs" / "tutorials" / "your-own-noise-and-network.md"
    match = next(match for match in SNIPPET.finditer(page.read_text()) if match["section"] == section)
    assert len(_snippet(match).splitlines()) < 30


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_tutorial_runs_to_its_end(tmp_path: Path) -> None:
    """Its commands in order, the first search shrunk."""
    shutil.copy(EXAMPLES / "own_kinds.py", tmp_path)
    Image.fromarray(_noisy()).save(tmp_path / "noisy.png")
    page = ROOT / "docs" / "tutorials" / "your-own-noise-and-network.md"
    done = [
        command
        for block in blocks(page)
        if block.language == "bash" and not block.skipped
        for command in commands(block)
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    searched = False
    for command in done:
        words = [word for word in command if not word.startswith("PYTHONPATH=")]
        if words[1] == "search" and searched:
            continue
        options = TINY if words[1] == "search" else []
        searched = True
        run = subprocess.run(
            [*words, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "denoised.png").exists()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the docs extra: make docs")
    pytest.importorskip("mkdocstrings", reason="needs the docs extra: make docs")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    assert (tmp_path / "reference" / "cli" / "index.html").exists()


if __name__ == "__main__":
    check_page(Path(sys.argv[1]), Path(sys.argv[2]))
