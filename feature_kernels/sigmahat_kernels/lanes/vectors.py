# SPDX-License-Identifier: Apache-2.0
"""Vectors of float64 lanes inside compiled kernels: one instruction, several numbers, by LLVM's own vector types.

numba leaves it to LLVM whether a loop over lanes becomes vector instructions, and for loops inside loops it does not. A
value of the types below always is one, of any number of lanes: LLVM takes two registers for what does not fit in one.

In a kernel, vectors are added, subtracted, multiplied, divided and compared (`<`, `<=`, `>`, `>=`: a mask, for
`select`) by the operators. Where a function makes a vector, its argument `like` says of how many lanes: an integer
constant of the module, or any vector of that many. So a function that only is handed vectors works for all widths.
"""

from __future__ import annotations

import math
import operator
import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import LoweringError
from numba.core.registry import cpu_target
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, models, register_model

_FEATURES: str = (
    f"{cpu_target.target_context.codegen().magic_tuple()[2]},"  # of the processor compiled for: "+avx2,..."
)

HAS_FMA = "+fma," in _FEATURES or platform.machine() in ("aarch64", "arm64")
"""Whether `fma` rounds once; where the processor has no instruction for that, it rounds the product too."""

WIDTH = 8 if "+avx512f," in _FEATURES else 4 if "+avx2," in _FEATURES else 2
"""Lanes of one register."""

_WIDTHS = (2, 4, 8, 16)


class _Vector(types.Type):
    """So many numbers of one kind."""

    element: ir.Type

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"{type(self).__name__}({width})")


class Lanes(_Vector):
    """float64 numbers."""

    element = ir.DoubleType()


class Mask(_Vector):
    """Truth values."""

    element = ir.IntType(1)


@register_model(Lanes)
@register_model(Mask)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, of: Any) -> None:
        super().__init__(manager, of, ir.VectorType(of.element, of.width))


def _define(operation: Any, kind: type[_Vector], result: type[_Vector], emit: Callable[[Any, Any, Any], Any]) -> None:
    @infer_global(operation)
    class _Template(ConcreteTemplate):
        cases = tuple(signature(result(width), kind(width), kind(width)) for width in _WIDTHS)

    for width in _WIDTHS:
        lower_builtin(operation, kind(width), kind(width))(lambda context, builder, sig, args: emit(builder, *args))


