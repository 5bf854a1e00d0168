"""Discriminators: networks that score images, float32, (B, 3, S, S), in [0, 1], as clean or denoised."""

from __future__ import annotations

from torch import Tensor, nn

from raygan.config.run import DiscriminatorConfig
from raygan.models.blocks import Down, initialise


class SingleScore(nn.Module):
    """The paper's discriminator, one score an image: 20,585,921 trainable parameters at base width 64, crop 256."""

    def __init__(self, config: DiscriminatorConfig, crop_size: int) -> None:
        super().__init__()
        width = config.base_width
        widths = [width, 2 * width, 4 * width, 4 * width, 8 * width]
        self.features = nn.Sequential(
            *(
                Down(inputs, outputs, config, norm=index > 0)
                for index, (inputs, outputs) in enumerate(zip([3, *widths[:-1]], widths, strict=True))
            )
        )
        side = crop_size // 2 ** len(widths)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(side * side * 8 * width, 8 * width), nn.Linear(8 * width, 1))
        initialise(self, config.initial_deviation)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (B,): above 0 means clean. The paper's sigmoid is in the loss, where it is stable."""
        scores: Tensor = self.head(self.features(2 * images - 1))
        return scores.squeeze(1).float()


class PatchScores(nn.Module):
    """PatchGAN (Isola et al., 2017), one score a patch.

    With three layers that halve, patches are of 70x70 pixels, and it has 2,768,705 parameters at base width 64.
    """

    def __init__(self, config: DiscriminatorConfig, crop_size: int) -> None:  # noqa: ARG002
        halving = config.patch_layers
        widths = [config.base_width * min(2**level, 8) for level in range(halving + 1)]
        super().__init__()
        self.layers = nn.Sequential(
            *(
                Down(inputs, outputs, config, norm=index > 0, stride=2 if index < halving else 1)
                for index, (inputs, outputs) in enumerate(zip([3, *widths[:-1]], widths, strict=True))
            ),
            nn.Conv2d(widths[-1], 1, 4, padding=1),
        )
        initialise(self, config.initial_deviation)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (B, 1, P, P), P = S / 2**patch_layers - 2: above 0 means that the patch is clean."""
        scores: Tensor = self.layers(2 * images - 1)
        return scores.float()


DISCRIMINATORS: dict[str, type[SingleScore | PatchScores]] = {"single_score": SingleScore, "patch": PatchScores}


def build_discriminator(config: DiscriminatorConfig, crop_size: int) -> SingleScore | PatchScores:
    """The configured discriminator for crops of `crop_size`, with fresh weights from torch's global generator."""
    return DISCRIMINATORS[config.architecture](config, crop_size)
