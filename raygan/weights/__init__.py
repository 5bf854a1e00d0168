"""The denoisers that come with RayGAN: folders like STUDY/best, each with a model card."""

from pathlib import Path

NAMES = ("synthetic", "camera", "small", "baseline")
"""What they are called wherever a denoiser's folder is expected."""
DEFAULT = NAMES[0]
"""Name of the one that is used unless another is given."""
HERE = str(Path(__file__).parent)


def denoiser_folder(name: str) -> str:
    """The location of a denoiser: its folder or prefix, or that of one that comes with RayGAN, by name."""
    return f"{HERE}/{name}" if name in NAMES else name
