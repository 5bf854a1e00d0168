"""The complete configuration of a training run: one frozen, typed, validated value.

A path such as `optimizers/generator/learning_rate` names one value, in search spaces, on the command line and in
tables. `raygan.presets` holds complete configurations, such as the paper's.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, replace
from typing import Literal

from raygan.config.kinds import ContentLoss, Discriminator, Generator, Noise, PairSource, PhotoSource, SamplingPolicy
from raygan.config.section import Count, Fraction, Natural, NonNegative, Positive, Section, Seed, Share, require

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = typing.get_args(Precision)
PAIRS = "pairs"
"""Name of pairs of noisy and clean photos in tables, in place of a noise's name."""
MAX_MEGAPIXELS = 200
"""Size above which an image is refused, before it takes memory, unless another limit is given."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Photos and crops."""

    photos: PhotoSource
    """Clean photos to train on: coco (downloaded), samples (generated), or a folder or s3:// gs:// prefix."""
    evaluate_on: PhotoSource
    """Clean photos to evaluate on: bsd300 (downloaded), samples, or a folder or s3:// gs:// prefix."""
    pairs: PairSource | None = None
    """Pairs of noisy and clean photos: a folder or prefix with files of the same names in noisy/ and clean/, or a CSV
    file with the columns noisy and clean. With pairs, val_psnr and val_ssim are those of held-out pairs. None: no
    pairs."""
    pairs_share: Share = 0.5
    """Share of each training batch that is cut from the pairs; the rest is cut from photos and gets noise."""
    train_photos: Count = 1000
    """Maximum number of training photos, and of training pairs."""
    val_photos: Count = 100
    """Maximum number of validation photos, and of validation pairs; never more than a fifth of the usable ones, but for
    pairs that nothing is trained on (`pairs_share` 0)."""
    val_crops: Count = 100
    """Number of fixed crops from the validation photos, and from the validation pairs."""
    crop_size: int = 256
    """Side of the square crops in pixels: a multiple of 32 and of the generator's stride."""
    augmentation: Literal["none", "flips", "flips_and_rotations"] = "none"
    """Random transformation of training crops: none (as in the paper), horizontal flips, or flips and quarter turns."""
    min_enlargement: float = 1.0
    """Smallest factor by which training crops of photos are enlarged."""
    max_enlargement: float = 1.0
    """Largest such factor; each crop's own is log-uniform between the two. At a camera's full resolution, photos have
    less detail per pixel than the downsized ones in collections. Crops that get no noise (`clean_share`) keep their
    size: downsizing averages noise away."""
    cache: Literal["auto", "memory", "stream"] = "auto"
    """Where decoded training photos are kept: in the cluster's object store, or nowhere (read and decoded again in
    every epoch). auto: in memory if they fit. The crops are the same."""
    max_megapixels: Count = MAX_MEGAPIXELS
    """Photos with more pixels are skipped, before they take memory."""
    seed: Seed = 0
    """Seed of the split and of the validation crops and noise. Runs compare only if it is the same."""

    def _check(self) -> None:
        size = self.crop_size
        require("crop_size > 0 and a multiple of 32", size > 0 and size % 32 == 0, crop_size=size)
        least, most = self.min_enlargement, self.max_enlargement
        rule = "1 <= min_enlargement <= max_enlargement <= 8"
        require(rule, 1 <= least <= most <= 8, min_enlargement=least, max_enlargement=most)


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The generator's loss.

    content_weight * content_loss + adversarial_weight * adversarial_loss + pixel_weight * pixel_loss, where the pixel
    loss is the mean absolute error.
    """

    content: ContentLoss
    """What the content loss compares."""
    content_weight: NonNegative = 0.1
    """Weight of the content loss (λg in the paper)."""
    adversarial_weight: NonNegative = 0.01
    """Weight of the adversarial loss (λd in the paper)."""
    pixel_weight: NonNegative = 0.0
    """Weight of the pixel loss. While the generator trains alone (`training/pixel_epochs`), it is the only loss."""

    def _check(self) -> None:
        weights = {"content_weight": self.content_weight, "adversarial_weight": self.adversarial_weight}
        require("content_weight > 0 or adversarial_weight > 0", any(weights.values()), **weights)


@dataclass(frozen=True, kw_only=True)
class AdamConfig(Section):
    """Adam (Kingma and Ba, 2015) for one network."""

    learning_rate: Positive
    """Learning rate."""
    beta1: Fraction
    """Decay of the moving average of the gradient."""
    beta2: Fraction = 0.999
    """Decay of the moving average of the squared gradient."""
    epsilon: Positive = 1e-7
    """Term added to the denominator; the default is that of Keras, the paper's framework."""


