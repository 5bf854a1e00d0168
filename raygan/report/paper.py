"""The paper's systems and results, for comparison with those of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from raygan.config.run import Config
from raygan.config.section import flat_values
from raygan.presets import PAPER_ABLATION, PAPER_V0, PAPER_V1
from raygan.study.reader import System

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

SIZE_AND_BUDGET = re.compile(
    "(data|hardware|training)/|loss/content/weights|(generator|discriminator)/(base_width|batch_norm_momentum)"
)
"""Prefixes of the paths in which a run may differ from one of the paper's systems and still count as that system."""

BEST_EPOCH = 16
"""The epoch of v1 that the paper kept, of 30."""

RESULTS = pd.read_csv(Path(__file__).with_name("paper.csv"))
"""The paper's result tables 4, 5, 6 and 8, at the mean intensity of each noise: average and maximum over the images.

`set` is the name that an evaluation gives the corresponding photos.
"""


def paper_system(config: Config) -> str | None:
    """The name of the paper's system that a configuration equals, whatever its size, data and budget; None: none."""
    for name, system in SYSTEMS.items():
        if all(SIZE_AND_BUDGET.match(path) for path in differing([flat_values(config), flat_values(system)])):
            return name
    return None


def title_of(system: System) -> str:
    """The system's name and, if it is one of the paper's systems, which one."""
    name = paper_system(system.config)
    return system.name if name is None else f"{system.name} (the paper's {name})"


def paper_table(config: Config, photo_set: str) -> pd.DataFrame | None:
    """The paper's results, by noise, to compare with those of a configuration on a set of photos.

    `photo_set` is "training", "validation" or "evaluation", or a folder in it such as "evaluation/test". The results
    are those of the ablation, if it is one and the paper has them, otherwise those of v1; None if the noise is not the
    paper's.
    """
    if config.judged_noises != PAPER_V1.judged_noises:
        return None
    of_set = RESULTS[RESULTS["set"] == photo_set.partition("/")[0]].set_index("kind")
    own = of_set[of_set["system"] == (paper_system(config) or "v1")]
    return own if len(own) else of_set[of_set["system"] == "v1"]


def settings_table(configs: Mapping[str, Config]) -> pd.DataFrame:
    """The settings of the paper's systems (its Table 7) and of `configs`, and all others in which `configs` differ."""
    columns = {f"the paper's {name}": config for name, config in SYSTEMS.items()} | dict(configs)
    values = {name: leaves(config) for name, config in columns.items()}
    different = differing([values[name] for name in configs])
    paths = SETTINGS | {path: path for path in different if path not in SETTINGS.values()}
    # The discriminator's loss has the weight 1, in the paper and here.
    rows = [{"setting": "discriminator weight"} | dict.fromkeys(columns, "1")]
    for setting, path in paths.items():
        rows.append({"setting": setting} | {name: _shown(of_one.get(path, "-")) for name, of_one in values.items()})
    return pd.DataFrame(rows)


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def leaves(config: Config) -> dict[str, Any]:
    """All values by path, without the location of photos, which is the name of their source as well."""
    return {path: value for path, value in flat_values(config).items() if not path.endswith("/location")}


def differing(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The names whose values differ between rows, with the value in each row, "-" if it has none."""
    values = {name: [row.get(name, "-") for row in rows] for names in rows for name in names}
    return {name: found for name, found in values.items() if any(one != found[0] for one in found)}
