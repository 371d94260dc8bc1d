"""Seconds per step of test-time training at 480x854, against a plain formulation of the same step on the same machine.

The plain one encodes all frames once per direction, runs value encoder and decoder once per object on concatenated inputs (an
empty second object included where there is one), keeps NCHW tensors and steps Adam tensor by tensor.

    python benchmarks/ttt.py --steps 3 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import machine
from stcn import _concatenated, plain_layers, synthetic_clip
from torch import Tensor

from stcn_ttt.adapt.backbone import StcnBackbone, freeze_layers
from stcn_ttt.adapt.objective import Loss, Sequences, loss_of
from stcn_ttt.model import STCN
from stcn_ttt.prepare import normalise
from vos_core.ops.aggregate import aggregate_logits
from vos_core.ops.pad import pad_to_multiple
from vos_core.training.loop import autocast

MODES = ("plain", "fp32", "bf16")


def sequence(objects: int) -> Sequences:
    """Return three frames, five apart, with two slots or more."""
    frame_at, prompts = synthetic_clip(objects)
    images = torch.stack([pad_to_multiple(normalise(frame_at(t).rgb), 16)[0] for t in (0, 5, 10)])[None]
    masks = [torch.from_numpy(prompt.mask) for prompt in prompts if prompt.mask is not None]
    target = torch.zeros(masks[0].shape, dtype=torch.int64)
    for place, mask in enumerate(masks):
        target[mask] = place + 1
    plane = torch.stack([(target == place + 1).float() for place in range(max(2, objects))])
    padded, target = pad_to_multiple(plane, 16)[0][None], pad_to_multiple(target, 16)[0][None]
    selector = torch.tensor([[float(place < objects) for place in range(max(2, objects))]])
    return Sequences(images, padded, padded.sum(1, keepdim=True) - padded, selector, target)


def plain_loss(network: STCN, batch: Sequences) -> Tensor:
    """Return the cycle loss as it is written."""
    forward = _plain_pass(network, batch.images, batch.masks, batch.others, batch.selector)
    soft = forward[-1].softmax(1)[:, 1:]
    back = _plain_pass(network, batch.images.flip(1), soft, soft.sum(1, keepdim=True) - soft, batch.selector)
    return F.cross_entropy(back[-1], batch.target)


def _plain_pass(network: STCN, images: Tensor, masks: Tensor, others: Tensor, selector: Tensor) -> list[Tensor]:
    features = network.encode_key(images[0])
    found: list[Tensor] = []
    keys, values = [features.key[:1]], [_plain_value(network, images[:, 0], features.f16[:1], masks, others)]
    for t in range(1, images.shape[1]):
        memory = torch.stack(keys, 2).flatten(2)
        similarity = (2 * memory.transpose(1, 2) @ features.key[t].flatten(1) - memory.square().sum(1).unsqueeze(2)) / 8
        affinity = similarity.softmax(1)
        logits = []
        for place in range(masks.shape[1]):
            stored = torch.stack([value[place] for value in values], 1).flatten(1)
            read = (stored @ affinity[0]).view(1, 512, *features.key.shape[2:])
            logits.append(_plain_decode(network, read, features, t))
        probs = torch.sigmoid(torch.cat(logits, 1)) * selector[:, :, None, None]
        found.append(aggregate_logits(probs))
        if t < images.shape[1] - 1:
            soft = found[-1].softmax(1)[:, 1:]
            keys.append(features.key[t : t + 1])
            rest = soft.sum(1, keepdim=True) - soft
            values.append(_plain_value(network, images[:, t], features.f16[t : t + 1], soft, rest))
    return found


def _plain_value(network: STCN, image: Tensor, f16: Tensor, masks: Tensor, others: Tensor) -> list[Tensor]:
    encoder, found = network.value_encoder, []
    for place in range(masks.shape[1]):
        own = encoder.trunk(torch.cat((image, masks[:, place : place + 1], others[:, place : place + 1]), 1))
        x = _concatenated(encoder.fuser.block1, torch.cat((own, f16), 1))
        found.append(encoder.fuser.block2(x + encoder.fuser.attention(x))[0])
    return found


def _plain_decode(network: STCN, readout: Tensor, features: Any, t: int) -> Tensor:
    decoder, one = network.decoder, slice(t, t + 1)
    x = _concatenated(decoder.compress, torch.cat((readout, features.thin[one]), 1))
    x = decoder.up_16_8(decoder.up_16_8.skip_conv(features.f8[one]), x)
    x = decoder.up_8_4(decoder.up_8_4.skip_conv(features.f4[one]), x)
    return F.interpolate(decoder.pred(F.relu(x)), scale_factor=4, mode="bilinear", align_corners=False)


class Mode:
    """One way to step."""

    def __init__(self, name: str, *, loss: Loss, frozen: tuple[str, ...]) -> None:
        torch.manual_seed(0)
        self.name, self.loss = name, loss
        self.network = STCN()
        if name != "plain":
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        freeze_layers(self.network, frozen)
        trainable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trainable, lr=1e-7, weight_decay=1e-7, foreach=False, fused=name != "plain")
        self.backbone = StcnBackbone(self.network)

    def step(self, batch: Sequences) -> tuple[float, float, float]:
        """Return loss, wall seconds and CPU seconds of one step."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast("bf16" if self.name == "bf16" else "fp32", torch.device("cpu")):
            if self.name == "plain":
                with plain_layers():
                    loss = plain_loss(self.network, batch)
            else:
                loss = loss_of(self.backbone, batch, self.loss)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach()), time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Measure, print and write `records/ttt.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "ttt.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for objects in arguments.objects:
        batch = sequence(objects)
        cells: dict[str, dict[str, Any]] = {}
        for loss, frozen, names in (("tt-mcc", (), MODES), ("tt-mcc", ("enc",), ("fp32", "bf16"))):
            for name in names:  # one network at a time: Adam and gradients of several would not fit small machines
                mode = Mode(name, loss=loss, frozen=frozen)
                runs = [mode.step(batch) for _ in range(arguments.steps + 1)][1:]
                key = name if not frozen else f"{name}, frozen {','.join(frozen)}"
                cells[key] = {
                    "loss": runs[0][0],
                    "wall_s": statistics.median(run[1] for run in runs),
                    "cpu_s": statistics.median(run[2] for run in runs),
                }
                del mode
        for key, cell in cells.items():
            cell["times_faster_wall"] = cells["plain"]["wall_s"] / cell["wall_s"]
            cell["times_faster_cpu"] = cells["plain"]["cpu_s"] / cell["cpu_s"]
            print(
                f"{objects} object(s), {key}: {cell['wall_s']:.2f} s, {cell['times_faster_wall']:.2f}x, loss {cell['loss']:.6f}"
            )
        rows.append({"objects": objects, "modes": cells})
    record = {
        "what": "one step of tt-mcc, three frames 480x854",
        "threads": arguments.threads,
        "load": os.getloadavg(),
        "machine": machine(),
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
