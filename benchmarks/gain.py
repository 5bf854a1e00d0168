"""What a search gains: `python benchmarks/gain.py STUDY PHOTOS`, about ten minutes on two cores for a --quick search.

Trains the best configuration that the search in the folder STUDY found, and the paper's v1 and v0, with three seeds
each and otherwise alike: the same networks, photos and epochs. Evaluates them on PHOTOS, a folder that neither training
nor search has seen.
"""

from __future__ import annotations

import argparse
from typing import Any

from raygan.config.run import Config
from raygan.config.section import flat_values, with_values
from raygan.presets import PAPER_V0, PAPER_V1
from raygan.search.experiment import Comparison
from raygan.search.study import run_study
from raygan.study.reader import StudyFiles
from raygan.study.storage import Folder


def main() -> None:
    """Run the comparison, which ends with its table."""
    parser = argparse.ArgumentParser(description="A search's best configuration against the paper's.")
    parser.add_argument("study", metavar="STUDY", help="folder of a finished search")
    parser.add_argument("photos", metavar="PHOTOS", help="folder of photos that it has not seen")
    parser.add_argument("--storage", default="studies", help="where the comparison's folder goes (default: studies)")
    options = parser.parse_args()
    study = StudyFiles.finished(Folder(options.study))
    searched = study.record["space"]

    def values_of(system: Config) -> dict[str, Any]:
        values = flat_values(system)
        # Those of the kinds that the system does not have are left out.
        return {path: values[path] for path in searched if path in values}

    comparison = Comparison(
        name=f"{study.name}-gain",
        config=with_values(study.config, {"data/evaluate_on": options.photos}),
        arms={
            "v1": values_of(PAPER_V1),
            "v0": values_of(PAPER_V0),
            "found": values_of(PAPER_V1) | study.record["best_trial"]["values"],
        },
    )
    run_study(comparison, options.storage)
    trials = study.trials
    print(f"\nThe search trained {len(trials)} trials for {trials['epochs'].sum()} epochs to find it.")


if __name__ == "__main__":
    main()
