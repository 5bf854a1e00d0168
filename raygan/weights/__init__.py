"""The denoiser that comes with RayGAN: its folder is like STUDY/best, with a model card."""

from pathlib import Path

SHIPPED = "shipped"
"""Its name wherever a denoiser's folder is expected."""


def denoiser_folder(name: str) -> str:
    """The location of a denoiser: its folder or prefix, or that of the shipped one by name."""
    return str(Path(__file__).parent) if name == SHIPPED else name
