"""Triton kernels compile for a GPU, also on machines that have none: what the interpreter accepts, the compiler may not."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels are interpreted in this process", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vos_core.ops.kernels import components, topk_readout, window

SELECT = {"kept": 20, "slots": 32, "width": 64, "block_q": 16, "block_n": 64}
WINDOW = {"reach": 7, "dilation": 1, "key_block": 32, "value_block": 64, "block": 16}
KERNELS = [
    (topk_readout._select, {**SELECT, "has_node_offset": True, "has_query_offset": False, "has_gain": True}),
    (topk_readout._select, {**SELECT, "width": 128, "has_node_offset": False, "has_query_offset": True, "has_gain": True}),
    (topk_readout._gather, {"block_q": 16, "block_d": 128}),
    (components._hook, {"block": 256}),
    (components._flatten, {"block": 256}),
    (components._measure, {"block": 256}),
    *(
        (kernel, {**WINDOW, "has_bias": biased, "has_value_bias": biased})
        for kernel in (window._forward, window._backward_query, window._backward_key)
        for biased in (False, True)
    ),
]
POINTERS = {
    "*i64": {"indices"},
    "*i32": {"parent", "changed", "origin", "area_of"},
    "*fp32": {
        "query",
        "key",
        "node_offset",
        "query_offset",
        "gain",
        "weights",
        "rows",
        "out",
        "q",
        "k",
        "v",
        "bias",
        "value_bias",
    }
    | {"grad", "log_sum", "delta", "grad_q", "grad_k", "grad_v", "grad_bias", "grad_value_bias"},
    "fp32": {"scale"},
}
UNUSED = {"has_node_offset": {"node_offset"}, "has_query_offset": {"query_offset"}, "has_gain": {"gain"}}
UNUSED |= {"has_bias": {"bias", "grad_bias"}, "has_value_bias": {"value_bias", "grad_value_bias"}}


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "constants"), KERNELS, ids=lambda item: getattr(item, "__name__", "-"))
def test_kernel_compiles(kernel, constants, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    absent = set().union(*(UNUSED[flag] for flag, value in constants.items() if value is False))
    constants = {**constants, **{name: None for name in kernel.arg_names if name in absent}}
    kinds = {name: kind for kind, names in POINTERS.items() for name in names}
    signature = {name: "constexpr" if name in constants else kinds.get(name, "i32") for name in kernel.arg_names}
    compiled = triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=constants), target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["ptx"]
