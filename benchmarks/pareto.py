"""Quality against cost: `python benchmarks/pareto.py SUMMARY.csv PICTURE.png`, a minute on an idle core.

SUMMARY.csv is that of `raygan evaluate synthetic small baseline --evaluate-on bsd300 --protocol awgn50 --filters
nonlocal_means`. PSNR is drawn against operations per pixel, and against megapixels per second of one core in float32,
measured here in CPU time, which depends little on what else runs. Published scores are lines: what those networks cost
was not measured. Needs Chromium and the package `playwright`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import pandas as pd
import torch
from picture import save
from plotly.subplots import make_subplots
from timing import machine, show

from raygan.evaluation.classical import FILTERS, filtered
from raygan.evaluation.protocols import PROTOCOLS
from raygan.inference.denoiser import denoise
from raygan.models.cost import operations_per_pixel
from raygan.noise import add_noise
from raygan.report.tables import METHOD_NAMES
from raygan.seeds import torch_generator
from raygan.storage import Folder
from raygan.train.denoisers import load_generator
from raygan.weights import NAMES, denoiser_folder

PROTOCOL = PROTOCOLS["awgn50"]
SIDE = 256
ROUNDS = 3
COLOUR = "#1f77b4"


def megapixels_per_second(run: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Of one core, the fastest of some rounds on one noisy image, after one that does not count."""
    torch.set_num_threads(1)
    noise = PROTOCOL.noise
    noisy = add_noise(torch.full((1, 3, SIDE, SIDE), 0.5), [noise], [noise.mean], [torch_generator("benchmark")])
    seconds = []
    for _ in range(1 + ROUNDS):
        started = time.process_time()
        run(noisy)
        seconds.append(time.process_time() - started)
    return SIDE**2 / 1e6 / min(seconds[1:])


def cost(method: str) -> tuple[float | None, float]:
    """Operations per pixel, if it is a network, and megapixels per second."""
    if method in FILTERS:
        return None, megapixels_per_second(lambda noisy: filtered(method, noisy))
    generator, config = load_generator(Folder(denoiser_folder(method)))
    generator = generator.to(memory_format=torch.channels_last)
    speed = megapixels_per_second(lambda noisy: denoise(generator, noisy, config.generator.stride))
    return operations_per_pixel(config.generator), speed


def draw(costs: pd.DataFrame, picture: str) -> None:
    """Draw both plots side by side, in Chromium."""
    titles = ("operations per pixel", "megapixels per second, one core")
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (quantity, title) in enumerate(zip(("operations", "speed"), titles, strict=True), 1):
        known = costs.dropna(subset=[quantity])
        names = [METHOD_NAMES.get(name, name) for name in known["method"]]
        points = {
            "mode": "markers+text",
            "textposition": "bottom center",
            "marker_size": 10,
            "marker_color": COLOUR,
            "showlegend": False,
        }
        figure.add_scatter(x=known[quantity], y=known["psnr"], text=names, **points, row=1, col=column)
        # Room for the names.
        ends = [math.log10(known[quantity].min() / 2), math.log10(known[quantity].max() * 2)]
        figure.update_xaxes(type="log", dtick="D2", range=ends, title_text=title, row=1, col=column)
        for method, psnr, _ in PROTOCOL.published():
            figure.add_hline(psnr, line_dash="dot", line_width=1, row=1, col=column)
            label = {"text": f"{method}, published", "xref": "x domain" if column == 1 else "x2 domain", "x": 0.01}
            figure.add_annotation(**label, y=psnr, yshift=8, showarrow=False, xanchor="left", row=1, col=column)
    figure.update_yaxes(title_text=f"PSNR (dB), CBSD68, σ {PROTOCOL.deviation:g}", row=1, col=1)
    figure.update_layout(width=1000)
    save(figure, picture)


def main() -> None:
    """Measure, print the table, and draw."""
    summary, picture = sys.argv[1:]
    scores = pd.read_csv(summary).query("set == 'evaluation'").set_index("method")["psnr_mean"]
    methods = [name for name in scores.index if name in (*NAMES, *FILTERS)]
    costs = pd.DataFrame([(name, scores[name], *cost(name)) for name in methods])
    costs.columns = pd.Index(["method", "psnr", "operations", "speed"])
    columns = ("", "PSNR, dB", "operations per pixel", "megapixels per second")
    rows = [
        (name, f"{psnr:.2f}", "" if pd.isna(count) else f"{count:,.0f}", speed)
        for name, psnr, count, speed in costs.itertuples(index=False)
    ]
    show(f"Quality against cost, one core ({machine()})", columns, rows)
    draw(costs, picture)


if __name__ == "__main__":
    main()
