"""The same weights in Hugging Face transformers' implementation of SAM 2 give the same masks; skipped where it is absent.

It is used as a black box: weights go in under its names, frames at the network's own size (it resizes otherwise), masks come out.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sam2_cases import clip_labels, seeded_state, squashed

from sam2_rcms.config import PredictorConfig
from sam2_rcms.memory import Clicks
from sam2_rcms.model import SAM2
from sam2_rcms.predictor import VideoPredictor
from vos_core.testing import needs_shared

SIDE = 256
EDITS = [
    {"match": "sam_mask_decoder.output_hypernetworks_mlps.?.layers.2.*", "mul": 0.2},
    {"match": "sam_mask_decoder.pred_obj_score_head.layers.2.bias", "add": 2.0},
]
RENAMES = [
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (
        r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    (r"^sam_prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^sam_prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^sam_prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^sam_mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^sam_mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"(object_pointer_proj|hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(object_pointer_proj|hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head)\.layers\.2\.", r"\1.proj_out."),
    (r"(object_pointer_proj|hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head)\.layers\.1\.", r"\1.layers.0."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (
        r"(self_attn|cross_attn_image|cross_attn_token_to_image|cross_attn_image_to_token|final_attn_token_to_image)\.out_proj",
        r"\1.o_proj",
    ),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"^memory_attention\.norm\.", "memory_attention.layer_norm."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.12\.", "memory_encoder.mask_downsampler.final_conv."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"\.gamma$", ".scale"),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"(memory_fuser\.layers\.\d)\.norm\.", r"\1.layer_norm."),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
]


def renamed(state):
    """Our state dict under the other implementation's names."""
    out = {}
    points = [state[f"sam_prompt_encoder.point_embeddings.{index}.weight"] for index in range(4)]
    for key, value in state.items():
        if ".point_embeddings." in key:
            continue
        found = re.match(r"memory_encoder\.mask_downsampler\.encoder\.(\d+)\.(\w+)", key)
        if found and int(found[1]) < 12:
            layer, part = divmod(int(found[1]), 3)
            key = f"memory_encoder.mask_downsampler.layers.{layer}.{('conv', 'layer_norm')[part]}.{found[2]}"
        for pattern, name in RENAMES:
            key = re.sub(pattern, name, key)
        out[key] = value
    out["prompt_encoder.point_embed.weight"] = torch.cat(points)
    out["shared_image_embedding.positional_embedding"] = out["prompt_encoder.shared_embedding.positional_embedding"]
    return out


@pytest.fixture(scope="module")
def pair():
    """The same seeded weights in both implementations."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers' SAM 2")
    if not hasattr(transformers, "Sam2VideoModel"):
        pytest.skip("this transformers has no Sam2VideoModel")
    needs_shared("goldens", "seeded.py")
    config = transformers.Sam2VideoConfig(image_size=SIDE, memory_attention_rope_feat_sizes=[SIDE // 16, SIDE // 16])
    config.vision_config.backbone_config.image_size = [SIDE, SIDE]
    config.vision_config.backbone_feature_sizes = [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2]
    config.prompt_encoder_config.image_size = SIDE
    config.mask_decoder_config.dynamic_multimask_via_stability = False
    theirs = transformers.Sam2VideoModel(config).eval()
    state = seeded_state("tiny", 4, EDITS)
    expected = theirs.state_dict()
    given = {key: value.reshape(expected[key].shape) if key in expected else value for key, value in renamed(state).items()}
    theirs.load_state_dict(given, strict=True)
    ours = SAM2("tiny").eval()
    ours.load_state_dict(state)
    return ours, theirs, transformers


def processor_of(transformers):
    """A processor that leaves frames of the network's size as they are."""
    size = {"height": SIDE, "width": SIDE}
    return transformers.Sam2VideoProcessor(
        image_processor=transformers.Sam2ImageProcessor(size=size, mask_size=size),
        video_processor=transformers.Sam2VideoVideoProcessor(size=size),
        target_size=SIDE,
    )


