"""Losses and the adaptation loop, with a network of three convolutions behind the protocol; STCN where its own code matters."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stcn_ttt.adapt import objective
from stcn_ttt.adapt.backbone import StcnBackbone, freeze_layers
from stcn_ttt.adapt.config import FROZEN_TOKENS, TttConfig
from stcn_ttt.adapt.loop import adapt_network
from stcn_ttt.adapt.objective import Sequences, cycle, loss_of
from stcn_ttt.adapt.pseudo import PseudoMasks
from stcn_ttt.model.network import Segmentation
from vos_core.errors import ConfigError, VosError
from vos_core.ops.aggregate import aggregate_logits
from vos_core.types import Frame, Prompt

SIZE = (32, 48)


class Toy(nn.Module):
    """A `Backbone` of another kind: a mean over memory frames in place of matching."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.key, self.value, self.read = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(5, 6, 3, padding=1),
            nn.Conv2d(12, 1, 3, padding=1),
        )
        self.seen = []

    def encode_key(self, images):
        self.seen.append(images.detach().clone())
        return [self.key(F.avg_pool2d(image, 2)) for image in images.unbind(1)]

    def encode_value(self, state, image, masks, others):
        parts = [
            self.value(F.avg_pool2d(torch.cat((image, a, b), 1), 2))
            for a, b in zip(masks.split(1, 1), others.split(1, 1), strict=True)
        ]
        return torch.stack(parts, 1)

    def segment(self, state, memory, *, selector, empty_slots):
        near = [torch.exp(-(state - key).abs().mean(1, keepdim=True)) for key, _ in memory]
        value = sum(w[:, None] * v for w, (_, v) in zip(near, memory, strict=True)) / sum(near)[:, None]
        return self.decode_value(state, value, selector=selector, empty_slots=empty_slots)

    def decode_value(self, state, value, *, selector, empty_slots):
        logits = torch.cat([self.read(torch.cat((state, v), 1)) for v in value.unbind(1)], 1)
        probs = torch.sigmoid(F.interpolate(logits, scale_factor=2, mode="bilinear")) * selector[:, :, None, None]
        probs = torch.cat((probs, probs.new_zeros(probs.shape[0], empty_slots, *probs.shape[2:])), 1)
        aggregated = aggregate_logits(probs)
        return Segmentation(aggregated, aggregated.softmax(1))


class Film:
    """A square that moves over noise."""

    def __init__(self, frames=5, ids=(1,)):
        rng, self.ids = np.random.default_rng(0), ids
        self.names = [f"{t:05d}" for t in range(frames)]
        self.labels, self.rgb = [], []
        for t in range(frames):
            labels = np.zeros(SIZE, np.uint8)
            for place, object_id in enumerate(ids):
                labels[6:20, 3 + t + 22 * place : 17 + t + 22 * place] = object_id
            self.labels.append(labels)
            self.rgb.append((rng.integers(0, 60, (*SIZE, 3)) + 120 * (labels > 0)[..., None]).astype(np.uint8))

    def __len__(self):
        return len(self.names)

    def read(self, index):
        return Frame(index, self.names[index], self.rgb[index])

    def prompts(self, *indices):
        return {t: [Prompt(i, mask=self.labels[t] == i) for i in self.ids] for t in indices or (0,)}


def run(toy, film=None, *, prompts=None, name="film", seed=1, network=None, backbone=None, **config):
    """Adapt and return (report, stops asked of `propagate`)."""
    film, stops = film or Film(), []

    def propagate(frames, prompts, *, stop):
        stops.append(stop)
        masks = PseudoMasks()
        for t in range(min(prompts), len(frames) if stop is None else stop):
            masks[t] = frames.labels[t]
        return masks

    settings = {"ttt_resolution": SIZE[0], "ttt_number_jump_steps": 2, "ttt_number_iterations_per_jump_step": 3, "ttt_lr": 1e-2}
    on_step = config.pop("on_step", None)
    report = adapt_network(
        network or toy,
        backbone or toy,
        film,
        prompts or film.prompts(),
        config=TttConfig(**{**settings, **config}),
        propagate=propagate,
        seed=seed,
        name=name,
        device=torch.device("cpu"),
        on_step=on_step,
    )
    return report, stops


