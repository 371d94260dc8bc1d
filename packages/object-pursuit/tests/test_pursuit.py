"""The pursuit's decisions, its files, and going on in mid-stream."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from object_pursuit.config import PRESETS
from object_pursuit.data.shapes import held_object
from object_pursuit.fit.fitter import Fitter, predictor
from object_pursuit.model import Coeffnet, build_encoder, build_hypernet
from object_pursuit.pursuit import Pursuit, PursuitOptions, StartPoint
from object_pursuit.pursuit.records import RoundLog, read_rounds
from object_pursuit.pursuit.reidentify import best_code, reid_batches, score_codes
from object_pursuit.weights import code_files, read_bases, read_code, read_code_weights
from vos_core.errors import FrameError, UsageError, VosError

STREAM = ("a", "b", "a", "c")
FAST = PursuitOptions(
    tau=0.05, batch=4, express_lr=5e-3, express_epochs=1, express_patience=1, base_lr=4e-4, base_epochs=2, base_patience=1, seed=3
)


def start(*, bases=0, trainable=True):
    torch.manual_seed(0)
    config = PRESETS["tiny"]
    codes = torch.randn(bases, config.z_dim) if bases else None
    return StartPoint(config, build_hypernet(config), build_encoder(config), encoder_trainable=trainable, bases=codes)


def images(name):
    return held_object(10 + "abc".index(name), 8, seed=1)


def pursue(out, *, options=FAST, stream=STREAM, bases=0, rounds=None, open_data=images, **more):
    return Pursuit(start(bases=bases), stream, open_data, options=options, out=out, **more).run(rounds=rounds)


def files_of(out):
    """Every file that counts, by name: tensors as they are, texts without times."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.suffix == ".pth":
            found[name] = flat(torch.load(path, weights_only=True))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        else:
            found[name] = path.read_text()
    return found


def flat(value, prefix=""):
    if isinstance(value, dict):
        return {key: tensor for name, part in value.items() for key, tensor in flat(part, f"{prefix}{name}/").items()}
    return {prefix: value}


def assert_same(one, other):
    assert set(one) == set(other)
    for name, value in one.items():
        if isinstance(value, dict):
            assert set(value) == set(other[name]), name
            for key, tensor in value.items():
                assert torch.equal(tensor, other[name][key]), (name, key)
        else:
            assert value == other[name], name


def test_a_pursuit_from_nothing(tmp_path):
    rounds = pursue(tmp_path / "run")
    assert rounds[0].verdict == "new_base", "nothing is known, so the first object is a base"
    assert rounds[0].first is None
    assert rounds[0].second is None
    assert [one.name for one in rounds] == list(STREAM)
    assert rounds[2].verdict == "seen"
    assert rounds[2].reid > FAST.tau
    info = json.loads((tmp_path / "run/z_info.json").read_text())
    assert [entry["index"] for entry in info] == list(range(rounds[-1].objects))
    assert [entry["data_dir"] for entry in info] == [one.data_dir for one in rounds if one.accepted]
    bases = json.loads((tmp_path / "run/base_info.json").read_text())
    assert [set(entry) for entry in bases] == [{"index", "data_dir", "base_file", "z_file"}] * rounds[-1].bases
    assert len(code_files(tmp_path / "run/zs")) == rounds[-1].objects
    assert read_rounds(tmp_path / "run") == rounds
    text = (tmp_path / "run/pursuit_log.txt").read_text()
    assert "round 3: a" in text
    assert "seen" in text


def test_expressed_codes_are_combinations_and_change_nothing(tmp_path):
    run = tmp_path / "run"
    options = FAST.model_copy(update={"tau": 0.0})
    (record,) = pursue(run, options=options, stream=("a",), bases=3)
    assert record.verdict == "expressed"
    assert record.base is None
    saved = torch.load(run / "explored_objects/obj_3/coeff_pursuit/Best_coeff.pth", weights_only=True)["coeffs"]
    bases = read_bases(run / "Bases")
    total = torch.zeros(bases.shape[1])
    for coefficient, base in zip(saved, bases, strict=True):
        total = total + coefficient * base
    assert torch.equal(read_code(run / "zs/z_0003.pth"), total)
    state = torch.load(run / "checkpoint/hypernet.pth", weights_only=True)
    torch.manual_seed(0)
    torch.randn(3, PRESETS["tiny"].z_dim)
    assert set(state) == set(build_hypernet(PRESETS["tiny"]).state_dict())