def test_image_features_and_propagated_masks(pair):
    ours, theirs, transformers = pair
    frames = np.stack([squashed("car-shadow", index, SIDE) for index in range(0, 12, 2)])
    labels = clip_labels("car-shadow", 0) > 0
    rows = np.linspace(0, labels.shape[0] - 1, SIDE).round().astype(int)
    columns = np.linspace(0, labels.shape[1] - 1, SIDE).round().astype(int)
    mask = labels[rows][:, columns]
    processor = processor_of(transformers)
    with torch.inference_mode():
        session = processor.init_video_session(video=list(frames), inference_device="cpu", dtype=torch.float32)
        processor.add_inputs_to_inference_session(inference_session=session, frame_idx=0, obj_ids=1, input_masks=mask)
        theirs(inference_session=session, frame_idx=0)
        their_masks = [out.pred_masks.float() for out in theirs.propagate_in_video_iterator(session)]
    predictor = VideoPredictor(ours, PredictorConfig(image_size=SIDE, num_prev_frames_to_promote=0))
    state = predictor.init_state(frames)
    predictor.add_new_mask(state, 0, 1, mask)
    predictor.propagate_in_video_preflight(state)
    # The one difference: there the memory of a given mask is made from the mask at image size, here, as in the original, from
    # its low-resolution logits.
    engine, record = predictor.engine, state.objects[1].cond[0]
    with engine.precise():
        high = torch.from_numpy(mask).float()[None, None] * 20 - 10
        engine._encode(state.image(0), high, torch.tensor([[record.score]]), [record], binary=False)
    list(predictor.propagate_in_video(state))
    memory = state.objects[1]
    lows = [{**memory.tracked, **memory.cond}[index].low for index in range(len(frames))]
    assert len(their_masks) == len(frames)
    for index, (low, other) in enumerate(zip(lows, their_masks, strict=True)):
        difference = (low.squeeze() - other.squeeze()).abs()
        # Both store memories in bfloat16, whose rounding turns differences of 1e-6 into some of 1e-2.
        assert difference.mean() < 0.02, (
            f"frame {index}: {[float((a.squeeze() - b.squeeze()).abs().mean()) for a, b in zip(lows, their_masks, strict=True)]}"
        )
        assert ((low.squeeze() > 0) == (other.squeeze() > 0)).float().mean() > 0.998
    assert any((low > 0).any() and (low <= 0).any() for low in lows)


def test_two_clicked_objects_tracked_both_ways_and_one_corrected(pair):
    ours, theirs, transformers = pair
    frames = np.stack([squashed("car-shadow", index, SIDE) for index in range(0, 8, 2)])
    # There masks of clicked frames always go into memory as 0 and 1.
    config = PredictorConfig(image_size=SIDE, num_prev_frames_to_promote=0, binarize_mask_from_pts_for_mem_enc=True)
    predictor, processor = VideoPredictor(ours, config), processor_of(transformers)
    state = predictor.init_state(frames)
    clicks = {1: [[120.0, 130.0], [200.0, 40.0]], 2: [[60.0, 200.0], [10.0, 10.0]]}

    def compare(records, theirs_NHW, mean):
        low = torch.cat([record.low for record in records])
        their = theirs_NHW.float().reshape(low.shape)
        assert (low - their).abs().mean() < mean, float((low - their).abs().mean())
        assert ((low > 0) == (their > 0)).float().mean() > 0.998
        assert (low > 0).any()
        assert (low <= 0).any()

    with torch.inference_mode():
        session = processor.init_video_session(video=list(frames), inference_device="cpu", dtype=torch.float32)
        processor.add_inputs_to_inference_session(
            session, 1, [1, 2], input_points=[list(clicks.values())], input_labels=[[[1, 0], [1, 0]]]
        )
        prompted = theirs(inference_session=session, frame_idx=1).pred_masks
        for object_id, points in clicks.items():
            predictor.add_new_points_or_box(state, 1, object_id, points, [1, 0])
        compare([memory.new_cond[1] for memory in state.objects.values()], prompted, 1e-4)
        for reverse in (False, True):
            masks = theirs.propagate_in_video_iterator(session, start_frame_idx=1, reverse=reverse)
            their = {out.frame_idx: out.pred_masks for out in masks}
            found = [index for index, _, _ in predictor.propagate_in_video(state, 1, reverse=reverse)]
            assert sorted(found) == sorted(their)
            for index in found:
                compare([memory.latest(index, cond=True) for memory in state.objects.values()], their[index], 0.01)
        processor.add_inputs_to_inference_session(session, 3, [1], input_points=[[[[150.0, 140.0]]]], input_labels=[[[1]]])
        corrected = theirs(inference_session=session, frame_idx=3).pred_masks[:1]
    # There what was tracked on the frame is no prompt of the correction, as it is here and in the original.
    memory = state.objects[1]
    click = Clicks(np.array([[150, 140]], np.float32), np.array([1]))
    again = predictor.engine.take_clicks(state.image(3), click, before=None, memory=memory, frame=3, rules=state.rules)
    compare([again], corrected, 0.01)
