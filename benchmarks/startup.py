"""Start-up: how long nothing but starting takes: `python benchmarks/startup.py`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from timing import fastest, machine, show

from raygan.data.samples import dead_leaves

SEARCH = Path(__file__).parents[1] / "searches" / "v1.py"
SIDE = 256
HEAVY = ("torch", "ray", "pandas", "skimage")


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        noisy, denoised = f"{folder}/noisy.png", f"{folder}/denoised.png"
        Image.fromarray(dead_leaves(SIDE, 0, 0)).save(noisy)
        measure(f"from raygan.cli import main; main(['denoise', '{noisy}', '{denoised}'])")


def measure(denoising: str) -> None:
    """Print the table, with a command that denoises a small image."""
    denoise = f"raygan denoise, {SIDE}×{SIDE} pixels"
    commands = {
        "python, nothing else": ["-c", ""],
        "import raygan": ["-c", "import raygan"],
        "raygan --help": ["-c", "from raygan.cli import main; main(['--help'])"],
        "searches/v1.py --help": [str(SEARCH), "--help"],
        denoise: ["-c", denoising],
        "import torch": ["-c", "import torch"],
        "import ray": ["-c", "import ray"],
    }
    targets = {"import raygan": "< 0.2", "raygan --help": "≤ 0.2", denoise: "≤ 2.0"}

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    seconds = fastest({name: lambda each=each: run(each) for name, each in commands.items()}, rounds=3)
    code = "import sys, raygan.cli; print(*[name for name in sys.argv[1:] if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code, *HEAVY], check=True, capture_output=True, text=True).stdout
    show(
        f"Start-up ({machine()})",
        ("command", "seconds", "target", "against import torch"),
        [(name, taken, targets.get(name, ""), taken / seconds["import torch"]) for name, taken in seconds.items()],
    )
    print(f"\nOf {', '.join(HEAVY)}, `raygan --help` imports {loaded.strip() or 'none'}.")


if __name__ == "__main__":
    main()
