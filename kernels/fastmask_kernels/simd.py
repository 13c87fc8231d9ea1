"""A 16-lane float32 vector for numba.

LLVM leaves the short loops of attention and layer norm mostly scalar (aliasing, trip counts of a few tokens), so
the CPU kernels say which values are vectors. LLVM splits ``<16 x float>`` to whatever the machine has. Arrays are
float32, or uint16 holding bfloat16 bits: ``load`` widens and ``store`` rounds to nearest even, so one kernel serves
both.

numba's cache on disk does not see that ``cpu`` depends on this file: after a change here, touch ``cpu.py``.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.extending import intrinsic, register_model

LANES = 16
_F32, _I32, _I16 = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_VF32, _VI32, _VI16 = (ir.VectorType(t, LANES) for t in (_F32, _I32, _I16))


class _F32x16Type(types.Type):
    def __init__(self):
        super().__init__("f32x16")


f32x16 = _F32x16Type()


@register_model(_F32x16Type)
class _F32x16Model(PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, _VF32)


def _constant(value, vector_type=_VI32):
    return ir.Constant(vector_type, [value] * LANES)


def _splat(builder, scalar):
    one = builder.insert_element(ir.Constant(_VF32, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(_VF32, ir.Undefined), _constant(0))


def _element_pointer(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index], inbounds=True)


def _check(array_type):
    if array_type.dtype not in (types.float32, types.uint16) or array_type.layout != "C" or array_type.ndim != 1:
        raise TypeError(f"needs a contiguous float32 or uint16 vector, not {array_type}")


@intrinsic
def load(typingctx, array, index):
    """Return ``array[index : index + 16]`` as float32 lanes; array is float32 [n] or bfloat16 bits uint16 [n]."""
    _check(array)

    def codegen(context, builder, signature, args):
        pointer = _element_pointer(context, builder, array, args[0], args[1])
        if array.dtype == types.float32:
            return builder.load(builder.bitcast(pointer, _VF32.as_pointer()), align=4)
        bits = builder.load(builder.bitcast(pointer, _VI16.as_pointer()), align=2)
        return builder.bitcast(builder.shl(builder.zext(bits, _VI32), _constant(16)), _VF32)

    return f32x16(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write 16 lanes to ``array[index : index + 16]``, rounded to nearest even where the array holds bfloat16 bits."""
    _check(array)

    def codegen(context, builder, signature, args):
        pointer = _element_pointer(context, builder, array, args[0], args[1])
        if array.dtype == types.float32:
            builder.store(args[2], builder.bitcast(pointer, _VF32.as_pointer()), align=4)
            return context.get_dummy_value()
        bits = builder.bitcast(args[2], _VI32)
        odd = builder.and_(builder.lshr(bits, _constant(16)), _constant(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, _constant(0x7FFF))), _constant(16))
        builder.store(builder.trunc(rounded, _VI16), builder.bitcast(pointer, _VI16.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), codegen


@intrinsic
def splat(typingctx, scalar):
    """Return 16 lanes equal to a float32 scalar."""

    def codegen(context, builder, signature, args):
        return _splat(builder, args[0])

    return f32x16(types.float32), codegen


def _binary(name):
    def declare(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return getattr(builder, name)(args[0], args[1])

        return f32x16(f32x16, f32x16), codegen

    return intrinsic(declare)


add, sub, mul = _binary("fadd"), _binary("fsub"), _binary("fmul")


def _call_vector(builder, name, args):
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VF32, [_VF32] * len(args)), f"llvm.{name}.v16f32"
    )
    return builder.call(function, args)


@intrinsic
def fma(typingctx, a, b, c):
    """Return ``a * b + c``, with one rounding where the processor has such an instruction.

    Without one, LLVM's "fma" would be sixteen calls of a C function that computes it bit by bit.
    """

    def codegen(context, builder, signature, args):
        return _call_vector(builder, "fmuladd", args)

    return f32x16(f32x16, f32x16, f32x16), codegen


@intrinsic
def maximum(typingctx, a, b):
    """Return the lane-wise maximum of numbers."""

    def codegen(context, builder, signature, args):
        return _call_vector(builder, "maxnum", args)

    return f32x16(f32x16, f32x16), codegen


def _reduction(combine):
    def declare(typingctx, a):
        def codegen(context, builder, signature, args):
            value = args[0]
            for width in (8, 4, 2, 1):
                lanes = [(lane + width) % LANES for lane in range(LANES)]
                moved = builder.shuffle_vector(value, value, ir.Constant(_VI32, lanes))
                value = combine(builder, value, moved)
            return builder.extract_element(value, ir.Constant(_I32, 0))

        return types.float32(f32x16), codegen

    return intrinsic(declare)


sum_lanes = _reduction(lambda builder, a, b: builder.fadd(a, b))
max_lanes = _reduction(lambda builder, a, b: _call_vector(builder, "maxnum", [a, b]))


@intrinsic
def first_lanes(typingctx, value, count, fill):
    """Return the first ``count`` lanes of value, the others replaced by the scalar ``fill``."""

    def codegen(context, builder, signature, args):
        vector, limit, other = args
        limits = builder.shuffle_vector(
            builder.insert_element(ir.Constant(_VI32, ir.Undefined), builder.trunc(limit, _I32), ir.Constant(_I32, 0)),
            ir.Constant(_VI32, ir.Undefined),
            _constant(0),
        )
        inside = builder.icmp_signed("<", ir.Constant(_VI32, list(range(LANES))), limits)
        return builder.select(inside, vector, _splat(builder, other))

    return f32x16(f32x16, types.intp, types.float32), codegen


@intrinsic
def exp(typingctx, x):
    """Return exp(x) for x <= 0, relative error below 2e-7 (Cephes' polynomial); below -87 it is exp(-87)."""

    def codegen(context, builder, signature, args):
        def scalar(value):
            return ir.Constant(_VF32, [value] * LANES)

        x = _call_vector(builder, "maxnum", [args[0], scalar(-87.0)])
        k = _call_vector(builder, "floor", [_call_vector(builder, "fmuladd", [x, scalar(1.44269504), scalar(0.5)])])
        r = _call_vector(builder, "fmuladd", [k, scalar(-0.693359375), x])
        r = _call_vector(builder, "fmuladd", [k, scalar(2.12194440e-4), r])
        p = scalar(1.9875691500e-4)
        for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            p = _call_vector(builder, "fmuladd", [p, r, scalar(c)])
        p = _call_vector(builder, "fmuladd", [builder.fmul(p, r), r, builder.fadd(r, scalar(1.0))])
        power = builder.shl(builder.add(builder.fptosi(k, _VI32), _constant(127)), _constant(23))
        return builder.fmul(p, builder.bitcast(power, _VF32))

    return f32x16(f32x16), codegen
