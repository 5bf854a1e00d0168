import pandas as pd
import pytest

from raygan.evaluation.evaluate import summarize, tabulate


def test_rows_are_ordered_by_set_and_image() -> None:
    rows = [
        [
            {"image": image, "set": part, "kind": "blur", "method": method, "psnr": 20.0, "picture": "", "png": b""}
            for method in ("noisy", "median")
        ]
        for image, part in (("b", "evaluation"), ("c", "training"), ("a", "evaluation"))
    ]
    rows[0][0] |= {"picture": "b.png", "png": b"content"}
    table, pictures = tabulate(rows, "median")
    assert table["image"].tolist() == ["c", "c", "a", "a", "b", "b"]
    assert table["method"].tolist() == ["noisy", "median"] * 3
    assert pictures == {"b.png": b"content"}


def test_summary_has_mean_and_best_over_images() -> None:
    per_image = pd.DataFrame(
        [
            (0, "x/a", "evaluation", "gaussian", "mean", 0.04, "noisy", 10.0, 0.1, 0.0),
            (0, "y/b", "evaluation", "gaussian", "mean", 0.04, "noisy", 14.0, 0.3, 0.0),
            (0, "x/a", "evaluation", "gaussian", "mean", 0.04, "raygan", 20.0, 0.5, 2.0),
            (0, "y/b", "evaluation", "gaussian", "mean", 0.04, "raygan", 21.0, 0.9, 4.0),
            (0, "z/c", "training", "gaussian", "mean", 0.04, "raygan", 30.0, 0.8, 1.0),
        ],
        columns=["task", "image", "set", "kind", "level", "intensity", "method", "psnr", "ssim", "seconds"],
    )
    summary = summarize(per_image)
    assert list(summary.columns) == [
        *("task", "set", "kind", "level", "intensity", "method"),
        *("images", "psnr_mean", "psnr_max", "ssim_mean", "ssim_max", "seconds_mean"),
    ]
    rows = {(row[1], row[5]): row[6:] for row in summary.to_numpy().tolist()}
    assert rows == {
        ("evaluation", "noisy"): [2, 12.0, 14.0, 0.2, 0.3, 0.0],
        ("evaluation", "raygan"): [2, 20.5, 21.0, 0.7, 0.9, 3.0],
        ("training", "raygan"): [1, 30.0, 30.0, 0.8, 0.8, 1.0],
        # Each folder of evaluation photos by itself, such as BSD300's train and test photos.
        ("evaluation/x", "noisy"): [1, 10.0, 10.0, 0.1, 0.1, 0.0],
        ("evaluation/y", "noisy"): [1, 14.0, 14.0, 0.3, 0.3, 0.0],
        ("evaluation/x", "raygan"): [1, 20.0, 20.0, 0.5, 0.5, 2.0],
        ("evaluation/y", "raygan"): [1, 21.0, 21.0, 0.9, 0.9, 4.0],
    }
    with_lpips = summarize(per_image.assign(lpips=per_image["psnr"] / 100)).set_index(["set", "method"])
    assert with_lpips.loc[("evaluation", "noisy"), "lpips_mean"] == pytest.approx(0.12)
    assert with_lpips.loc[("evaluation", "noisy"), "lpips_min"] == pytest.approx(0.10)
