from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vos_core.data.sampling import IdMap, WorkerSeed, seed_worker
from vos_core.errors import UsageError


def test_worker_seed_is_base_plus_worker():
    assert seed_worker(3, base=10) == 13
    drawn = random.random(), np.random.rand()
    random.seed(13)
    np.random.seed(13)
    assert drawn == (random.random(), np.random.rand())
    pickle.loads(pickle.dumps(WorkerSeed(12)))(1)
    assert (random.random(), np.random.rand()) == drawn
    torch.manual_seed(13)
    expected = torch.rand(2)
    WorkerSeed(12)(1)
    assert torch.equal(torch.rand(2), expected)


@given(st.sets(st.integers(1, 65535), min_size=1, max_size=8), st.integers(0, 5))
def test_ids_survive_the_round_trip(ids, seed):
    chosen = IdMap.of(ids)
    labels = np.random.default_rng(seed).choice([0, *chosen.ids], (4, 5)).astype(np.uint16)
    dense = chosen.to_dense(labels)
    assert dense.max() <= len(ids)
    np.testing.assert_array_equal(chosen.to_original(dense), labels)


def test_unknown_labels_and_wrong_numbers():
    chosen = IdMap.of([200, 5])
    assert chosen.to_dense(np.array([[5, 7, 200]], np.uint8)).tolist() == [[1, 0, 2]]
    assert chosen.to_original(np.array([[2, 0]])).dtype == np.uint8
    with pytest.raises(UsageError, match="dense label 3"):
        chosen.to_original(np.array([[3]]))
    with pytest.raises(UsageError):
        IdMap.of([0])
