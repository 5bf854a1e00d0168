"""Generates pages while the site is built: the command line, the settings, the model card and the changelog."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from raygan.cli import main
from raygan.config import kinds
from raygan.config.run import Config
from raygan.config.section import Kind, Section, _subclasses, _type_name, field_docs, field_types
from raygan.presets import PAPER_V1

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "raygan": [],
    "raygan search": ["search", "v1"],
    "raygan search, for a comparison": ["search", "discriminator"],
    "raygan train": ["train", "v1"],
    "raygan denoise": ["denoise"],
    "raygan evaluate": ["evaluate"],
    "raygan noise": ["noise"],
    "raygan report": ["report"],
    "raygan compare": ["compare"],
    "raygan dashboard": ["dashboard"],
    "raygan track": ["track"],
    "raygan serve": ["serve"],
    "raygan export": ["export"],
    "raygan fetch": ["fetch"],
}
CLI_INTRODUCTION = """# Command line

This page is generated from the commands' own `--help`.

`raygan search` and `raygan train` take a search file (`FILE.py`) or the name of a search that comes with RayGAN: `v1`,
`v0`, `ablation`, `adversarial_weight`, `camera`, `content_loss`, `denoiser`, `discriminator`, `finetune`,
`noise_policy`, `perception` or `system`. Their options and defaults are those of the experiment, so
`raygan search NAME --help` differs between experiments. In a clone, `python searches/v1.py` is the same as
`raygan search v1`.

Shell completion: `raygan --tyro-print-completion bash` (or `zsh`, `tcsh`) prints a completion script.

Commands exit with 0 on success, 1 if `raygan denoise` skipped files of a folder, 2 on invalid input or where a file
cannot be read or written, and 130 after Ctrl-C; `raygan search` and `raygan train` do so after SIGTERM too.
`raygan serve` and `raygan dashboard`, which run until then, exit with 0.
"""
SETTINGS_INTRODUCTION = """# Settings

This page is generated from the configuration's classes. Defaults are those of `PAPER_V1`, the configuration that
`raygan search v1` starts from. A path such as `optimizers/generator/learning_rate` names a value in `--set`, in search
spaces, in `with_values` and in `trials.csv`. See [Set values of the configuration](../how-to/set-values.md).
"""
BASES = {
    "noises": kinds.Noise,
    "sampling": kinds.SamplingPolicy,
    "generator": kinds.Generator,
    "discriminator": kinds.Discriminator,
    "loss/content": kinds.ContentLoss,
    "data/photos": kinds.PhotoSource,
    "data/pairs": kinds.PairSource,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site's files."""
    pages = {
        "reference/cli.md": _cli_page(),
        "reference/settings.md": _settings_page(),
        "reference/model-card.md": _model_card(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def _cli_page() -> str:
    parts = [CLI_INTRODUCTION]
    for title, arguments in COMMANDS.items():
        parts.append(f"## {title}\n\n```text\n{_help_of(arguments)}\n```\n")
    return "\n".join(parts)


def _help_of(arguments: list[str]) -> str:
    output = io.StringIO()
    os.environ["COLUMNS"] = "100"
    os.environ["NO_COLOR"] = "1"
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip()


def _model_card() -> str:
    weights = ROOT / "raygan" / "weights"
    cards = [(weights / name / "README.md").read_text() for name in ("", "synthetic", "camera", "found", "baseline")]
    text = "\n".join([cards[0], *(re.sub(r"^#", "##", card, flags=re.MULTILINE) for card in cards[1:])])
    # Their links are those of the repository: pages have other addresses here, and other files none.
    text = re.sub(r"\]\((?:\.\./)*docs/(?:explanation/)?", "](../explanation/", text)
    return re.sub(r"\[([^\]]+)\]\([\w./-]+(?:\.csv|/README\.md)\)", r"\1", text)


def _settings_page() -> str:
    parts = [SETTINGS_INTRODUCTION]
    for name in field_types(Config):
        value = getattr(PAPER_V1, name)
        if isinstance(value, Section) and not isinstance(value, Kind):
            parts.append(f"## {name}\n\n{_sentences(type(value))}\n\n{_table(_rows(value, f'{name}/'))}")
        if base := BASES.get(name):
            parts.append(f"## {name}\n\n{field_docs(Config)[name]}\n\n{_kinds(base, name)}")
        for path in BASES:
            if path.startswith(f"{name}/"):
                parts.append(f"### Classes for {path}\n\n{_kinds(BASES[path], path)}")
        if not isinstance(value, Section | tuple):
            row = (name, _type_name(field_types(Config)[name]), str(value), field_docs(Config)[name])
            parts.append(f"## {name}\n\n{_table(iter([row]))}")
    return "\n\n".join(parts)


def _kinds(base: type[Kind], path: str) -> str:
    own = [kind for kind in _subclasses(base)[1:] if kind.__module__.startswith("raygan.")]
    shown = [kind for kind in own if "_" not in kind.__name__]
    return "\n\n".join(f"**`{kind.__name__}`** {_sentences(kind)}\n\n{_table(_fields(kind, path))}" for kind in shown)


def _sentences(section: type) -> str:
    return " ".join((section.__doc__ or "").split())


def _rows(section: Section, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    docs, types = field_docs(type(section)), field_types(type(section))
    for name, value in ((name, getattr(section, name)) for name in types):
        if isinstance(value, Section) and not isinstance(value, Kind):
            yield from _rows(value, f"{prefix}{name}/")
        else:
            shown = value.key if isinstance(value, Kind) else value
            yield prefix + name, _type_name(types[name]), str(shown), docs[name]


def _fields(kind: type[Kind], path: str) -> Iterator[tuple[str, str, str, str]]:
    docs, types = field_docs(kind), field_types(kind)
    for one in dataclasses.fields(kind):
        default: Any = "" if one.default is dataclasses.MISSING else one.default
        yield (
            f"{path}/{'KIND/' if path == 'noises' else ''}{one.name}",
            _type_name(types[one.name]),
            str(default),
            docs[one.name],
        )


def _table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    lines = ["| path | type | default | description |", "|---|---|---|---|"]
    for path, kind, default, doc in rows:
        shown = f"`{default}`" if default else "required"
        lines.append(f"| `{path}` | {_escaped(kind)} | {shown} | {_escaped(doc)} |")
    return "\n".join(lines) if len(lines) > 2 else "It has no fields."


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
