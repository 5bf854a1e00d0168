"""Protocols of the literature: noise, photos and published scores that belong together."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING

from raygan.noise import Gaussian

if TYPE_CHECKING:
    from ray.data import Dataset

CBSD68 = frozenset(files("raygan.evaluation").joinpath("cbsd68.txt").read_text().split())
"""The 68 photos of BSD300's test part (Roth and Black, 2009) that the literature evaluates on, in colour: CBSD68.

67 names are those of a public copy; 102061, which that copy lacked, is shown as an image of the set in articles.
"""


@dataclass(frozen=True)
class Protocol:
    """Additive Gaussian noise of one standard deviation, not clipped: values below 0 and above 1 stay as they are.

    Results, the noisy image included, are clamped to [0, 1] before they are scored.
    """

    name: str
    deviation: float
    """Standard deviation of the noise, on a scale of 0 to 255."""

    @property
    def noise(self) -> Gaussian:
        """The noise; its three levels are the same."""
        variance = (self.deviation / 255) ** 2
        return Gaussian(name=self.name, low=variance, high=variance)

    def photos_of(self, photos: Dataset) -> Dataset:
        """CBSD68, if the photos to evaluate on contain it; otherwise all of them."""
        names = [row["name"] for row in photos.select_columns(["name"]).take_all()]
        if not {PurePath(name).stem for name in names} >= CBSD68:
            print(f"Protocol {self.name}: unclipped Gaussian noise, all {len(names)} photos (CBSD68 is not among them)")
            return photos
        print(f"Protocol {self.name}: unclipped Gaussian noise, the 68 photos of CBSD68")
        for method, psnr, source in self.published():
            print(f"  published: {method} {psnr:.2f} dB ({source})")
        return photos.filter(lambda row: PurePath(row["name"]).stem in CBSD68).materialize()

    def published(self) -> list[tuple[str, float, str]]:
        """Published scores on CBSD68, if any are known: method, PSNR in dB, source."""
        rows = csv.DictReader(files("raygan.evaluation").joinpath("published.csv").read_text().splitlines())
        return [(row["method"], float(row["psnr"]), row["source"]) for row in rows if row["protocol"] == self.name]


PROTOCOLS = {f"awgn{deviation}": Protocol(f"awgn{deviation}", deviation) for deviation in (15, 25, 50)}
"""Protocols by name."""