_define(operator.add, Lanes, Lanes, lambda builder, a, b: builder.fadd(a, b))
_define(operator.sub, Lanes, Lanes, lambda builder, a, b: builder.fsub(a, b))
_define(operator.mul, Lanes, Lanes, lambda builder, a, b: builder.fmul(a, b))
_define(operator.truediv, Lanes, Lanes, lambda builder, a, b: builder.fdiv(a, b))
_define(operator.lt, Lanes, Mask, lambda builder, a, b: builder.fcmp_ordered("<", a, b))
_define(operator.le, Lanes, Mask, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))
_define(operator.gt, Lanes, Mask, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_define(operator.ge, Lanes, Mask, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))
_define(operator.and_, Mask, Mask, lambda builder, a, b: builder.and_(a, b))


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a kernel calls without the first argument, and with values where the function gets their types."""
    called: Callable[..., Any] = numba_intrinsic(prefer_literal=True)(function)
    return called


@intrinsic
def splat(typingctx: Any, x: Any, like: Any) -> Any:
    """All lanes x."""
    width = _width(like)
    return Lanes(width)(types.float64, like), lambda context, builder, sig, args: _splat(builder, args[0], width)


@intrinsic
def count_up(typingctx: Any, first: Any, like: Any) -> Any:
    """first, first + 1, ... as float64; `first` an integer."""
    width = _width(like)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        steps = ir.Constant(ir.VectorType(_F64, width), [float(k) for k in range(width)])
        return builder.fadd(_splat(builder, builder.sitofp(args[0], _F64), width), steps)

    return Lanes(width)(types.int64, like), codegen


@intrinsic
def load(typingctx: Any, array: Any, at: Any, like: Any) -> Any:
    """The elements `at`, `at` + 1, ... of a contiguous array of any shape, counted as they lie in memory.

    float64 or float32, which is widened. Need not be aligned.
    """
    width = _width(like)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element, size = _element(array)
        value = builder.load(_pointer(context, builder, array, args[0], args[1], element, width), align=size)
        return builder.fpext(value, ir.VectorType(_F64, width)) if element == _F32 else value

    return Lanes(width)(array, types.int64, like), codegen


@intrinsic
def load_first(typingctx: Any, array: Any, at: Any, count: Any, like: Any) -> Any:
    """`load` of the first `count` lanes, zero in the others, of which no memory is read; float64 or float32."""
    width = _width(like)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element, size = _element(array)
        pointer = _pointer(context, builder, array, args[0], args[1], element, width)
        vector = ir.VectorType(element, width)
        arguments = [pointer, _I32(size), _first(builder, args[2], width), ir.Constant(vector, [0.0] * width)]
        value = _call(builder, f"llvm.masked.load.{_suffix(element, width)}.p0", vector, arguments)
        return builder.fpext(value, ir.VectorType(_F64, width)) if element == _F32 else value

    return Lanes(width)(array, types.int64, types.int64, like), codegen


@intrinsic
def store(typingctx: Any, array: Any, at: Any, value: Any) -> Any:
    """Write the elements `at`, `at` + 1, ...; float64 or float32, to which is rounded."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element, size = _element(array)
        pointer = _pointer(context, builder, array, args[0], args[1], element, value.width)
        builder.store(_narrowed(builder, args[2], element, value.width), pointer, align=size)
        return context.get_dummy_value()

    return types.void(array, types.int64, value), codegen


@intrinsic
def store_first(typingctx: Any, array: Any, at: Any, count: Any, value: Any) -> Any:
    """`store` of the first `count` lanes alone."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        element, size = _element(array)
        pointer = _pointer(context, builder, array, args[0], args[1], element, value.width)
        narrowed = _narrowed(builder, args[3], element, value.width)
        arguments = [narrowed, pointer, _I32(size), _first(builder, args[2], value.width)]
        _call(builder, f"llvm.masked.store.{_suffix(element, value.width)}.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, value), codegen


@intrinsic
def gather(typingctx: Any, array: Any, offset: Any, places: Any, at: Any, like: Any) -> Any:
    """array[offset + places[at]], array[offset + places[at + 1]], ... of contiguous arrays, float64 and int64."""
    width = _width(like)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data, offset, where, at = _data(context, builder, array, args[0], _F64), args[1], args[2], args[3]
        row, where = builder.gep(data, [offset]), builder.gep(_data(context, builder, places, where, _I64), [at])
        # One load after the other: the processors' own gather instructions are not faster.
        return _collected(builder, width, lambda k: builder.gep(row, [builder.load(builder.gep(where, [_I64(k)]))]))

    return Lanes(width)(array, types.int64, places, types.int64, like), codegen


@intrinsic
def load_strided(typingctx: Any, array: Any, at: Any, stride: Any, like: Any) -> Any:
    """array[at], array[at + stride], ... of a contiguous float64 array, counted as its elements lie in memory."""
    width = _width(like)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = builder.gep(_data(context, builder, array, args[0], _F64), [args[1]])
        return _collected(builder, width, lambda k: builder.gep(first, [builder.mul(args[2], _I64(k))]))

    return Lanes(width)(array, types.int64, types.int64, like), codegen


@intrinsic
def load_columns(typingctx: Any, array: Any, at: Any, stride: Any, like: Any) -> Any:
    """A tuple of `load_strided` from `at`, `at` + 1, ..., one a lane: of rows that are loaded, then transposed."""
    width = _width(like)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vectors, by = [], width // 2
        for k in range(width):
            place = builder.add(args[1], builder.mul(args[2], _I64(k)))
            vectors.append(builder.load(_pointer(context, builder, array, args[0], place, _F64, width), align=8))
        while by:  # what is above the diagonal of each square of 2 by x 2 by numbers changes places with what is below
            keep = [k if not k & by else width + k - by for k in range(width)]
            swap = [k + by if not k & by else width + k for k in range(width)]
            for k in range(width):
                if not k & by:
                    pair = vectors[k], vectors[k + by]
                    for place, of in ((k, keep), (k + by, swap)):
                        vectors[place] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_I32, width), of))
            by //= 2
        return context.make_tuple(builder, sig.return_type, vectors)

    return types.UniTuple(Lanes(width), width)(array, types.int64, types.int64, like), codegen


@intrinsic
def count(typingctx: Any, counts: Any, stride: Any, x: Any) -> Any:
    """Add 1 to counts[k stride + x_k] for each lane k; int64, and x truncated to one."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = _data(context, builder, counts, args[0], _I64)
        places = builder.fptosi(args[2], ir.VectorType(_I64, x.width))
        for k in range(x.width):
            place = builder.add(builder.extract_element(places, _I32(k)), builder.mul(args[1], _I64(k)))
            pointer = builder.gep(data, [place])
            builder.store(builder.add(builder.load(pointer), _I64(1)), pointer)
        return context.get_dummy_value()

    return types.void(counts, types.int64, x), codegen


