"""The denoisers that come with RayGAN: folders like STUDY/best, each with a model card."""

from pathlib import Path

SHIPPED = "shipped"
"""Name of the default denoiser, wherever a denoiser's folder is expected."""
OTHERS = ("synthetic", "small")
"""Names of further denoisers, which were trained on a GPU."""


HERE = str(Path(__file__).parent)


def denoiser_folder(name: str) -> str:
    """The location of a denoiser: its folder or prefix, or that of a shipped one by name."""
    if name == SHIPPED:
        return HERE
    return f"{HERE}/{name}" if name in OTHERS else name
