"""Generated weights, every stage of the forward pass and the comparators against the goldens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from object_pursuit.model.network import CodeNetwork
from vos_core.testing import GOLDENS, golden_cases

pytestmark = pytest.mark.parity
FOLDER = GOLDENS / "object-pursuit"
ORDERS = pytest.mark.parametrize("exact_order", [True, False], ids=["as-written", "regrouped"])


@ORDERS
@pytest.mark.parametrize("case", golden_cases("object-pursuit", "hypernet"))
def test_generated_weights(case, exact_order, golden_modules, assert_as_stored):
    stored = np.load(FOLDER / case["file"])
    hypernet = golden_modules(case)["hypernet"]
    hypernet.exact_order = exact_order
    for output in case["outputs"]:
        with torch.inference_mode():
            weights = hypernet(torch.from_numpy(stored["z"][output["row"]]))
        names = {key.removeprefix(output["stats_prefix"]) for key in stored if key.startswith(output["stats_prefix"])}
        assert set(weights) == names
        for name, value in weights.items():
            flat = value.double().flatten().numpy()
            stats = np.array([flat.mean(), flat.std(), flat.min(), flat.max()])
            picked = flat[:: max(1, flat.size // case["slice_count"])][: case["slice_count"]]
            for prefix, found in ((output["stats_prefix"], stats), (output["slice_prefix"], picked)):
                entry = {**output, "array": prefix + name}
                assert_as_stored(found, stored[prefix + name], entry)


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "forward"))
def test_forward_stages(case, golden_modules, golden_samples, shaped, assert_as_stored):
    stored = np.load(FOLDER / case["file"])
    images, _ = golden_samples(stored["images_u8"], stored["masks_u8"])
    network = golden_modules(case)["multinet"]
    assert isinstance(network, CodeNetwork)
    with torch.inference_mode():
        weights = network.hypernet(network.z[case["cls"]])  # once per code: passes share it
    fresh = {key: value.clone() for key, value in network.state_dict().items()}
    for one in case["passes"]:
        dropped = one["dropout_seed"] is not None
        if dropped and not torch.__version__.startswith(one["torch"]):
            continue
        network.load_state_dict(fresh)
        network.train()
        network.dropout = "always" if dropped else "never"
        if network.backbone is not None:
            network.backbone.train(one["encoder_mode"] == "train")
        if dropped:
            torch.manual_seed(one["dropout_seed"])
        with torch.inference_mode():
            stages = network.run(images[one["images"]], weights)
        found = {
            "bb_low": stages.low,
            "bb_high": stages.high,
            "aspp": stages.aspp,
            "dec": stages.dec,
            "logits": stages.logits,
            "mask": torch.sigmoid(stages.logits) > 0.5,
        }
        if network.backbone is not None:
            found["encoder.bn1.running_mean"] = network.backbone.bn1.running_mean
        for output in one["outputs"]:
            assert_as_stored(shaped(found[output["of"]].numpy(), output), stored[output["array"]], output)


@pytest.mark.parametrize("case", golden_cases("object-pursuit", "comparators"))
def test_comparators(case, golden_modules, golden_samples, shaped, assert_as_stored):
    stored = np.load(FOLDER / case["file"])
    images, _ = golden_samples(stored["images_u8"], stored["masks_u8"])
    for one in case["passes"]:
        module = golden_modules(case)[one["module"]].train(one["mode"] == "train")
        for layer in module.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.eval()
        with torch.inference_mode():
            logits = module(images)
        for output in one["outputs"]:
            assert output["of"] == "logits"
            assert_as_stored(shaped(logits.numpy(), output), stored[output["array"]], output)
