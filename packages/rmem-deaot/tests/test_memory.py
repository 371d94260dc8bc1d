"""The long-term bank against a plain one that concatenates, its relevance, positions in time; the short-term memory."""

from __future__ import annotations

import pytest
import torch

from rmem_deaot.config import VARIANTS
from rmem_deaot.memory import GroupBank, ShortTermMemory, relevance
from rmem_deaot.model import AOTNetwork, attention
from rmem_deaot.model.layer import LayerMemory
from rmem_deaot.model.position import temporal_slots
from vos_core.bank import RestrictedBank

LENGTH = 6


@pytest.fixture(scope="module", params=["r50_deaotl_rmem", "r50_aotl_rmem"])
def network(request):
    torch.manual_seed(0)
    return AOTNetwork(VARIANTS[request.param].network).eval().requires_grad_(False)


def tokens(network):
    key, value = (128, 1024) if network.heads == 1 else (256, 256)
    return torch.randn(1, LENGTH, key), torch.randn(1, LENGTH, value)


def plain_read(network, query, held):
    """Every frame in order, positions added, one matrix of weights; returns values and each frame's share."""
    query = query + network.cur_pos_emb
    slots = temporal_slots(len(held))
    keys = torch.cat([key + network.mem_pos_emb[slot] for (key, _), slot in zip(held, slots, strict=True)], 1)
    values = torch.cat([value for _, value in held], 1)
    q, k, v = (x.unflatten(2, (network.heads, -1)).transpose(1, 2) for x in (query, keys, values))
    weights = torch.softmax(q @ k.transpose(2, 3) / q.shape[3] ** 0.5, 3)
    share = weights.unflatten(3, (len(held), LENGTH)).sum(4).mean(1)
    return (weights @ v).transpose(1, 2).flatten(2), share[0]


@pytest.mark.parametrize("block_bytes", [1, 2**24])
@torch.inference_mode()
def test_reads_like_a_plain_bank_while_frames_come_and_go(network, block_bytes, monkeypatch):
    monkeypatch.setitem(attention.BLOCK_BYTES, "cpu", block_bytes)
    torch.manual_seed(1)
    bank = GroupBank(network, RestrictedBank(latter=5), temporal_position=True)
    held: dict[int, tuple] = {}
    dropped = []
    for frame in range(14):
        query = tokens(network)[0]
        share = None
        if held:
            found, share = bank.read(0, query, measure=True)
            expected, expected_share = plain_read(network, query, list(held.values()))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(share, expected_share, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(share.sum(1), torch.ones(LENGTH))
            share = torch.rand(len(held)) ** 4  # so that frames of any age may leave
        memory = tokens(network)
        held[frame] = memory
        update = bank.add(frame, [LayerMemory(*memory, *memory)], share)
        if update.dropped is not None:
            dropped.append(update.dropped)
            del held[update.dropped]
        assert bank.frames == tuple(held)
        for position, (key, value) in enumerate(held.values()):
            stored = bank.frame(0, position)
            torch.testing.assert_close(stored[0], key[0])
            torch.testing.assert_close(stored[1], value[0])
    assert len(held) == 6
    assert len(dropped) == 8
    assert 0 not in dropped
    assert dropped != list(range(1, 9)), "relevance decides, not age alone"


def test_temporal_slots_are_those_of_a_nearest_resize_from_the_newest():
    for frames in range(5, 40):
        rows = torch.arange(4).flip(0).float().view(1, 1, 4)
        resized = torch.nn.functional.interpolate(rows, size=frames, mode="nearest").flatten().flip(0)
        assert temporal_slots(frames) == [int(slot) for slot in resized]


def test_relevance_is_the_share_of_attention_from_the_foreground():
    mass = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    torch.testing.assert_close(relevance(mass, torch.tensor([0.0, 1.0])), torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(relevance(mass, torch.tensor([0.5, 0.5])), torch.tensor([0.55, 0.45]))
    nothing = relevance(mass, torch.ones(2)).tolist()
    bank = RestrictedBank(latter=1)
    bank.add(0)
    bank.add(1, [1.0])
    assert bank.add(2, nothing).dropped == 1, "an empty foreground is no error"


def test_short_term_memory_skips_frames():
    def memory(value):
        x = torch.full((3, 2, 1), float(value))
        return [LayerMemory(x, x, x, x)]

    short = ShortTermMemory(skip=2)
    short.restart(memory(0))
    seen = []
    for value in range(1, 5):
        seen.append(short.read[0].key[0, 0, 0].item())
        short.add(memory(value))
    assert seen == [0, 0, 1, 2]
    short.keep([1])
    assert short.read[0].key.shape[0] == 1
    before = short.state_bytes()
    short.restart(memory(9))
    assert short.read[0].key[0, 0, 0].item() == 9
    assert before == 2 * 2 * 2 * 4
