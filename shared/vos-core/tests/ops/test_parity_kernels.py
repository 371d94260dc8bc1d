"""The four shared kernels against numbers of their reference implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vos_core.ops.affinity import (
    dense_affinity,
    dense_readout,
    similarity,
    sparse_readout,
    topk_affinity,
    topk_readout,
    usage,
    value_rows,
)
from vos_core.ops.components import connected_components
from vos_core.ops.propagation import propagate_labels
from vos_core.ops.window import local_attention, local_corr
from vos_core.testing import GOLDENS, assert_within, golden_cases

pytestmark = pytest.mark.parity


class Arrays:
    """The arrays of a case, by their names without prefix."""

    def __init__(self, case):
        self.stored, self.prefix = np.load(GOLDENS / "vos-core" / case["file"]), case["prefix"]

    def __getitem__(self, name):
        return self.stored[self.prefix + name]

    def tensor(self, name):
        return torch.from_numpy(self[name])


@pytest.mark.parametrize("case", golden_cases("vos-core", "kernel_local_attention"))
def test_local_attention(case):
    arrays = Arrays(case)
    q, k, v, value_bias = (arrays.tensor(name) for name in ("q", "k", "v", "bias_v"))
    heads, height, width = case["heads"], *case["map"]
    assert q.shape == (case["batch"], heads * case["head_dim"], height, width)
    options = {"heads": heads, "max_dis": case["max_dis"], "dilation": case["dilation"], "scale": case["scale"]}
    bias = F.conv2d(q, arrays.tensor("bias_k_weight"), arrays.tensor("bias_k_bias"), groups=heads).unflatten(1, (heads, -1))
    cells = bias.shape[2]
    # A value bias of one-hot cells over values of zero reads the attention itself.
    one_hot = torch.eye(cells).expand(heads, cells, cells)
    nothing = torch.zeros(q.shape[0], heads * cells, height, width)
    flat = (-1, heads, cells, height * width)
    results = {
        "corr": lambda: local_corr(q, k, **options),
        "attn": lambda: local_attention(q, k, nothing, bias=bias, value_bias=one_hot, **options).view(flat),
        "out": lambda: local_attention(q, k, v, bias=bias, value_bias=value_bias, **options).flatten(2).permute(2, 0, 1),
    }
    for name in case["outputs"]:
        assert_within(results[name](), arrays[name], case["tolerance"], label=name)


@pytest.mark.parametrize("case", golden_cases("vos-core", "kernel_connected_components"))
def test_connected_components(case):
    arrays = Arrays(case)
    assert (case["connectivity"], case["label_rule"]) == (8, "1_plus_smallest_2x2_block_origin_index")
    mask = arrays.tensor("mask")
    assert mask.shape[0] == case["masks"]
    found = connected_components(mask)
    for name in case["outputs"]:
        assert_within(getattr(found, name), arrays[name], case["tolerance"], label=name)


@pytest.mark.parametrize("case", golden_cases("vos-core", "kernel_topk_readout"))
def test_topk_readout(case):
    arrays = Arrays(case)
    key, query, values = (arrays.tensor(case[name]) for name in ("key", "query", "value"))
    nodes, grid = key.shape[2], query.shape[2:]
    for variant in case["variants"]:
        terms = {name: None if variant[name] is None else arrays.tensor(variant[name]) for name in ("shrinkage", "selection")}
        results = {"similarity": similarity(key, query, **terms)}
        if variant["top_k"] is None:
            affinity = dense_affinity(key, query, **terms)
            results["usage"] = affinity.sum(2)
            results["out"] = dense_readout(affinity, values.unsqueeze(0))
        else:
            kept = topk_affinity(key, query, variant["top_k"], tile_bytes=4 * nodes * 7, **terms)
            results["usage"] = usage(kept, nodes)
            results["out"] = topk_readout(key, query, values.unsqueeze(0), variant["top_k"], **terms)
            rows = sparse_readout(kept, value_rows(values.unsqueeze(0)))
            assert_within(rows.transpose(1, 2).reshape(results["out"].shape), results["out"], case["tolerance"], label="rows")
        results["out"] = results["out"][0].unflatten(2, grid)
        for name, array in variant["outputs"].items():
            assert_within(results[name], arrays[array], case["tolerance"], label=f"{variant['name']} {name}")


@pytest.mark.parametrize("tile_bytes", [1, 2**23])
@pytest.mark.parametrize("case", golden_cases("vos-core", "kernel_label_propagation"))
def test_label_propagation(case, tile_bytes):
    arrays = Arrays(case)
    height, width = case["map"]
    labels = arrays.tensor("segs")
    assert labels.shape == (case["context"], case["classes"], height, width)
    out = propagate_labels(
        arrays.tensor("feat_target").t().unflatten(1, (height, width)),
        arrays.tensor("feat_sources").unflatten(2, (height, width)),
        labels,
        k=case["top_k"],
        temperature=case["temperature"],
        neighbourhood=case["neighbourhood"],
        tile_bytes=tile_bytes,
    )
    assert_within(out.unsqueeze(0), arrays["out"], case["tolerance"], label="out")
