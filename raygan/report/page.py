"""The files of a report: one HTML page that needs no network, and the same tables as Markdown and CSV."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, select_autoescape
from plotly.offline import get_plotlyjs

from raygan.report.tables import short
from raygan.storage import Folder


@dataclass
class Part:
    """A heading and what follows it."""

    title: str
    text: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """Shell commands, to be copied."""
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    """By the name of their CSV file."""
    plots: dict[str, go.Figure] = field(default_factory=dict)
    """By title."""
    sliders: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """The same crop before and after, as JPEG files, by caption."""
    pictures: dict[str, bytes] = field(default_factory=dict)
    """JPEG files by caption."""
    parts: list[Part] = field(default_factory=list)
    """What is below this heading."""
    folded: bool = False
    """Whether the page shows the heading alone at first."""

    def all_parts(self) -> Iterator[Part]:
        """This part and those below it."""
        yield self
        for part in self.parts:
            yield from part.all_parts()


def write_report(folder: Folder, title: str, parts: list[Part]) -> None:
    """Write `report.html`, `report.md` and `tables/*.csv`."""
    templates = Environment(loader=PackageLoader("raygan.report"), autoescape=select_autoescape())
    templates.trim_blocks = templates.lstrip_blocks = templates.keep_trailing_newline = True
    templates.filters |= {"cells": _cells, "base64": _base64, "packed": _packed, "json": _json}
    for name in ("report.html", "report.md"):
        folder.write(name, templates.get_template(name).render(title=title, parts=parts, plotlyjs=get_plotlyjs()))
    for part in parts:
        for one in part.all_parts():
            for name, table in one.tables.items():
                folder.write(f"tables/{name}.csv", table.to_csv(index=False))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _packed(text: str) -> str:
    """A text, compressed: plotly.js has 4.8 MB, and 1.9 MB so."""
    return _base64(gzip.compress(text.encode(), mtime=0))


def _json(figure: go.Figure) -> str:
    """A figure for plotly.js, without a template, since the page's script gives it the page's colours, and a title."""
    bare = go.Figure(figure).update_layout(template="none", title=None)
    if bare.layout.margin.t is None:
        # Without a title, there is room for the names of parallel axes only.
        bare.update_layout(margin_t=50)
    # Inside a script element.
    return str(bare.to_json()).replace("<", "\\u003c")


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
