"""Frames, image encoders and modules against the goldens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2_cases import case_frames, check, cut, golden_arrays, golden_network, normalised, same_frames, squashed

from sam2_rcms.model import Stability
from sam2_rcms.model.mask_decoder import stability_scores, stable_or_best
from sam2_rcms.model.network import SPATIAL_MEMORIES
from sam2_rcms.model.position import sine_map, sine_of_distance
from sam2_rcms.overlap import separate
from vos_core.testing import golden_cases

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "frames"))
def test_frames(case):
    gold = golden_arrays(case["file"])
    for name, frame in zip(gold[case["names_array"]], gold[case["array"]], strict=True):
        clip, number = str(name).split("/")
        found = squashed(clip, int(number), case["image_size"]).astype(int)
        assert np.abs(found - frame).mean() < 0.5, name  # decoders of JPEG differ a little, resamplers would a lot


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "image_encoder"))
def test_image_encoder(case):
    gold = golden_arrays(case["file"])
    frames = case_frames(case)
    if not same_frames(case, frames):
        pytest.skip("another JPEG decoder")
    network = golden_network(case)
    found = {"frame_s": frames}
    with torch.inference_mode():
        stages, encoder = [], network.image_encoder
        hook = encoder.trunk.register_forward_hook(lambda _m, _i, out: stages.extend(out))
        image = network.forward_image(normalised(frames))
        hook.remove()
        levels = encoder.neck(stages)
    torch.testing.assert_close(levels[2], image.stride16, rtol=0, atol=0)
    found |= {f"trunk{index}": stage for index, stage in enumerate(stages)}
    found |= {f"fpn{index}": level for index, level in enumerate(levels)}
    found |= {f"pos{index}": sine_map(*level.shape[-2:], 256) for index, level in enumerate(levels)}
    found |= {"high0": image.high0, "high1": image.high1}
    _compare(found, gold, case)


def _compare(found, gold, case):
    tolerances, suffix = case["tol"]["arrays"], case.get("mean_std_suffix")
    names = [name for name in gold if name not in ("names", case.get("crc_array")) and not (suffix and name.endswith(suffix))]
    for name in names:
        if name == "frame_s":
            np.testing.assert_array_equal(cut(found[name], case["slices"].get(name)), gold[name])
            continue
        check(cut(found[name], case["slices"].get(name)), gold[name], tolerances, name)
        if suffix and name + suffix in gold:
            whole = torch.as_tensor(found[name]).float()
            check([whole.mean(), whole.std()], gold[name + suffix], tolerances, name + suffix)


@pytest.mark.parametrize("late_values", [False, True], ids=["plain", "late-values"])
@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "modules"))
def test_modules(case, late_values, monkeypatch):
    gold, network = golden_arrays(case["file"]), golden_network(case)
    monkeypatch.setattr(network.memory_attention, "late_values", late_values)
    given = {
        name: torch.from_numpy(
            (item["scale"] * np.random.RandomState(item["seed"]).standard_normal(item["shape"])).astype(np.float32)
        )
        for name, item in case["random"].items()
    }
    with torch.inference_mode():
        found = _module_outputs(case, network, given, gold)
    for name in gold:
        if name == "nonoverlap_in":
            continue
        whole = found.get(name.removesuffix("_ms"))
        assert whole is not None, f"nothing to compare {name} with"
        value = [whole.mean(), whole.std()] if name.endswith("_ms") else cut(whole, case["slices"].get(name))
        check(value, gold[name], case["tol"]["arrays"], name)


def _module_outputs(case, network, given, gold):
    found = {}
    encoder = case["memory_encoder"]
    side = given["pix"].shape[-2:]
    for run in encoder["runs"]:
        found[run["array"]] = network.encode_memory(
            given["pix"],
            given["mask_logits"],
            torch.tensor(encoder["object_scores"]),
            scale=run["scale"],
            bias=run["bias"],
            binary=encoder["is_mask_from_points"],
        )
    found["memenc_pos"] = sine_map(*side, 64)
    first = {name: given[name].transpose(0, 1) for name in ("curr", "curr_pos", "memory", "memory_pos")}
    attended = network.memory_attention(
        first["curr"], first["curr_pos"], first["memory"], first["memory_pos"], pointers=case["num_obj_ptr_tokens"]
    )
    found["memattn"] = attended.transpose(0, 1)

    features = given["features"]
    grid, batch = features.shape[-2:], len(features)
    image_side = (grid[0] * 16, grid[1] * 16)
    points, labels = torch.tensor(case["points"]).float(), torch.tensor(case["labels"])
    empty = case["empty_prompt"]
    prompts = network.sam_prompt_encoder
    found["prompt_sparse"] = prompts.sparse(points, labels, side=image_side, batch=batch)
    found["prompt_dense"] = prompts.dense(given["mask_prompt"], grid=grid, batch=batch)
    found["prompt_empty_sparse"] = prompts.sparse(
        torch.tensor(empty["points"]).float(), torch.tensor(empty["labels"]), side=image_side, batch=batch
    )
    none = prompts.sparse(None, None, side=image_side, batch=batch)
    assert torch.equal(none, found["prompt_empty_sparse"])
    found["prompt_empty_dense"] = prompts.dense(None, grid=grid, batch=batch)
    found["dense_pe"] = prompts.dense_pe(tuple(grid))

    from sam2_rcms.model import ImageFeatures

    image = ImageFeatures(features, given["high0"], given["high1"])
    for head in case["heads"]:
        out = network.heads(
            features,
            image,
            points=points if head["points"] else None,
            labels=labels if head["points"] else None,
            mask=given["mask_prompt"] if head["mask"] else None,
            multimask=head["multimask"],
            at_image_size="all",
        )
        _keep_head(found, head["prefix"], out)
    decoder = case["decoder"]
    decoded = network.sam_mask_decoder(
        features,
        image_pe=prompts.dense_pe(tuple(grid)),
        sparse=prompts.sparse(points if decoder["points"] else None, labels, side=image_side, batch=batch),
        dense=prompts.dense(given["mask_prompt"] if decoder["mask"] else None, grid=grid, batch=batch),
        high=(given["high0"], given["high1"]),
    )
    found |= {"dec_masks": decoded.masks, "dec_ious": decoded.ious, "dec_tokens": decoded.tokens, "dec_score": decoded.score}
    found["stability"] = stability_scores(decoded.masks, case["stability_delta"])
    for run in case["stability_runs"]:
        masks, ious = stable_or_best(decoded.masks, decoded.ious, delta=case["stability_delta"], threshold=run["thresh"])
        found |= {f"{run['prefix']}masks": masks, f"{run['prefix']}ious": ious}
        stability = Stability(case["stability_delta"], run["thresh"])
        again = network.heads(
            features,
            image,
            points=points if decoder["points"] else None,
            labels=labels if decoder["points"] else None,
            mask=given["mask_prompt"] if decoder["mask"] else None,
            multimask=False,
            stability=stability,
        )
        torch.testing.assert_close(again.ious, ious, rtol=1e-4, atol=1e-4)
    spec = case["mask_as_output"]
    mask = torch.zeros(spec["shape"])
    for item in spec["ones"]:
        mask[item["item"], :, slice(*item["rows"]), slice(*item["cols"])] = 1
    _keep_head(found, spec["prefix"], network.mask_as_output(image, mask))
    sine = case["sine1d"]
    found["sine1d"] = sine_of_distance(torch.tensor(sine["positions"]) / sine["divisor"], sine["dim"])
    found["ptr_tpos"] = network.obj_ptr_tpos_proj(found["sine1d"])
    found["nonoverlap_out"] = separate(torch.from_numpy(gold["nonoverlap_in"]))
    assert network.maskmem_tpos_enc.shape[0] == SPATIAL_MEMORIES
    return found


def _keep_head(found, prefix, out):
    names = {"low_multi": out.low_multi, "high_multi": out.high_multi, "ious": out.ious, "low": out.low, "high": out.high}
    names |= {"ptr": out.pointer, "score": out.score}
    found |= {prefix + name: value for name, value in names.items()}
