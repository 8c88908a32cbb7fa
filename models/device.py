"""Where torch computes, and how precisely."""

import torch

from models.settings import TrainingSettings


class DeviceError(ValueError):
    """A device that is not there."""


def choose_device(name: str, processes: int = 1) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``; float32 products are whole there, not TF32.

    Raises DeviceError, also where fewer GPUs are there than `processes` on this machine.
    """
    available = torch.cuda.is_available()
    if available and name != "cpu" and processes > torch.cuda.device_count():
        raise DeviceError(
            f"--nproc-per-node {processes}: there are {torch.cuda.device_count()} GPUs, and each process takes one; "
            "start fewer, or give --device cpu"
        )
    if name == "cuda" and not available:
        raise DeviceError("--device cuda: torch sees no GPU; use --device cpu, or install torch for CUDA")
    torch.backends.cudnn.allow_tf32 = False  # of the recurrent layers; torch has it off for other products
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose_precision(settings: TrainingSettings, device: torch.device) -> str:
    """``float32`` or ``bfloat16``; ``auto`` is bfloat16 where the machine computes it natively and it trains as well.

    On the CPU stacked and projected LSTMs do not train well with it: torch's bfloat16 gradients go astray there.
    """
    if settings.precision != "auto":
        return settings.precision
    if device.type == "cuda":
        good = torch.cuda.is_bf16_supported()
    else:
        good = _native_bfloat16() and (settings.cell != "lstm" or (settings.num_layers == 1 and not settings.proj_size))
    return "bfloat16" if good else "float32"


def _native_bfloat16() -> bool:
    """Whether the CPU has bfloat16 products; False too where torch, whose private names these are, does not tell."""
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test is not None and test() for test in tests)
