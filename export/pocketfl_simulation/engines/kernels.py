"""A 3 x 3 convolution, ReLU and 2 x 2 pooling as loops that Numba compiles for one number of channels.

What makes small convolutions slow on a processor is memory: each operator writes all it made, and
the next reads it. Here a tile of 4 x 4 inputs becomes what is left of its 2 x 2 outputs after pooling
in one go, and of the outputs that pooling drops nothing is written. Between several channels the
products are made in the domain of Winograd's F(2 x 2, 3 x 3), which takes 16 multiplications instead
of 36 (Lavin and Gray 2015, "Fast algorithms for convolutional neural networks", arXiv 1509.09308; its
matrices A, B and G have their names here too).

Values lie with channels last. Every loop over channels is straight code of a known length, which is
what LLVM makes vector instructions of.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

import numba
import numpy as np

NOTHING: Final = 4
"""Place of an output that ReLU made zero; 0 to 3 are the places of a pool, row by row."""

Kernel = Callable[..., None]
_inlined = numba.njit(inline="always")


def _compiled(function: Kernel) -> Kernel:
    """Compile a kernel at its first call, and keep what came of it beside this file or in the home."""
    settings: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    settings["fastmath"] = {"contract", "nsz"}
    try:
        kept: Kernel = numba.njit(cache=True, **settings)(function)
    except RuntimeError:
        # Neither can be written to.
        kept = numba.njit(**settings)(function)
    return kept


class SingleKernels(NamedTuple):
    """For one input channel: nine multiplications for each output.

    Attributes
    ----------
    forward : callable
        ``(values, weight, bias, pooled, places, padding)``.
    backward : callable
        ``(values, gradient, places, weight_gradient, bias_gradient, padding)``; adds to the last two.
    """

    forward: Kernel
    backward: Kernel


class WinogradKernels(NamedTuple):
    """For several input channels: what comes before and after 16 products of matrices.

    Attributes
    ----------
    spread : callable
        ``(values, tiles, padding)``: each tile of the input, as B^T d B.
    pool : callable
        ``(products, bias, pooled, places)``: A^T m A, and what pooling and ReLU leave of it.
    unpool : callable
        ``(gradient, places, products_gradient, bias_gradient)``; adds to the last.
    gather : callable
        ``(tiles_gradient, values_gradient, padding)``: adds up what tiles say of the same input.
    """

    spread: Kernel
    pool: Kernel
    unpool: Kernel
    gather: Kernel


@_inlined
def _b(a, b, c, d):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return B^T times a column."""
    return a - c, b + c, c - b, b - d


@_inlined
def _b_adjoint(a, b, c, d):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return B times a column."""
    return a, b - c + d, b + c - a, -d


@_inlined
def _a(a, b, c, d):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return A^T times a column."""
    return a + b + c, b - c - d


