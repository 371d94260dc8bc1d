"""Test-time training against the goldens: sampler, losses, gradients, steps, whole runs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from stcn_ttt.adapt.backbone import StcnBackbone, freeze_layers
from stcn_ttt.adapt.config import TttConfig
from stcn_ttt.adapt.loop import adapt_network
from stcn_ttt.adapt.objective import Passes, Sequences, autoencode, cycle, loss_of, run_forward
from stcn_ttt.adapt.pseudo import PseudoMasks
from stcn_ttt.adapt.sampler import draw_distinct_frames, draw_frames
from stcn_ttt.adapt.sequences import label_tensors, stack
from stcn_ttt.config import SegmenterConfig
from stcn_ttt.model import STCN
from stcn_ttt.prepare import normalise
from stcn_ttt.segmenter import STCNSegmenter
from vos_core.ops.pad import pad_to_multiple
from vos_core.testing import assert_within, golden_cases
from vos_core.types import Frame, Prompt

pytestmark = pytest.mark.parity
Arrays = Mapping[str, np.ndarray]
Read = Callable[[str], Arrays]
Build = Callable[[Mapping[str, Any]], STCN]


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "frame_sampler"))
def test_frames_are_drawn_as_the_reference_draws_them(case: Any, golden_arrays: Read) -> None:
    table = golden_arrays(case["file"])
    columns = [str(name) for name in table["columns"]]
    draw = draw_distinct_frames if case["retry_on_equal_last"] else draw_frames
    found = []
    for row in table["rows"]:
        at = dict(zip(columns, row.tolist(), strict=True))
        rng = np.random.RandomState(at["numpy_seed"])
        frames = draw(rng, at["len_frames"], first=at["first"], count=at["num_frames"], max_jump=at["max_jump"])
        outputs = [name for name in columns if name[0] == "f" and name[1:].isdigit()]
        found.append([at[name] for name in columns[: -len(outputs)]] + frames + [case["unused"]] * (len(outputs) - len(frames)))
    assert_within(np.asarray(found), table["rows"], case["tolerance"]["default"], label="frames")


class Clip:
    """Frames, first mask and batches of a case."""

    def __init__(self, case: Any, read: Read) -> None:
        inputs = read(case["inputs"])
        self.case, self.rgb = case, inputs[case["clip"]]
        if "n_frames" in case:
            self.rgb = self.rgb[: case["n_frames"]]
        first = inputs[case["first_mask"]["array"]]
        self.first = first if case["first_mask"]["index"] is None else first[case["first_mask"]["index"]]
        self.names = [f"{index:05d}" for index in range(len(self.rgb))]
        assert not case["augment"]
        assert case["resize"] is None

    def __len__(self) -> int:
        return len(self.rgb)

    def read(self, index: int) -> Frame:
        return Frame(index, self.names[index], self.rgb[index])

    @property
    def prompts(self) -> list[Prompt]:
        return [Prompt(label, mask=self.first == label) for label in self.case["labels"]]

    def sequence(self, frames: Sequence[int]) -> Sequences:
        images = torch.stack([pad_to_multiple(normalise(self.rgb[i]), self.case["pad_multiple"])[0] for i in frames])[None]
        made = label_tensors(self.first, self.case["labels"], several=False, compat=False, device=torch.device("cpu"))
        assert made[0].shape[1] == self.case["object_slots"]
        return Sequences(images, *made)

    def propagate(self, network: STCN, options: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        config = SegmenterConfig(
            res=-1, top=options["top_k"], mem_every=options["mem_every"], include_last=options["include_last"]
        )
        segmenter, masks, probs = STCNSegmenter(network, config), [], []
        for index in range(len(self)):
            masks.append(segmenter.step(self.read(index), self.prompts if index == 0 else ()).labels)
            probs.append(segmenter.network_probs.numpy())
        return np.stack(masks), np.stack(probs, 1)


def logits_of(passes: Passes, read: Mapping[str, Any], steps: Sequence[int]) -> np.ndarray:
    array = getattr(passes, read["pass"])[read["index"]].logits.detach().numpy()
    return array[tuple(slice(None, None, step) for step in steps)]


def sampled(x: torch.Tensor, rule: Mapping[str, int]) -> np.ndarray:
    flat = x.detach().flatten().numpy()
    return flat[:: max(1, flat.size // rule["divisor"])][: rule["take"]]


def adam(network: STCN, case: Any) -> torch.optim.Adam:
    settings = case["optimiser"]
    assert (settings["name"], settings["amp"], settings["grad_clip"]) == ("Adam", False, None)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.Adam(
        trainable, lr=settings["lr"], betas=tuple(settings["betas"]), eps=settings["eps"], weight_decay=settings["weight_decay"]
    )


def frozen(case: Any) -> list[str]:
    return case["frozen_option"].split(",") if case["frozen_option"] else []


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "ttt_step"))
def test_optimiser_steps(case: Any, golden_network: Build, golden_arrays: Read) -> None:
    gold, clip, allowed = golden_arrays(case["file"]), Clip(case, golden_arrays), case["tolerance"]
    network = copy.deepcopy(golden_network(case["weights"]))
    masks, _ = clip.propagate(network, case["propagation"])
    assert_within(masks, gold["masks_before"], allowed["masks_before"], label="masks before")
    freeze_layers(network, frozen(case))
    optimizer, loss_name, losses = adam(network, case), "tt-" + case["objective"], []
    backbone = StcnBackbone(network)
    for step, frames in enumerate(case["sequences"][: case["optimiser_steps"]]):
        batch = clip.sequence(frames)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(backbone, batch, loss_name, encode_first=case["encode_first"])
        losses.append(loss.item())
        loss.backward()
        if step == 0:
            check_first_step(network, batch, case, gold)
            before = {name: value.detach().clone() for name, value in network.named_parameters()}
            gradients = {name: value.grad for name, value in network.named_parameters()}
        optimizer.step()
        if step == 0:
            check_deltas(network, before, gradients, case, gold)
    assert_within(losses[:1], gold["losses"][:1], allowed["losses"]["first"], label="first loss")
    assert_within(losses[1:], gold["losses"][1:], allowed["losses"]["later"], label="later losses")
    masks, probs = clip.propagate(network, case["propagation"])
    assert_within(masks, gold["masks_after"], allowed["masks_after"], label="masks after")
    strided = probs[tuple(slice(None, None, n) for n in case["prob_steps"])]
    assert_within(strided, gold["prob_after"], allowed["prob_after"], label="prob after")


def check_first_step(network: STCN, batch: Sequences, case: Any, gold: Arrays) -> None:
    allowed = case["tolerance"]
    assert_within(batch.selector.numpy(), gold["selector"], {"exact": True}, label="selector")
    assert_within(batch.target.numpy(), gold["cls_gt0"], allowed["cls_gt0"], label="target")
    if case["logits"]:
        backbone = StcnBackbone(network)
        with torch.no_grad():
            if case["objective"] == "ae":
                passes = Passes([autoencode(backbone, batch)], [])
            else:
                whole = cycle if any(read["pass"] == "backward" for read in case["logits"]) else run_forward
                passes = whole(backbone, batch, encode_first=case["encode_first"])
        for read in case["logits"]:
            assert_within(
                logits_of(passes, read, case["logits_steps"]), gold[read["array"]], allowed["logits"], label=read["array"]
            )
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained == [str(name) for name in gold["grad_param_names"]]
    without = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert without == [name for name in map(str, gold["no_grad_params"]) if name]
    assert without == case["no_grad_params"]
    parameters = dict(network.named_parameters())
    compared = [i for i, name in enumerate(trained) if name not in case["noise_grad_params"] and name not in without]
    norms = [parameters[trained[i]].grad.norm().item() for i in compared]  # type: ignore[union-attr]
    assert_within(norms, gold["grad_norms"][compared], allowed["grad_norms"], label="gradient norms")
    for name in case["grad_names"]:
        if name not in case["noise_grad_params"] and name not in without:
            found = sampled(parameters[name].grad, case["flat_sample"])  # type: ignore[arg-type]
            assert_within(found, gold[f"grad/{name}"], allowed["grad"], label=f"grad {name}")


def check_deltas(
    network: STCN, before: Mapping[str, torch.Tensor], gradients: Mapping[str, Any], case: Any, gold: Arrays
) -> None:
    allowed, rate = case["tolerance"]["delta"], case["optimiser"]["lr"]
    for name, value in network.named_parameters():
        if name not in case["grad_names"] or name in case["noise_grad_params"] or gradients[name] is None:
            continue
        gradient = gold[f"grad/{name}"]
        clear = np.abs(gradient) > allowed["only_where_grad_over_max"] * np.abs(gradient).max()
        weight = sampled(before[name], case["flat_sample"])
        difference = np.abs(sampled(value - before[name], case["flat_sample"]) - gold[f"delta/{name}"])
        bound = allowed["atol_in_lr"] * rate + allowed["atol_in_ulp_of_weight"] * np.spacing(np.abs(weight))
        assert (difference <= bound)[clear].all(), f"delta {name}: {difference[clear].max()}"


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "ttt_variants"))
def test_longer_sequences_batches_and_first_frame_decoding(case: Any, golden_network: Build, golden_arrays: Read) -> None:
    gold, clip, allowed = golden_arrays(case["file"]), Clip(case, golden_arrays), case["tolerance"]
    backbone = StcnBackbone(golden_network(case["weights"]))
    for read in case["reads"]:
        batch = stack([clip.sequence(frames) for frames in read["sequences"]])
        with torch.no_grad():
            if read["what"] == "loss":
                found: Any = loss_of(backbone, batch, "tt-" + case["objective"], encode_first=read["encode_first"]).item()
                assert_within(found, gold[read["array"]], allowed["loss"], label=read["array"])
                continue
            passes = cycle(backbone, batch, encode_first=read["encode_first"])
        if read["what"] == "counts":
            found = [len(passes.forward), len(passes.backward)]
            assert_within(found, gold[read["array"]], allowed["counts"], label=read["array"])
        else:
            assert read["what"] == "logits"
            assert_within(
                logits_of(passes, read, case["logits_steps"]), gold[read["array"]], allowed["logits"], label=read["array"]
            )


@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "ttt_run"))
def test_whole_adaptations(case: Any, golden_network: Build, golden_arrays: Read) -> None:
    gold, clip, allowed = golden_arrays(case["file"]), Clip(case, golden_arrays), case["tolerance"]
    network = copy.deepcopy(golden_network(case["weights"]))
    options, settings = case["propagation"], case["optimiser"]
    assert case["new_optimiser_each_jump_step"]
    assert (settings["betas"], settings["eps"], settings["weight_decay"]) == ([0.9, 0.999], 1e-8, 1e-7)
    config = TttConfig(
        ttt_loss="tt-" + case["objective"],
        ttt_lr=settings["lr"],
        ttt_frozen_layers=tuple(frozen(case)),
        ttt_number_jump_steps=case["jump_steps"],
        ttt_number_iterations_per_jump_step=case["iterations_per_jump_step"],
        ttt_batch_size=case["batch_size"],
        ttt_sequence_length=(case["num_frames"],),
        ttt_max_jump_step=(case["max_jump"],),
        ttt_encode_first=case["encode_first"],
    )
    refreshes: list[np.ndarray] = []

    def propagate(frames: Any, prompts: Any, *, stop: int | None) -> PseudoMasks:
        labels, _ = clip.propagate(network, options)
        refreshes.append(labels)
        masks = PseudoMasks()
        for index, one in enumerate(labels):
            masks[index] = one
        return masks

    report = adapt_network(
        network,
        StcnBackbone(network),
        clip,
        {0: clip.prompts},
        config=config,
        propagate=propagate,
        seed=0,
        name="golden",
        device=torch.device("cpu"),
        batches=lambda step, iteration: clip.sequence(case["sequences"][step][iteration]),
    )
    assert len(refreshes) == {"each_jump_step": case["jump_steps"], "once": 1}[case["refresh_pseudo_labels"]]
    assert_within(report.losses, gold["losses"], allowed["losses"], label="losses")
    assert_within(refreshes[-1], gold["last_temp_masks"], allowed["last_temp_masks"], label="pseudo-masks")
    masks, _ = clip.propagate(network, options)
    assert_within(masks, gold["final_masks"], allowed["final_masks"], label="final masks")
