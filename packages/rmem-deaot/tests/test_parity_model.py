"""Layer by layer against the goldens: local attention, encoders, propagation, memories."""

from __future__ import annotations

import fnmatch

import numpy as np
import pytest
import torch
from rmem_goldens import check_tensor, frames_and_mask, image, options_of, sliced

from rmem_deaot.model import attention as attention_module
from rmem_deaot.model import mask_unused
from rmem_deaot.model.attention import GatedLocalAttention, LocalAttention, Size, to_tokens
from rmem_deaot.model.long_term import FrameMemory
from rmem_deaot.model.position import sine_position
from rmem_deaot.tracker import Tracker
from vos_core.ops.window import inside_window, local_attention, local_corr
from vos_core.testing import golden_cases, seeded_module

pytestmark = pytest.mark.parity


class LocalSpy:
    """Runs local attention and keeps its weights, `(heads, cells, pixels)`, computed apart."""

    def __init__(self, monkeypatch):
        self.weights: list[np.ndarray] = []
        monkeypatch.setattr(attention_module, "local_attention", self)

    def __call__(self, q, k, v, *, heads, max_dis, bias, value_bias=None):
        scores = local_corr(q, k, heads=heads, max_dis=max_dis) + bias
        inside = inside_window(*q.shape[2:], max_dis=max_dis)
        weights = torch.softmax(scores.masked_fill(~inside, -torch.inf), 2)
        self.weights.append(weights[0].flatten(2).detach().numpy())
        return local_attention(q, k, v, heads=heads, max_dis=max_dis, bias=bias, value_bias=value_bias)


@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "local_attention"))
@torch.inference_mode()
def test_local_attention_units(case, golden_arrays, monkeypatch):
    gold, spy = golden_arrays(case["file"]), LocalSpy(monkeypatch)
    rng = np.random.RandomState(case["rng_seed"])
    drawn = {name: torch.from_numpy(rng.randn(*shape).astype(np.float32)) for name, shape in case["draws"]}
    size = Size(*case["hw"])
    assert case["window"] == 2 * attention_module.MAX_DISTANCE + 1
    for kind, prefix in (("gated", "gated"), ("multihead", "mha")):
        given = case[kind]
        shapes = given["params"]
        inputs = [drawn[name] for name in given["inputs"]]
        if kind == "gated":
            out_channels, channels = shapes["projection.weight"]
            module = GatedLocalAttention(inputs[0].shape[1], channels, out_channels, dropout=0.1)
        else:
            module = LocalAttention(shapes["projection.weight"][0], given["heads"])
        assert {key: list(value.shape) for key, value in module.state_dict().items()} == shapes
        filled = seeded_module().seeded_array
        module.load_state_dict({key: torch.from_numpy(filled(key, tuple(s), case["seed"])) for key, s in shapes.items()})
        module.eval()
        tokens = [to_tokens(x) for x in inputs[:3]]
        out = module.attend(*tokens, inputs[3].transpose(0, 1), size) if kind == "gated" else module.attend(*tokens, size)
        check_tensor(case, gold, f"{prefix}_out", out.transpose(0, 1))
        weights = spy.weights[-1]
        check_tensor(case, gold, f"{prefix}_attn", weights[0] if kind == "gated" else weights.transpose(0, 2, 1))


class Recorder:
    """Collects what the layers of a network put out, frame by frame, in the goldens' layout `[L, B, C]`."""

    def __init__(self, network, family):
        self.values: dict[str, np.ndarray] = {}
        self.handles = []
        for index, layer in enumerate(network.LSTT.layers):
            for short, name in (("lt", "long_term_attn"), ("st", "short_term_attn"), ("sa", "self_attn")):
                part = getattr(layer, name)
                self._watch(
                    part if family == "deaot" else part.projection, lambda out, key=f"{short}{index}": self._put(key, out)
                )
            self._watch(layer, lambda out, index=index: self._layer(index, out, family))
        if family == "deaot":
            self._watch(network.LSTT.decoder_norms[0], lambda out: self._put("lstt_out", out))

    def _watch(self, module, take):
        self.handles.append(module.register_forward_hook(lambda _module, _inputs, out: take(out)))

    def _layer(self, index, out, family):
        self._put(f"tgt{index}", out[0])
        if family == "deaot":
            self._put(f"id{index}", out[1])

    def _put(self, key, tokens):
        self.values[key] = tokens.detach().transpose(0, 1).numpy().copy()

    def close(self):
        for handle in self.handles:
            handle.remove()


def _memories(case, tracker, size):
    """Yield name and array, as stored, of the long- and short-term memories.

    Long ones are stored frame by frame `[T, L, B, c]` or concatenated `[T * L, B, c]`, short ones as tokens `[L, B, c]` or maps
    `[B, c, h, w]`: the number of strides tells.
    """
    (bank,) = tracker.banks.values()
    gated = tracker.network.config.family == "deaot"
    for layer in range(len(tracker.network.LSTT.layers)):
        frames = [bank.frame(layer, position) for position in range(len(bank.frames))]
        short = tracker.short_term[layer]
        long_parts = {"K": torch.stack([key for key, _ in frames]), "V": torch.stack([value for _, value in frames])}
        short_parts = {"K": short.short_key, "V": short.short_value}
        for parts in (long_parts, short_parts) if gated else ():
            parts["V"], parts["IDV"] = parts["V"].chunk(2, 2)
        for part, tokens in long_parts.items():
            name = f"long_L{layer}_{part}"
            whole = tokens if len(_strides(case, f"f0_{name}")) == 4 else tokens.flatten(0, 1)
            yield name, whole.unsqueeze(-2).numpy()
        for part, tokens in short_parts.items():
            name = f"short_L{layer}_{part}"
            as_map = len(_strides(case, f"f0_{name}")) == 4
            yield name, (tokens.transpose(1, 2).unflatten(2, size) if as_map else tokens.transpose(0, 1)).numpy()


