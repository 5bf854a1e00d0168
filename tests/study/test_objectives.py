import pytest

from raygan.study.objectives import compromise, pareto_front

OBJECTIVES = ["val_psnr", "operations_per_pixel"]
# Each of the first three is better in one objective; the second dominates the fourth and equals the fifth.
SCORES = [[30.0, 9.0], [28.0, 2.0], [20.0, 1.0], [27.0, 3.0], [28.0, 2.0]]


def test_pareto_front_has_all_nondominated_rows() -> None:
    assert pareto_front(SCORES, OBJECTIVES) == [0, 1, 2, 4]
    assert pareto_front([[3.0], [5.0], [5.0]], ["val_psnr"]) == [1, 2]
    assert pareto_front([], OBJECTIVES) == []
    with pytest.raises(ValueError, match="some are NaN"):
        pareto_front([[30.0, float("nan")]], OBJECTIVES)


def test_compromise_is_nearest_to_ideal_point() -> None:
    # Scaled losses of the front: (0, 1), (0.2, 0.125), (1, 0).
    assert compromise(SCORES, OBJECTIVES) == 1


@pytest.mark.parametrize(("objective", "best"), [("val_psnr", 1), ("operations_per_pixel", 0)])
def test_compromise_with_single_objective_is_best(objective: str, best: int) -> None:
    assert compromise([[3.0], [5.0], [4.0]], [objective]) == best
