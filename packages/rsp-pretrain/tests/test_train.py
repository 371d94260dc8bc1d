"""Pre-training runs at a small size: they learn, they go on after a kill, ranks and accumulation change nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rsp_pretrain.cli import main
from rsp_pretrain.config import Architecture, Objective
from rsp_pretrain.data.pairs import PairConfig
from rsp_pretrain.model import RSP
from rsp_pretrain.train import run as train_run
from rsp_pretrain.train.objective import PairBatch, PairLoss, SeededPairs, collate, draws_of
from rsp_pretrain.train.published import checkpoint_file
from rsp_pretrain.train.run import TrainOptions, pretrain
from rsp_pretrain.train.schedule import layer_of, learning_rate, optimizer_groups
from rsp_pretrain.weights import load_encoder, load_rsp
from vos_core.errors import InterruptError, LayoutError, UsageError, WeightsError
from vos_core.testing import run_ranks
from vos_core.training.distributed import Ranks
from vos_core.weights.load import read_checkpoint

TINY = Architecture(patch=16, dim=32, depth=2, heads=2, decoder_dim=32, decoder_depth=1, decoder_heads=2, image_size=64)
GOAL = Objective(norm_pix_loss=False, stoch=4, discrete=4, kl_freebit=0.0)


def network(goal: Objective = GOAL) -> RSP:
    torch.manual_seed(3)
    return RSP(TINY, goal)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Eight folders of twelve frames in which a square moves."""
    for video in range(8):
        folder = tmp_path / "videos" / f"v{video}"
        folder.mkdir(parents=True)
        for number in range(12):
            frame = np.full((72, 96, 3), 30 * video, np.uint8)
            left = 4 * number + 3 * video
            frame[20:44, left : left + 24] = (250, 30 * video, 90)
            cv2.imwrite(str(folder / f"{number:05d}.png"), frame)
    return tmp_path / "videos"


