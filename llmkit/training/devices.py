"""What devices can do: the arithmetic a second and the memory that their makers state, or what is measured."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gpu:
    """Holds what a maker states of a GPU.

    Attributes:
        bf16: Dense matrix products in bfloat16, in FLOP/s; None where it has none of its own.
        float32: Products in float32, in FLOP/s.
        memory: In GiB.
    """

    bf16: float | None
    float32: float
    memory: int

    def peak(self, mixed_precision: str) -> float:
        """Give the FLOP/s of a precision as train.mixed_precision names it."""
        return self.bf16 if mixed_precision == "bf16" and self.bf16 is not None else self.float32


# Source: NVIDIA's data sheets (H100 and H200 as SXM, A100 as SXM with 80 GB, V100 as SXM2 with 32 GB) and its white
# papers on the GA102 and AD102 (products in bfloat16 with sums in float32).
GPUS: Mapping[str, Gpu] = {
    "H200": Gpu(989e12, 67e12, 141),
    "H100": Gpu(989e12, 67e12, 80),
    "A100": Gpu(312e12, 19.5e12, 80),
    "L40S": Gpu(362e12, 91.6e12, 48),
    "L4": Gpu(121e12, 30.3e12, 24),
    "A10": Gpu(125e12, 31.2e12, 24),
    "4090": Gpu(165e12, 82.6e12, 24),
    "3090": Gpu(71e12, 35.6e12, 24),
    "V100": Gpu(None, 15.7e12, 32),
    "T4": Gpu(None, 8.1e12, 16),
}


def find_peak(device: torch.device, mixed_precision: str) -> float:
    """Find the FLOP/s that a device can reach: stated by its maker, or measured with matrix products where unknown."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((gpu.peak(mixed_precision) for key, gpu in GPUS.items() if key in name), None)
        if known is not None:
            return known
    size, repeats = (512 if device.type == "cpu" else 4096), 3
    dtype = torch.bfloat16 if mixed_precision == "bf16" else torch.float32
    square = torch.ones(size, size, device=device, dtype=dtype)
    square @ square
    started = time.perf_counter()
    for _ in range(repeats):
        (square @ square)[0, 0].item()
    return repeats * 2 * size**3 / max(time.perf_counter() - started, 1e-9)
