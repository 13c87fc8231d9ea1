"""Which device a model runs on."""

from __future__ import annotations

from ..core.errors import FastmaskError


def choose_device(name: str) -> str:
    """Return the torch device that ``--device`` names, "auto" being the GPU where there is one.

    Raises:
        FastmaskError: there is no such device, or it is neither the processor nor a CUDA device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise FastmaskError(f"--device {name}: not the name of a device; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise FastmaskError(f"--device {name}: models run on cpu and cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise FastmaskError(f"--device {name}: {torch.cuda.device_count()} CUDA devices were found; use auto or cpu")
    return name
