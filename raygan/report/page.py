"""A report's files: one HTML page that needs no network, and the same tables as Markdown and CSV."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from html import escape

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from raygan.report.tables import short
from raygan.study.storage import Folder

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
h1, h2, h3 { line-height: 1.2 } h2 { margin-top: 2.5em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
.wide { overflow-x: auto } img { max-width: 100%; image-rendering: pixelated } figure { margin: 1em 0 }
"""


@dataclass
class Part:
    """A heading and what stands under it."""

    title: str
    depth: int = 2
    """Of the heading: 2 or 3."""
    text: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """By the name of their CSV file."""
    plots: dict[str, go.Figure] = field(default_factory=dict)
    """By title."""
    pictures: dict[str, bytes] = field(default_factory=dict)
    """JPEG files by caption."""


def write_report(folder: Folder, title: str, parts: list[Part]) -> None:
    """Write `report.html`, `report.md` and `tables/*.csv`."""
    written = {"report.html": _page(title, parts), "report.md": _markdown(title, parts)}
    for part in parts:
        for name, table in part.tables.items():
            written[f"tables/{name}.csv"] = table.to_csv(index=False)
    for name, content in written.items():
        folder.write(name, content)


def _page(title: str, parts: list[Part]) -> str:
    lines = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body><h1>{escape(title)}</h1>",
    ]
    drawn = 0
    for part in parts:
        lines.append(f"<h{part.depth}>{escape(part.title)}</h{part.depth}>")
        lines += [f"<p>{escape(paragraph)}</p>" for paragraph in part.text]
        lines += [f'<div class="wide">{_html_table(table)}</div>' for table in part.tables.values()]
        for caption, plot in part.plots.items():
            drawn += 1
            div = plot.to_html(
                full_html=False,
                include_plotlyjs=False,
                div_id=f"plot-{drawn}-{_slug(caption)}",
                config={"displaylogo": False, "responsive": True},
            )
            lines.append(f"<figure><figcaption>{escape(caption)}</figcaption>{div}</figure>")
        for caption, jpeg in part.pictures.items():
            source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
            image = f'<img alt="{escape(caption)}" src="{source}">'
            lines.append(f"<figure><figcaption>{escape(caption)}</figcaption>{image}</figure>")
    return "\n".join([*lines, "</body></html>\n"])


def _markdown(title: str, parts: list[Part]) -> str:
    blocks = [f"# {title}"]
    for part in parts:
        if not part.text and not part.tables:
            continue
        blocks.append(f"{'#' * part.depth} {part.title}")
        blocks += part.text
        blocks += [_markdown_table(table) for table in part.tables.values()]
    return "\n\n".join(blocks) + "\n"


def _html_table(table: pd.DataFrame) -> str:
    head = "".join(f"<th>{escape(str(column))}</th>" for column in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in _formatted(table))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _markdown_table(table: pd.DataFrame) -> str:
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns), *_formatted(table)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _formatted(table: pd.DataFrame) -> list[list[str]]:
    return [
        [_cell(str(column), value) for column, value in zip(table.columns, row, strict=True)]
        for row in table.itertuples(index=False)
    ]


def _cell(column: str, value: object) -> str:
    if isinstance(value, float) and pd.isna(value):
        return ""
    if isinstance(value, float) and column.lower().startswith(("psnr", "ssim", "vgg_distance", "val_psnr", "val_ssim")):
        return f"{value:+.3f}" if "difference" in column else f"{value:.3f}"
    return short(value)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
