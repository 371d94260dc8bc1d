"""Pre-training data per second of one core: frame pairs from video files and from extracted frames, against plain decoding.

An item is what one video gives to a batch: two pairs, four frames, decoded, cropped and resized to 224. `plain` decodes in order
from the first frame to the last one that is wanted and converts each frame to RGB, as a reader without an index must; `plain,
wanted only` converts only what is wanted. Ours decodes from key frames and leaves out pictures that nothing refers to. All take
turns over the same generated videos (300 frames of 340x256, H.264) with the same draws; the pixels are checked to be equal.

    python benchmarks/rsp_decode.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from measure import machine

from rsp_pretrain.data.pairs import PairConfig, PairPlan, Pairs, draw_plans, read_pairs
from rsp_pretrain.data.readers import FolderReader, FrameReader, VideoReader
from rsp_pretrain.kinetics.frames import Extraction, extract_video
from vos_core.io.atomic import write_json
from vos_core.types import RgbImage

HEIGHT, WIDTH, FRAMES = 256, 340, 300
KEYINTS = {"keyint 250 (x264's default)": 250, "keyint 48 (ours)": 48}


def write_video(path: Path, *, seed: int, keyint: int) -> None:
    """Write a clip of drifting texture with moving blobs and a little sensor noise."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.integers(0, 256, (60, 120, 3), dtype=np.uint8), (1200, 600), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.options = {"g": str(keyint), "crf": "23"}
        for t in range(FRAMES):
            x, y = int(200 + 150 * np.sin(t / 40 + seed)), int(100 + 80 * np.cos(t / 55))
            rgb = ground[y : y + HEIGHT, x : x + WIDTH].copy()
            cv2.circle(rgb, (int(170 + 120 * np.sin(t / 15)), int(128 + 90 * np.cos(t / 20))), 40, (200, 60, 60), -1)
            noisy = np.clip(rgb.astype(np.int16) + rng.integers(-3, 4, rgb.shape), 0, 255).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(noisy, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


class PlainReader:
    """Decodes in order, without an index; `every` converts all frames on the way."""

    size = (HEIGHT, WIDTH)

    def __init__(self, path: Path, *, every: bool) -> None:
        self.path, self.every = path, every

    def __len__(self) -> int:
        return FRAMES

    def read(self, indices: list[int]) -> list[RgbImage]:
        """Return these frames."""
        found: dict[int, RgbImage] = {}
        with av.open(str(self.path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for index, frame in enumerate(container.decode(video=0)):
                if self.every or index in indices:
                    rgb = frame.to_ndarray(format="rgb24")
                    if index in indices:
                        found[index] = rgb
                if index == max(indices):
                    break
        return [found[index] for index in indices]

    def close(self) -> None:
        """Nothing is open."""


def item(reader: FrameReader, plans: list[PairPlan], config: PairConfig) -> Pairs:
    """Return the pairs of an item."""
    try:
        return read_pairs(reader, plans, config.size)
    finally:
        reader.close()


def main() -> None:
    """Measure, print and write `records/rsp-decode.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--items", type=int, default=4, help="per video and way")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "rsp-decode.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    config, results = PairConfig(), {}
    with tempfile.TemporaryDirectory() as name:
        for label, keyint in KEYINTS.items():
            paths = [Path(name) / f"{keyint}_{seed}.mp4" for seed in range(arguments.videos)]
            for seed, path in enumerate(paths):
                write_video(path, seed=seed, keyint=keyint)
            results[label] = measure(paths, config, items=arguments.items)
            results[label]["kilobytes per video"] = round(statistics.mean(path.stat().st_size for path in paths) / 1000)
            print(label, json.dumps(results[label], indent=2))
    record = {
        "what": f"items of two pairs (four frames) a second on one core; videos of {FRAMES} frames of {WIDTH}x{HEIGHT}, H.264",
        "machine": machine() | {"av": av.__version__, "load": round(os.getloadavg()[0], 1)},
        "note": "CPU seconds of one process, so that a busy machine disturbs little; ways take turns",
        "results": results,
    }
    write_json(arguments.output, record)


def measure(paths: list[Path], config: PairConfig, *, items: int) -> dict[str, object]:
    """Return per way: items, pairs and frames per CPU second, and times faster than `plain`."""
    folders = {path: path.with_suffix("") for path in paths}
    for path, folder in folders.items():
        extract_video(Extraction(path, folder))
    ways: dict[str, Callable[[Path], FrameReader]] = {
        "plain": lambda path: PlainReader(path, every=True),
        "plain, wanted only": lambda path: PlainReader(path, every=False),
        "ours, video": VideoReader,
        "ours, extracted frames": lambda path: FolderReader(folders[path]),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(items):
        for path in paths:
            plans = draw_plans(FRAMES, (HEIGHT, WIDTH), config, python_seed=number, torch_seed=number)
            made = {}
            for way, open_way in ways.items():
                tick = time.process_time()
                made[way] = item(open_way(path), plans, config)
                seconds[way].append(time.process_time() - tick)
            assert torch.equal(made["plain"].source, made["ours, video"].source)
            assert torch.equal(made["plain"].target, made["ours, video"].target)
    found: dict[str, object] = {}
    for way, spent in seconds.items():
        each = statistics.mean(spent)
        found[way] = {
            "cpu_s_per_item": round(each, 4),
            "items_per_s": round(1 / each, 1),
            "pairs_per_s": round(config.repeated_sampling / each, 1),
            "frames_per_s": round(2 * config.repeated_sampling / each, 1),
            "times_faster": round(statistics.mean(seconds["plain"]) / each, 2),
        }
    return found


if __name__ == "__main__":
    main()
