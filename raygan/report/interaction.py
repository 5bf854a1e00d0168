"""How the parameters of a search interact: what pairs of them say about the score that neither says alone."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from scipy import stats

from raygan.study.files import StudyFiles

SHOWN = 10
"""Pairs in the table, the strongest."""
TRIALS_A_TERM = 2
"""How many trials a pair needs for each term of its model."""
SHUFFLES = 999

MEANING = (
    "How pairs of parameters interact: the gain in R² is the share of the variance of the trials' ranks by score that "
    "a quadratic model of the two parameters predicts better with their product than without it, of trials left out "
    "one at a time (0 or less: no interaction found), and p is how often shuffled residuals gain as much; with few "
    "trials, which a searcher chose, which differ in all other parameters too, and some of which were stopped early, "
    "it is a hint at where to look and no proof, and of pairs that do not interact at least one in twenty has p < 0.05."
)
COLUMNS = ("parameter", "and", "trials", "R² without the product", "gain in R²", "p")

Matrix = NDArray[np.float64]


def interactions_table(study: StudyFiles) -> pd.DataFrame:
    """The strongest interactions of a search's parameters, strongest first; empty where there are too few trials.

    Of the trials that did not fail and have a value of both parameters, `R² without the product` and `gain in R²` are
    of the ranks of their best val PSNR, cross-validated by leaving one out; see `MEANING`. Ranks, since the few trials
    that end far below the rest would decide else. Numbers enter as their logarithm where they are searched so.
    """
    good = study.trials[(study.trials["state"] != "failed") & study.trials["val_psnr"].notna()]
    space = {path: json_to_distribution(json.dumps(one)) for path, one in study.record["space"].items()}
    rows = []
    for first, second in itertools.combinations(space, 2):
        trials = good[good[first].notna() & good[second].notna()]
        if trials.empty:
            continue
        terms = [_terms(trials[path], space[path]) for path in (first, second)]
        rows.append(
            {"parameter": first, "and": second, "trials": len(trials)} | _strength(trials[study.objectives[0]], *terms)
        )
    table = pd.DataFrame([row for row in rows if "p" in row], columns=list(COLUMNS))
    return table.sort_values("gain in R²", ascending=False, ignore_index=True).head(SHOWN)


def _terms(values: pd.Series[Any], distribution: BaseDistribution) -> tuple[Matrix, Matrix]:
    """A parameter's linear terms, (trials, terms), and its others: squares of numbers, none of choices.

    A choice has a term for each value but the first. Terms that do not vary are left out.
    """
    if isinstance(distribution, CategoricalDistribution):
        linear = pd.get_dummies(values.astype(str), drop_first=True).to_numpy(float)
        return _standardised(linear), np.empty((len(values), 0))
    numbers = values.to_numpy(float)[:, None]
    linear = _standardised(np.log(numbers) if getattr(distribution, "log", False) else numbers)
    return linear, _standardised(linear**2)


def _strength(scores: pd.Series[float], first: tuple[Matrix, Matrix], second: tuple[Matrix, Matrix]) -> dict[str, Any]:
    """What the product of two parameters adds; nothing where they or the scores do not vary, or trials are too few."""
    pairs = itertools.product(first[0].T, second[0].T)
    products = _standardised(np.array([one * other for one, other in pairs]).reshape(-1, len(scores)).T)
    alone = np.hstack([*first, *second])
    both = np.hstack([alone, products])
    if products.size == 0 or scores.nunique() < 2 or len(scores) < TRIALS_A_TERM * (both.shape[1] + 1):
        return {}
    ranks = stats.rankdata(scores)[:, None]
    predict_alone, predict_both = _fit(alone), _fit(both)
    fitted = predict_alone @ ranks
    # Residuals shuffled among the trials, on top of what the parameters say alone (Freedman and Lane, 1983).
    random = np.random.default_rng(0)
    shuffled = fitted + random.permuted(np.repeat((ranks - fitted).T, SHUFFLES, axis=0), axis=1).T
    values = np.hstack([ranks, shuffled])
    without = _left_out_r2(predict_alone, values)
    gains = _left_out_r2(predict_both, values) - without
    p = float((gains >= gains[0]).mean())
    return {"R² without the product": float(without[0]), "gain in R²": float(gains[0]), "p": p}


def _fit(terms: Matrix) -> Matrix:
    """The matrix that takes values to those that least squares on a constant and the terms fits.

    Each term's weight is held towards 0 as by one trial more (ridge), so that it always exists.
    """
    design = np.hstack([np.ones((len(terms), 1)), terms])
    penalty = np.diag([0.0, *np.ones(terms.shape[1])])
    return np.asarray(design @ np.linalg.solve(design.T @ design + penalty, design.T))


def _left_out_r2(fit: Matrix, values: Matrix) -> Matrix:
    """R² of each value predicted from all others, of each column of `values` (PRESS: Allen, 1974)."""
    errors = (values - fit @ values) / (1 - np.diag(fit)[:, None])
    return np.asarray(1 - (errors**2).sum(axis=0) / values.var(axis=0) / len(values))


def _standardised(columns: Matrix) -> Matrix:
    """Columns of mean 0 and deviation 1, without those that do not vary."""
    deviations = columns.std(axis=0)
    varying = deviations > 1e-9
    return np.asarray((columns - columns.mean(axis=0))[:, varying] / deviations[varying])
