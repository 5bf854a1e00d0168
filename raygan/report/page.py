"""The files of a report: one HTML page that needs no network, and the same tables as Markdown and CSV."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, select_autoescape
from plotly.offline import get_plotlyjs

from raygan.report.tables import short
from raygan.study.storage import Folder


@dataclass
class Part:
    """A heading and what follows it."""

    title: str
    depth: int = 2
    """Level of the heading: 2 or 3."""
    text: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """By the name of their CSV file."""
    plots: dict[str, go.Figure] = field(default_factory=dict)
    """By title."""
    pictures: dict[str, bytes] = field(default_factory=dict)
    """JPEG files by caption."""


def write_report(folder: Folder, title: str, parts: list[Part]) -> None:
    """Write `report.html`, `report.md` and `tables/*.csv`."""
    templates = Environment(loader=PackageLoader("raygan.report"), autoescape=select_autoescape())
    templates.trim_blocks = templates.lstrip_blocks = templates.keep_trailing_newline = True
    templates.filters["cells"] = _cells
    templates.filters["base64"] = lambda jpeg: base64.b64encode(jpeg).decode()
    for name in ("report.html", "report.md"):
        folder.write(name, templates.get_template(name).render(title=title, parts=parts, plotlyjs=get_plotlyjs()))
    for part in parts:
        for name, table in part.tables.items():
            folder.write(f"tables/{name}.csv", table.to_csv(index=False))


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """The rows of a table as texts."""
    return [[_cell(str(column), value) for column, value in row.items()] for row in table.to_dict("records")]


def _cell(column: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if pd.isna(value):
        return ""
    sign = "+" if "difference" in column else ""
    return f"{value:{sign}.3f}" if re.match(r"(val_)?(psnr|ssim|lpips)", column.lower()) else short(value)
