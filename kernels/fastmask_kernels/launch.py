"""Which implementation of the ops runs: chosen once for a device, dtype and shape, and named for the manifest."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import torch

from . import cpu, padded, processor, reference
from .layouts import Sequences
from .simd import LANES


class TorchOps:
    """The reference ops: any device, any dtype, any shape."""

    name = "torch"

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def embed(self, *args):
        """See ``reference.embed``."""
        return reference.embed(*args, self.dtype)  # type: ignore[call-arg]

    def tiles(self, cu_seqlens: np.ndarray) -> np.ndarray:
        """Return an empty plan, int32 [0, 4]: these ops need none."""
        return np.empty((0, 4), np.int32)

    def embed_variants(self, *args):
        """See ``reference.embed_variants``."""
        return reference.embed_variants(*args, self.dtype)  # type: ignore[call-arg]

    def varlen_attention(self, qkv, sequences: Sequences, heads, window=None, rotary=None):
        """See ``reference.varlen_attention``."""
        return reference.varlen_attention(qkv, sequences.cu_seqlens, sequences.max_seqlen, heads, window, rotary)

    def mean_rows(self, x, sequences: Sequences):
        """See ``reference.mean_rows``."""
        return reference.mean_rows(x, sequences.cu_seqlens)

    def cls_attention(self, query, x, sequences: Sequences, heads):
        """See ``reference.cls_attention``."""
        return reference.cls_attention(query, x, sequences.cu_seqlens, sequences.max_seqlen, heads)

    def layernorm(self, *args):
        """See ``reference.layernorm``, from rows of any dtype."""
        return reference.layernorm(*args).to(self.dtype)

    residual_layernorm = staticmethod(reference.residual_layernorm)
    add_layernorm = staticmethod(reference.add_layernorm)
    log_odds = staticmethod(reference.log_odds)

    def linear(self, layer, activation: str = "none"):
        """Return a callable ``[T, K] -> [T, N]`` for an ``nn.Linear``, its weights laid out once."""
        weight, bias = layer.weight.to(self.dtype).contiguous(), layer.bias.to(self.dtype)
        return lambda x: reference.linear(x, weight, bias, activation)

    def gated_linear(self, layer, activation: str):
        """Return a callable ``[T, K] -> [T, I]``: ``geglu`` of an ``nn.Linear``'s 2 * I outputs."""
        product = self.linear(layer)
        return lambda x: reference.geglu(product(x), activation)


class PaddedOps(TorchOps):
    """The reference ops with attention over padded sequences: a few launches for any lengths, and no wait for them."""

    varlen_attention = staticmethod(padded.varlen_attention)
    cls_attention = staticmethod(padded.cls_attention)


_NO_TABLE = np.empty((0, 0), np.float32)