def test_discarded_objects_leave_the_hypernetwork_bit_identical(tmp_path):
    run = tmp_path / "run"
    options = FAST.model_copy(update={"tau": 1.0})
    pursuit = Pursuit(start(bases=2), ("a", "b"), images, options=options, out=run)
    before = {key: value.clone() for key, value in pursuit.hypernet.state_dict().items()}
    rounds = pursuit.run()
    assert [one.verdict for one in rounds] == ["discarded", "discarded"]
    for key, value in pursuit.hypernet.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert len(code_files(run / "zs")) == 2
    assert json.loads((run / "z_info.json").read_text()) == []
    assert not any((run / "explored_objects").iterdir())


def test_the_first_discard_returns_to_the_start(tmp_path):
    pursuit = Pursuit(start(), ("a",), images, options=FAST.model_copy(update={"tau": 1.0}), out=tmp_path / "run")
    before = {key: value.clone() for key, value in pursuit.hypernet.state_dict().items()}
    assert [one.verdict for one in pursuit.run()] == ["discarded"]
    assert all(torch.equal(value, before[key]) for key, value in pursuit.hypernet.state_dict().items())


def test_redundant_objects_keep_the_changed_network_but_no_base(tmp_path, monkeypatch):
    qualities = iter([0.0, 1.0, 1.0])
    module = __import__("object_pursuit.pursuit.loop", fromlist=["fit_object"])
    real = module.fit_object

    def fit(*args, **kwargs):
        from dataclasses import replace

        return replace(real(*args, **kwargs), quality=next(qualities))

    monkeypatch.setattr(module, "fit_object", fit)
    run = tmp_path / "run"
    pursuit = Pursuit(start(bases=2), ("a",), images, options=FAST.model_copy(update={"tau": 0.5}), out=run)
    before = {key: value.clone() for key, value in pursuit.hypernet.state_dict().items()}
    (record,) = pursuit.run()
    assert (record.verdict, record.first, record.base, record.second) == ("redundant", 0.0, 1.0, 1.0)
    assert record.bases == 2
    assert record.objects == 3
    assert any(not torch.equal(value, before[key]) for key, value in pursuit.hypernet.state_dict().items())
    stored = read_code_weights(run / "zs/z_0002.pth")
    with torch.no_grad():
        now = pursuit.hypernet(read_code(run / "zs/z_0002.pth"))
    assert all(torch.equal(stored[key], now[key]) for key in now)


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_resumed_pursuit_equals_an_uninterrupted_one(tmp_path, first):
    options = FAST.model_copy(update={"tau": 0.25})
    whole = pursue(tmp_path / "whole", options=options)
    pursue(tmp_path / "parts", options=options, rounds=first)
    rest = pursue(tmp_path / "parts", options=options)
    assert [one.verdict for one in rest] == [one.verdict for one in whole]
    assert_same(files_of(tmp_path / "whole"), files_of(tmp_path / "parts"))


def test_remembered_weights_are_the_same_from_memory_and_from_disk(tmp_path, monkeypatch):
    options = FAST.model_copy(update={"tau": 0.25})
    for name, budget in (("memory", 2**30), ("disk", 0)):
        monkeypatch.setattr("object_pursuit.pursuit.loop._TARGET_BYTES", budget)
        (record,) = pursue(tmp_path / name, options=options, stream=("a",), bases=2)
        assert record.base is not None, "a new base was tried, with two codes to remember"
    assert_same(files_of(tmp_path / "memory"), files_of(tmp_path / "disk"))


