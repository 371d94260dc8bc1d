"""Running a stage or a chain of stages: data, start weights, optimiser, loop, files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from stcn_ttt.train.objective import TripletPass, Triplets, triplet_loss
from stcn_ttt.train.stages import STAGES, YOUTUBE_STEP, Stage, skip_schedule
from stcn_ttt.train.start import Init, start_network
from stcn_ttt.train.static_data import StaticTriplets
from stcn_ttt.train.video_data import SIZE, VideoTriplets, annotated_clips, collate, read_subset
from vos_core.contract import Precision
from vos_core.data.layout import open_layout
from vos_core.data.static import list_images
from vos_core.errors import UsageError
from vos_core.training.batches import BatchPlan, DrawDataset, Mixture, batch_stream
from vos_core.training.checkpoint import save_checkpoint
from vos_core.training.distributed import Ranks
from vos_core.training.logging import RunLog
from vos_core.training.loop import LoopOptions, StepLoss, TrainingState, run_loop
from vos_core.training.optim import build_optimizer, parameter_groups
from vos_core.training.schedule import multistep

SEED = 14159265
DAVIS_REPEATS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRoots:
    """Where the training sets are; a stage needs its own ones only.

    Args:
        static: sets of still images (stage 0).
        bl30k: BL30K (stage 1).
        youtube: YouTube-VOS with a train split (stages 2 and 3).
        davis: DAVIS 2017 or any set in its layout (stages 2 and 3).
        youtube_subset: clips to use of YouTube-VOS, see `read_subset`; None = all with three annotated frames.
        davis_subset: likewise of DAVIS.
    """

    static: Path | None = None
    bl30k: Path | None = None
    youtube: Path | None = None
    davis: Path | None = None
    youtube_subset: Path | None = None
    davis_subset: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What a stage's published values may be replaced by (None keeps them), and how it runs."""

    output: Path
    name: str
    roots: DataRoots = field(default_factory=DataRoots)
    init: Init = "imagenet"
    load_network: Path | None = None
    load_model: Path | None = None
    batch_size: int | None = None
    iterations: int | None = None
    milestones: tuple[int, ...] | None = None
    lr: float = 1e-5
    gamma: float = 0.1
    size: int = SIZE
    workers: int = 8
    accumulate: int = 1
    precision: Precision = "fp32"
    save_every: int = 50_000
    log_every: int = 100
    picture_every: int = 800
    seed: int = SEED
    tensorboard: bool = False
    progress: bool = True


def train_chain(stages: Sequence[int], options: TrainOptions, ranks: Ranks) -> Path:
    """Run stages in order, each from the last network of the one before, and return the last network file."""
    network = options.load_network
    for number in stages:
        network = train_stage(STAGES[number], replace(options, load_network=network), ranks)
    assert network is not None
    return network