def _strides(case, name):
    return next((steps for pattern, steps in case["slices"].items() if fnmatch.fnmatchcase(name, pattern)), ())


@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "depth"))
def test_layer_by_layer(case, golden_network, golden_arrays, monkeypatch):
    gold, network, family = golden_arrays(case["file"]), golden_network(case), case["family"]
    frames, mask0 = frames_and_mask(case, golden_arrays)
    assert network.config.family == family
    assert len(network.LSTT.layers) == case["layers"]
    spy, objects, tolerance = LocalSpy(monkeypatch), int(mask0.max()), case["tolerance"]
    masses: list[torch.Tensor] = []
    monkeypatch.setattr("rmem_deaot.tracker.relevance", _watched(masses))
    _check_inputs(case, gold, network, frames[0], mask0)
    tracker = Tracker(network, options_of(case))
    recorder = Recorder(network, family)
    own = []
    try:
        for t, rgb in enumerate(frames):
            spy.weights.clear()
            masses.clear()
            if t == 0:
                tracker.start(image(rgb), torch.from_numpy(mask0).int(), objects)
            else:
                logits = tracker.predict(image(rgb))
                up = torch.nn.functional.interpolate(logits, mask0.shape, mode="bilinear", align_corners=case["align_corners"])
                own.append(up[0].argmax(0).numpy())
                if f"f{t}_logits" in gold:
                    expected = gold[f"f{t}_logits"]
                    atol = tolerance["first_logits_atol" if t == 1 else "teacher_logits_atol"]
                    found = sliced(case, f"f{t}_logits", logits[0, : case["logit_classes"]])
                    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=f"logits of frame {t}")
                tracker.remember(torch.from_numpy(gold["masks"][t]).int())
            if t not in case["layer_frames"]:
                continue
            for key, value in recorder.values.items():
                if f"f{t}_{key}" in gold:
                    check_tensor(case, gold, f"f{t}_{key}", value)
            for layer, weights in enumerate(spy.weights):
                if f"f{t}_stw{layer}" in gold:
                    check_tensor(case, gold, f"f{t}_stw{layer}", weights[0])
            if f"f{t}_relevance" in gold:
                check_tensor(case, gold, f"f{t}_relevance", masses[0])
            size = Size(*(side // 16 + case["align_corners"] for side in mask0.shape))
            seen = dict(_memories(case, tracker, size))
            for key, value in seen.items():
                if f"f{t}_{key}" in gold:
                    check_tensor(case, gold, f"f{t}_{key}", value)
            stored = {key for key in gold if key.startswith(f"f{t}_") and not key.endswith("_stats")}
            compared = {f"f{t}_{key}" for key in (*recorder.values, *seen, "relevance", "logits")}
            compared |= {f"f{t}_stw{layer}" for layer in range(len(spy.weights))}
            assert stored <= compared, f"compared with nothing: {sorted(stored - compared)}"
        share = min(np.mean(label == mask) for label, mask in zip(own, gold["masks"][1:], strict=True))
        assert share >= tolerance["free_mask_equal"], "with teacher forcing"
    finally:
        recorder.close()


def _watched(masses):
    from rmem_deaot.memory import relevance

    def watch(mass, background):
        masses.append(mass)
        return relevance(mass, background)

    return watch


@torch.inference_mode()
def _check_inputs(case, gold, network, rgb, mask0):
    first = image(rgb)
    if "img0" in gold:
        np.testing.assert_allclose(sliced(case, "img0", first[0]), gold["img0"], atol=1e-5)
    features = network.encode_image(first)
    if "enc0" in gold:
        for index, value in enumerate(network.encoder(first)):
            check_tensor(case, gold, f"enc{index}", value)
    if "proj" in gold:
        check_tensor(case, gold, "proj", features.projected)
    labels, size = torch.from_numpy(mask0).int()[None], features.size
    identity = network.encode_identity(network.one_hot(labels))
    if "id_emb" in gold:
        check_tensor(case, gold, "id_emb", identity.transpose(1, 2).unflatten(2, size))
    if "pos_emb" in gold:
        position = sine_position(*size, 256, torch.device("cpu"))
        check_tensor(case, gold, "pos_emb", position.T[None].unflatten(2, size))
    if "id_emb_ignore" in gold:
        block = case["ignore_block"]
        changed = labels.clone()
        changed[0, slice(*block["rows"]), slice(*block["cols"])] = block["value"]
        ignored = network.encode_identity(network.one_hot(changed, ignore=True))
        check_tensor(case, gold, "id_emb_ignore", ignored.transpose(1, 2).unflatten(2, size))
    own = FrameMemory(network, temporal_position=case["tpe"])
    found = network.propagate(features.projected, long=own, id_emb=identity)
    logits = network.decode(found.maps, features)
    if case["mask_unused_ids"]:
        logits = mask_unused(logits, [int(mask0.max())])
    expected = gold["ref_logits"]
    got = sliced(case, "ref_logits", logits[0, : case["logit_classes"]])
    np.testing.assert_allclose(got, expected, rtol=0, atol=case["tolerance"]["first_logits_atol"])
