"""Which implementation of the ops runs: chosen once for a device, dtype and shape, and named for the manifest."""

from __future__ import annotations

from types import MappingProxyType

import torch

from . import cpu, reference
from .simd import LANES


class TorchOps:
    """The reference ops: any device, any dtype, any shape."""

    name = "torch"

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def embed(self, *args):
        """See ``reference.embed``."""
        return reference.embed(*args, self.dtype)

    residual_layernorm = staticmethod(reference.residual_layernorm)
    varlen_attention = staticmethod(reference.varlen_attention)
    cls_attention = staticmethod(reference.cls_attention)

    def linear(self, layer, activation: str = "none"):
        """A callable ``[T, K] -> [T, N]`` for an ``nn.Linear``, its weights laid out once."""
        weight, bias = layer.weight.to(self.dtype).contiguous(), layer.bias.to(self.dtype)
        return lambda x: reference.linear(x, weight, bias, activation)


def _array(tensor: torch.Tensor):
    """A numpy view of a CPU tensor; bfloat16 as its uint16 bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


class CpuOps:
    """numba kernels around matrix products: float32 and bfloat16 on the CPU.

    The products are oneDNN's with weights packed once and the activation fused, where torch was built with it, and
    plain torch ones elsewhere (Apple's processors, for one).
    """

    # oneDNN's name of an activation, and its variant.
    _FUSED = MappingProxyType(
        {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", "")}
    )

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.packed = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        self.name = "numba+onednn" if self.packed else "numba+torch"

    def embed(self, input_ids, position_ids, token_type_ids, word, position, token_type, weight, bias, eps):
        """See ``reference.embed``; ids int32 [T]."""
        out = torch.empty(len(input_ids), word.shape[1], dtype=self.dtype)
        arrays = (
            _array(t) for t in (input_ids, position_ids, token_type_ids, word, position, token_type, weight, bias)
        )
        cpu.embed(*arrays, eps, _array(out))
        return out

    def residual_layernorm(self, x, residual, weight, bias, eps):
        """See ``reference.residual_layernorm``; the result overwrites x."""
        cpu.residual_layernorm(_array(x), _array(residual), _array(weight), _array(bias), eps, _array(x))
        return x

    def varlen_attention(self, qkv, cu_seqlens, max_seqlen, heads):
        """See ``reference.varlen_attention``."""
        out = torch.empty(qkv.shape[0], qkv.shape[1] // 3, dtype=self.dtype)
        cpu.varlen_attention(_array(qkv), _array(cu_seqlens), max_seqlen, heads, _array(out))
        return out

    def cls_attention(self, query, x, cu_seqlens, max_seqlen, heads):
        """See ``reference.cls_attention``; query float32; rows of it beyond the sequences stay zero."""
        out = torch.zeros_like(query)
        batch = len(query)
        cpu.cls_attention(
            _array(query.view(batch, -1)),
            _array(x),
            _array(cu_seqlens),
            max_seqlen,
            heads,
            _array(out.view(batch, -1)),
        )
        return out

    def linear(self, layer, activation: str = "none"):
        """A callable ``[T, K] -> [T, N]`` for an ``nn.Linear``, its weights packed once, the activation fused."""
        if not self.packed:
            return TorchOps(self.dtype).linear(layer, activation)
        kind, algorithm = self._FUSED[activation]
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(self.dtype).contiguous())
        bias = layer.bias.detach().to(self.dtype)
        return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, kind, [], algorithm)


def select_ops(device: str, dtype: torch.dtype, hidden: int, head_dim: int):
    """The fastest ops for a device ("cpu", ...), dtype and shape; all give the same values within rounding."""
    fits = hidden % LANES == 0 and head_dim % LANES == 0
    if device == "cpu" and dtype in (torch.float32, torch.bfloat16) and fits:
        return CpuOps(dtype)
    return TorchOps(dtype)


def has_bfloat16(device: str) -> bool:
    """Whether bfloat16 products are faster than float32 on this device (AVX512-BF16 or AMX on x86)."""
    if device != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
