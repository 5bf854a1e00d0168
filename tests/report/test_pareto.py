from raygan.study.objectives import compromise, front

MEASURES = ["val_psnr", "val_milliseconds"]
# Of the first three each is better in one measure; the fourth is beaten by the second, the fifth equals it.
SCORES = [[30.0, 9.0], [28.0, 2.0], [20.0, 1.0], [27.0, 3.0], [28.0, 2.0]]


def test_the_front_is_what_no_other_result_beats() -> None:
    assert front(SCORES, MEASURES) == [0, 1, 2, 4]


def test_the_compromise_lies_nearest_to_the_best_of_each() -> None:
    # Distances, each measure from 0 to 1: (0, 1), (0.2, 0.125), (1, 0).
    assert compromise(SCORES, MEASURES) == 1


def test_of_one_measure_the_compromise_is_the_best() -> None:
    assert compromise([[3.0], [5.0], [4.0]], ["val_psnr"]) == 1
    assert compromise([[3.0], [5.0], [4.0]], ["val_milliseconds"]) == 0
