"""A run's whole configuration: one frozen, typed, checked value.

The defaults are the paper's current system (v1). Every field is documented where it is defined; a path such as
`optimizers/generator/learning_rate` names one leaf, in searches, on the command line and in tables.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Literal

from raygan.config.section import Section, require

NoiseKind = Literal["gaussian", "salt_and_pepper", "speckle"]
NOISE_KINDS: tuple[NoiseKind, ...] = typing.get_args(NoiseKind)
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = typing.get_args(Precision)


@dataclass(frozen=True, kw_only=True)
class IntensityRange(Section):
    """The range that a noise kind's intensity is drawn from; its unit is the kind's own (see `NoiseConfig`)."""

    low: float
    """Least intensity."""
    high: float
    """Greatest intensity."""

    def _check(self) -> None:
        require("0 <= low <= high", 0 <= self.low <= self.high, low=self.low, high=self.high)

    @property
    def mean(self) -> float:
        """The middle of the range."""
        return (self.low + self.high) / 2


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Where photos come from and how they are cut."""

    photos: str = "coco"
    """Clean photos to train on: "coco" (downloaded), "samples" (generated), or a folder or s3:// gs:// prefix."""
    evaluate_on: str = "bsd300"
    """Clean photos to evaluate on: "bsd300" (downloaded), "samples", or a folder or s3:// gs:// prefix."""
    train_photos: int = 1000
    """Photos to train on, at most."""
    val_photos: int = 100
    """Photos to validate on, at most, and never more than a fifth of the usable ones."""
    val_crops: int = 100
    """Fixed crops cut from the validation photos."""
    crop_size: int = 256
    """Side of the square crops in pixels: a multiple of 32, and of what the generator's `depth` and `unshuffle` ask."""
    augmentation: Literal["none", "flips", "flips_and_rotations"] = "none"
    """What is done to training crops by chance: nothing (the paper's), left-right flips, or those and quarter turns,
    which give each crop one of eight positions."""
    cache: Literal["auto", "memory", "stream"] = "auto"
    """Where training photos are kept: decoded, in the cluster's shared memory; or nowhere, read and decoded again in
    every epoch; auto: in memory if they fit. Crops are the same either way."""
    seed: int = 0
    """Seed of the split and of validation's crops and noise; keep it fixed to compare runs."""

    def _check(self) -> None:
        self._at_least(1, "train_photos", "val_photos", "val_crops")
        self._at_least(0, "seed")
        require(
            "crop_size > 0 and a multiple of 32",
            self.crop_size > 0 and self.crop_size % 32 == 0,
            crop_size=self.crop_size,
        )
        require('cache != "stream", where photos are "samples",', (self.cache, self.photos) != ("stream", "samples"))


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(Section):
    """Which noise, how strong, and how intensities are drawn (paper, noise table)."""

    kinds: tuple[NoiseKind, ...] = NOISE_KINDS
    """The kinds to remove; each image gets one of them, with equal odds."""
    gaussian: IntensityRange = field(default_factory=lambda: IntensityRange(low=0.005, high=0.08))
    """Variance of the added noise."""
    salt_and_pepper: IntensityRange = field(default_factory=lambda: IntensityRange(low=0.02, high=0.07))
    """Share of values replaced, half by 0 and half by 1."""
    speckle: IntensityRange = field(default_factory=lambda: IntensityRange(low=0.005, high=0.2))
    """Variance of n in clean + clean * n."""
    policy: Literal["uniform", "normal"] = "uniform"
    """How intensities are drawn: uniform over the range, or normal around its mean, truncated to the range."""
    normal_deviation: float = 1 / 6
    """Standard deviation of the normal policy, as a share of the range's width (the paper names none)."""

    def _check(self) -> None:
        require(
            "kinds not empty and without repeats",
            0 < len(self.kinds) == len(set(self.kinds)),
            kinds=self.kinds,
        )
        require("salt_and_pepper/high <= 1", self.salt_and_pepper.high <= 1, high=self.salt_and_pepper.high)
        require("normal_deviation > 0", self.normal_deviation > 0, normal_deviation=self.normal_deviation)

    @property
    def task(self) -> tuple[tuple[NoiseKind, IntensityRange], ...]:
        """What is to be removed, however intensities are drawn in training: scores on the same task compare."""
        return tuple((kind, self.range_of(kind)) for kind in self.kinds)

    def range_of(self, kind: NoiseKind) -> IntensityRange:
        """The intensity range of one kind."""
        intensity_range: IntensityRange = getattr(self, kind)
        return intensity_range


