"""The paper's own results, to stand beside ours."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from raygan.config.run import Config, NoiseKind
from raygan.presets import PAPER_ABLATION, PAPER_V0, PAPER_V1
from raygan.config.section import flat_values

SYSTEMS: dict[str, Config] = {"v0": PAPER_V0, "v1": PAPER_V1, "λd ablation": PAPER_ABLATION}
"""The paper's systems, in the order of its figures 6, 7 and 8."""

SETTINGS = {
    "content loss": "loss/content",
    "λg": "loss/content_weight",
    "λd": "loss/adversarial_weight",
    "learning rate, discriminator": "optimizers/discriminator/learning_rate",
    "learning rate, generator": "optimizers/generator/learning_rate",
    "β1, discriminator": "optimizers/discriminator/beta1",
    "β1, generator": "optimizers/generator/beta1",
}
"""The settings that the paper lists for its systems, by configuration path."""

SIZE_AND_PLACE = (
    *("data/", "hardware/", "training/", "loss/vgg19_weights", "generator/base_width", "discriminator/base_width"),
    *("generator/batch_norm_momentum", "discriminator/batch_norm_momentum"),
)
"""Beginnings of the paths in which a run may differ from one of the paper's systems and still be that system."""

BEST_EPOCH = 16
"""The epoch of v1 that the paper kept, of 30."""


class Scores(NamedTuple):
    """Average and maximum over a set's images: PSNR in dB, and SSIM."""

    psnr_mean: float
    psnr_max: float
    ssim_mean: float
    ssim_max: float


class ResultTable(NamedTuple):
    """One of the paper's result tables: each noise kind at its mean intensity."""

    number: int
    system: str
    photos: str
    scores: dict[NoiseKind, Scores]


TABLES = {
    "training": ResultTable(
        4,
        "v1",
        "COCO training photos",
        {
            "gaussian": Scores(25.635, 30.519, 0.707, 0.889),
            "salt_and_pepper": Scores(25.845, 30.794, 0.721, 0.897),
            "speckle": Scores(26.115, 31.453, 0.737, 0.903),
        },
    ),
    "validation": ResultTable(
        5,
        "v1",
        "COCO test photos",
        {
            "gaussian": Scores(25.359, 30.413, 0.722, 0.884),
            "salt_and_pepper": Scores(25.576, 30.798, 0.734, 0.889),
            "speckle": Scores(25.808, 31.358, 0.751, 0.899),
        },
    ),
    "evaluation": ResultTable(
        6,
        "v1",
        "BSD300",
        {
            "gaussian": Scores(26.113, 31.302, 0.724, 0.911),
            "salt_and_pepper": Scores(26.359, 31.746, 0.742, 0.918),
            "speckle": Scores(26.705, 32.523, 0.767, 0.927),
        },
    ),
}
"""The results of v1, by our name of the photos' set."""

ABLATION_TABLE = ResultTable(
    8,
    "λd ablation",
    "COCO test photos",
    {
        "gaussian": Scores(23.351, 27.017, 0.601, 0.831),
        "salt_and_pepper": Scores(23.455, 27.029, 0.609, 0.835),
        "speckle": Scores(23.639, 27.549, 0.621, 0.839),
    },
)
"""The ablation's results on our set "validation"."""


def paper_system(config: Config) -> str | None:
    """Which of the paper's systems a configuration is, if any, whatever its size, data and budget."""
    values = _system_values(config)
    return next((name for name, system in SYSTEMS.items() if _system_values(system) == values), None)


def paper_table(config: Config, photo_set: str) -> ResultTable | None:
    """What to set a configuration's scores on "training", "validation" or "evaluation" photos beside.

    The ablation's own table where the paper has one, else v1's; none where other noise is removed than the paper's.
    """
    if config.noise.task != PAPER_V1.noise.task:
        return None
    if photo_set == "validation" and paper_system(config) == "λd ablation":
        return ABLATION_TABLE
    return TABLES[photo_set]


def settings_table(configs: dict[str, Config]) -> pd.DataFrame:
    """The settings of the paper's systems (its Table 7), of others beside them, and in what else the others differ."""
    columns = {f"the paper's {name}": config for name, config in SYSTEMS.items()} | configs
    flat = {name: flat_values(config) for name, config in columns.items()}
    paths = dict(SETTINGS)
    others = [flat[name] for name in configs]
    for path in flat_values(PAPER_V1):
        if path not in SETTINGS.values() and len({str(values[path]) for values in others}) > 1:
            paths[path] = path
    # The discriminator's loss has the weight 1, in the paper and here.
    rows = [{"setting": "discriminator weight"} | dict.fromkeys(columns, "1")]
    for setting, path in paths.items():
        rows.append({"setting": setting} | {name: str(values[path]) for name, values in flat.items()})
    return pd.DataFrame(rows)


def _system_values(config: Config) -> dict[str, object]:
    return {path: value for path, value in flat_values(config).items() if not path.startswith(SIZE_AND_PLACE)}