def _array(tensor: torch.Tensor):
    """Return a numpy view of a CPU tensor; bfloat16 as its uint16 bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


class CpuOps:
    """numba kernels around matrix products: float32 and bfloat16 on the CPU.

    The products are oneDNN's with weights packed once and the activation fused, where torch was built with it, and
    plain torch ones elsewhere (Apple's processors, for one). Where oneDNN packs no bfloat16 weights, they are widened
    to float32, and so are the inputs: the same products and sums, rounded to bfloat16 in the end, at float32's speed.
    """

    # oneDNN's name of an activation, and its variant.
    _FUSED = MappingProxyType(
        {"none": ("none", ""), "gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", "")}
    )

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.product_dtype = dtype if processor.can_pack(dtype) else torch.float32
        self.packed = processor.can_pack(self.product_dtype)
        widened = "-float32" if self.product_dtype != dtype else ""
        self.name = f"numba+onednn{widened}" if self.packed else "numba+torch"

    def embed(self, input_ids, position_ids, token_type_ids, word, position, token_type, weight, bias, eps):
        """See ``reference.embed``; ids int32 [T]."""
        out = torch.empty(len(input_ids), word.shape[1], dtype=self.dtype)
        arrays = (
            _array(t) for t in (input_ids, position_ids, token_type_ids, word, position, token_type, weight, bias)
        )
        cpu.embed(*arrays, eps, _array(out))
        return out

    def layernorm(self, x, weight, bias, eps):
        """See ``reference.layernorm``, from rows of float32 or the ops' own dtype."""
        out = torch.empty_like(x, dtype=self.dtype)
        cpu.layernorm(_array(x), _array(weight), _array(bias), eps, _array(out))
        return out

    def add_layernorm(self, x, residual, weight, bias, eps):
        """See ``reference.add_layernorm``; residual may be float32 whatever x is. Results take the arguments' place."""
        cpu.add_layernorm(*map(_array, (x, residual, weight, bias)), eps, _array(residual), _array(x))
        return residual, x

    def residual_layernorm(self, x, residual, weight, bias, eps):
        """See ``reference.residual_layernorm``; the result overwrites x."""
        cpu.residual_layernorm(_array(x), _array(residual), _array(weight), _array(bias), eps, _array(x))
        return x

    def varlen_attention(self, qkv, sequences: Sequences, heads, window=None, rotary=None):
        """See ``reference.varlen_attention``; plain torch where heads are turned whose half is no multiple of 16."""
        if rotary is not None and rotary.cos.shape[1] % LANES:
            return reference.varlen_attention(qkv, sequences.cu_seqlens, sequences.max_seqlen, heads, window, rotary)
        out = torch.empty(qkv.shape[0], qkv.shape[1] // 3, dtype=self.dtype)
        bounds, longest = _array(sequences.cu_seqlens), sequences.max_seqlen
        tables = (_NO_TABLE, _NO_TABLE) if rotary is None else map(_array, rotary)
        cpu.varlen_attention(
            _array(qkv), bounds, longest, heads, longest if window is None else window, *tables, _array(out)
        )
        return out

    def mean_rows(self, x, sequences: Sequences):
        """See ``reference.mean_rows``."""
        out = torch.empty(len(sequences.cu_seqlens) - 1, x.shape[1])
        cpu.mean_rows(_array(x), _array(sequences.cu_seqlens), _array(out))
        return out

    def cls_attention(self, query, x, sequences: Sequences, heads):
        """See ``reference.cls_attention``; query float32; rows of it beyond the sequences stay zero."""
        out = torch.zeros_like(query)
        batch = len(query)
        cpu.cls_attention(
            _array(query.view(batch, -1)),
            _array(x),
            _array(sequences.cu_seqlens),
            sequences.max_seqlen,
            heads,
            _array(out.view(batch, -1)),
        )
        return out

    def linear(self, layer, activation: str = "none"):
        """Return a callable ``[T, K] -> [T, N]`` for an ``nn.Linear``, weights packed once, activation fused."""
        if not self.packed:
            return TorchOps(self.dtype).linear(layer, activation)
        kind, algorithm = self._FUSED[activation]
        packed, bias = self._packed(layer.weight, layer.bias)

        def product(x):
            wide = x.to(self.product_dtype)
            return torch.ops.mkldnn._linear_pointwise(wide, packed, bias, kind, [], algorithm).to(self.dtype)

        return product

    def gated_linear(self, layer, activation: str):
        """See ``TorchOps.gated_linear``: the activation and the gating are fused into two products."""
        if not self.packed:
            return TorchOps(self.dtype).gated_linear(layer, activation)
        kind, algorithm = self._FUSED[activation]
        (value, value_bias), (gate, gate_bias) = map(self._packed, layer.weight.chunk(2), layer.bias.chunk(2))

        def product(x):
            wide = x.to(self.product_dtype)
            activated = torch.ops.mkldnn._linear_pointwise(wide, value, value_bias, kind, [], algorithm)
            return torch.ops.mkldnn._linear_pointwise.binary(wide, activated, gate, gate_bias, "mul").to(self.dtype)

        return product

    def _packed(self, weight, bias):
        """Return a layer's parameters as oneDNN takes them, rounded to the ops' dtype."""
        weight, bias = (p.detach().to(self.dtype).to(self.product_dtype).contiguous() for p in (weight, bias))
        return torch.ops.mkldnn._reorder_linear_weight(weight), bias


def cpu_ops(dtype: torch.dtype, hidden: int, head_dim: int, kernels: str = "auto"):
    """Return the fastest ops on the CPU for a dtype and shape, or plain torch ones for ``kernels`` "torch"."""
    fits = hidden % LANES == 0 and head_dim % LANES == 0
    if kernels != "torch" and dtype in (torch.float32, torch.bfloat16) and fits:
        return CpuOps(dtype)
    return TorchOps(dtype)


def device_ops(dtype: torch.dtype, hidden: int, head_dim: int, classes: int, kernels: str = "auto"):
    """Return ops for a device: Triton's where they fit, else, and for ``kernels`` "torch", plain torch's.

    Raises:
        ValueError: ``kernels`` is "triton" and some op has none for the shape.
    """
    if kernels == "torch" or dtype == torch.float64:
        return PaddedOps(dtype)
    from . import triton_ops  # triton is a heavy import, and the interpreter must be chosen before it

    misfit = triton_ops.misfit(hidden, head_dim, classes)
    if misfit and kernels == "triton":
        raise ValueError(f"no Triton kernel for {misfit}")
    return PaddedOps(dtype) if misfit else triton_ops.TritonOps(dtype)