def batch(count=1, frames=3, slots=2, selector=((1, 0),), size=SIZE, seed=0):
    torch.manual_seed(seed)
    target = torch.zeros(count, *size, dtype=torch.long)
    target[:, 6:20, 4:18], target[:, 8:22, 26:40] = 1, 2
    masks = torch.stack([(target == slot + 1).float() for slot in range(slots)], 1)
    chosen = torch.tensor(selector, dtype=torch.float32)
    masks = masks * chosen[:, :, None, None]
    target = target * chosen.gather(1, (target.flatten(1) - 1).clamp(min=0)).view_as(target).long()
    return Sequences(torch.randn(count, frames, 3, *size), masks, masks.sum(1, keepdim=True) - masks, chosen, target)


@pytest.mark.parametrize("loss", ["tt-mcc", "tt-ae", "tt-ent"])
@pytest.mark.parametrize("encode_first", [False, True])
def test_every_loss_trains_another_network(loss, encode_first):
    toy = Toy()
    value = loss_of(toy, batch(2, selector=((1, 0), (1, 1))), loss, encode_first=encode_first)
    assert value.shape == ()
    value.backward()
    for name, parameter in toy.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_gradients_of_the_cycle_flow_through_both_passes():
    toy, data = Toy(), batch(frames=4)
    passes = cycle(toy, data, encode_first=False)
    assert (len(passes.forward), len(passes.backward)) == (3, 3)
    for one in (*passes.forward, *passes.backward):
        one.logits.retain_grad()
    F.cross_entropy(passes.backward[-1].logits, data.target).backward()
    assert all(one.logits.grad is None or one.logits.grad.abs().sum() > 0 for one in (*passes.forward, *passes.backward))
    assert passes.forward[-1].logits.grad.abs().sum() > 0, "the soft masks at the turn are not detached"


@pytest.mark.parametrize("loss", ["tt-mcc", "tt-ent", "tt-ae"])
def test_gradients_are_those_of_finite_differences(loss):
    toy, data = Toy().double(), batch(frames=4)
    data = Sequences(*(x.double() if x.is_floating_point() else x for x in dataclasses.astuple(data)))
    loss_of(toy, data, loss).backward()
    direction = [torch.randn_like(p) for p in toy.parameters()]
    slope = sum((p.grad * d).sum() for p, d in zip(toy.parameters(), direction, strict=True)).item()
    values = []
    for sign in (1, -1):
        moved = copy.deepcopy(toy)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), direction, strict=True):
                p += sign * 1e-3 * d
            values.append(loss_of(moved, data, loss).item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=0.01), "nothing is detached"


def test_entropy_is_that_of_the_softmax():
    logits = torch.randn(2, 3, 4, 5)
    p = logits.softmax(1)
    torch.testing.assert_close(objective.entropy(logits), -(p * p.log()).sum(1).mean())
    assert objective.entropy(torch.zeros(1, 4, 2, 2)).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("kind", ["toy", "stcn"])
