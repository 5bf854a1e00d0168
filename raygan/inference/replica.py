"""A replica of the HTTP service, which computes."""

from __future__ import annotations

import asyncio
import copy
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from ray import serve
from torch import Tensor, nn

from raygan.config.service import Service
from raygan.inference.denoiser import Denoiser, ImageError
from raygan.inference.image_file import denoise_content, suffix_of
from raygan.inference.serve import Denoised, name_of
from raygan.train.step import autocast

BATCH = 32
"""The most tiles of a batch."""
BATCH_PIXELS = 2**19
"""The most pixels of a batch of several tiles: more would need memory, and would not be faster."""


class _Batched(nn.Module):
    """Stands in for a generator in the thread of a request: computes its tiles together with those of others."""

    def __init__(self, compute: Callable[[Tensor], Awaitable[Tensor]], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.compute = compute
        self.loop = loop
        self.abandoned = False
        """Whether nobody waits for the result any more."""

    def forward(self, noisy: Tensor) -> Tensor:
        """Denoised tiles of noisy ones, both as the generator's."""
        if self.abandoned:
            raise ImageError("the request was abandoned")
        return asyncio.run_coroutine_threadsafe(_awaited(self.compute(noisy)), self.loop).result()


async def _awaited(one: Awaitable[Tensor]) -> Tensor:
    return await one


class Denoising:
    """A replica, which computes: all denoisers, on a GPU or on some cores."""

    def __init__(self, service: Service, threads: int) -> None:
        torch.set_num_threads(threads)
        self.service = service
        # Of its own: the threads of requests wait for it.
        self.computing = ThreadPoolExecutor(1)
        self.denoisers = {
            name_of(one): Denoiser.from_pretrained(one, device=service.device, precision=service.precision)
            for one in service.denoisers
        }

    async def denoise(self, content: bytes, name: str, strength: float, suffix: str) -> Denoised:
        """Denoise an image file, into the format of `suffix` or, if that is empty, its own."""
        loop = asyncio.get_running_loop()
        denoiser = copy.copy(self.denoisers[name])
        denoiser.strength = strength
        denoiser.generator = batched = _Batched(lambda noisy: self.compute(name, noisy), loop)
        try:
            suffix = suffix or suffix_of(content)
            most = self.service.max_megapixels
            denoised = await asyncio.to_thread(denoise_content, denoiser, content, suffix, most)
            return Denoised(suffix, denoised.content, denoised.notes)
        except ImageError as error:
            return Denoised(problem=str(error))
        finally:
            # Its thread goes on if this coroutine is cancelled.
            batched.abandoned = True

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.005)  # type: ignore[untyped-decorator]
    async def compute(self, names: list[str], noisy: list[Tensor]) -> list[Tensor]:
        """Denoised tiles, (1, 3, H, W), of noisy ones, by the denoisers of these names."""
        return await asyncio.get_running_loop().run_in_executor(self.computing, self._compute, names, noisy)

    def _compute(self, names: list[str], noisy: list[Tensor]) -> list[Tensor]:
        alike: dict[tuple[str, torch.Size], list[int]] = defaultdict(list)
        for index, (name, tile) in enumerate(zip(names, noisy, strict=True)):
            alike[name, tile.shape].append(index)
        denoised: dict[int, Tensor] = {}
        for (name, shape), indices in alike.items():
            denoiser = self.denoisers[name]
            most = max(1, BATCH_PIXELS // (shape[2] * shape[3]))
            for some in (indices[first : first + most] for first in range(0, len(indices), most)):
                tiles = torch.cat([noisy[index] for index in some])
                with torch.inference_mode(), autocast(denoiser.device, denoiser.precision):
                    denoised |= zip(some, denoiser.generator(tiles).split(1), strict=True)
        return [denoised[index] for index in range(len(noisy))]
