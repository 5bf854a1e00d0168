"""The interaction of a search's parameters, of scores that are computed from them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from scipy import stats

from raygan.presets import PAPER_V1
from raygan.report.figures import search_figures
from raygan.study.files import StudyFiles
from raygan.report.interaction import interactions_table
from raygan.search.space import When, space_to_json
from raygan.study.storage import Folder

RATE, BETA, POLICY, DEVIATION = (
    *("optimizers/generator/learning_rate", "optimizers/generator/beta1"),
    *("noise/policy", "noise/normal_deviation"),
)
SPACE = {
    RATE: FloatDistribution(1e-4, 1e-2, log=True),
    BETA: FloatDistribution(0.0, 0.95),
    POLICY: CategoricalDistribution(["uniform", "normal"]),
    DEVIATION: When(POLICY, "normal", FloatDistribution(0.1, 0.5)),
}
PAIR = "The two most important parameters"


@pytest.fixture
def searched(tmp_path: Path) -> Callable[..., StudyFiles]:
    """A search of so many trials, spread evenly at random, with scores by their (log10) values, and a little noise."""

    def search(count: int, score: Callable[[float, float, bool], float], noise: float = 0.3) -> StudyFiles:
        random = np.random.default_rng(1)
        trials: list[dict[str, Any]] = []
        for index in range(count):
            rate, beta = random.uniform(-4, -2), random.uniform(0, 0.95)
            normal = bool(random.random() < 0.5)
            values = {RATE: 10**rate, BETA: beta, POLICY: "normal" if normal else "uniform"}
            values[DEVIATION] = random.uniform(0.1, 0.5) if normal else math.nan
            psnr = score(rate + 3, beta - 0.475, normal) + noise * random.standard_normal()
            state = ("complete", "pruned")[index % 2]
            trials.append({"trial": f"trial-{index + 1:04d}", "state": state, "val_psnr": psnr, **values})
        trials.append({"trial": "trial-9998", "state": "failed", "val_psnr": 50.0, **trials[0]} | {"state": "failed"})
        trials.append({"trial": "trial-9999", "state": "running", "val_psnr": math.nan, RATE: 0.001, BETA: 0.5})
        record = {"name": "s", "config": PAPER_V1.to_json(), "space": space_to_json(SPACE), "trials": count}
        (tmp_path / "study.json").write_text(json.dumps(record))
        table = pd.DataFrame(trials)
        table.to_csv(tmp_path / "trials.csv", index=False)
        table.assign(epoch=1)[["trial", "epoch", "val_psnr"]].to_csv(tmp_path / "metrics.csv", index=False)
        return StudyFiles(Folder(tmp_path))

    return search


def test_the_pair_that_interacts_is_found(searched: Callable[..., StudyFiles]) -> None:
    table = interactions_table(searched(40, lambda rate, beta, _: 20 + 8 * rate * beta))
    strongest = table.iloc[0]
    assert {strongest["parameter"], strongest["and"]} == {RATE, BETA}
    assert strongest["trials"] == 40
    assert strongest["gain in R²"] > 0.5
    assert strongest["p"] <= 0.005
    assert (table["gain in R²"].iloc[1:] < 0.2).all()


def test_a_choice_interacts_with_a_number(searched: Callable[..., StudyFiles]) -> None:
    table = interactions_table(searched(40, lambda rate, _, normal: 20 + (4 * rate if normal else -4 * rate)))
    strongest = table.iloc[0]
    assert {strongest["parameter"], strongest["and"]} == {RATE, POLICY}
    assert strongest["p"] <= 0.005


def test_effects_that_only_add_up_are_no_interaction(searched: Callable[..., StudyFiles]) -> None:
    table = interactions_table(searched(40, lambda rate, beta, normal: 20 - 4 * rate**2 + 3 * beta + normal))
    pair = table[(table["parameter"] == RATE) & (table["and"] == BETA)].iloc[0]
    assert pair["gain in R²"] < 0.1
    assert pair["R² without the product"] > 0.4


def test_the_gain_is_that_of_trials_left_out_in_turn(searched: Callable[..., StudyFiles]) -> None:
    study = searched(30, lambda rate, beta, _: 20 + rate + 4 * rate * beta)
    table = interactions_table(study).set_index(["parameter", "and"])
    trials = study.trials.iloc[:30]
    ranks = stats.rankdata(trials["val_psnr"])
    rate, beta = stats.zscore(np.log(trials[RATE])), stats.zscore(trials[BETA])
    alone = [rate, beta, stats.zscore(rate**2), stats.zscore(beta**2)]
    r2 = []
    for terms in (alone, [*alone, stats.zscore(rate * beta)]):
        columns, error = np.stack(terms, axis=1), 0.0
        for left_out in range(30):
            kept = np.arange(30) != left_out
            # A term's weight is held towards 0 by one more row, in which it alone is 1 and the rank 0.
            rows = np.vstack([np.insert(columns[kept], 0, 1, axis=1), np.eye(len(terms) + 1)[1:]])
            weights = np.linalg.lstsq(rows, np.append(ranks[kept], np.zeros(len(terms))), rcond=None)[0]
            error += (ranks[left_out] - weights @ np.insert(columns[left_out], 0, 1)) ** 2
        r2.append(1 - error / ((ranks - ranks.mean()) ** 2).sum())
    row = table.loc[(RATE, BETA)]
    assert row["R² without the product"] == pytest.approx(r2[0])
    assert row["gain in R²"] == pytest.approx(r2[1] - r2[0])


def test_what_only_some_trials_have_counts_where_they_have_it(searched: Callable[..., StudyFiles]) -> None:
    study = searched(40, lambda rate, _, normal: 20 + rate + normal)
    table = interactions_table(study).set_index(["parameter", "and"])
    assert table.loc[(RATE, DEVIATION), "trials"] == (study.trials.iloc[:40][POLICY] == "normal").sum()
    # The policy is normal wherever there is a deviation.
    assert (POLICY, DEVIATION) not in table.index


@pytest.mark.parametrize("count", [1, 2, 9])
def test_too_few_trials_have_no_table(searched: Callable[..., StudyFiles], count: int) -> None:
    study = searched(count, lambda rate, beta, _: 20 + rate * beta)
    assert interactions_table(study).empty
    figures = search_figures(study)
    assert (PAIR in figures) == (count > 1)


def test_equal_scores_have_no_table(searched: Callable[..., StudyFiles]) -> None:
    study = searched(20, lambda *_: 20.0, noise=0.0)
    assert interactions_table(study).empty
    assert PAIR not in search_figures(study)


def test_the_most_important_two_are_drawn_trial_by_trial(searched: Callable[..., StudyFiles]) -> None:
    figure = search_figures(searched(40, lambda rate, beta, _: 20 - 8 * rate**2 - 30 * beta**2))[PAIR]
    assert {figure.layout.xaxis.title.text, figure.layout.yaxis.title.text} == {RATE, BETA}
    assert len(figure.data[0].x) == 40
