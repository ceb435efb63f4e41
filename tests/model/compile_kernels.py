"""Compile every kernel for an NVIDIA GPU, which need not be there: ``python compile_kernels.py CAPABILITY``.

Each line of the output is a kernel, its data type and its shared memory in bytes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from psptool.model import kernels
from psptool.model.kernels import attention, norm

VALUES = [
    "packed",
    "mixed",
    "grad_mixed",
    "grad_packed",
    "x",
    "second",
    "out",
    "grad_out",
    "grad",
    "grad_x",
    "grad_second",
]
"""Tensors in the precision of the network; other tensors are float32."""
SIZES = ["N", "M", "C", "stride", "second_stride"]
"""Multiples of 16, as Triton assumes after it has seen one."""
COUNTS, NUMBERS = ["T", "rows", "programs"], ["eps", "momentum", "slope"]


def compile_for(capability: int, kernel: Any, constants: dict[str, object], dtype: str) -> None:
    """Compile ``kernel``; parameters without an entry in ``constants`` are tensors or numbers."""
    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in COUNTS + SIZES:
            signature[name] = "i32"
        else:
            signature[name] = "fp32" if name in NUMBERS else dtype if name in VALUES else "*fp32"
        if name not in constants and name not in COUNTS + NUMBERS:
            attributes[(index,)] = [["tt.divisibility", 16]]
    given = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=given, attrs=attributes)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": norm.WARPS}
    )
    print(kernel.__name__, dtype, compiled.metadata.shared)


def main() -> None:
    """Compile for the attention of NTU RGB+D and the largest one, and the norms, in both precisions."""
    capability = int(sys.argv[1])
    for dtype, type_ in (("*bf16", torch.bfloat16), ("*fp32", torch.float32)):
        x = torch.zeros(1, dtype=type_)
        for joints, qk_channels in ((25, 16), (kernels.MOST_JOINTS, kernels.MOST_QK_CHANNELS)):
            packing = attention.Packing(heads=4, qk_channels=qk_channels, outputs=64, residuals=0)
            query_tile, frame = attention._query_tile(x, packing)
            width = triton.next_power_of_2(joints)
            shape = {
                "V": joints,
                "S": 4,
                "D": qk_channels,
                "WIDTH": width,
                "PRECISION": attention._products(x),
            }
            queries = {**shape, "TILE": query_tile, "FRAME": frame}
            features = {**shape, "CO": 64, "TILE": attention._columns(x, attention.COLUMNS)}
            gradients = {**features, "TILE": attention._columns(x, attention.BACKWARD_COLUMNS)}
            gradients |= {"QUERY_TILE": query_tile, "FRAME": frame}
            for kernel, constants in [
                (attention._tanh_maps, queries),
                (attention._mix_heads, features),
                (attention._attention_gradients, gradients),
            ]:
                compile_for(capability, kernel, constants, dtype)
        tiles = {"TILE_R": norm.TILE // norm.TILE_CHANNELS, "TILE_C": norm.TILE_CHANNELS}
        sums = {"MOST": norm.MOST_PROGRAMS, "TILE_C": norm.FINISHED_CHANNELS}
        for kernel, constants in [
            (norm._sum_rows, tiles),
            (norm._finish_moments, {**sums, "TRAINING": True}),
            (norm._finish_moments, {**sums, "TRAINING": False}),
            (norm._finish_gradients, sums),
        ]:
            compile_for(capability, kernel, constants, dtype)
        for kind in (norm.NO_RESIDUAL, norm.PLAIN_RESIDUAL, norm.NORMALIZED_RESIDUAL):
            for kernel in (norm._normalize, norm._sum_gradients, norm._input_gradients):
                compile_for(capability, kernel, {**tiles, "KIND": kind}, dtype)


if __name__ == "__main__":
    main()
