"""The segmenter that adapts: results change, `reset` forgets, the session and `build` drive it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from stcn_ttt import METHOD
from stcn_ttt.adapt.config import TttConfig, load_config
from stcn_ttt.adapt.segmenter import AdaptiveSTCNSegmenter
from stcn_ttt.config import SegmenterConfig
from stcn_ttt.segmenter import STCNSegmenter
from vos_core.contract import AdaptiveSegmenter, BuildRequest
from vos_core.errors import ConfigError, UsageError, VosError
from vos_core.io.masks import write_mask
from vos_core.run.session import run_clip
from vos_core.run.work import work_shown
from vos_core.types import Clip, Frame, Prompt

SIZE = (32, 48)
TTT = {
    "ttt_resolution": 32,
    "ttt_lr": 1e-3,
    "ttt_number_jump_steps": 1,
    "ttt_number_iterations_per_jump_step": 1,
    "ttt_sequence_length": (2,),
}


class Film:
    def __init__(self, frames=3):
        self.names = [f"{t:05d}" for t in range(frames)]

    def __len__(self):
        return len(self.names)

    def read(self, index):
        rgb = np.random.default_rng(index).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        return Frame(index, self.names[index], rgb)


def mask(left):
    found = np.zeros(SIZE, bool)
    found[6:22, left : left + 14] = True
    return found


PROMPTS = {0: [Prompt(3, mask=mask(4))]}


def make(network, *, kind=AdaptiveSTCNSegmenter, options=(), **extra):
    config = SegmenterConfig(res=-1, mem_every=1)
    if kind is AdaptiveSTCNSegmenter:
        extra["ttt"] = TttConfig(**{**TTT, **dict(options)})
    return kind(network, config, probabilities=True, **extra)


def follow(segmenter, film):
    return np.stack([segmenter.step(film.read(t), PROMPTS.get(t, ())).probs for t in range(len(film))])


SLOW = pytest.mark.slow


@pytest.mark.parametrize("loss", ["tt-mcc", pytest.param("tt-ent", marks=SLOW), pytest.param("tt-ae", marks=SLOW)])
def test_adapting_changes_results_and_reset_forgets(loss, random_network):
    film, before = Film(), copy.deepcopy(random_network.state_dict())
    offline = follow(make(random_network, kind=STCNSegmenter), film)
    told = []
    segmenter = make(random_network, options={"ttt_loss": loss}, on_step=lambda *step: told.append(step))
    assert isinstance(segmenter, AdaptiveSegmenter)
    worked = []
    with work_shown(lambda *work: worked.append(work)):
        segmenter.adapt(film, PROMPTS)
    assert worked == [("adapting", 1, 1)]
    adapted = follow(segmenter, film)
    assert np.abs(adapted - offline).max() > 1e-3
    assert told == [(1, 1, segmenter.report.losses[0])]
    segmenter.reset()
    np.testing.assert_array_equal(follow(segmenter, film), offline)
    segmenter.adapt(film, PROMPTS)
    np.testing.assert_array_equal(follow(segmenter, film), adapted, err_msg="every clip begins from the offline weights")
    assert all(torch.equal(value, before[name]) for name, value in random_network.state_dict().items())
    assert all(parameter.requires_grad for parameter in random_network.parameters())


def test_adapting_works_where_gradients_are_off(random_network):
    results = []
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        segmenter = make(random_network, options={"ttt_loss": "tt-ae"})
        with context():
            segmenter.adapt(Film(), PROMPTS)
        results.append(segmenter.report.losses)
    assert results[0] == results[1] == results[2]


def test_an_error_while_adapting_leaves_the_offline_weights(random_network):
    film = Film()
    offline = follow(make(random_network, kind=STCNSegmenter), film)

    def broken(*_):
        raise VosError("stopped")

    segmenter = make(random_network, options={"ttt_loss": "tt-ae"}, on_step=broken)
    with pytest.raises(VosError, match="stopped"):
        segmenter.adapt(film, PROMPTS)
    segmenter.reset()
    np.testing.assert_array_equal(follow(segmenter, film), offline)
    with pytest.raises(UsageError, match="prompt"):
        segmenter.adapt(film, {})


def write_clip(folder, *, annotated, frames=4, **fields):
    folder.mkdir()
    paths, masks = [], {}
    for t in range(frames):
        paths.append(folder / f"{t:05d}.png")
        Image.fromarray(Film(frames).read(t).rgb).save(paths[-1])
        if t in annotated:
            labels = np.zeros(SIZE, np.uint8)
            for object_id, left in annotated[t].items():
                labels[mask(left)] = object_id
            masks[f"{t:05d}"] = folder / f"m{t:05d}.png"
            write_mask(masks[f"{t:05d}"], labels)
    return Clip(folder.name, frames=tuple(paths), annotations=masks, **fields)


def test_a_clip_whose_objects_enter_late(tmp_path, random_network):
    clip = write_clip(tmp_path / "late", annotated={1: {9: 4}, 2: {200: 28}}, prompt_rule="first_seen")
    segmenter, results = make(random_network, seed=5), {}
    record = run_clip(segmenter, clip, callback=lambda frame, result: results.update({frame.index: result}))
    assert (record.status, record.frames, record.objects) == ("done", 3, 2)
    assert record.seconds_adapt > 0
    assert sorted(results) == [1, 2, 3], "frames before the first mask are left alone"
    assert results[3].ids == (9, 200)
    np.testing.assert_array_equal(results[2].labels == 200, mask(28))
    assert len(segmenter.report.losses) == 1
    plain: dict[int, np.ndarray] = {}
    run_clip(
        make(random_network, kind=STCNSegmenter), clip, callback=lambda frame, result: plain.update({frame.index: result.probs})
    )
    assert any(np.abs(plain[t] - results[t].probs).max() > 1e-3 for t in plain)


def test_sequences_follow_the_seed(random_network):
    film, losses = Film(12), []
    options = {"ttt_loss": "tt-ent", "ttt_frozen_layers": "net,ubn", "ttt_number_iterations_per_jump_step": 2}
    for seed in (1, 1, 2):
        segmenter = make(random_network, options=options, seed=seed)
        segmenter.adapt(film, PROMPTS)
        losses.append(segmenter.report.losses)
    assert losses[0] == losses[1] != losses[2]


def test_build_chooses_the_kind_by_variant():
    assert type(METHOD.build(BuildRequest(variant="stcn"))) is STCNSegmenter
    options = {"ttt_lr": 0.5, "res": 64, "top": 7, "ttt_sequence_length": [2, 3]}
    built = METHOD.build(BuildRequest(variant="stcn_s01_ent", options=options, seed=4))
    assert built.ttt == load_config("stcn_s01_ent", options={"ttt_lr": 0.5, "top": 7, "ttt_sequence_length": (2, 3)})
    assert (built.config.res, built.config.top, built.config.mem_every, built.seed) == (64, 7, 5, 4)
    custom = METHOD.build(BuildRequest(variant="ttt", options={"ttt_loss": "tt-ae", "mem_every": 3, "amp": True}))
    assert (custom.ttt.ttt_loss, custom.config.mem_every, custom.precision) == ("tt-ae", 3, "bf16")
    with pytest.raises(ConfigError, match="ttt_lrr"):
        METHOD.build(BuildRequest(variant="ttt", options={"ttt_lrr": 1}))


@SLOW
def test_half_precision_adapts_too(random_network):
    film = Film(2)
    losses = []
    for precision in ("fp32", "bf16"):
        segmenter = make(random_network, precision=precision)
        segmenter.adapt(film, PROMPTS)
        losses.append(segmenter.report.losses[0])
        follow(segmenter, film)
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
