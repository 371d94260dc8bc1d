"""The network stage by stage, the memory read, aggregation and preprocessing against the goldens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from stcn_ttt.memory import Memory
from stcn_ttt.model.fuse import fuse
from stcn_ttt.prepare import View, normalise, resize_image, resize_mask
from vos_core.ops.affinity import dense_affinity, dense_readout, densify, kernel_topk_affinity, topk_affinity
from vos_core.ops.aggregate import aggregate
from vos_core.ops.pad import pads_to_multiple
from vos_core.ops.resize import resize, short_side_size
from vos_core.testing import assert_within, golden_cases, needs_shared

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "inputs"))
def test_inputs_come_from_the_clips(case, golden_arrays):
    stored = golden_arrays(case["file"])
    for name, item in case["arrays"].items():
        resample = {"bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}[item["resample"]]
        folder = {"frames": "JPEGImages", "annotations": "Annotations"}[item["source"]]
        pictures = []
        for clip, index in item["items"]:
            files = sorted(needs_shared("clips", clip, "JPEGImages").iterdir())
            path = files[index] if folder == "JPEGImages" else needs_shared("clips", clip, folder) / f"{files[index].stem}.png"
            with Image.open(path) as picture:
                picture = picture.convert("RGB") if item["mode"] == "RGB" else picture
                pictures.append(np.asarray(picture.resize(item["size_wh"], resample)))
        array = np.stack(pictures)
        array = array > 0 if item.get("binarise") else array
        assert_within(array[0] if item.get("squeeze") else array, stored[name], case["tolerance"][item["source"]], label=name)


def _strided(tensor, steps):
    array = tensor.detach().float().numpy()
    array = array.squeeze(tuple(axis for axis, step in enumerate(steps) if step is None))
    return array[tuple(slice(None, None, step) for step in steps if step is not None)]


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "model_depths"))
def test_model_depths(case, fused, golden_network, golden_arrays):
    gold, inputs = golden_arrays(case["file"]), golden_arrays(case["inputs"])
    network = golden_network(case["weights"])
    network = fuse(network) if fused else network
    labels = inputs[case["first_mask"]["array"]]
    labels = labels if case["first_mask"]["index"] is None else labels[case["first_mask"]["index"]]
    clip = inputs[case["clip"]]
    view = View(*clip.shape[1:3], short_side=-1)
    masks = torch.stack([view.mask(labels == label) for label in case["labels"]]).unsqueeze(0)
    seen: dict[str, torch.Tensor] = {}

    def keep(name, module, take=lambda out: out):
        handle = module.register_forward_hook(lambda _m, _i, out: seen.__setitem__(name, take(out).clone()))
        handles.append(handle)

    handles: list = []
    fuser = network.value_encoder.fuser
    keep("key_stem", network.key_encoder.maxpool)
    keep("ve_layer3", network.value_encoder.layer3)
    keep("fuser_block1", fuser.block1)
    keep("channel_gate", fuser.attention.ChannelGate)
    keep("cbam", fuser.attention)
    keep("dec_compress", network.decoder.compress)
    keep("dec_up8", network.decoder.up_16_8)
    keep("dec_up4", network.decoder.up_8_4)
    with torch.no_grad():
        features = {}
        for role in ("key_encoder_frame", "memory_frame", "query_frame", "decoder_frame", "value_encoder_frame"):
            features[role] = network.encode_key(view.image(clip[case[role]]))
            if role == "key_encoder_frame":
                key_stem = seen["key_stem"]
        value = network.encode_value(view.image(clip[case["value_encoder_frame"]]), features["value_encoder_frame"].f16, masks)
        memory = Memory(max_frames=None)
        memory.add(features["memory_frame"].key, value[0], case["labels"], slot="prompt")
        readout = memory.read(features["query_frame"].key, top=case["top_k"])
        logits = network.object_logits(readout.unsqueeze(0), network.decoder_skips(features["decoder_frame"]))
    for handle in handles:
        handle.remove()
    shown = features["key_encoder_frame"]
    seen |= {"key_stem": key_stem, "f4": shown.f4, "f8": shown.f8, "f16": shown.f16, "k16": shown.key, "f16_thin": shown.thin}
    seen |= {"value": value[0], "readout": readout, "logits": logits[0].unsqueeze(1)}
    seen["prob"] = torch.sigmoid(seen["logits"])
    # The aggregated arrays keep a dimension of one channel after the objects.
    seen["agg"] = aggregate(seen["prob"], dim=0)
    seen["agg_gt"] = aggregate(masks[0].unsqueeze(1), dim=0)
    for name, steps in case["steps"].items():
        tolerance = case["tolerance"].get(name, case["tolerance"]["default"])
        assert_within(_strided(seen[name], steps), gold[name], tolerance, label=name)
    for name in case["stat_arrays"]:
        whole = seen[name.removesuffix("_stat")].double()
        assert_within([whole.mean(), whole.std()], gold[name], case["tolerance"]["stat"], label=name)

    single = case["single_object"]
    network = golden_network(single["weights"])
    network = fuse(network) if fused else network
    image = view.image(clip[single["frame"]])
    with torch.no_grad():
        own = view.mask(labels == single["label"])[None, None]
        value = network.encode_value(image, network.encode_key(image).f16, own)[0]
    name = single["array"]
    tolerance = case["tolerance"].get(name, case["tolerance"]["default"])
    assert_within(_strided(value, single["steps"]), gold[name], tolerance, label=name)
    assert_within(
        [value.double().mean(), value.double().std()], gold[single["stat_array"]], case["tolerance"]["stat"], label=name
    )


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "memory_read"))
def test_memory_read(case, golden_arrays):
    gold = golden_arrays(case["file"])
    keys, query, values = (torch.from_numpy(gold[name]) for name in ("mk", "qk", "mv"))
    for read in case["reads"]:
        frames = [*read["permanent"], *read["temporary"]]
        key, value = keys[:, :, frames], values[read["objects"]][:, :, frames]
        if read["what"] == "affinity":
            nodes = key.flatten(2).shape[2]
            if read["mode"] == "all":
                found = dense_affinity(key, query)
            elif read["mode"] == "kernel":
                grid = (query.shape[-2], query.shape[-1])
                found = densify(kernel_topk_affinity(key, query, read["top_k"], grid=grid, sigma=read["sigma"]), nodes)
            else:
                found = densify(topk_affinity(key, query, read["top_k"]), nodes)
        elif read["mode"] == "all":
            found = dense_readout(dense_affinity(key, query), value.flatten(2).unsqueeze(0))[0]
            found = found.unflatten(2, query.shape[-2:])
        else:
            memory = Memory(max_frames=None)
            for frame in frames:
                slot = "temporary" if frame in read["temporary"] else "permanent"
                memory.add(keys[:, :, frame], values[read["objects"]][:, :, frame], read["objects"], slot=slot)
            found = memory.read(query, top=read["top_k"], kernel_sigma=read.get("sigma") if read["mode"] == "kernel" else None)
        tolerance = case["tolerance"].get(read["array"], case["tolerance"]["default"])
        expected = gold[read["array"]]
        assert_within(found.reshape(expected.shape), expected, tolerance, label=read["array"])


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "aggregate"))
def test_aggregate(case, golden_arrays):
    gold = golden_arrays(case["file"])
    for read in case["reads"]:
        found = aggregate(torch.from_numpy(gold["prob"]), dim=0, keep_background=read["keep_bg"])
        assert_within(
            found, gold[read["array"]], case["tolerance"].get(read["array"], case["tolerance"]["default"]), label=read["array"]
        )


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "preprocess"))
def test_preprocess(case, golden_arrays):
    gold, tolerance = golden_arrays(case["file"]), case["tolerance"]
    rgb, labels = gold["image"], gold["mask"]
    for item, antialias in itertools.product(case["resizes"], case["antialias"]):
        tag = item["tag"]
        size = short_side_size(*rgb.shape[:2], item["short_side"])
        image_steps = tuple(slice(None, None, step) for step in item["image_steps"])
        found = resize_image(normalise(rgb), size, antialias=antialias).numpy()[image_steps]
        assert_within(found, gold[f"im_{tag}_aa{int(antialias)}"], tolerance["im"], label=tag)
    for item in case["resizes"]:
        tag = item["tag"]
        size = short_side_size(*rgb.shape[:2], item["short_side"])
        if f"size_{tag}" in gold:
            assert_within(size, gold[f"size_{tag}"], tolerance["size"], label=tag)
        mask = resize_mask(torch.from_numpy(labels > 0).float(), size)
        expected = gold[f"mask_{tag}"]
        assert_within(mask.reshape(expected.shape), expected, tolerance["mask"], label=tag)
        steps = tuple(slice(None, None, step) for step in item["pil_image_steps"])
        assert_within(resize(rgb, size, "pillow-bicubic")[steps], gold[f"pil_im_{tag}"], tolerance["pil_im"], label=tag)
        assert_within(resize(labels, size, "pillow-nearest"), gold[f"pil_mask_{tag}"], tolerance["pil_mask"], label=tag)
    for row in gold["pads"]:
        assert_within(pads_to_multiple(*map(int, row[:2]), case["pad_multiple"]), row[2:], tolerance["pads"], label="pads")