@intrinsic
def select(typingctx: Any, mask: Any, a: Any, b: Any) -> Any:
    """In each lane a where the mask is true, else b."""
    return a(mask, a, b), lambda context, builder, sig, args: builder.select(*args)


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once, see `HAS_FMA`."""

    return a(a, a, a), lambda context, builder, sig, args: _multiply_add(builder, *args)


@intrinsic
def sqrt(typingctx: Any, x: Any) -> Any:
    """Square root."""
    return x(x), lambda context, builder, sig, args: _call(
        builder, f"llvm.sqrt.{_suffix(_F64, x.width)}", args[0].type, args
    )


@intrinsic
def absolute(typingctx: Any, x: Any) -> Any:
    """Absolute value."""
    return x(x), lambda context, builder, sig, args: _call(
        builder, f"llvm.fabs.{_suffix(_F64, x.width)}", args[0].type, args
    )


@intrinsic
def exp(typingctx: Any, x: Any) -> Any:
    """e^x to a few units of the last place, of x between -700 and 700, to which others are cut."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, suffix = args[0].type, _suffix(_F64, x.width)

        def constant(value: float) -> Any:
            return ir.Constant(vector, [value] * x.width)

        def multiply_add(a: Any, b: Any, c: Any) -> Any:
            return _multiply_add(builder, a, b, c)

        limited = args[0]
        for limit, outside in ((700.0, ">"), (-700.0, "<")):
            beyond = builder.fcmp_ordered(outside, limited, constant(limit))
            limited = builder.select(beyond, constant(limit), limited)
        # x = k ln 2 + r, |r| <= ln 2 / 2: ln 2 in two parts, of which the first times k has no rounding error
        k = _call(builder, f"llvm.rint.{suffix}", vector, [builder.fmul(limited, constant(1.0 / math.log(2.0)))])
        r = multiply_add(k, constant(-_LN2_HIGH), limited)
        r = multiply_add(k, constant(-_LN2_LOW), r)
        power = constant(1.0 / math.factorial(13))  # the next term of the series is below 1e-17
        for n in range(12, -1, -1):
            power = multiply_add(power, r, constant(1.0 / math.factorial(n)))
        integers = ir.VectorType(_I64, x.width)
        exponent = builder.shl(builder.fptosi(k, integers), ir.Constant(integers, [52] * x.width))
        return builder.bitcast(builder.add(builder.bitcast(power, integers), exponent), vector)

    return x(x), codegen