def test_a_killed_round_is_done_again(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pursue(whole)
    pursue(killed, rounds=2)
    kept = tmp_path / "kept"
    shutil.copytree(killed, kept)
    pursue(killed, rounds=1)
    shutil.copy(kept / "state.json", killed / "state.json")  # killed after the round's files, before its state
    shutil.copytree(kept / "checkpoint", killed / "checkpoint", dirs_exist_ok=True)
    (killed / "zs/z_0077.pth").write_bytes(b"left over")
    with (killed / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "na')
    pursue(killed)
    assert_same(files_of(whole), files_of(killed))


def test_other_settings_are_refused(tmp_path):
    pursue(tmp_path / "run", rounds=1)
    with pytest.raises(UsageError, match=r"other settings .*tau"):
        pursue(tmp_path / "run", options=FAST.model_copy(update={"tau": 0.5}))
    with pytest.raises(UsageError, match="stream"):
        pursue(tmp_path / "run", stream=("b", "a"))
    rounds = pursue(tmp_path / "run", options=FAST.model_copy(update={"tau": 0.5}), stream=("b",), resume=False)
    assert [one.name for one in rounds] == ["b"]


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        pursue(tmp_path)


def test_failures_stop_or_are_recorded(tmp_path):
    def broken(name):
        if name == "b":
            raise FrameError("image b/imgs/3.png is damaged", fix="Copy it again")
        return images(name)

    with pytest.raises(FrameError, match=r"b/imgs/3\.png"):
        pursue(tmp_path / "stop", open_data=broken, tell=(told := []).append)
    assert told
    assert not any("Traceback" in line for line in told), "where the fault is the user's, the log has it and not the screen"
    assert [one.name for one in read_rounds(tmp_path / "stop")] == ["a"]
    assert "Traceback" in (tmp_path / "stop/pursuit_log.txt").read_text()
    rounds = pursue(tmp_path / "skip", open_data=broken, on_error="skip")
    assert rounds[1].verdict == "failed"
    assert "b/imgs/3.png" in rounds[1].error
    assert len(rounds) == len(STREAM)
    resumed = pursue(tmp_path / "stop")
    assert len(resumed) == len(STREAM)


def test_a_loss_that_is_not_finite_is_an_error_and_not_quality_0(tmp_path):
    def poisoned(name):
        data = images(name)
        data.samples.images.fill_(float("nan"))
        return data

    with pytest.raises(VosError, match="loss of a fit is nan"):
        pursue(tmp_path / "run", open_data=poisoned)


def test_snapshots_before_rounds(tmp_path):
    pursue(tmp_path / "run", save_interval=2, rounds=2)
    folder = tmp_path / "run/checkpoint/checkpoint_round_2"
    assert {path.name for path in folder.iterdir()} >= {"hypernet.pth", "backbone.pth", "zs", "Bases", "z_info.json"}
    assert read_code_weights(next((folder / "zs").iterdir())) is None


def test_reference_file_names(tmp_path):
    pursue(tmp_path / "run", stream=("a",), names="reference")
    assert read_code(tmp_path / "run/zs/z_0000.json").shape == (24,)
    assert json.loads((tmp_path / "run/z_info.json").read_text())[0]["z_file"] == "z_0000.json"


def test_the_first_of_equal_codes_is_the_match():
    assert best_code([0.1, 0.7, 0.7]) == 1


def test_reid_keeps_a_last_batch_of_one():
    torch.manual_seed(0)
    assert [len(batch) for batch in reid_batches(65, 1.0, 64)] == [64, 1]
    assert [len(batch) for batch in reid_batches(5, 0.1, 64)] == [1]


@pytest.mark.parametrize(("dropout", "noisy"), [("always", True), ("train", False), ("never", False)])
def test_dropout_while_scoring(dropout, noisy):
    begin = start(bases=2)
    network = Coeffnet(begin.hypernet, begin.encoder, bases=begin.bases, dropout=dropout)
    fitter = Fitter(network, FAST.coefficient_fit(second=False))
    samples = images("a").read(range(4), draw=0)
    predict = predictor(network)
    assert torch.equal(predict(samples.images, None), predict(samples.images, None)) is not noisy
    losses = set()
    for _ in range(2):
        torch.manual_seed(1)
        losses.add(fitter.model(samples.images).sum().item())
    torch.manual_seed(2)
    losses.add(fitter.model(samples.images).sum().item())
    assert len(losses) == (1 if dropout == "never" else 2), "training drops unless it never does"
    codes = begin.bases
    scores = [score_codes(codes, images("a"), [[0, 1, 2, 3]], begin.hypernet, begin.encoder, dropout=dropout) for _ in range(2)]
    assert noisy or scores[0] == scores[1]


def test_the_log_drops_lines_cut_short(tmp_path):
    log = RoundLog(tmp_path)
    log.rounds.write_text('{"round": 1, "name": "a", "data_dir": "a", "verdict": "seen"}\n{"round": 2, "na')
    assert [one.round for one in log.read()] == [1]