@dataclass(frozen=True, kw_only=True)
class OptimizersConfig(Section):
    """Adam for each network."""

    generator: AdamConfig = field(default_factory=lambda: AdamConfig(learning_rate=0.005, beta1=0.5))
    discriminator: AdamConfig = field(default_factory=lambda: AdamConfig(learning_rate=0.009, beta1=0.9))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Section):
    """Length of a training, batch size, schedule and precision."""

    start_from: str | None = None
    """Denoiser whose weights training starts from: a folder or prefix such as STUDY/best, of the same generator, which
    all machines can read, one that comes with RayGAN (synthetic, camera, small, found or baseline), or another
    project's file such as nafnet.pth, whose network then is the generator. None: random weights."""
    batch_size: Count = 8
    """Crops per step, over all workers together."""
    halve_batch: bool = False
    """Whether a run that is out of memory before its first checkpoint starts again, once, with half the batch size."""
    steps_per_epoch: Count | None = 125
    """Steps per epoch; the default is the paper's (1,000 photos in batches of 8). None: one pass over the photos."""
    epochs: Count = 30
    """Epochs of a full training; the best one by validation is kept."""
    pixel_epochs: Natural | None = 0
    """First epochs in which the generator trains alone, with the pixel loss; after them it is fine-tuned with the
    losses of `loss/`, against the discriminator. None: all epochs."""
    lr_schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """Learning-rate schedule: constant; cosine decay to 0 over all epochs (Loshchilov and Hutter, 2017); or wsd (warm
    up, stable, decay: Hägele et al., 2024), constant until the last fifth of the epochs, so that until then it does not
    depend on where training ends."""
    warm_up_steps: Natural = 0
    """Steps of linear learning-rate warm-up."""
    average_decay: Fraction = 0.0
    """Decay of the exponential moving average of the generator's weights, which is then validated and kept. 0: no
    average."""
    max_gradient_norm: Positive | None = None
    """Max norm for gradient clipping, per network. None: no clipping."""
    best_by: Literal["val_psnr", "val_ssim"] | None = None
    """Metric that chooses the best epoch. None: the search's first objective, if it is one of these, or val_psnr."""
    batch_statistics: Literal["worker", "all"] = "worker"
    """Batch-normalization statistics with several workers: of each worker's part of the batch, or of the whole batch,
    which equals training with one worker (but for dropout, and a `loss/content/scale` that is relative) and costs
    communication in every layer. It does nothing in other projects' networks."""
    precise_bn_batches: Natural = 0
    """Number of an epoch's last batches over which the statistics of batch normalization are averaged with its final
    weights, for validation and for the denoiser that is kept (PreciseBN: Wu and Johnson, 2021); all if the epoch has
    fewer. 0: moving averages, in which earlier weights linger."""
    precision: Precision = "float32"
    """Precision of the networks' computation, and of a content loss's features; weights, other losses and optimizers
    stay in float32. auto: bfloat16 on devices that support it, where it is faster, and float32 on others, where
    bfloat16 is many times slower."""
    seed: Seed = 0
    """Seed of the initial weights and of every epoch's crops and noise."""


@dataclass(frozen=True, kw_only=True)
class HardwareConfig(Section):
    """Resources of one run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto: GPUs if the cluster has any."""
    workers: Count = 1
    """Training workers per run; 1 trains in the trial's own process."""
    cpus_per_worker: Count = 1
    """CPU cores, and on the CPU threads, per worker."""
    reading_cpus_per_worker: Count = 1
    """Additional CPU cores per worker that read photos, if these are streamed (`data/cache`)."""
    gpus_per_worker: float = 1.0
    """GPUs per worker, at most 1; a fraction shares one GPU among trials."""

    def _check(self) -> None:
        gpus = self.gpus_per_worker
        require("0 < gpus_per_worker <= 1", 0 < gpus <= 1, gpus_per_worker=gpus)
        # NCCL refuses two workers on one GPU.
        rule = "gpus_per_worker 1 where workers > 1"
        require(rule, gpus == 1 or self.workers == 1, gpus_per_worker=gpus, workers=self.workers)


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """One complete run."""

    data: DataConfig
    noises: tuple[Noise, ...]
    """Noises to remove; each training crop gets one of them, by their odds."""
    sampling: SamplingPolicy
    """How training draws the intensity of a crop's noise."""
    clean_share: Share = 0.0
    """Share of the training crops that get no noise, so that the denoiser learns to leave clean photos as they are."""
    generator: Generator
    """The denoising network."""
    discriminator: Discriminator
    """The network that the generator trains against."""
    loss: LossConfig
    optimizers: OptimizersConfig = field(default_factory=OptimizersConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

    @property
    def judged_noises(self) -> tuple[Noise, ...]:
        """The noises as validation and evaluation add them: how often training draws each does not matter there."""
        return tuple(replace(noise, odds=1.0) for noise in self.noises)

    def _check(self) -> None:
        names = [noise.key for noise in self.noises]
        require("noises not empty, with different names", 0 < len(names) == len(set(names)), noises=names)
        require(f"no noise named {PAIRS}", PAIRS not in names, noises=names)
        share, batch = self.data.pairs_share, self.training.batch_size
        rule = "data/pairs_share 0, or at least one crop of each batch"
        holds = self.data.pairs is None or share == 0 or round(share * batch) > 0
        require(rule, holds, pairs_share=share, batch_size=batch)
        stride, crop_size = self.generator.stride, self.data.crop_size
        rule = "data/crop_size a multiple of the generator's stride"
        require(rule, crop_size % stride == 0, crop_size=crop_size, stride=stride)
        least = self.discriminator.smallest_crop
        rule = "data/crop_size at least the discriminator's smallest"
        require(rule, crop_size >= least, crop_size=crop_size, smallest_crop=least)
        batch_size, workers = self.training.batch_size, self.hardware.workers
        rule = "training/batch_size a multiple of hardware/workers"
        require(rule, batch_size % workers == 0, batch_size=batch_size, workers=workers)
