from __future__ import annotations

import json
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vos_core.errors import UsageError
from vos_core.run.shards import DoneList, clip_cost, clip_digest, plan
from vos_core.types import Clip, ClipRecord


@given(st.lists(st.floats(0, 1000), max_size=30), st.integers(1, 6))
def test_plan_deals_every_clip_once_and_evenly(costs: list[float], workers: int) -> None:
    shares = plan(costs, workers)
    assert sorted(index for share in shares for index in share) == list(range(len(costs)))
    loads = [sum(costs[index] for index in share) for share in shares]
    # Greedy dealing never leaves a worker behind by more than one clip.
    assert max(loads) - min(loads) <= max(costs, default=0) + 1e-6
    assert all(costs[a] >= costs[b] for share in shares for a, b in pairwise(share))


def test_cost_is_frames_or_file_size(tmp_path, make_clip) -> None:
    assert clip_cost(make_clip(frames=7)) == 7
    short, long = tmp_path / "s.mp4", tmp_path / "l.mp4"
    short.write_bytes(b"0" * 1000)
    long.write_bytes(b"0" * 100_000)
    assert clip_cost(Clip(name="l", video=long)) > clip_cost(Clip(name="s", video=short))
    assert clip_cost(Clip(name="n", video=tmp_path / "none.mp4")) == 0


def test_digest_changes_with_the_input(make_clip) -> None:
    clip = make_clip()
    before = clip_digest(clip)
    assert clip_digest(clip) == before
    os.utime(clip.annotations["00000"], ns=(1, 1))
    assert clip_digest(clip) != before


def test_a_torn_line_is_no_record(make_clip, tmp_path) -> None:
    clip, other = make_clip("a"), make_clip("b")
    done = DoneList(tmp_path / "out", {"method": "m"})
    for item in (clip, other):
        done.begin(item)
        done.finish(item, ClipRecord(name=item.name, status="done"), written=0)
    file = tmp_path / "out" / "run.state.0.jsonl"
    whole = file.read_bytes()
    for cut in range(1, len(whole.splitlines(keepends=True)[-1]), 29):
        file.write_bytes(whole[:-cut])
        again = DoneList(tmp_path / "out", {"method": "m"})
        assert again.done(clip) is not None
        assert again.done(other) is None
        assert file.read_bytes().endswith(b"\n"), "the torn line is gone, so the next one begins on a line of its own"


def test_settings_of_an_unfinished_run_count_once_a_clip_has_begun(make_clip, tmp_path) -> None:
    clip, output = make_clip("a"), tmp_path / "out"
    DoneList(output, {"method": "unfit", "seed": 0})
    DoneList(output, {"method": "a", "seed": 0}).begin(clip)
    with pytest.raises(UsageError, match="method was 'a', now 'b'; seed was 0, now 1"):
        DoneList(output, {"method": "b", "seed": 1})
    DoneList(output, {"method": "b", "seed": 1}, overwrite=True).begin(clip)
    DoneList(output, {"method": "b", "seed": 1})


def test_ranks_keep_their_own_files_and_the_last_one_sees_all(make_clip, tmp_path) -> None:
    clips = [make_clip("a"), make_clip("b")]
    ranks = [DoneList(tmp_path / "out", {}, rank=rank) for rank in (0, 1)]
    for clip, done in zip(clips, ranks, strict=True):
        done.finish(clip, ClipRecord(name=clip.name, status="done"), written=0)
    with ranks[0].merged() as known:
        assert set(known) == {"a", "b"}
    with ranks[1].merged() as known:
        assert "b" in known
    assert not list((tmp_path / "out").iterdir())


def test_a_lone_run_tidies_up_after_ranks(make_clip, tmp_path) -> None:
    clip = make_clip("a")
    DoneList(tmp_path / "out", {}, rank=3).finish(clip, ClipRecord(name="a", status="done"), written=0)
    done = DoneList(tmp_path / "out", {})
    assert done.done(clip) is not None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.state.0.jsonl"]
    assert json.loads((tmp_path / "out" / "run.state.0.jsonl").read_text().splitlines()[0]) == {"settings": {}}
