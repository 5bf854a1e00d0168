import pytest

from raygan.search.promotion import Promotion


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(1, []), (2, [1]), (3, [1]), (9, [1, 3]), (27, [1, 3, 9]), (30, [1, 4, 10]), (81, [1, 3, 9, 27])],
)
def test_rungs_end_at_the_last_epoch(epochs: int, rungs: list[int]) -> None:
    assert Promotion(epochs, trials=9).rungs == rungs


def arrive(promotion: Promotion, rung: int, **scores: float) -> None:
    for trial, score in scores.items():
        promotion.learn(trial, {rung: score})
        promotion.wait(trial, rung)


def test_the_best_third_goes_on() -> None:
    promotion = Promotion(27, trials=9)
    arrive(promotion, 1, a=1.0, b=3.0)
    assert promotion.next() is None
    arrive(promotion, 1, c=2.0)
    assert promotion.next() == "b"
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


def test_nobody_waits_without_rungs() -> None:
    promotion = Promotion(1, trials=3)
    promotion.learn("a", {1: 1.0})
    assert promotion.next() is None
    assert promotion.hopeless() == []