def train_stage(stage: Stage, options: TrainOptions, ranks: Ranks) -> Path:
    """Run one stage, or go on with it, and return `<output>/<name>_s<stage>/<name>_s<stage>_<steps>.pth`.

    Raises:
        UsageError: a data root that the stage needs is missing, or the folder holds a run with other settings.
        LayoutError: data that is not laid out as it must be.
    """
    label = f"{options.name}_s{stage.number}"
    folder = options.output / label
    steps = stage.iterations if options.iterations is None else options.iterations
    milestones = stage.milestones if options.milestones is None else options.milestones
    batch = stage.batch if options.batch_size is None else options.batch_size
    final = folder / f"{label}_{steps}.pth"
    torch.manual_seed(options.seed)  # the same start on all ranks
    network = start_network(options.load_network, single_object=stage.single_object, init=options.init, seed=options.seed).to(
        ranks.device, memory_format=torch.channels_last
    )  # type: ignore[call-overload]
    groups = parameter_groups(network.named_parameters(), lr=options.lr, weight_decay=1e-7)
    loop = LoopOptions(
        steps=steps,
        accumulate=options.accumulate,
        precision=options.precision,
        log_every=options.log_every,
        picture_every=options.picture_every,
        save_every=options.save_every,
        seed=options.seed + 100 * ranks.rank,
        fingerprint={
            "stage": stage.number,
            "batch": batch * ranks.world * options.accumulate,
            "lr": options.lr,
            "milestones": list(milestones),
            "gamma": options.gamma,
            "size": options.size,
            "seed": options.seed,
        },
    )
    state = TrainingState(
        network,
        build_optimizer("adam", groups),
        multistep(milestones, gamma=options.gamma),
        options=loop,
        folder=folder,
        ranks=ranks,
    )
    if not state.resume() and options.load_model is not None:
        state.restore(options.load_model)
    if final.is_file():  # looked for only now, so that other settings are refused
        return final
    data = stage_data(stage, options, steps=steps, batch=batch * ranks.world * options.accumulate)
    plan = BatchPlan(
        len(data), batch, rank=ranks.rank, world=ranks.world, seed=options.seed, start=state.step * options.accumulate
    )
    stream = batch_stream(data, plan, workers=options.workers, collate=collate, pin_memory=ranks.device.type == "cuda")
    log = RunLog(
        folder, total=steps, start=state.step, active=ranks.main, tensorboard=options.tensorboard, progress=options.progress
    )

    def compute(model: torch.nn.Module, samples: Triplets, step: int) -> StepLoss:
        return triplet_loss(model, samples.to(ranks.device), step)

    try:
        run_loop(state, stream, compute, log, module=TripletPass(network))
    finally:
        log.close()
    if ranks.main:
        save_checkpoint(final, network.state_dict())
    ranks.barrier()
    return final


def stage_data(stage: Stage, options: TrainOptions, *, steps: int, batch: int) -> DrawDataset:
    """Return the samples of a stage; `batch` is the number of samples in a step over all ranks.

    Raises:
        UsageError: a root is missing.
    """
    roots = options.roots
    if stage.number == 0:
        return StaticTriplets(list_images(_given(roots.static, "--static_root", stage)), size=options.size)
    if stage.number == 1:
        root = _given(roots.bl30k, "--bl_root", stage)
        clips = annotated_clips(open_layout("bl30k", root).clips, where=str(root))
        skip = skip_schedule(stage, iterations=steps, batches_per_epoch=max(1, len(clips) // batch))
        return VideoTriplets(clips, skip=skip, min_crop=stage.min_crop, ignore_small=True, size=options.size)
    if roots.davis is None and roots.youtube is None:
        raise UsageError(f"stage {stage.number} has no data", expected="--davis_root, --yv_root or both")
    found = []
    for place, subset, layout, repeats in (
        (roots.davis, roots.davis_subset, "davis", DAVIS_REPEATS),
        (roots.youtube, roots.youtube_subset, "youtube-vos", 1),
    ):
        if place is not None:
            key = {"davis": "davis2017_train", "youtube-vos": "youtube_vos_train"}[layout]
            names = None if subset is None else read_subset(subset, key)
            found.append(
                (layout, repeats, annotated_clips(open_layout(layout, place, "train").clips, subset=names, where=str(place)))
            )
    samples = sum(repeats * len(clips) for _, repeats, clips in found)
    skip = skip_schedule(stage, iterations=steps, batches_per_epoch=max(1, samples // batch))
    parts = []
    for layout, repeats, clips in found:
        own = skip if layout == "davis" else replace(skip, divide=YOUTUBE_STEP)
        parts.append((VideoTriplets(clips, skip=own, min_crop=stage.min_crop, size=options.size), repeats))
    return Mixture(parts)


def _given(root: Path | None, option: str, stage: Stage) -> Path:
    if root is None:
        raise UsageError(f"stage {stage.number} needs {option}", fix=f"Pass {option} with the folder of its data")
    return root
