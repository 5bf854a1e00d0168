"""A noise, a generator and a content loss written by a user, searched like those that come with RayGAN."""

# --8<-- [start:imports]
import math
from dataclasses import dataclass

import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import Tensor, nn

from raygan.cli import run_search
from raygan.config.kinds import ContentLoss, Generator, Noise, require_range
from raygan.config.section import with_values
from raygan.presets import PAPER_V1
from raygan.search.experiment import Search

# --8<-- [end:imports]


# --8<-- [start:noise]
@dataclass(frozen=True, kw_only=True)
class StripeNoise(Noise):
    """Horizontal stripes: a normally distributed offset per row; the intensity is its variance."""

    low: float = 0.001
    high: float = 0.02

    def _check(self) -> None:
        require_range(self)

    def add(self, clean: Tensor, intensity: float, generator: torch.Generator) -> Tensor:
        """See `Noise.add`."""
        rows = torch.randn(clean.shape[1], 1, generator=generator, device=clean.device)
        return clean + math.sqrt(intensity) * rows


# --8<-- [end:noise]


# --8<-- [start:generator]
@dataclass(frozen=True, kw_only=True)
class PlainNetwork(Generator):
    """A plain convolutional network that predicts the noise (after DnCNN, Zhang et al., 2017)."""

    width: int = 32
    """Channels of the hidden layers."""
    layers: int = 5
    """Number of convolutions."""

    def build(self) -> nn.Module:
        """See `Generator.build`."""
        layers: list[nn.Module] = [nn.Conv2d(3, self.width, 3, padding=1)]
        for _ in range(self.layers - 2):
            layers += [nn.ReLU(), nn.Conv2d(self.width, self.width, 3, padding=1)]
        return PlainModule(nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(self.width, 3, 3, padding=1)))


class PlainModule(nn.Module):
    """The network of `PlainNetwork`."""

    def __init__(self, noise: nn.Module) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, noisy: Tensor) -> Tensor:
        """The noisy image minus the predicted noise."""
        return noisy - self.noise(noisy)


# --8<-- [end:generator]


# --8<-- [start:loss]
@dataclass(frozen=True, kw_only=True)
class GradientLoss(ContentLoss):
    """Mean squared error of the pixels and of the differences between neighboring pixels."""

    edge_weight: float = 1.0
    """Weight of the differences."""

    def build(self, weights: dict[str, Tensor]) -> nn.Module:  # noqa: ARG002  (it needs no pretrained weights)
        """See `ContentLoss.build`."""
        return GradientDistance(self.edge_weight)


class GradientDistance(nn.Module):
    """The loss of `GradientLoss`."""

    def __init__(self, edge_weight: float) -> None:
        super().__init__()
        self.edge_weight = edge_weight

    def forward(self, clean: Tensor, denoised: Tensor) -> Tensor:
        """The loss, a scalar."""
        error = denoised - clean
        edges = error.diff(dim=2).square().mean() + error.diff(dim=3).square().mean()
        return error.square().mean() + self.edge_weight * edges


# --8<-- [end:loss]


# --8<-- [start:search]
SEARCH = Search(
    name="own-kinds",
    config=with_values(
        PAPER_V1,
        {
            "noises": (*PAPER_V1.noises, StripeNoise()),
            "generator": PlainNetwork(),
            "loss/content": GradientLoss(),
        },
    ),
    space={
        "optimizers/generator/learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "generator/width": IntDistribution(16, 64, step=16),
        "generator/layers": IntDistribution(3, 8),
        "loss/content/edge_weight": FloatDistribution(0.1, 10.0, log=True),
    },
    trials=20,
    trial_epochs=10,
)

if __name__ == "__main__":
    run_search(SEARCH)
# --8<-- [end:search]