@pytest.fixture
def options(videos: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(
        data=videos,
        output=tmp_path / "run",
        objective=GOAL,
        pairs=PairConfig(size=64, max_distance=6),
        batch_size=2,
        epochs=8,
        warmup_epochs=2,
        lr=2e-3,
        workers=0,
        save_epochs=2,
        log_every=1,
        progress=False,
    )


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["model"]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def assert_alike(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Equal up to the order of sums. A key's bias moves no soft-max: its gradient is rounding, whose sign Adam follows."""
    for key, value in left.items():
        other = right[key]
        if key.endswith(("kv.bias", "qkv.bias")):
            keys = value.numel() // TINY.dim - 2
            value, other = (torch.cat((x[: TINY.dim * keys], x[-TINY.dim :])) for x in (value, other))
        torch.testing.assert_close(other, value, rtol=1e-4, atol=2e-5, msg=key)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_what_others_read(options):
    last = pretrain(replace(options, epochs=40), Ranks(), network=network())
    assert last == options.output / "checkpoint-19.pth"
    saved = sorted(path.name for path in options.output.glob("checkpoint-*.pth"))
    assert saved == sorted(f"checkpoint-{epoch}.pth" for epoch in (*range(0, 20, 2), 19))
    content = read_checkpoint(last)
    assert list(content) == ["model", "optimizer", "epoch", "scaler", "args"]
    assert (content["epoch"], content["args"]["lr"], content["args"]["stoch"]) == (19, 2e-3, 4)
    assert [group["weight_decay"] for group in content["optimizer"]["param_groups"]] == [0.0, 0.05]
    rows = lines(options.output)
    assert len(rows) == 20 * 4
    assert set(rows[0]) == {"step", "loss", "loss_post", "loss_prior", "loss_kl", "kl", "loss_mae", "lr", "seconds_per_step"}
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:8])
    assert rows[0]["lr"] == 0
    assert rows[-1]["lr"] < 1e-4
    whole = load_rsp(last)
    assert (whole.architecture, whole.objective) == (TINY, GOAL)
    encoder, report = load_encoder(last)
    assert report is not None
    assert set(report.ignored) == {
        "mask_token",
        "decoder_pos_embed",
        "to_posterior",
        "to_prior",
        "decoder_embed_mae",
        "decoder_embed_deter",
        "decoder_embed_stoch",
        "decoder_blocks",
        "decoder_norm",
        "decoder_pred",
    }
    assert torch.equal(encoder.norm.weight, content["model"]["norm.weight"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gaussian_latents_train_too(options, precision):
    goal = Objective(norm_pix_loss=True, stoch=6, discrete=0, kl_freebit=0.0, kl_scale=0.1)
    settings = replace(options, objective=goal, epochs=24, precision=precision)
    last = pretrain(settings, Ranks(), network=network(goal))
    rows = lines(options.output)
    assert np.mean([row["loss"] for row in rows[-4:]]) < np.mean([row["loss"] for row in rows[:4]])
    assert load_rsp(last).objective == goal


def interrupted_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process get Ctrl-C once the loss was computed `steps` times."""
    import signal

    calls = []

    class Stopping(PairLoss):
        def __call__(self, *args):
            calls.append(1)
            if len(calls) == steps:
                signal.raise_signal(signal.SIGINT)
            return super().__call__(*args)

    monkeypatch.setattr(train_run, "PairLoss", Stopping)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_interrupted_run_goes_on_bit_for_bit(options, monkeypatch, tmp_path, accumulate):
    settings = replace(options, accumulate=accumulate, prior_every=1)
    whole = pretrain(settings, Ranks(), network=network())
    other = replace(settings, output=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        interrupted_after(4, patch)
        with pytest.raises(InterruptError, match="saved at step"):
            pretrain(other, Ranks(), network=network())
    last = pretrain(other, Ranks(), network=network())
    assert same(weights(whole), weights(last))
    for left, right in zip(lines(settings.output), lines(other.output), strict=True):
        assert {**left, "seconds_per_step": 0} == {**right, "seconds_per_step": 0}


def test_a_killed_run_goes_on_from_its_last_checkpoint(options, monkeypatch, tmp_path):
    whole = pretrain(options, Ranks(), network=network())
    other = replace(options, output=tmp_path / "killed")

    class Killed(PairLoss):
        def __call__(self, model, batch, step):
            if step == 6:
                raise KeyboardInterrupt
            return super().__call__(model, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(train_run, "PairLoss", Killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(other, Ranks(), network=network())
    (other.output / "checkpoint-0.pth").unlink()  # killed between the two files of epoch 0 or later: only the newest is missed
    assert same(weights(whole), weights(pretrain(other, Ranks(), network=network())))


def test_a_published_checkpoint_is_gone_on_from(options, tmp_path):
    whole = pretrain(options, Ranks(), network=network())
    middle = options.output / "checkpoint-2.pth"
    other = replace(options, output=tmp_path / "resumed", resume=str(middle))
    assert same(weights(whole), weights(pretrain(other, Ranks(), network=network())))
    with pytest.raises(WeightsError, match="does not fit"):
        pretrain(replace(other, output=tmp_path / "x"), Ranks(), network=RSP(replace(TINY, dim=64), GOAL))
    torch.save({"model": {}}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="optimizer"):
        pretrain(replace(other, output=tmp_path / "y", resume=str(tmp_path / "weights.pth")), Ranks(), network=network())


def test_an_output_of_other_settings_is_refused(options):
    pretrain(replace(options, epochs=2), Ranks(), network=network())
    with pytest.raises(UsageError, match="other settings"):
        pretrain(replace(options, epochs=2, lr=1.0), Ranks(), network=network())


def test_weights_to_start_from(options, tmp_path):
    start = network()
    with torch.no_grad():
        start.norm.weight.fill_(2)
    torch.save(start.state_dict(), tmp_path / "whole.pth")
    encoder = {
        key: value for key, value in start.state_dict().items() if key.startswith(("cls", "pos", "patch", "blocks", "norm"))
    }
    torch.save(encoder, tmp_path / "encoder.pth")
    # MAE: a decoder of its own, which is none of RSP's.
    mae = {**encoder, "mask_token": torch.ones(1, 1, 32), "decoder_pred.weight": torch.ones(5, 32)}
    torch.save({"model": mae}, tmp_path / "mae.pth")
    for name, ignored in (("whole.pth", {}), ("encoder.pth", {}), ("mae.pth", {"mask_token": 1, "decoder_pred": 1})):
        fresh, start_values = network(), network()
        report = train_run._fill(fresh, tmp_path / name)
        assert fresh.norm.weight.unique().tolist() == [2]
        assert report.ignored == ignored
        assert torch.equal(fresh.decoder_pred.weight, start_values.decoder_pred.weight)
    said: list[object] = []
    pretrain(replace(options, init=tmp_path / "mae.pth", epochs=2), Ranks(), network=network(), on_init=said.append)
    assert "ignored 2: mask_token 1, decoder_pred 1" in str(said[0])
    encoder.pop("norm.bias")
    torch.save(encoder, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"norm\.bias"):
        train_run._fill(network(), tmp_path / "part.pth")


RANK_SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from rsp_pretrain.config import Architecture, Objective
from rsp_pretrain.data.pairs import PairConfig
from rsp_pretrain.model import RSP
from rsp_pretrain.train.run import TrainOptions, pretrain
from vos_core.training.distributed import ranks_from_environment

def rank():
    torch.set_num_threads(1)
    torch.manual_seed(3)
    options = eval(sys.argv[1], {**globals(), "PosixPath": Path})
    network = RSP(eval(sys.argv[2]), options.objective)
    with ranks_from_environment() as ranks:
        assert ranks.world == 2
        pretrain(options, ranks, network=network)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
def test_two_ranks_equal_one(options, tmp_path):
    settings = replace(options, batch_size=4, epochs=4)
    one = pretrain(settings, Ranks(), network=network())
    halves = replace(settings, batch_size=2, output=tmp_path / "two")
    run_ranks(RANK_SCRIPT, repr(halves), repr(TINY))
    assert_alike(weights(one), weights(tmp_path / "two" / one.name))
    for a, b in zip(lines(options.output), lines(tmp_path / "two"), strict=True):
        assert list(b) == list(a)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)


def test_accumulating_equals_one_large_batch(options, tmp_path):
    large = pretrain(replace(options, batch_size=4, epochs=4), Ranks(), network=network())
    small = pretrain(replace(options, accumulate=2, epochs=4, output=tmp_path / "small"), Ranks(), network=network())
    assert_alike(weights(large), weights(small))


def test_random_numbers_belong_to_the_video(tiny):
    model = tiny()
    images = torch.zeros(4, 3, 64, 64)
    both = draws_of(model, images, (5, 6))
    alone = draws_of(model, images[:2], (6,))
    for name in ("noise", "post", "prior", "mask_noise"):
        assert torch.equal(getattr(both, name)[2:], getattr(alone, name))
    assert not torch.equal(both.noise[0], both.noise[1])


def test_the_prior_is_predicted_when_due_and_moves_nothing(tiny):
    seen = []

    class Watching(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, *args, with_prior):
            seen.append(with_prior)
            return self.model(*args, with_prior=with_prior)

    model, frames = tiny(), torch.randint(0, 255, (2, 2, 3, 64, 64), dtype=torch.uint8)
    batch = PairBatch(frames, frames.flip(0), (1, 2))
    compute = PairLoss(model, torch.device("cpu"), prior_every=3)
    results = [compute(Watching(model), batch, step) for step in range(1, 5)]
    assert seen == [True, False, True, False]
    assert all(torch.equal(result.loss, results[0].loss) for result in results)
    assert (results[0].pictures or dict)()["pairs"].shape == (4 * 64, 5 * 64, 3)


def test_samples_keep_their_seed_from_their_generator():
    class Pairs:
        def __len__(self):
            return 1

        def draw(self, index, *, epoch, rng):
            return torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.ones(2, 3, 4, 4, dtype=torch.uint8)

    items = [SeededPairs(Pairs()).draw(0, epoch=0, rng=np.random.default_rng(seed)) for seed in (1, 1, 2)]
    batch = collate(items)
    assert batch.seeds[0] == batch.seeds[1] != batch.seeds[2]
    assert batch.present.shape == (3, 2, 3, 4, 4)


def test_layers_learn_slower_towards_the_input():
    model = network()
    groups = optimizer_groups(model.named_parameters(), lr=1.0, weight_decay=0.1, decay_factor=0.5, depth=2)
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert rates["patch_embed.proj.weight"] == 0.125
    assert (rates["blocks.0.norm1.bias"], rates["blocks.1.norm1.bias"], rates["norm.bias"]) == (0.25, 0.5, 1.0)
    assert rates["decoder_pred.weight"] == 1.0
    decays = [group["weight_decay"] for group in groups]
    assert decays == sorted(decays)
    assert layer_of("cls_token", 12) == 0


def test_the_rate_rises_falls_and_ends():
    rule = {"lr": 1.0, "min_lr": 0.1, "warmup_epochs": 2, "epochs": 10}
    found = [learning_rate(epoch, **rule) for epoch in (0, 1, 2, 6, 10)]
    np.testing.assert_allclose(found, [0, 0.5, 1, 0.55, 0.1])


def test_clipping_is_wired(options, tmp_path):
    free = pretrain(replace(options, epochs=2), Ranks(), network=network())
    bound = replace(options, epochs=2, clip_grad=1e-3, output=tmp_path / "clipped")
    assert not same(weights(free), weights(pretrain(bound, Ranks(), network=network())))


def test_files_to_resume_from(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        checkpoint_file(str(tmp_path / "absent.pth"))


def test_too_little_data_and_no_data_are_named(options, tmp_path):
    with pytest.raises(UsageError, match="8 samples, fewer than one batch of 9"):
        pretrain(replace(options, batch_size=9), Ranks(), network=network())
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match="no video"):
        pretrain(replace(options, data=tmp_path / "empty"), Ranks(), network=network())


@pytest.fixture
def asked(monkeypatch):
    seen = []
    monkeypatch.setattr(train_run, "pretrain", lambda options, ranks, **named: seen.append((options, ranks)) or Path("last.pth"))
    return seen


def test_options_become_settings(asked, tmp_path):
    words = "--model rsp_vit_base_patch16_dec512d8b --batch-size 5 --accum_iter 2 --epochs 10 --warmup-epochs 1 --blr 1e-3 "
    words += (
        "--min-lr 1e-6 --weight_decay 0.1 --layer-decay 0.75 --clip-grad 1 --norm_pix_loss --mask-ratio 0.5 --noise_scale 0.1 "
    )
    words += "--picture-every 7 "
    words += "--kl_scale 0.2 --kl_balance 0.3 --kl_freebit 0.4 --stoch 8 --discrete 0 --input-size 128 --max-distance 9 "
    words += (
        "--repeated-sampling 3 --prefetch-factor 4 --no-pin-mem --num_workers 1 --device cpu --precision bf16 --seed 4 --json"
    )
    done = CliRunner().invoke(main, ["train", "--data-path", "D", "--output_dir", str(tmp_path), *words.split(), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {"checkpoint": "last.pth"}
    options, ranks = asked.pop()
    assert ranks.device == torch.device("cpu")
    assert options.objective == Objective(
        norm_pix_loss=True, mask_ratio=0.5, noise_scale=0.1, kl_scale=0.2, kl_balance=0.3, kl_freebit=0.4, stoch=8, discrete=0
    )
    assert options.pairs == PairConfig(repeated_sampling=3, max_distance=9, size=128)
    expected = {"data": Path("D"), "output": tmp_path, "variant": "rsp_vit_base_patch16_dec512d8b", "batch_size": 5}
    expected |= {"accumulate": 2, "epochs": 10, "warmup_epochs": 1, "blr": 1e-3, "min_lr": 1e-6, "weight_decay": 0.1}
    expected |= {"layer_decay": 0.75, "clip_grad": 1, "prefetch": 4, "pin_memory": False, "workers": 1, "precision": "bf16"}
    expected |= {"seed": 4, "lr": None, "picture_every": 7}
    assert {name: getattr(options, name) for name in expected} == expected


def test_defaults_are_the_published_ones(asked):
    assert CliRunner().invoke(main, ["train", "--data_path", "D", "--device", "cpu"]).exit_code == 0
    options, _ = asked.pop()
    assert options.objective == Objective(norm_pix_loss=False)
    assert options.pairs == PairConfig()
    assert (options.batch_size, options.epochs, options.warmup_epochs, options.blr) == (64, 400, 40, 1.5e-4)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--data_path"),
        (["--data_path", "D", "--model", "rsp_vit_tiny"], "rsp_vit_tiny"),
        (["--data_path", "D", "--discrete", "1"], "discrete"),
        (["--data_path", "D", "--mask_ratio", "1.5"], "mask_ratio"),
        (["--data_path", "D", "--accum_iter", "2", "--accumulate", "3"], "--accum_iter"),
        (["--data_path", "nowhere"], "nowhere"),
    ],
)
def test_wrong_use_exits_with_a_sentence(words, named, tmp_path):
    failed = CliRunner().invoke(main, ["train", *words, "--device", "cpu", "-o", str(tmp_path)])
    assert failed.exit_code in (1, 2)
    assert named in failed.output
    assert "Traceback" not in failed.output


@pytest.mark.parametrize(
    ("variables", "words", "named"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, [], "4 processes were started"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, [], "2 processes were started"),
        ({}, ["--local_rank", "1"], "without the variable LOCAL_RANK=1"),
        ({"LOCAL_RANK": "0"}, ["--local-rank", "1"], "without the variable LOCAL_RANK=1"),
    ],
)
def test_ranks_that_would_not_know_of_each_other_are_refused(asked, monkeypatch, variables, words, named):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    failed = CliRunner().invoke(main, ["train", "--data_path", "D", "--device", "cpu", *words])
    assert failed.exit_code == 2
    assert named in failed.output
    assert "torchrun" in failed.output
    assert not asked


def test_what_the_older_launcher_passes_is_taken(asked, monkeypatch):
    for words in (["--local_rank", "-1"], []):
        assert CliRunner().invoke(main, ["train", "--data_path", "D", "--device", "cpu", *words]).exit_code == 0
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "SLURM_STEP_NUM_TASKS": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    assert CliRunner().invoke(main, ["train", "--data_path", "D", "--device", "cpu", "--local-rank=0"]).exit_code == 0
    assert len(asked) == 3
