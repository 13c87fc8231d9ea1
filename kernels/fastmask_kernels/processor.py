"""What the processor of this machine can do: the one place that asks."""

from __future__ import annotations

import torch


def capability() -> str:
    """Return torch's name of the vector instructions that it uses: "AVX512", "AVX2", "DEFAULT" or the like."""
    return torch.backends.cpu.get_cpu_capability()


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether oneDNN can pack weights of a dtype once, for many products; where it cannot, packing raises."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def has_fast_bfloat16() -> bool:
    """Return whether bfloat16 products are faster than float32 (AVX512-BF16 or AMX on x86).

    torch reads the processor's own flags; oneDNN may have been told to use less.
    """
    has_instructions = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(has_instructions and can_pack(torch.bfloat16))


def remark(precision: str, device: str) -> str | None:
    """Return a line for the user where the precision that was asked for is slower than float32, else None."""
    if device != "cpu" or precision in ("auto", "float32") or (precision == "bfloat16" and has_fast_bfloat16()):
        return None
    return f"{precision} is slower than float32 on this processor ({capability()}), which has no fast products of it"
