"""Studies whose numbers are written by hand, in their folders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from raygan.config.section import with_values
from raygan.presets import PAPER_V1
from raygan.storage import Folder

KINDS = ("gaussian", "salt_and_pepper", "speckle")


def write_study(folder: Path, *, config: Mapping[str, object] | None = None, **record: Any) -> Folder:
    """A folder with a `study.json`: a search's, unless the record has `arms`."""
    folder.mkdir(parents=True)
    of_search = {"space": {"loss/content_weight": {}}, "search_algorithm": "tpe", "seed": 0}
    whole = {
        "schema": 2,
        "name": folder.name,
        "status": "finished",
        "started": "today",
        "versions": {"raygan": "0"},
        "content_loss": "features",
        "photos": {"train": 8, "validation": 2, "sha256": "a"},
        "evaluation_photos": {"count": 300, "sha256": "a"},
        "config": with_values(PAPER_V1, config or {}).to_json(),
        **({} if "arms" in record else of_search),
        **record,
    }
    (folder / "study.json").write_text(json.dumps(whole))
    return Folder(folder)


def write_table(folder: Folder, name: str, rows: list[dict[str, Any]] | pd.DataFrame) -> None:
    folder.write(name, pd.DataFrame(rows).to_csv(index=False))


def write_evaluation(folder: Folder, per_image: list[dict[str, Any]]) -> None:
    """`per_image.csv`, and the `summary.csv` that an evaluation would write."""
    table = pd.DataFrame(per_image)
    groups = table.groupby(["task", "set", "kind", "level", "intensity", "method"], sort=False)
    measured = {f"{m}_{s}": (m, s) for m in ("psnr", "ssim", "lpips") if m in table for s in ("mean", "max")}
    seconds = {"seconds_mean": ("seconds", "mean")} if "seconds" in table else {}
    write_table(folder, "evaluation/per_image.csv", table)
    write_table(
        folder, "evaluation/summary.csv", groups.agg(images=("image", "size"), **measured, **seconds).reset_index()
    )