@pytest.mark.parametrize("loss", ["tt-mcc", "tt-ent", "tt-ae"])
def test_an_empty_slot_need_not_be_computed(kind, loss, monkeypatch, random_network):
    network = Toy() if kind == "toy" else copy.deepcopy(random_network)
    backbone = network if kind == "toy" else StcnBackbone(network)
    data = batch(selector=((1, 0),))

    def result():
        network.zero_grad()
        value = loss_of(backbone, data, loss)
        value.backward()
        return value.detach(), {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    short, short_gradients = result()
    assert objective._live(data) == 1
    monkeypatch.setattr(objective, "_live", lambda batch: 2)
    whole, gradients = result()
    torch.testing.assert_close(short, whole, rtol=1e-5, atol=1e-6)
    assert short_gradients.keys() == gradients.keys()
    largest = max(g.abs().max() for g in gradients.values())
    for name, gradient in gradients.items():
        assert (short_gradients[name] - gradient).abs().max() <= 1e-4 * largest, name


def test_only_trailing_slots_that_no_sequence_uses_are_left_out():
    assert objective._live(batch(2, selector=((1, 0), (1, 1)))) == 2
    assert objective._live(batch(2, slots=2, selector=((0, 0), (0, 0)))) == 1


def test_adapting_lowers_the_cycle_loss():
    seen = []
    toy = Toy()
    report, stops = run(
        toy, ttt_number_jump_steps=5, ttt_number_iterations_per_jump_step=8, on_step=lambda *told: seen.append(told)
    )
    assert np.mean(report.losses[-8:]) < 0.6 * np.mean(report.losses[:8])
    assert stops == [None] * 5, "pseudo-masks are made anew for every jump step"
    assert [told[:2] for told in seen] == [(i + 1, 40) for i in range(40)]
    assert [told[2] for told in seen] == report.losses
    assert report.skipped is None
    assert report.step_seconds > 0


@pytest.mark.parametrize(("loss", "last"), [("tt-ent", 1), ("tt-ae", 1)])
def test_other_losses_propagate_once_and_no_further_than_needed(loss, last):
    report, stops = run(Toy(), ttt_loss=loss, ttt_sequence_length=(1,) if loss == "tt-ae" else (3,))
    assert stops == [last]
    assert len(report.losses) == 6
    film = Film()
    assert run(Toy(), film, prompts=film.prompts(0, 2), ttt_loss=loss)[1] == [3]


def test_rounds_of_several_lengths_and_batches():
    toy = Toy()
    report, stops = run(toy, ttt_sequence_length=(2, 3), ttt_max_jump_step=(1, 2), ttt_batch_size=2)
    assert len(report.losses) == 12
    assert len(stops) == 4
    assert {tuple(images.shape[:2]) for images in toy.seen} == {(2, 2), (2, 3)}


def test_sequences_depend_on_seed_name_and_jump_step_alone():
    def drawn(toy=None, **options):
        toy = toy or Toy()
        run(toy, Film(9), **options)
        return toy.seen

    base = drawn()
    for a, b in zip(base, drawn(Toy(seed=5)), strict=True):
        assert torch.equal(a, b)
    longer = drawn(ttt_number_iterations_per_jump_step=5)
    assert all(torch.equal(a, b) for a, b in zip(base[:3] + base[3:], longer[:3] + longer[5:8], strict=True))
    np.random.seed(3)
    assert all(torch.equal(a, b) for a, b in zip(base, drawn(), strict=True)), "no global generator takes part"
    for other in (drawn(seed=2), drawn(name="other")):
        assert not all(torch.equal(a, b) for a, b in zip(base, other, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(base[:3], base[3:], strict=True))


def test_adam_begins_anew_at_every_jump_step():
    toy, rate, shares = Toy(), 1e-3, []
    last = [copy.deepcopy(list(toy.parameters()))]

    def on_step(*_):
        moved = torch.cat([(p - q).detach().flatten().abs() for p, q in zip(toy.parameters(), last[0], strict=True)])
        shares.append(((moved / rate - 1).abs() < 0.01).float().mean().item())
        last[0] = copy.deepcopy(list(toy.parameters()))

    run(toy, ttt_lr=rate, ttt_number_jump_steps=3, ttt_number_iterations_per_jump_step=3, on_step=on_step)
    # A first step of Adam moves every weight that has a gradient by the whole rate.
    assert all(shares[i] > 0.85 for i in (0, 3, 6)), shares
    assert all(shares[i] < 0.75 for i in (1, 2, 4, 5, 7, 8)), shares


@pytest.mark.parametrize("nothing", ["ttt_number_jump_steps", "ttt_number_iterations_per_jump_step"])
def test_no_iterations_change_nothing(nothing):
    toy = Toy()
    before = copy.deepcopy(toy.state_dict())
    report, stops = run(toy, **{nothing: 0})
    assert (report.losses, stops) == ([], [])
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


def test_a_loss_that_is_not_finite_is_named():
    toy = Toy()
    toy.key.weight.data.fill_(math.inf)
    with pytest.raises(VosError, match=r"clip 'film' is nan at step 1"):
        run(toy)


@pytest.mark.parametrize("why", ["one frame", "last frame", "no object"])
def test_clips_that_cannot_be_adapted_to_are_skipped_with_a_warning(why):
    film, toy = Film(1 if why == "one frame" else 4, ids=() if why == "no object" else (1,)), Toy()
    before = copy.deepcopy(toy.state_dict())
    with pytest.warns(UserWarning, match="clip 'film'.*not adapted"):
        report, _ = run(toy, film, prompts=film.prompts(3) if why == "last frame" else None)
    assert report.losses == []
    assert "clip 'film'" in report.skipped
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


def test_one_frame_can_be_autoencoded():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report, _ = run(Toy(), Film(1), ttt_loss="tt-ae", ttt_number_iterations_per_jump_step=20, ttt_number_jump_steps=1)
        assert report.losses[-1] < report.losses[0]
        assert len(run(Toy(), Film(2))[0].losses) == 6


@pytest.mark.parametrize(
    "options", [{"ttt_frozen_layers": ("net",)}, {"ttt_frozen_layers": ("enc", "dec", "key_comp"), "ttt_loss": "tt-ae"}]
)
def test_freezing_what_the_loss_needs_is_refused(options, random_network):
    network = copy.deepcopy(random_network)
    with pytest.raises(ConfigError, match="ttt_frozen_layers"):
        run(None, network=network, backbone=StcnBackbone(network), **options)


KEY, VALUE, DECODER = "key_encoder.", "value_encoder.", "decoder."
PROJECTION, COMPRESSION = "key_proj.", "key_comp."


@pytest.mark.parametrize(
    ("tokens", "frozen"),
    [
        ("", ()),
        ("enc", (KEY, VALUE)),
        ("dec", (DECODER,)),
        ("all_keys", (KEY, PROJECTION, COMPRESSION)),
        ("key_enc", (KEY,)),
        ("val_enc", (VALUE,)),
        ("key_proj", (PROJECTION,)),
        ("key_comp", (COMPRESSION,)),
        ("net", ("",)),
        ("key_enc,dec", (KEY, DECODER)),
    ],
)
def test_tokens_freeze_their_part(tokens, frozen, random_network):
    freeze_layers(random_network, [token for token in tokens.split(",") if token])
    for name, parameter in random_network.named_parameters():
        assert parameter.requires_grad != (bool(frozen) and name.startswith(frozen)), name
    freeze_layers(random_network, ())
    assert all(parameter.requires_grad for parameter in random_network.parameters())


def test_norm_tokens(random_network):
    norms = {
        f"{name}.{part}"
        for name, module in random_network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for part in ("weight", "bias")
    }
    assert len(norms) == 116
    for tokens, trainable in (
        (("net", "ubn"), norms),
        (("bn",), {name for name, _ in random_network.named_parameters()} - norms),
        (("ubn", "net"), set()),
        (("enc", "ubn"), {name for name, _ in random_network.named_parameters() if not name.startswith((KEY, VALUE))} | norms),
    ):
        freeze_layers(random_network, tokens)
        assert {name for name, p in random_network.named_parameters() if p.requires_grad} == trainable, tokens
    freeze_layers(random_network, ())
    with pytest.raises(ValueError, match="unb"):
        freeze_layers(random_network, ["unb"])
    for token in FROZEN_TOKENS:
        freeze_layers(random_network, [token])
    freeze_layers(random_network, ())


def test_frozen_layers_stay_as_they_are_and_norms_move(random_network):
    network = copy.deepcopy(random_network)
    run(
        None,
        network=network,
        backbone=StcnBackbone(network),
        ttt_loss="tt-ent",
        ttt_frozen_layers=("net", "ubn"),
        ttt_sequence_length=(2,),
        ttt_number_jump_steps=1,
        ttt_number_iterations_per_jump_step=1,
    )
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, random_network.state_dict()[name])}
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert changed
    assert {name.rsplit(".", 1)[0] for name in changed} <= norms
    assert not any("running" in name for name in changed)