@dataclass(frozen=True, kw_only=True)
class _NetworkConfig(Section):
    base_width: int = 64
    """Channels of the first layer; all other widths are multiples of it."""
    normalization: Literal["batch", "none"] = "batch"
    """Batch normalisation (the paper's), or none."""
    batch_norm_momentum: float = 0.01
    """Weight of the newest batch in the moving statistics (Keras writes the same as momentum 0.99)."""
    batch_norm_epsilon: float = 1e-3
    """Added to the variance in batch normalisation (Keras's default)."""
    initial_deviation: float = 0.02
    """Standard deviation of the normal distribution that weights start from; the residual U-Net's start from torch's
    own, which depends on each layer's width (He et al., 2015)."""

    def _check(self) -> None:
        self._at_least(1, "base_width")
        momentum = self.batch_norm_momentum
        require("0 < batch_norm_momentum <= 1", 0 < momentum <= 1, batch_norm_momentum=momentum)
        epsilon = self.batch_norm_epsilon
        require("batch_norm_epsilon > 0", epsilon > 0, batch_norm_epsilon=epsilon)
        require("initial_deviation > 0", self.initial_deviation > 0, initial_deviation=self.initial_deviation)


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(_NetworkConfig):
    """The denoising network."""

    architecture: Literal["unet", "residual_unet"] = "unet"
    """Key of `raygan.models.generator.GENERATORS`."""
    depth: int = 6
    """How often height and width are halved, 2 to 6: the paper's five encoder levels and the bottleneck, or fewer."""
    blocks: int = 2
    """Of the architecture "residual_unet", residual blocks at each resolution on the way down, and again up."""
    unshuffle: int = 1
    """Of the architecture "residual_unet", by how much height and width are divided before the first layer, each
    square's pixels becoming channels of one (Shi et al., 2016): 1, full resolution, 2 or 4, which cost less a pixel."""
    upsampling: Literal["transposed", "resize"] = "transposed"
    """How they are doubled again: "transposed", 4x4 transposed convolutions (the paper's), or "resize", to the nearest
    neighbour, and 3x3 convolutions, which leave no checkerboards (Odena et al., 2016)."""
    residual: bool = False
    """Whether the output is added to the input, so that the network predicts the noise (Zhang et al., 2017)."""
    inference_statistics: Literal["moving", "image"] = "moving"
    """Batch norm's statistics when it denoises: "moving", gathered in training, or "image", each image's own (a batch
    of one, as the pix2pix code that the paper built on uses it)."""
    dropout: float = 0.0
    """Dropout rate of the first three decoder blocks while training (0.5 in the pix2pix code)."""

    def _check(self) -> None:
        super()._check()
        require("2 <= depth <= 6", 2 <= self.depth <= 6, depth=self.depth)
        self._at_least(1, "blocks")
        require("unshuffle one of 1, 2, 4", self.unshuffle in (1, 2, 4), unshuffle=self.unshuffle)
        require("0 <= dropout < 1", 0 <= self.dropout < 1, dropout=self.dropout)

    @property
    def stride(self) -> int:
        """What the height and width of the images that it takes must be multiples of."""
        return (1 << self.depth) * (self.unshuffle if self.architecture == "residual_unet" else 1)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(_NetworkConfig):
    """The network that tells clean from denoised."""

    architecture: Literal["single_score", "patch"] = "single_score"
    """Key of `raygan.models.discriminator.DISCRIMINATORS`."""
    patch_layers: int = 3
    """Of the architecture "patch", how many layers halve height and width: 1 to 4, for patches of 16, 34, 70 (pix2pix)
    or 142 pixels."""
    frozen_statistics: Literal["batch", "moving"] = "batch"
    """Batch norm's statistics while the generator trains against the frozen discriminator: "batch", the batch's own,
    or "moving", which Keras uses for layers that are not trainable."""

    def _check(self) -> None:
        super()._check()
        require("1 <= patch_layers <= 4", 1 <= self.patch_layers <= 4, patch_layers=self.patch_layers)


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The generator's loss: content_weight * content_loss + adversarial_weight * adversarial_loss.

    And pixel_weight * pixel_loss, the mean absolute difference of pixels, where that weight is not 0.
    """

    content: Literal["vgg19", "mse"] = "vgg19"
    """What the content loss compares: VGG19's conv2_2 features, or the pixels."""
    pixel_weight: float = 0.0
    """Weight of the pixel loss; while the generator trains alone (`training/pixel_epochs`), it is the whole loss."""
    vgg19_weights: str | None = None
    """File of VGG19 weights, in Keras's (.npz) or torchvision's (.pth) layout; none: torchvision's, downloaded."""
    feature_scale: Literal["paper", "source", "relative"] = "paper"
    """Unit of the VGG19 content loss. "paper": the mean squared feature distance as it is. "source": times 0.006,
    as in the code the paper took it from. "relative": divided by the mean squared clean feature, so that a weight
    means the same for Keras's weights (features near 100) and torchvision's (near 1)."""
    content_weight: float = 0.1
    """The paper's λg."""
    adversarial_weight: float = 0.01
    """The paper's λd."""

    def _check(self) -> None:
        self._at_least(0, "content_weight", "adversarial_weight", "pixel_weight")
        require(
            'content == "vgg19", where vgg19_weights are given,',
            self.vgg19_weights is None or self.content == "vgg19",
            content=self.content,
            vgg19_weights=self.vgg19_weights,
        )
        require(
            "content_weight > 0 or adversarial_weight > 0",
            self.content_weight > 0 or self.adversarial_weight > 0,
            content_weight=self.content_weight,
            adversarial_weight=self.adversarial_weight,
        )