@_inlined
def _a_adjoint(a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return A times a column."""
    return a, a + b, a - b, -b


@_inlined
def _largest(a, b, c, d, bias):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the largest of four after bias and ReLU, and its place; of equal ones the first."""
    best = a
    place = np.int32(0)
    place = np.int32(1) if b > best else place
    best = b if b > best else best
    place = np.int32(2) if c > best else place
    best = c if c > best else best
    place = np.int32(3) if d > best else place
    best = d if d > best else best
    best += bias
    place = place if best > 0 else np.int32(NOTHING)
    best = best if best > 0 else np.float32(0)
    return best, place


@_inlined
def _at(value, place):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return a pool's gradient at its four places; zero where the value did not come from."""
    zero = np.float32(0)
    return (
        value if place == 0 else zero,
        value if place == 1 else zero,
        value if place == 2 else zero,
        value if place == 3 else zero,
    )


@_compiled
def _cut(image: Any, top: int, left: int, tile: Any) -> None:
    """Copy 4 x 4 pixels of an image, zero outside of it."""
    height, width = image.shape
    if top >= 0 and top + 4 <= height and left >= 0 and left + 4 <= width:
        for row in range(4):
            for column in range(4):
                tile[4 * row + column] = image[top + row, left + column]
        return
    for row in range(4):
        for column in range(4):
            y, x = top + row, left + column
            inside = 0 <= y < height and 0 <= x < width
            tile[4 * row + column] = image[y, x] if inside else np.float32(0)


@cache
def single_kernels(outputs: int) -> SingleKernels:
    """Compile the kernels of a block of one input channel.

    Parameters
    ----------
    outputs : int
        Channels, K. The kernels take ``values`` (N, H, W), ``weight`` (9, K), ``bias`` (K,), and
        ``pooled`` or ``gradient`` (N, rows, columns, K) with ``places`` of the same shape in int32.
    """

    @_compiled
    def forward(  # noqa: PLR0917
        values: Any, weight: Any, bias: Any, pooled: Any, places: Any, padding: int
    ) -> None:
        tile = np.zeros(16, np.float32)
        for n in range(pooled.shape[0]):
            for row in range(pooled.shape[1]):
                for column in range(pooled.shape[2]):
                    _cut(values[n], 2 * row - padding, 2 * column - padding, tile)
                    t0, t1, t2, t3 = tile[0], tile[1], tile[2], tile[3]
                    t4, t5, t6, t7 = tile[4], tile[5], tile[6], tile[7]
                    t8, t9, t10, t11 = tile[8], tile[9], tile[10], tile[11]
                    t12, t13, t14, t15 = tile[12], tile[13], tile[14], tile[15]
                    out, place = pooled[n, row, column], places[n, row, column]
                    for k in range(outputs):
                        w0, w1, w2 = weight[0, k], weight[1, k], weight[2, k]
                        w3, w4, w5 = weight[3, k], weight[4, k], weight[5, k]
                        w6, w7, w8 = weight[6, k], weight[7, k], weight[8, k]
                        a = w0 * t0 + w1 * t1 + w2 * t2 + w3 * t4 + w4 * t5
                        a += w5 * t6 + w6 * t8 + w7 * t9 + w8 * t10
                        b = w0 * t1 + w1 * t2 + w2 * t3 + w3 * t5 + w4 * t6
                        b += w5 * t7 + w6 * t9 + w7 * t10 + w8 * t11
                        c = w0 * t4 + w1 * t5 + w2 * t6 + w3 * t8 + w4 * t9
                        c += w5 * t10 + w6 * t12 + w7 * t13 + w8 * t14
                        d = w0 * t5 + w1 * t6 + w2 * t7 + w3 * t9 + w4 * t10
                        d += w5 * t11 + w6 * t13 + w7 * t14 + w8 * t15
                        out[k], place[k] = _largest(a, b, c, d, bias[k])

    @_compiled
    def backward(  # noqa: PLR0917
        values: Any,
        gradient: Any,
        places: Any,
        weight_gradient: Any,
        bias_gradient: Any,
        padding: int,
    ) -> None:
        tile = np.zeros(16, np.float32)
        moved = weight_gradient
        for n in range(gradient.shape[0]):
            for row in range(gradient.shape[1]):
                for column in range(gradient.shape[2]):
                    _cut(values[n], 2 * row - padding, 2 * column - padding, tile)
                    t0, t1, t2, t3 = tile[0], tile[1], tile[2], tile[3]
                    t4, t5, t6, t7 = tile[4], tile[5], tile[6], tile[7]
                    t8, t9, t10, t11 = tile[8], tile[9], tile[10], tile[11]
                    t12, t13, t14, t15 = tile[12], tile[13], tile[14], tile[15]
                    of, place = gradient[n, row, column], places[n, row, column]
                    for k in range(outputs):
                        a, b, c, d = _at(of[k], place[k])
                        bias_gradient[k] += a + b + c + d
                        moved[0, k] += a * t0 + b * t1 + c * t4 + d * t5
                        moved[1, k] += a * t1 + b * t2 + c * t5 + d * t6
                        moved[2, k] += a * t2 + b * t3 + c * t6 + d * t7
                        moved[3, k] += a * t4 + b * t5 + c * t8 + d * t9
                        moved[4, k] += a * t5 + b * t6 + c * t9 + d * t10
                        moved[5, k] += a * t6 + b * t7 + c * t10 + d * t11
                        moved[6, k] += a * t8 + b * t9 + c * t12 + d * t13
                        moved[7, k] += a * t9 + b * t10 + c * t13 + d * t14
                        moved[8, k] += a * t10 + b * t11 + c * t14 + d * t15

    return SingleKernels(forward, backward)


@cache
def winograd_kernels(inputs: int, outputs: int) -> WinogradKernels:
    """Compile the kernels of a block of several input channels.

    Parameters
    ----------
    inputs, outputs : int
        Channels, C and K. The kernels take ``values`` (N, H, W, C), ``tiles`` (16, T, C) for T tiles,
        ``products`` (16, T, K), ``bias`` (K,), and ``pooled`` or ``gradient`` (N, rows, columns, K)
        with ``places`` of the same shape in int32; T is N times rows times columns.
    """

    @_compiled
    def spread(values: Any, tiles: Any, rows: int, columns: int, padding: int) -> None:
        tile = np.zeros((16, inputs), np.float32)
        # LLVM cannot know that 16 rows of one array never overlap; of one small array it can.
        made = np.zeros((16, inputs), np.float32)
        height, width = values.shape[1], values.shape[2]
        number = 0
        for n in range(values.shape[0]):
            for row in range(rows):
                for column in range(columns):
                    for i in range(16):
                        y = 2 * row - padding + i // 4
                        x = 2 * column - padding + i % 4
                        if 0 <= y < height and 0 <= x < width:
                            for c in range(inputs):
                                tile[i, c] = values[n, y, x, c]
                        else:
                            for c in range(inputs):
                                tile[i, c] = np.float32(0)
                    for c in range(inputs):
                        p0, q0, r0, s0 = _b(tile[0, c], tile[4, c], tile[8, c], tile[12, c])
                        p1, q1, r1, s1 = _b(tile[1, c], tile[5, c], tile[9, c], tile[13, c])
                        p2, q2, r2, s2 = _b(tile[2, c], tile[6, c], tile[10, c], tile[14, c])
                        p3, q3, r3, s3 = _b(tile[3, c], tile[7, c], tile[11, c], tile[15, c])
                        made[0, c], made[1, c], made[2, c], made[3, c] = _b(p0, p1, p2, p3)
                        made[4, c], made[5, c], made[6, c], made[7, c] = _b(q0, q1, q2, q3)
                        made[8, c], made[9, c], made[10, c], made[11, c] = _b(r0, r1, r2, r3)
                        made[12, c], made[13, c], made[14, c], made[15, c] = _b(s0, s1, s2, s3)
                    for i in range(16):
                        for c in range(inputs):
                            tiles[i, number, c] = made[i, c]
                    number += 1

    @_compiled
    def pool(products: Any, bias: Any, pooled: Any, places: Any) -> None:
        m = products
        for t in range(pooled.shape[0]):
            for k in range(outputs):
                p0, q0 = _a(m[0, t, k], m[4, t, k], m[8, t, k], m[12, t, k])
                p1, q1 = _a(m[1, t, k], m[5, t, k], m[9, t, k], m[13, t, k])
                p2, q2 = _a(m[2, t, k], m[6, t, k], m[10, t, k], m[14, t, k])
                p3, q3 = _a(m[3, t, k], m[7, t, k], m[11, t, k], m[15, t, k])
                a, b = _a(p0, p1, p2, p3)
                c, d = _a(q0, q1, q2, q3)
                pooled[t, k], places[t, k] = _largest(a, b, c, d, bias[k])

    @_compiled
    def unpool(gradient: Any, places: Any, products_gradient: Any, bias_gradient: Any) -> None:
        made = np.zeros((16, outputs), np.float32)
        for t in range(gradient.shape[0]):
            for k in range(outputs):
                a, b, c, d = _at(gradient[t, k], places[t, k])
                p0, p1, p2, p3 = _a_adjoint(a, c)
                q0, q1, q2, q3 = _a_adjoint(b, d)
                made[0, k], made[1, k], made[2, k], made[3, k] = _a_adjoint(p0, q0)
                made[4, k], made[5, k], made[6, k], made[7, k] = _a_adjoint(p1, q1)
                made[8, k], made[9, k], made[10, k], made[11, k] = _a_adjoint(p2, q2)
                made[12, k], made[13, k], made[14, k], made[15, k] = _a_adjoint(p3, q3)
            for i in range(16):
                for k in range(outputs):
                    products_gradient[i, t, k] = made[i, k]
            for k in range(outputs):
                bias_gradient[k] += gradient[t, k] if places[t, k] < NOTHING else np.float32(0)

    @_compiled
    def gather(tiles: Any, values_gradient: Any, rows: int, columns: int, padding: int) -> None:
        v = tiles
        made = np.zeros((16, inputs), np.float32)
        height, width = values_gradient.shape[1], values_gradient.shape[2]
        t = 0
        for n in range(values_gradient.shape[0]):
            values_gradient[n] = np.float32(0)
            for row in range(rows):
                for column in range(columns):
                    for c in range(inputs):
                        p0, q0, r0, s0 = _b_adjoint(v[0, t, c], v[4, t, c], v[8, t, c], v[12, t, c])
                        p1, q1, r1, s1 = _b_adjoint(v[1, t, c], v[5, t, c], v[9, t, c], v[13, t, c])
                        p2, q2, r2, s2 = _b_adjoint(
                            v[2, t, c], v[6, t, c], v[10, t, c], v[14, t, c]
                        )
                        p3, q3, r3, s3 = _b_adjoint(
                            v[3, t, c], v[7, t, c], v[11, t, c], v[15, t, c]
                        )
                        made[0, c], made[1, c], made[2, c], made[3, c] = _b_adjoint(p0, p1, p2, p3)
                        made[4, c], made[5, c], made[6, c], made[7, c] = _b_adjoint(q0, q1, q2, q3)
                        made[8, c], made[9, c], made[10, c], made[11, c] = _b_adjoint(
                            r0, r1, r2, r3
                        )
                        made[12, c], made[13, c], made[14, c], made[15, c] = _b_adjoint(
                            s0, s1, s2, s3
                        )
                    for i in range(16):
                        y = 2 * row - padding + i // 4
                        x = 2 * column - padding + i % 4
                        if 0 <= y < height and 0 <= x < width:
                            for c in range(inputs):
                                values_gradient[n, y, x, c] += made[i, c]
                    t += 1

    return WinogradKernels(spread, pool, unpool, gather)
