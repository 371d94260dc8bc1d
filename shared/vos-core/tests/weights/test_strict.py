from __future__ import annotations

import pytest
import torch
from torch import nn

from vos_core.errors import WeightsError
from vos_core.weights import (
    WeightsEntry,
    check_manifest,
    fitting_entries,
    load_strict,
    manifest_diff,
    manifest_of,
    read_manifest,
    register,
)


def net(channels: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels))


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() + 1 for key, value in module.state_dict().items()}


class TestLoadStrict:
    @pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
    def test_copies_every_value(self, prefix):
        module = net()
        state = state_of(module)
        load_strict(module, {prefix + key: value for key, value in state.items()}, source="x")
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())

    def test_network_that_has_the_prefix_itself(self):
        module = nn.Module()
        module.model = net()
        state = state_of(module.model)
        load_strict(module, state, source="x")
        assert all(torch.equal(value, state[key]) for key, value in module.model.state_dict().items())

    def test_half_precision_goes_into_float(self):
        module = nn.Linear(2, 2)
        load_strict(module, {key: value.half() for key, value in state_of(module).items()}, source="x")
        assert module.weight.dtype == torch.float32

    def test_module_without_memory_takes_the_tensors_themselves(self):
        with torch.device("meta"):
            module = nn.Linear(2, 2)
        state = {"module.weight": torch.rand(2, 2), "module.bias": torch.rand(2).half()}
        load_strict(module, state, source="x")
        assert module.weight.data_ptr() == state["module.weight"].data_ptr()
        assert module.weight.requires_grad
        assert (module.bias.dtype, module.bias.device.type) == (torch.float32, "cpu")
        assert torch.equal(module.bias, state["module.bias"].float())

    def test_difference_can_be_read_and_nothing_is_loaded(self):
        module, before = net(), net()
        before.load_state_dict(module.state_dict())
        state = state_of(module)
        state["1.running_avg"] = state.pop("1.running_mean")
        state["extra"] = torch.ones(1)
        state["1.weight"] = torch.ones(5)
        state["1.num_batches_tracked"] = state["1.num_batches_tracked"].float()
        with pytest.raises(WeightsError) as caught:
            load_strict(module, state, source="net.pth")
        assert str(caught.value).splitlines() == [
            "net.pth does not fit this Sequential. Check that the file belongs to this method and variant. Differences:",
            "  1 missing:",
            "    1.running_mean  (found instead: 1.running_avg?)",
            "  2 unexpected:",
            "    1.running_avg",
            "    extra",
            "  2 of another shape or dtype:",
            "    1.weight: expected float32 (4), found float32 (5)",
            "    1.num_batches_tracked: expected int64 (), found float32 ().",
        ]
        assert all(torch.equal(value, before.state_dict()[key]) for key, value in module.state_dict().items())

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_numbers_that_are_not_finite_are_refused_with_file_and_key(self, value):
        module = net()
        state, before = state_of(module), module[0].weight.clone()
        state["1.running_var"][2] = value
        with pytest.raises(WeightsError, match=r"^net\.pth holds numbers .* in 1\.running_var\. Expected"):
            load_strict(module, state, source="net.pth")
        assert torch.equal(module[0].weight, before)
        state["0.weight"][0, 0, 0, 0] = value
        with pytest.raises(WeightsError, match=r"in 0\.weight and 1 more"):
            load_strict(module, state, source="net.pth")

    def test_large_numbers_whose_sum_overflows_are_fine(self):
        module = nn.Linear(8, 8)
        load_strict(module, {"weight": torch.full((8, 8), 3e38), "bias": torch.full((8,), 6e4).half()}, source="x")
        assert module.weight.min() == torch.tensor(3e38)

    def test_long_lists_are_cut(self):
        with pytest.raises(WeightsError) as caught:
            load_strict(nn.Linear(1, 1), {f"layer.{index}": torch.ones(1) for index in range(20)}, source="x")
        assert "20 unexpected:" in str(caught.value)
        assert "    layer.7\n    ... and 12 more" in str(caught.value)
        assert "layer.8" not in str(caught.value)

    def test_hint_names_the_variant_that_fits(self):
        variants = {"small": manifest_of(net(4).state_dict()), "large": manifest_of(net(8).state_dict())}
        with pytest.raises(WeightsError, match="These weights fit variant large: choose it"):
            load_strict(net(4), net(8).state_dict(), source="x", variants=variants)

    def test_hint_names_the_registered_weights_that_fit(self):
        manifest = manifest_of(net(8).state_dict())
        register(WeightsEntry("large", "demo", "https://example.org/x", manifest=manifest))
        register(WeightsEntry("unknown", "demo", "https://example.org/x"))
        with pytest.raises(WeightsError, match="laid out like the registered demo/large: choose that method"):
            load_strict(net(4), net(8).state_dict(), source="x")
        assert fitting_entries(net(8).state_dict()) == ["demo/large"]
        assert fitting_entries(net(4).state_dict()) == []


class TestManifest:
    def test_no_difference(self):
        state = net().state_dict()
        difference = manifest_diff(manifest_of(state), manifest_of(state))
        assert not difference
        assert str(difference) == ""
        check_manifest(state, manifest_of(state), source="x")

    def test_dtype_counts(self):
        found = {"a": ((2,), "float16")}
        expected = {"a": ((2,), "float32")}
        assert manifest_diff(found, expected)
        assert not manifest_diff(found, expected, floats_alike=True)
        with pytest.raises(WeightsError, match=r"a: expected float32 \(2\), found float16 \(2\)"):
            check_manifest({"a": torch.ones(2).half()}, expected, source="x")

    def test_prefix_in_the_manifest_is_no_difference(self):
        check_manifest({"a": torch.ones(2)}, {"module.a": ((2,), "float32")}, source="x")

    def test_similar_names_need_the_same_shape(self):
        expected = {"layer.conv1.weight": ((4, 3), "float32")}
        found = {"layer.conv2.weight": ((5, 3), "float32"), "layer.convs.1.weight": ((4, 3), "float32")}
        assert manifest_diff(found, expected).similar == {"layer.conv1.weight": "layer.convs.1.weight"}

    def test_file(self, tmp_path):
        path = tmp_path / "a.keys.json"
        path.write_text('{"a": [[2, 3], "float32"], "b": [[], "int64"]}')
        assert read_manifest(path) == {"a": ((2, 3), "float32"), "b": ((), "int64")}

    @pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": [["x"], "float32"]}', '{"a": [[1]]}'])
    def test_damaged_file(self, tmp_path, text):
        path = tmp_path / "a.keys.json"
        path.write_text(text)
        with pytest.raises(WeightsError, match=f"key manifest {path} is damaged"):
            read_manifest(path)

    def test_absent_file(self, tmp_path):
        with pytest.raises(WeightsError, match=r"cannot be read .*Reinstall the package"):
            read_manifest(tmp_path / "a.keys.json")
