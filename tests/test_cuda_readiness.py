"""What runs on a GPU keeps its tensors there: checked without one, on torch's fake CUDA tensors.

These have a shape and a device, but no values: an operation on two devices fails as on a GPU. Backward passes need a
device and are left out, and so are CUDA's random generators: noise draws from those of the CPU. `benchmarks/gpu.py`
checks the rest on a GPU.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from raygan.config.kinds import ContentLoss, Discriminator, Generator, Noise
from raygan.config.section import with_values
from raygan.data.crops import ValidationCrops
from raygan.evaluation.out_of_distribution import OUT_OF_DISTRIBUTION
from raygan.inference.denoiser import SelfEnsemble, denoise, denoise_in_tiles
from raygan.losses import MeanSquaredError, Vgg19Features
from raygan.metrics import colour_drift, psnr, ssim
from raygan.models import PatchGAN, ResidualUNet, SingleScore, UNet
from raygan.noise import PoissonGaussian, add_noise
from raygan.presets import CAMERA, PAPER_V1, quick
from raygan.train.step import Gan, pixel_step, train_step
from raygan.train.validation import validate

CUDA = torch.device("cuda")
GENERATORS = (
    UNet(base_width=4, depth=2),
    UNet(base_width=4, depth=2, inference_statistics="image", dropout=0.5, upsampling="resize", residual=True),
    ResidualUNet(base_width=4, depth=2, unshuffle=2, normalization="none", residual=True),
    ResidualUNet(base_width=4, depth=2, upsampling="resize"),
)
NOISES = (*PAPER_V1.noises, *CAMERA.noises, *OUT_OF_DISTRIBUTION, PoissonGaussian())
SHAPES = {"conv1_1": (64, 3), "conv1_2": (64, 64), "conv2_1": (128, 64), "conv2_2": (128, 128)}
VGG19 = {
    **{f"{name}_weight": torch.zeros(*shape, 3, 3) for name, shape in SHAPES.items()},
    **{f"{name}_bias": torch.zeros(shape[0]) for name, shape in SHAPES.items()},
    "colour_matrix": torch.zeros(3, 3, 1, 1),
    "mean": torch.zeros(1, 3, 1, 1),
    "deviation": torch.ones(1, 3, 1, 1),
}


@pytest.fixture
def fake_cuda() -> Iterator[None]:
    with fake_tensors():
        yield


def fake_tensors() -> FakeTensorMode:
    """Networks are built outside of it, and moved to CUDA inside."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def built(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last)


def images(count: int = 2, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, device=CUDA)


@pytest.mark.usefixtures("fake_cuda")
def test_operations_on_two_devices_fail() -> None:
    with pytest.raises(RuntimeError, match="device"):
        images() + torch.rand(2, 3, 32, 32)


@pytest.mark.parametrize("generator", GENERATORS, ids=str)
def test_denoising(generator: Generator) -> None:
    networks = [built(generator.build()).eval(), built(SelfEnsemble(generator.build())).eval()]
    with fake_tensors():
        for network in networks:
            network.to(CUDA)
            assert denoise(network, images(size=45), generator.stride).device.type == "cuda"
            image = torch.rand(1, 3, 200, 290)
            denoised = denoise_in_tiles(network, image, generator.stride, CUDA, tile=128)
            assert (denoised.device.type, denoised.shape) == ("cpu", image.shape)


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: noise.key)
def test_noise(noise: Noise) -> None:
    noisy = add_noise(images(), [noise, noise], [noise.low, noise.high], [torch.Generator(), torch.Generator()])
    assert noisy.device.type == "cuda"


@pytest.mark.usefixtures("fake_cuda")
@pytest.mark.parametrize("metric", [psnr, ssim, colour_drift])
def test_metrics(metric: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert metric(images(), images()).device.type == "cuda"


@pytest.mark.parametrize("discriminator", [SingleScore(base_width=4), PatchGAN(base_width=4)], ids=str)
@pytest.mark.parametrize(
    "content", [MeanSquaredError(), *(Vgg19Features(scale=scale) for scale in ("paper", "source", "relative"))], ids=str
)
def test_training_steps(discriminator: Discriminator, content: ContentLoss, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_values(PAPER_V1, {"discriminator": discriminator, "generator": GENERATORS[0]})
    networks = [built(config.generator.build()), built(discriminator.build(32))]
    loss = content.build(VGG19)
    monkeypatch.setattr(Tensor, "backward", lambda _: None)
    with fake_tensors():
        generator, scores = (network.to(CUDA) for network in networks)
        optimizers = [torch.optim.Adam(network.parameters(), fused=True) for network in networks]
        gan = Gan(generator, scores, scores, *optimizers, loss.to(CUDA), config)
        for step in (train_step, pixel_step):
            metrics = step(gan, images(), images())
            assert {metric.device.type for metric in metrics.values()} == {"cuda"}


def test_validation() -> None:
    config = with_values(quick(PAPER_V1), {"generator": GENERATORS[0]})
    network = built(config.generator.build())
    pixels = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    crops = ValidationCrops(pixels, torch.cat([pixels, pixels], dim=1))
    with fake_tensors():
        sums = validate(network.to(CUDA), crops, config, CUDA, range(3))
        assert {value.device.type for value in sums.values()} == {"cuda"}


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu_without_ray_and_optuna() -> None:
    code = (
        "import runpy, sys; sys.modules['ray'] = sys.modules['optuna'] = None;"
        "sys.argv = ['gpu.py', '--device', 'cpu', '--quick']; runpy.run_path('gpu.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "largest difference from the CPU" in result.stdout
    assert "seconds per epoch" in result.stdout
