"""Saves a plot as a picture, by Chromium and the package `playwright`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright


def save(figure: go.Figure, picture: str, height: int = 420) -> None:
    """Write a picture of the figure, which has a width in pixels; its format is that of the file's name."""
    figure.update_layout(template="simple_white", height=height, margin={"t": 20, "b": 50, "l": 60, "r": 20})
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        figure.write_html(f"{place}/figure.html", include_plotlyjs=True)
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        size = {"width": int(figure.layout.width), "height": height}
        page = browser.new_page(viewport=size, device_scale_factor=1.5)
        page.goto(Path(place, "figure.html").as_uri())
        page.wait_for_selector(".main-svg")
        page.locator(".plotly-graph-div").screenshot(path=picture)
        browser.close()
