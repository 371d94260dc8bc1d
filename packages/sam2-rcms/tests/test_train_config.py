"""Training configurations: published stages, YAML on top, the original's hydra files, and what is refused."""

from __future__ import annotations

import pytest
import yaml

from sam2_rcms.config import PredictorConfig
from sam2_rcms.hydra import is_original, predictor_values, read_original
from sam2_rcms.train.config import AffineStep, CropStep, DataConfig, ResizeStep, TrainConfig
from sam2_rcms.train.presets import PRESETS, load_config
from vos_core.errors import ConfigError, UsageError

PUBLISHED = {
    # name: variant, frames, frozen, affine of masks, sampler, crop, drop path (spec 4.1)
    "b+_stage1": ("base_plus", 8, False, (20, -10), "gap", True, 0.1),
    "b+_stage2": ("base_plus", 16, True, (7.5, -4), "gap", True, 0.1),
    "b+_stage2_file": ("base_plus", 8, False, (7.5, -4), "gap", True, 0.1),
    "l_stage1": ("large", 8, False, (20, -10), "uniform", False, 0.0),
    "l_stage2": ("large", 16, True, (7.5, -4), "uniform", False, 0.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_hold_the_published_values(name):
    variant, frames, frozen, affine, sampler, crop, drop_path = PUBLISHED[name]
    config = load_config(name)
    assert (config.variant, config.sampler.num_frames, config.freeze_image_encoder) == (variant, frames, frozen)
    assert (config.sigmoid_scale_for_mem_enc, config.sigmoid_bias_for_mem_enc) == affine
    assert (config.sampler.kind, config.sampler.max_num_objects, config.drop_path_rate) == (sampler, 1, drop_path)
    assert any(isinstance(step, CropStep) for step in config.transforms) is crop
    assert (config.image_size, config.epochs, config.batch_size, config.seed) == (1024, 20, 1, 123)
    assert (config.precision, config.ema_decay, config.keep, config.log_every) == ("bf16", None, 1, 10)
    optimizer = config.optimizer
    assert (optimizer.base_lr, optimizer.vision_lr, optimizer.weight_decay, optimizer.clip_norm) == (5e-6, 3e-6, 0.1, 0.1)
    assert config.weights == ("auto" if "stage1" in name else "")
    kinds = [step.kind for step in config.transforms]
    assert kinds == ["flip", "affine", *["crop"] * crop, "resize", "colour", "grey", "colour", "normalise"]
    assert [step.consistent for step in config.transforms if step.kind == "colour"] == [True, False]


def test_every_preset_is_listed_here():
    assert PRESETS.keys() == PUBLISHED.keys()


def test_yaml_builds_on_a_preset_and_assignments_come_last(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("preset: l_stage2\nepochs: 3\noptimizer: {base_lr: 1.0e-5}\ndata: {root: MOSE, layout: mose}\n")
    config = load_config(str(path), ["optimizer.vision_lr=2e-6", "image_size=512", "epochs=4"])
    assert (config.variant, config.epochs, config.freeze_image_encoder) == ("large", 4, True)
    assert (config.optimizer.base_lr, config.optimizer.vision_lr) == (1e-5, 2e-6)
    assert (config.image_size, next(s for s in config.transforms if isinstance(s, ResizeStep)).sizes) == (512, (512,))
    assert [str(one.root) for one in config.data] == ["MOSE"]
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(str(again)) == config, "what a run writes is read again"


def test_the_training_set_of_the_command_line_wins(tmp_path):
    config = load_config("b+_stage1", ["data.multiplier=2"], data={"root": tmp_path, "layout": "davis"})
    assert config.data == (DataConfig(root=tmp_path, layout="davis", multiplier=2),)


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("optimizer.base_rate=1", "base_lr"),
        ("epochs=0", "epochs"),
        ("image_size=100", "image_size"),
        ("sampler.kind=every", "sampler.kind"),
        ("sampler.gap_options=[0]", "gaps"),
        ("transforms=[{kind: normalise}]", "resize"),
        ("transforms=[{kind: resize, sizes: [1024]}]", "normalise"),
        ("transforms=[{kind: blur}]", "blur"),
        ("data={img_folder: a}", "belong together"),
        ("data={root: c, img_folder: a, gt_folder: b}", "not both"),
        ("variant=huge", "variant"),
        ("ema_decay=1", "ema_decay"),
        ("sampler.num_frames=2", "2 may be given as masks.*none to predict"),
    ],
)
def test_what_a_configuration_refuses(assignment, named):
    with pytest.raises(ConfigError, match=named):
        load_config("b+_stage1", [assignment])


@pytest.mark.parametrize(
    "assignments",
    [["sampler.num_frames=1"], ["sampler.num_frames=2", "prompts.num_init_cond_frames_for_train=1"], ["sampler.num_frames=3"]],
)
def test_short_clips_are_fine_while_a_frame_is_left_to_predict(assignments):
    assert load_config("b+_stage1", assignments).sampler.num_frames < 4


def test_an_unknown_configuration_is_named(tmp_path):
    with pytest.raises(UsageError, match="b\\+_stage1"):
        load_config("stage3")
    path = tmp_path / "odd.yaml"
    path.write_text("preset: xl\n")
    with pytest.raises(ConfigError, match="xl"):
        load_config(str(path))


# --- the original's files ---

TRAIN = """
# @package _global_
scratch:
  resolution: 512
  train_batch_size: 1
  num_train_workers: 4
  num_frames: 16
  max_num_objects: 2
  base_lr: 4.0e-6
  vision_lr: 2.0e-06
  phases_per_epoch: 1
  num_epochs: 30
dataset:
  img_folder: /data/JPEGImages
  gt_folder: /data/Annotations
  file_list_txt: null
  multiplier: 2
vos:
  train_transforms:
    - _target_: training.dataset.transforms.ComposeAPI
      transforms:
        - _target_: training.dataset.transforms.RandomHorizontalFlip
          consistent_transform: True
        - _target_: training.dataset.transforms.RandomAffine
          degrees: 20
          shear: 10
          image_interpolation: bilinear
          consistent_transform: True
        - _target_: training.dataset.transforms.RandomCropAPI
          sizes: [640, 768]
          p: 0.2
        - _target_: training.dataset.transforms.RandomResizeAPI
          sizes: ${scratch.resolution}
          square: true
          consistent_transform: True
        - _target_: training.dataset.transforms.ColorJitter
          consistent_transform: False
          brightness: 0.2
          contrast: 0.1
          saturation: 0.1
          hue: null
        - _target_: training.dataset.transforms.RandomGrayscale
          p: 0.1
          consistent_transform: True
        - _target_: training.dataset.transforms.ToTensorAPI
        - _target_: training.dataset.transforms.NormalizeAPI
          mean: [0.485, 0.456, 0.406]
          std: [0.229, 0.224, 0.225]
trainer:
  _target_: training.trainer.Trainer
  max_epochs: ${times:${scratch.num_epochs},${scratch.phases_per_epoch}}
  seed_value: 7
  model:
    _target_: training.model.sam2.SAM2Train
    image_encoder:
      _target_: sam2.modeling.backbones.image_encoder.ImageEncoder
      trunk:
        _target_: sam2.modeling.backbones.hieradet.Hiera
        embed_dim: 112
        num_heads: 2
        drop_path_rate: 0.2
    memory_attention:
      _target_: sam2.modeling.memory_attention.MemoryAttention
      layer: {_target_: sam2.modeling.memory_attention.MemoryAttentionLayer, dropout: 0.05}
    image_size: ${scratch.resolution}
    sigmoid_scale_for_mem_enc: 7.5
    sigmoid_bias_for_mem_enc: -4.0
    freeze_image_encoder: true
    prob_to_use_pt_input_for_train: 0.25
    num_correction_pt_per_frame: 5
  data:
    train:
      _target_: training.dataset.sam2_datasets.TorchTrainMixedDataset
      datasets:
        - _target_: training.dataset.vos_dataset.VOSDataset
          transforms: ${vos.train_transforms}
          video_dataset:
            _target_: training.dataset.vos_raw_dataset.PNGRawDataset
            img_folder: ${dataset.img_folder}
            gt_folder: ${dataset.gt_folder}
            file_list_txt: ${dataset.file_list_txt}
          sampler:
            _target_: training.dataset.vos_sampler.RandomGapSampler
            num_frames: ${scratch.num_frames}
            max_num_objects: ${scratch.max_num_objects}
            gap_options: [1, 2]
          multiplier: ${dataset.multiplier}
  optim:
    amp: {enabled: True, amp_dtype: bfloat16}
    optimizer: {_target_: torch.optim.AdamW}
    gradient_clip: {_target_: training.optimizer.GradientClipper, max_norm: 0.2, norm_type: 2}
    param_group_modifiers:
      - _target_: training.optimizer.layer_decay_param_modifier
        layer_decay_value: 0.8
    options:
      lr:
        - scheduler:
            _target_: fvcore.common.param_scheduler.CosineParamScheduler
            start_value: ${scratch.base_lr}
            end_value: ${divide:${scratch.base_lr},20}
        - scheduler:
            _target_: fvcore.common.param_scheduler.CosineParamScheduler
            start_value: ${scratch.vision_lr}
            end_value: ${divide:${scratch.vision_lr},20}
          param_names: ['image_encoder.*']
      weight_decay:
        - scheduler: {_target_: fvcore.common.param_scheduler.ConstantParamScheduler, value: 0.3}
        - scheduler: {_target_: fvcore.common.param_scheduler.ConstantParamScheduler, value: 0.0}
          param_names: ['*bias*']
  loss:
    all:
      _target_: training.loss_fns.MultiStepMultiMasksAndIous
      weight_dict: {loss_mask: 10, loss_dice: 2, loss_iou: 1, loss_class: 1}
      supervise_all_iou: false
  checkpoint:
    save_dir: /logs
    model_weight_initializer:
      _target_: training.utils.checkpoint_utils.load_state_dict_into_model
      state_dict:
        _target_: training.utils.checkpoint_utils.load_checkpoint_and_apply_kernels
        checkpoint_path: ./checkpoints/stage1.pt
"""


def test_a_training_file_of_the_original_is_read(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text(TRAIN)
    config = load_config(str(path), ["epochs=31"])
    assert (config.variant, config.image_size, config.epochs, config.seed, config.workers) == ("base_plus", 512, 31, 7, 4)
    assert (config.sigmoid_scale_for_mem_enc, config.freeze_image_encoder, config.drop_path_rate) == (7.5, True, 0.2)
    assert (config.dropout, config.precision, config.weights) == (0.05, "bf16", "./checkpoints/stage1.pt")
    assert (config.prompts.prob_to_use_pt_input_for_train, config.prompts.num_correction_pt_per_frame) == (0.25, 5)
    sampler = config.sampler
    assert (sampler.kind, sampler.num_frames, sampler.max_num_objects, sampler.gap_options) == ("gap", 16, 2, (1, 2))
    (data,) = config.data
    assert (str(data.img_folder), str(data.gt_folder), data.file_list_txt, data.multiplier) == (
        "/data/JPEGImages",
        "/data/Annotations",
        None,
        2,
    )
    kinds = [step.kind for step in config.transforms]
    assert kinds == ["flip", "affine", "crop", "resize", "colour", "grey", "normalise"]
    assert config.transforms[1] == AffineStep(degrees=20, shear=10)
    assert config.transforms[2] == CropStep(sizes=((640, 640), (768, 768)), p=0.2)
    assert (config.transforms[4].brightness, config.transforms[4].hue, config.transforms[4].consistent) == (0.2, 0, False)
    optimizer = config.optimizer
    assert (optimizer.base_lr, optimizer.vision_lr, optimizer.clip_norm) == (4e-6, 2e-6, 0.2)
    assert optimizer.end_factor == pytest.approx(0.05)
    assert (optimizer.weight_decay, optimizer.layer_decay) == (0.3, 0.8)
    assert (config.loss.loss_mask, config.loss.loss_dice, config.loss.supervise_all_iou) == (10, 2, False)


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ("launcher: {num_nodes: 1, gpus_per_node: 8}\nsubmitit: {use_cluster: true}", r"1 x 8 GPUs .* and SLURM .* --num-gpus"),
        ("submitit: {partition: p, use_cluster: true}", r"asks for SLURM jobs \(submitit\), which is not taken"),
    ],
)
def test_a_launcher_of_the_original_is_not_taken_and_said_so(block, named, tmp_path, recwarn):
    path = tmp_path / "theirs.yaml"
    path.write_text(f"{TRAIN}\nlauncher: {{num_nodes: 1, gpus_per_node: 1}}\nsubmitit: {{use_cluster: false}}\n")
    plain = load_config(str(path))
    assert not recwarn.list
    path.write_text(f"{TRAIN}\n{block}\n")
    with pytest.warns(UserWarning, match=named):
        assert load_config(str(path)) == plain


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("${scratch.num_frames}", "${scratch.frames}", "scratch.frames"),
        ("${times:${scratch.num_epochs},${scratch.phases_per_epoch}}", "${sqrt:4}", "sqrt"),
        ("${times:${scratch.num_epochs},${scratch.phases_per_epoch}}", "${divide:1,0}", "divide"),
        ("resolution: 512", "resolution: ${scratch.resolution}", "refers to itself"),
        ("RandomGapSampler", "EvalSampler", "EvalSampler"),
        ("RandomGrayscale", "RandomMosaic", "RandomMosaic"),
        ("embed_dim: 112", "embed_dim: 100", "embed_dim 100"),
        ("SAM2Train", "SAM2Base", "SAM2Train"),
        ("scratch:\n  resolution", "defaults: [base]\nscratch:\n  resolution", "base"),
    ],
)
def test_what_cannot_be_read_of_an_original_file_is_named(old, new, named, tmp_path):
    path = tmp_path / "theirs.yaml"
    assert old in TRAIN
    path.write_text(TRAIN.replace(old, new))
    with pytest.raises(ConfigError, match=named):
        load_config(str(path))