@dataclass(frozen=True, kw_only=True)
class AdamConfig(Section):
    """One network's Adam (Kingma and Ba, 2015)."""

    learning_rate: float
    """Adam's step size."""
    beta1: float
    """Decay of the gradients' moving mean."""
    beta2: float = 0.999
    """Decay of the squared gradients' moving mean."""
    epsilon: float = 1e-7
    """Added to the denominator; the default is Keras's, the paper's framework."""

    def _check(self) -> None:
        require("learning_rate > 0", self.learning_rate > 0, learning_rate=self.learning_rate)
        require("0 <= beta1 < 1", 0 <= self.beta1 < 1, beta1=self.beta1)
        require("0 <= beta2 < 1", 0 <= self.beta2 < 1, beta2=self.beta2)
        require("epsilon > 0", self.epsilon > 0, epsilon=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class OptimizersConfig(Section):
    """Adam for each network."""

    generator: AdamConfig = field(default_factory=lambda: AdamConfig(learning_rate=0.005, beta1=0.5))
    discriminator: AdamConfig = field(default_factory=lambda: AdamConfig(learning_rate=0.009, beta1=0.9))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """How long and on how much at a time."""

    start_from: str | None = None
    """A denoiser, such as STUDY/best, of the same generator, whose weights training starts from, where all machines can
    read it: a folder, a prefix, or "shipped", the one that comes with RayGAN. None: from weights drawn by chance."""
    batch_size: int = 8
    """Crops a step, over all workers together."""
    steps_per_epoch: int | None = 125
    """Steps an epoch, by default the paper's (1,000 photos in batches of 8); none: one pass over the photos."""
    epochs: int = 30
    """Epochs of a full training; the best by validation is kept."""
    pixel_epochs: int | None = 0
    """How many of these, at first, the generator trains alone, by the mean absolute difference of pixels; in those
    after it is fine-tuned by the losses of `loss/`, against the discriminator. None: alone in all."""
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """How learning rates go on from `optimizers/`: as they are, or down to 0 by half a cosine over all epochs
    (Loshchilov and Hutter, 2017)."""
    warm_up_steps: int = 0
    """Steps at first over which learning rates rise to that from near 0."""
    average_decay: float = 0.0
    """Decay a step of the generator's moving average (Polyak and Juditsky, 1992), which is then what is validated and
    kept; 0: none. Of 1 / (1 - decay) steps it is the mean."""
    max_gradient_norm: float | None = None
    """Longest gradient of a network, over all its weights: a longer one is scaled down to it; none: as they come."""
    best_by: Literal["val_psnr", "val_ssim"] = "val_psnr"
    """What tells the best epoch."""
    batch_statistics: Literal["worker", "all"] = "worker"
    """What batch norm normalises by while several workers train: each worker's own part of the batch, or all of it,
    which gives what one worker would, and costs messages between the workers at every layer."""
    precision: Precision = "float32"
    """What the networks compute in; weights, losses and the optimizers stay in float32."""
    seed: int = 0
    """Seed of the initial weights and of every epoch's crops and noise."""

    def _check(self) -> None:
        self._at_least(1, "batch_size", "steps_per_epoch", "epochs")
        self._at_least(0, "seed", "pixel_epochs", "warm_up_steps")
        require("0 <= average_decay < 1", 0 <= self.average_decay < 1, average_decay=self.average_decay)
        norm = self.max_gradient_norm
        require("max_gradient_norm > 0 or none", norm is None or norm > 0, max_gradient_norm=norm)


@dataclass(frozen=True, kw_only=True)
class HardwareConfig(Section):
    """What one run asks of the cluster."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: on GPUs when the cluster has any."""
    workers: int = 1
    """Training workers of one run."""
    cpus_per_worker: int = 1
    """CPU cores, and on the CPU threads, of each worker."""
    reading_cpus_per_worker: int = 1
    """CPU cores that read photos for each worker, besides its own, where they are streamed (`data/cache`)."""
    gpus_per_worker: float = 1.0
    """GPUs of each worker, when it computes on GPUs; a fraction shares one among trials."""

    def _check(self) -> None:
        self._at_least(1, "workers", "cpus_per_worker", "reading_cpus_per_worker")
        gpus = self.gpus_per_worker
        # NCCL refuses two workers on one GPU, and Ray parts of more than one.
        whole = gpus >= 1 and float(gpus).is_integer()
        require("gpus_per_worker whole, or 0 < gpus_per_worker < 1", whole or 0 < gpus < 1, gpus_per_worker=gpus)
        rule = "gpus_per_worker whole where workers > 1"
        require(rule, whole or self.workers == 1, gpus_per_worker=gpus, workers=self.workers)


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """One complete run."""

    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizers: OptimizersConfig = field(default_factory=OptimizersConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    def _check(self) -> None:
        stride, crop_size = self.generator.stride, self.data.crop_size
        rule = "data/crop_size a multiple of generator's stride"
        require(rule, crop_size % stride == 0, crop_size=crop_size, stride=stride)
        batch_size, workers = self.training.batch_size, self.hardware.workers
        require(
            "training/batch_size a multiple of hardware/workers",
            batch_size % workers == 0,
            batch_size=batch_size,
            workers=workers,
        )
