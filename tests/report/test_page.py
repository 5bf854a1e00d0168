"""`raygan report`, as a user runs it, and the page it writes, as a browser shows it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Study, raygan, raygan_here
from playwright.sync_api import Page, expect, sync_playwright

from raygan.report.page import Part, write_report
from raygan.storage import Folder

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def page(study: Study, comparison: Study, chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The report of a search and a comparison, open in Chromium, which notes every request and error."""
    output = tmp_path_factory.mktemp("report")
    run = raygan("report", study.folder, comparison.folder, "--output", output)
    assert (run.returncode, run.stderr) == (0, "")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.requests, page.errors = [], []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto((output / "report.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true; })")
        plots = page.locator(".plot")
        for index in range(plots.count()):
            # Plots are drawn when they come into view.
            plots.nth(index).scroll_into_view_if_needed()
            plots.nth(index).locator(".main-svg").first.wait_for(timeout=60_000)
        yield page
        browser.close()


@pytest.mark.slow
def test_every_plot_is_drawn(page: Page) -> None:
    plots = page.locator(".plot")
    titles = [plots.nth(index).get_attribute("id") for index in range(plots.count())]
    for name in (
        *(
            "optimization-history",
            "learning-curves",
            "learning-curves-by-time",
            "parallel-coordinates",
            "parameter-importances",
        ),
        "the-two-most-important-parameters",
        *("psnr-mean-and-deviation-over-seeds", "losses-and-accuracies", "val-psnr-over-the-epochs"),
    ):
        assert any(title and title.endswith(name) for title in titles), name
    for index in range(plots.count()):
        shapes = plots.nth(index).locator(
            ".scatterlayer .js-line, .scatterlayer .point, .barlayer .point, .parcoords-line-layer"
        )
        assert shapes.count() > 0, titles[index]
    assert page.errors == []


@pytest.mark.slow
def test_plots_that_never_were_in_view_are_there_on_paper(page: Page) -> None:
    assert page.context.browser is not None
    unread = page.context.browser.new_page(viewport={"width": 1000, "height": 600})
    unread.goto(page.url)
    drawn = "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"
    unread.wait_for_function(drawn, timeout=120_000)
    assert unread.locator("details:not([open]) .plot").count() > 0
    unread.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true; })")
    as_wide = "[...document.querySelectorAll('details .main-svg')].every(plot => plot.clientWidth > 800)"
    unread.wait_for_function(as_wide, timeout=60_000)
    unread.close()


@pytest.mark.slow
def test_steps_of_all_systems_share_one_figure(page: Page) -> None:
    steps = page.locator("[id$=losses-and-accuracies]")
    # The search's winner and four arms: five columns of three rows, with five lines a column, as they are and smoothed.
    assert steps.locator(".subplot").count() == 15
    assert steps.locator(".scatterlayer .js-line").count() == 50


@pytest.mark.slow
def test_no_request_leaves_the_page(page: Page) -> None:
    outside = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert len(outside) == 1
    assert outside[0].startswith("file:")
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"http", page.content()) == []


@pytest.mark.slow
def test_images_are_shown(page: Page) -> None:
    widths = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    # Two photos of clean and noisy; three photos and kinds for each noise to remove; before and after, a photo of each
    # kind in either study, with strength of its own in one of the comparison's tasks.
    assert len(widths) == 2 + 3 * 3 * 3 + 2 * 9
    assert min(widths) >= 64


@pytest.mark.slow
def test_sliders_divide_the_noisy_picture_from_the_denoised_one(page: Page) -> None:
    slider = page.locator(".slider").first
    noisy, denoised = slider.locator("img.before"), slider.locator("img:not(.before)")
    assert noisy.bounding_box() == denoised.bounding_box()
    slider.locator("[name=split]").focus()
    page.keyboard.press("Home")
    # All of the noisy picture is cut off from the right.
    assert noisy.evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 100% 0px 0px)"
    width = noisy.bounding_box()["width"]
    slider.locator("[name=zoom]").focus()
    page.keyboard.press("End")
    assert noisy.bounding_box()["width"] == pytest.approx(6 * width, rel=0.01)
    # The boundary stays where it is in what can be seen.
    slider.locator(".pair").evaluate("pair => { pair.scrollLeft = 40; }")
    expect(slider).to_have_attribute("style", re.compile("--boundary: 40px"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1600])