INFER = """
model:
  _target_: sam2.modeling.sam2_base.SAM2Base
  image_encoder:
    _target_: sam2.modeling.backbones.image_encoder.ImageEncoder
    trunk: {_target_: sam2.modeling.backbones.hieradet.Hiera, embed_dim: 96, num_heads: 1, stages: [1, 2, 11, 2]}
  num_maskmem: 7
  image_size: 1024
  sigmoid_scale_for_mem_enc: 7.5
  sigmoid_bias_for_mem_enc: -4.0
  num_prev_frames_to_promote: 5
  memory_temporal_stride_for_eval: 1
  no_obj_embed_spatial: true
  compile_image_encoder: False
"""


def test_an_inference_file_of_the_original_is_read(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text(INFER)
    size, options = predictor_values(read_original(path), source=str(path))
    assert size == "small"
    config = PredictorConfig(**options)
    assert (config.sigmoid_scale_for_mem_enc, config.sigmoid_bias_for_mem_enc) == (7.5, -4.0)
    assert (config.num_prev_frames_to_promote, config.num_maskmem) == (5, 7)
    path.write_text(INFER.replace("no_obj_embed_spatial: true", "no_obj_embed_spatial: false"))
    with pytest.raises(ConfigError, match="no_obj_embed_spatial"):
        predictor_values(read_original(path), source=str(path))
    path.write_text("model_name: x\n")
    with pytest.raises(ConfigError, match="no group 'model'"):
        predictor_values(read_original(path), source=str(path))


def test_ours_and_the_originals_are_told_apart():
    assert is_original(yaml.safe_load(TRAIN))
    assert is_original(yaml.safe_load(INFER))
    assert not is_original(TrainConfig().model_dump(mode="json"))
