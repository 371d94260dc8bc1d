"""Pieces of the networks against slow formulations: encoders, norms, windows, positions, attention blocks."""

from __future__ import annotations

import pytest
import torch
import torchvision

from rmem_deaot.config import VARIANTS
from rmem_deaot.model import AOTNetwork, mask_unused
from rmem_deaot.model.attention import attend, attend_frames, frame_mass
from rmem_deaot.model.drop_path import DropPath
from rmem_deaot.model.frozen_norm import FrozenBatchNorm2d
from rmem_deaot.model.fuse import fuse
from rmem_deaot.model.long_term import FrameMemory
from rmem_deaot.model.mobilenet import MobileNetV2
from rmem_deaot.model.resnet import ResNet
from rmem_deaot.model.swin import WINDOW, Block, shift_mask


def _norms_like(module, state):
    """Return torchvision's state without what frozen norms have not, with statistics that matter."""
    torch.manual_seed(0)
    own = module.state_dict()
    filled = {key: value for key, value in state.items() if key in own}
    assert filled.keys() == own.keys()
    return {
        key: torch.rand_like(value) + 0.5 if key.endswith("running_var") or ("bn" in key and key.endswith("weight")) else value
        for key, value in filled.items()
    }


@torch.inference_mode()
def test_resnet_is_torchvisions_up_to_stride_16():
    theirs = torchvision.models.resnet50(weights=None).eval()
    ours = ResNet((3, 4, 6)).eval()
    state = _norms_like(ours, theirs.state_dict())
    ours.load_state_dict(state)
    theirs.load_state_dict(state, strict=False)
    x = torch.randn(1, 3, 49, 65)
    expected = [theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))]
    expected.append(theirs.layer2(expected[0]))
    expected.append(theirs.layer3(expected[1]))
    for got, want in zip(ours(x), expected, strict=False):
        torch.testing.assert_close(got, want, atol=1e-3 * want.std().item(), rtol=1e-3)


@torch.inference_mode()
def test_mobilenet_is_torchvisions_up_to_the_stride_that_is_taken_out():
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    ours = MobileNetV2().eval()
    state = _norms_like(ours, theirs.state_dict())
    ours.load_state_dict(state)
    theirs.load_state_dict(state, strict=False)
    x = torch.randn(1, 3, 49, 65)
    torch.testing.assert_close(ours(x)[2], theirs.features[:14](x), atol=1e-4, rtol=1e-3)
    assert ours(x)[3].shape[2:] == ours(x)[2].shape[2:], "output stride 16"


def test_shifted_windows_see_their_neighbours_only():
    mask = shift_mask(9, 15, torch.device("cpu"))
    assert mask.shape == (2 * 3, WINDOW**2, WINDOW**2)
    assert (mask[0] == 0).all(), "windows inside are whole"
    assert (mask[-1] != 0).any()
    torch.manual_seed(0)
    block = Block(8, 2, shifted=True, drop_path=0.0).eval()
    x = torch.randn(1, 14, 14, 8)
    changed = x.clone()
    changed[0, 0, 0, 0] += 5.0
    with torch.inference_mode():
        moved = (block(changed, shift_mask(14, 14, x.device)) - block(x, shift_mask(14, 14, x.device))).abs().sum(3)[0] > 0
    assert moved[:3, :3].all(), "what the shift of 3 leaves of the corner's window"
    assert not moved[3:].any()
    assert not moved[:, 3:].any(), "not the ones that the cyclic shift put beside it"


@torch.inference_mode()
def test_attention_in_blocks_equals_torchs_and_its_mass_sums_to_one():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 12, 16), torch.randn(2, 12, 24)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    found, mass = attend_frames(query, key, value, frames=3)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(frame_mass(query, key, heads=1, frames=3), mass)
    torch.testing.assert_close(attend(query, key, value, heads=1), expected)
    torch.testing.assert_close(frame_mass(query, key, heads=4, frames=3).sum(2), torch.ones(2, 5))


def test_drop_path_drops_whole_samples_in_training_only():
    torch.manual_seed(0)
    drop, x = DropPath(0.4), torch.ones(500, 3, 2)
    out = drop.train()(x)
    assert sorted(out.unique().tolist()) == pytest.approx([0.0, 1 / 0.6])
    assert (out.flatten(1).std(1) == 0).all()
    assert drop.eval()(x) is x


@pytest.mark.parametrize("variant", ["deaott", "aott", "r50_deaotl_rmem", "r50_aotl_rmem_vost", "swinb_aotl"])
@torch.inference_mode()
def test_fused_networks_compute_the_same(variant):
    torch.manual_seed(0)
    network = AOTNetwork(VARIANTS[variant].network).eval()
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_()
            module.bias.normal_()
    side = 49 if network.config.align_corners else 48
    image, labels = torch.randn(1, 3, side, side), torch.zeros(1, side, side, dtype=torch.long)
    labels[:, 10:30, 10:30] = 1
    results = []
    for made in (network, fuse(network, dtype=torch.float32)):
        features = made.encode_image(image)
        identity = made.encode_identity(made.one_hot(labels))
        found = made.propagate(features.projected, long=FrameMemory(made), id_emb=identity)
        results.append((*features, made.decode(found.maps, features)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=2e-4 * want.std().item(), rtol=1e-3)


def test_one_hot_knows_void_only_where_a_channel_marks_it():
    network = AOTNetwork(VARIANTS["r50_deaotl_vost"].network)
    labels = torch.tensor([[[0, 3, 255]]])
    assert network.one_hot(labels)[0, :, 0].argmax(0).tolist()[:2] == [0, 3]
    assert network.one_hot(labels)[0, :, 0, 2].sum() == 0
    assert network.one_hot(labels, ignore=True)[0, 11, 0].tolist() == [0, 0, 1]
    plain = AOTNetwork(VARIANTS["deaott"].network)
    assert plain.one_hot(labels, ignore=True).shape[1] == 11


def test_unused_identities_cannot_win():
    logits = mask_unused(torch.zeros(2, 11, 2, 2), [3, 10])
    probs = torch.softmax(logits, 1)
    assert (probs[0, 4:] == 0).all()
    assert (probs[1] > 0).all()
    assert mask_unused(torch.zeros(1, 11, dtype=torch.float16), [1]).min() == -1e4


def test_what_training_leaves_alone_takes_no_gradient():
    for variant, frozen in (("deaott", "features.3."), ("r50_aotl", "layer1."), ("swinb_aotl", "layers.0.blocks")):
        network = AOTNetwork(VARIANTS[variant].network)
        names = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
        assert any(frozen in name for name in names)
        assert all(name.startswith("encoder.") for name in names)
    assert AOTNetwork(VARIANTS["swinb_aotl"].network).get_parameter("encoder.layers.0.downsample.reduction.weight").requires_grad