def test_the_page_fits_any_screen_and_is_accessible(page: Page, width: int, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    # Plots take the new width a moment later.
    page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
    # What plotly.js draws has no elements that a screen reader could use; its figures have captions.
    found = Axe().run(page, context={"exclude": [[".plot"]]})
    assert [one["id"] for one in found.response["violations"] if one["impact"] in ("serious", "critical")] == []


@pytest.mark.slow
def test_what_came_out_stands_first_and_the_page_is_small(page: Page) -> None:
    headings = page.locator("h2, h3").all_inner_texts()
    assert headings[:5] == ["Study tiny", "The result", "How far to trust it", "Before and after", "What mattered"]
    assert page.locator("pre").first.inner_text().startswith("raygan denoise PHOTO DENOISED --checkpoint ")
    assert Path(page.url.removeprefix("file://")).stat().st_size < 4_000_000


@pytest.mark.slow
def test_report_has_every_table_of_the_paper(page: Page) -> None:
    headings = page.locator("h2, h3, h4").all_inner_texts()
    for number in (4, 5, 6):
        assert any("tiny, winner" in heading and heading.endswith(f"Table {number}") for heading in headings)
        assert any("tiny-comparison, patch:" in heading and heading.endswith(f"Table {number}") for heading in headings)
    # The paper has no scores for stronger noise.
    assert any(heading.endswith("tiny-comparison, patch-1.5x: evaluation photos") for heading in headings)
    assert any("Table 7" in heading for heading in headings)
    for figures in ("Figures 2 and 3", "Figures 6, 7 and 8"):
        assert any(figures in heading for heading in headings)
    assert any("in test, beside the paper's Table 6" in heading for heading in headings)
    assert "Best epoch" in headings


def test_tables_have_the_papers_values(study: Study) -> None:
    run = raygan_here("report", study.folder)
    assert (run.returncode, run.stderr) == (0, "")
    assert f"{study.folder}/report/report.html" in run.stdout
    tables = study.folder / "report" / "tables"
    table = pd.read_csv(tables / "tiny-winner-evaluation.csv").set_index(["noise", "over the images"])
    per_image = pd.read_csv(study.folder / "evaluation" / "per_image.csv")
    at_mean = per_image[(per_image["set"] == "evaluation") & (per_image["level"] == "mean")]
    scores = at_mean[(at_mean["method"] == "raygan") & (at_mean["kind"] == "salt_and_pepper")]
    for over, psnr, ssim, paper in (
        ("average", scores["psnr"].mean(), scores["ssim"].mean(), (26.359, 0.742)),
        ("maximum", scores["psnr"].max(), scores["ssim"].max(), (31.746, 0.918)),
    ):
        row = table.loc["salt & pepper", over].to_dict()
        expected = (psnr, paper[0], psnr - paper[0], ssim, paper[1], ssim - paper[1])
        assert tuple(row.values()) == pytest.approx(expected)
    markdown = (study.folder / "report" / "report.md").read_text()
    assert f"| salt & pepper | average | {scores['psnr'].mean():.3f} | 26.359 |" in markdown


def test_folder_without_a_finished_study_is_refused(tmp_path: Path) -> None:
    run = raygan_here("report", tmp_path)
    assert run.returncode == 2
    assert "holds no finished study" in run.stderr


@pytest.mark.parametrize("command", ["report", "compare", "dashboard"])
def test_no_study_is_refused(command: str) -> None:
    run = raygan_here(command)
    assert (run.returncode, run.stderr.strip()) == (2, "raygan: give the folder of a study")


def test_texts_are_escaped(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"<b>": ["a|b\nc"], "psnr_difference": [1.23456], "val_ssim": [float("nan")], "seconds": [1234567.0]}
    )
    write_report(Folder(tmp_path), "A & B", [Part("<i>", text=["x < y"], tables={"one": table})])
    page = (tmp_path / "report.html").read_text()
    assert "<title>A &amp; B</title>" in page
    assert "<h2>&lt;i&gt;</h2>" in page
    assert "<p>x &lt; y</p>" in page
    assert '<th scope="col">&lt;b&gt;</th>' in page
    assert "<td>a|b\nc</td><td>+1.235</td><td></td><td>1.235e+06</td>" in page
    markdown = """# A & B

## <i>

x < y

| <b> | psnr_difference | val_ssim | seconds |
| --- | --- | --- | --- |
| a\\|b c | +1.235 |  | 1.235e+06 |
"""
    assert (tmp_path / "report.md").read_text() == markdown
    assert (tmp_path / "tables" / "one.csv").read_text().splitlines()[1:] == ['"a|b', 'c",1.23456,,1234567.0']
