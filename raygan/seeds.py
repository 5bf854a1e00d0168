"""Random streams, each derived from what it is for, so that none has a state to save or restore."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derived_seed(purpose: str, *key: int) -> int:
    """A 63-bit seed for one purpose and key, such as `("crops", seed, epoch, index)`; keys are at least 0."""
    sequence = np.random.SeedSequence([zlib.crc32(purpose.encode()), *key])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(purpose: str, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device`, seeded by `derived_seed`."""
    # Processes that read photos need seeds, but not torch, which takes seconds to import.
    import torch

    return torch.Generator(device).manual_seed(derived_seed(purpose, *key))
