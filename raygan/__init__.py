"""RayGAN: find, train and evaluate GAN image denoisers on Ray."""

__version__ = "0.2.0"