@intrinsic
def sum_lanes(typingctx: Any, x: Any) -> Any:
    """The sum as float64: of the halves' lanes, then of the halves of these, and so on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(_halved(builder, args, x.width, builder.fadd), _I32(0))

    return types.float64(x), codegen


@intrinsic
def sums_of_four(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """`sum_lanes` of four vectors of four lanes or more, as one of four: the same bits by half the instructions."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _halved(builder, args, a.width, builder.fadd)

    return Lanes(4)(a, a, a, a), codegen


@intrinsic
def max_lanes(typingctx: Any, x: Any) -> Any:
    """The largest lane as float64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return builder.extract_element(_halved(builder, args, x.width, larger), _I32(0))

    return types.float64(x), codegen


_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # ln 2 in two parts: the first has 31 binary digits


_I32, _I64, _F32, _F64 = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()


def _width(like: Any) -> int:
    width: int = like.literal_value if isinstance(like, types.IntegerLiteral) else like.width
    return width


def _element(array: Any) -> tuple[ir.Type, int]:
    """Element of an array, and its bytes."""
    return (_F32, 4) if array.dtype == types.float32 else (_F64, 8)


def _data(context: Any, builder: Any, array_type: Any, array: Any, element: ir.Type) -> Any:
    if array_type.layout != "C":  # when a kernel is compiled; elements are counted as they lie in memory
        raise LoweringError(f"a vector needs a contiguous array, got {array_type}")
    return builder.bitcast(context.make_array(array_type)(context, builder, array).data, element.as_pointer())


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any, element: ir.Type, width: int) -> Any:
    first = builder.gep(_data(context, builder, array_type, array, element), [at])
    return builder.bitcast(first, ir.VectorType(element, width).as_pointer())


def _collected(builder: Any, width: int, pointer: Callable[[int], Any]) -> Any:
    value = ir.Constant(ir.VectorType(_F64, width), ir.Undefined)
    for k in range(width):
        value = builder.insert_element(value, builder.load(pointer(k)), _I32(k))
    return value


def _narrowed(builder: Any, value: Any, element: ir.Type, width: int) -> Any:
    return builder.fptrunc(value, ir.VectorType(_F32, width)) if element == _F32 else value


def _suffix(element: ir.Type, width: int) -> str:
    return f"v{width}{'f32' if element == _F32 else 'f64'}"


def _call(builder: Any, name: str, result: ir.Type, arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    if not HAS_FMA:
        return builder.fadd(builder.fmul(a, b), c)
    return _call(builder, f"llvm.fma.{_suffix(_F64, a.type.count)}", a.type, [a, b, c])


def _splat(builder: Any, x: Any, width: int) -> Any:
    unset = ir.Constant(ir.VectorType(x.type, width), ir.Undefined)
    first = builder.insert_element(unset, x, _I32(0))
    return builder.shuffle_vector(first, unset, ir.Constant(ir.VectorType(_I32, width), [0] * width))


def _first(builder: Any, count: Any, width: int) -> Any:
    """Mask of the first `count` lanes."""
    numbers = ir.Constant(ir.VectorType(_I64, width), list(range(width)))
    return builder.icmp_signed("<", numbers, _splat(builder, count, width))


def _halved(builder: Any, vectors: Any, width: int, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine the halves of each vector's lanes, then the halves of these, and so on; one lane a vector is left.

    Of one, two or four vectors: two share one where each needs no more than half of it.
    """
    lanes = width  # that each vector of the beginning still has
    while lanes > 1:
        pairs = list(zip(vectors[::2], vectors[1::2], strict=True)) if len(vectors) > 1 else [(vectors[0], vectors[0])]
        width *= min(len(vectors), 2)
        first = [k for k in range(width) if k % lanes < lanes // 2]
        places = [ir.Constant(ir.VectorType(_I32, len(first)), [k + by for k in first]) for by in (0, lanes // 2)]
        vectors = [combine(*(builder.shuffle_vector(a, b, of) for of in places)) for a, b in pairs]
        width, lanes = len(first), lanes // 2
    return vectors[0]
