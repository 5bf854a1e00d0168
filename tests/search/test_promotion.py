import numpy as np
import pytest

from raygan.search.promotion import Promotion, best_first
from raygan.study.objectives import dominating


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(1, []), (2, [1]), (3, [1]), (9, [1, 3]), (27, [1, 3, 9]), (30, [1, 4, 10]), (81, [1, 3, 9, 27])],
)
def test_rungs_end_at_the_last_epoch(epochs: int, rungs: list[int]) -> None:
    assert Promotion(epochs, trials=9).rungs == rungs


def arrive(promotion: Promotion, rung: int, **scores: float) -> None:
    for trial, score in scores.items():
        promotion.learn(trial, {rung: (score,)}, promotion.epochs)
        promotion.waiting[trial] = rung


def test_the_best_third_goes_on() -> None:
    promotion = Promotion(27, trials=9)
    arrive(promotion, 1, a=1.0, b=3.0)
    assert promotion.next() is None
    arrive(promotion, 1, c=2.0)
    assert promotion.next() == "b"
    assert promotion.passed == {"b": 1}
    assert promotion.next() is None
    # A trial that was stopped long ago is among the best again, as more have come.
    arrive(promotion, 1, d=0.0, e=0.0, f=0.0)
    assert promotion.next() == "c"
    assert promotion.waiting.keys() == {"a", "d", "e", "f"}


def test_higher_rungs_go_first() -> None:
    promotion = Promotion(27, trials=27)
    arrive(promotion, 1, a=1.0, b=2.0, c=3.0, d=4.0, e=5.0, f=6.0)
    arrive(promotion, 3, x=1.0, y=2.0, z=3.0)
    assert [promotion.next() for _ in range(4)] == ["z", "f", "e", None]


def test_trials_that_can_never_go_on_are_told() -> None:
    promotion = Promotion(9, trials=6)
    arrive(promotion, 1, a=6.0, b=5.0)
    # Two of six may go on.
    assert promotion.hopeless() == []
    arrive(promotion, 1, c=4.0, d=7.0)
    assert promotion.hopeless() == ["b", "c"]
    assert promotion.waiting.keys() == {"a", "d"}
    assert promotion.next() == "d"
    assert promotion.next() is None


@pytest.mark.parametrize("seed", range(5))
def test_expected_epochs_are_those_of_the_search_in_the_end(seed: int) -> None:
    promotion, random = Promotion(27, trials=27), np.random.default_rng(seed)
    quality, trained, expected = random.random(27), dict[str, int](), [promotion.expected_epochs([])]
    # All to the first rung, a third of them to the next, and so on.
    assert expected == [27 * 1 + 9 * 2 + 3 * 6 + 1 * 18]
    while (trial := promotion.next() or str(len(trained))) != "27":
        rung = next((rung for rung in promotion.rungs if rung > trained.get(trial, 0)), 27)
        trained[trial] = rung
        if rung < 27:
            arrive(promotion, rung, **{trial: quality[int(trial)]})
        expected.append(promotion.expected_epochs([(epochs, False) for epochs in trained.values()]))
    # More may go on than must, but never fewer.
    assert expected == sorted(expected)
    assert expected[-1] == sum(trained.values())


def test_trials_that_ended_on_their_way_are_not_expected_any_more() -> None:
    promotion = Promotion(27, trials=27)
    # Ten failed before their first epoch: 17 reach the first rung, 5 the second, 1 the third, and none the end.
    assert promotion.expected_epochs([(0, True)] * 10) == 17 * 1 + 5 * 2 + 1 * 6
    # One of nine failed between two rungs, after its second epoch, and one that waited will never go on.
    assert promotion.expected_epochs([(2, True), (1, True)]) == 27 * 1 + (8 * 2 + 1) + 2 * 6


def test_nobody_waits_without_rungs() -> None:
    promotion = Promotion(1, trials=3)
    promotion.learn("a", {1: (1.0,)}, 1)
    assert promotion.next() is None
    assert promotion.hopeless() == []


def test_what_a_trial_has_passed_is_known_from_its_epochs() -> None:
    promotion = Promotion(27, trials=9)
    scores = {epoch: (float(epoch),) for epoch in range(1, 10)}
    promotion.learn("at the rung", {1: (1.0,)}, 27)
    promotion.learn("beyond it", {epoch: scores[epoch] for epoch in range(1, 4)}, 27)
    promotion.learn("at the last", scores, 27)
    assert promotion.passed == {"beyond it": 1, "at the last": 3}


def test_fronts_of_several_objectives_go_first_and_their_ends_before_their_middle() -> None:
    # a, b, c, d form the first front, of which b and c lie close together; e is dominated by b and c, f by all but a.
    scores = np.array([(0.0, 9.0), (5.0, 5.0), (5.5, 4.9), (9.0, 0.0), (4.0, 4.0), (3.0, 0.0)])
    assert dominating(scores).tolist() == [0, 0, 0, 0, 2, 4]
    order = best_first(scores)
    assert order[:2] == [0, 3]
    assert sorted(order[2:4]) == [1, 2]
    assert order[4:] == [4, 5]


def test_one_objective_is_sorted_and_equal_scores_keep_their_order() -> None:
    scores = np.array([(1.0,), (3.0,), (1.0,), (2.0,)])
    assert best_first(scores) == [1, 3, 0, 2]
    assert dominating(scores).tolist() == [2, 0, 2, 1]


def test_both_ends_of_a_trade_off_are_promoted() -> None:
    promotion = Promotion(9, trials=12)
    trade_offs = {"good": (30.0, -9.0), "fast": (20.0, -1.0), "bad": (19.0, -9.5), "slow": (29.0, -9.5)}
    for trial, scores in (trade_offs | {f"other-{index}": (10.0, -20.0) for index in range(2)}).items():
        promotion.learn(trial, {1: scores}, 9)
        promotion.waiting[trial] = 1
    assert {promotion.next(), promotion.next()} == {"good", "fast"}
    assert promotion.next() is None
    # Four of twelve may go on: what four others dominate will not.
    assert promotion.hopeless() == ["other-0", "other-1"]


def test_rungs_of_a_trial_with_other_epochs_lie_at_the_same_share_of_them() -> None:
    promotion = Promotion(9, trials=9)
    assert [promotion.rung_at(epoch, 9) for epoch in (1, 2, 3, 8)] == [1, 1, 3, 3]
    assert [promotion.rung_at(epoch, 30) for epoch in (3, 4, 9, 10)] == [0, 1, 1, 3]
    # So few that one epoch reaches both rungs.
    assert [promotion.rung_at(epoch, 2) for epoch in (1, 2)] == [3, 3]
    promotion.learn("long", {epoch: (float(epoch),) for epoch in range(1, 12)}, 30)
    assert (promotion.scores[1]["long"], promotion.scores[3]["long"]) == ((4.0,), (10.0,))
    assert promotion.passed == {"long": 3}
