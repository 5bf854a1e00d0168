"""The denoiser that comes with RayGAN: a folder as STUDY/best is, and its model card."""

from pathlib import Path

SHIPPED = str(Path(__file__).parent)
