"""CPU seconds and memory of `vos eval folder`, of the metric core and of unsupervised matching, against plain formulations.

The plain formulations compute the published definitions the way they are usually written: Pillow decoding, a sort-based unique
of both frames, full-frame bool masks, one disk dilation of the whole frame for every mask of every pair. Both sides run
alternately on one thread, so that a busy machine disturbs both alike; ratios are what counts. Needs VOS_SHARED, the folder that
holds `davis2016-val-gt` and `davis2017-val-osvos`.

    VOS_SHARED=../shared python benchmarks/evaluation.py --repeats 3
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measure import machine
from PIL import Image

from vos_core.io.atomic import write_json
from vos_core.io.masks import write_mask
from vos_core.io.png import read_indices
from vos_core.metrics.boundary import measure_pair
from vos_core.metrics.matching import PairTable
from vos_core.metrics.packed import LabelFrame

QUOTED = {"palette": 13.2, "grey": 13.0, "core_ms": 7.17}
"""vos-benchmark's CPU seconds on these data sets and milliseconds of its core, measured elsewhere; for orientation only."""
PROPOSALS, LONG_CLIP = 20, 2000


def plain_boundary(mask: Any) -> Any:
    """Return the pixels whose 2 x 2 window is not constant."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right, below, both = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (here ^ right) | (here ^ below) | (here ^ both)


def plain_j(truth: Any, prediction: Any) -> float:
    """Return intersection over union of two bool masks."""
    either = (truth | prediction).sum()
    return float((truth & prediction).sum() / either) if either else 1.0


def plain_f(truth: Any, prediction: Any) -> float:
    """Return the boundary measure of two bool masks."""
    radius = int(np.ceil(0.008 * np.linalg.norm(truth.shape)))
    axis = np.arange(-radius, radius + 1)
    kernel = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(np.uint8)
    g, p = plain_boundary(truth), plain_boundary(prediction)
    near_g, near_p = (cv2.dilate(mask.astype(np.uint8), kernel) > 0 for mask in (g, p))
    if not g.any() or not p.any():
        return float(g.any() == p.any())
    precision, recall = (p & near_g).sum() / float(p.sum()), (g & near_p).sum() / float(g.sum())
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def plain_folder(truth_root: Path, prediction_root: Path) -> tuple[float, float]:
    """Return mean J and F over the common videos, objects merged."""
    scores = []
    for folder in sorted(path for path in truth_root.iterdir() if (prediction_root / path.name).is_dir()):
        values = []
        for path in sorted(folder.glob("*.png"))[1:-1]:
            g, p = (np.array(Image.open(file)) > 0 for file in (path, prediction_root / folder.name / path.name))
            ids = [k for k in np.unique(np.stack([g, p])) if k]
            values += [(plain_j(g == k, p == k), plain_f(g == k, p == k)) for k in ids]
        scores.append(np.mean(values, axis=0))
    j, f = np.mean(scores, axis=0)
    return float(j), float(f)


def command_cost(*arguments: str) -> dict[str, float]:
    """Return CPU seconds (user + system, children included), wall seconds and peak MiB of a Python command's first process."""
    # Compiled modules are kept, as an installed package would have them.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir()) / "vos-evaluation-pycache")
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=errors) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        errors.seek(0)
        said = errors.read().decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with code {process.returncode}: {said}")
    cost = {"cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": wall}
    if "VmHWM:" in said:
        cost["peak_mib"] = int(said.split("VmHWM:")[1].split()[0]) / 1024
    return cost


def ours(truth: Path, prediction: Path, output: Path, *, processes: int) -> dict[str, float]:
    """Return the cost of `vos eval folder --binary`."""
    # A process inherits the ru_maxrss of the one that starts it, so it reports its own high-water mark (Linux only).
    report = "import atexit, sys; atexit.register(lambda: sys.stderr.write(open('/proc/self/status').read()));"
    code = (report if sys.platform == "linux" else "") + "from vos_core.cli.main import main; main()"
    paths = ("-g", str(truth), "-m", str(prediction), "--output", str(output))
    return command_cost("-c", code, "eval", "folder", "--binary", "-n", str(processes), *paths)


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the cheapest run, rounded."""
    return {key: round(value, 3) for key, value in min(runs, key=lambda run: run["cpu_s"]).items()}


def whole_runs(truth: Path, prediction: Path, work: Path, *, repeats: int) -> dict[str, Any]:
    """Return costs of ours with one and two processes and of the plain evaluator, run alternately."""
    one, two, plain = [], [], []
    ours(truth, prediction, work / "out", processes=1)  # compiles modules and warms the file cache
    for _ in range(repeats):
        one.append(ours(truth, prediction, work / "out", processes=1))
        two.append(ours(truth, prediction, work / "out", processes=2))
        plain.append(command_cost(__file__, "--plain", str(truth), str(prediction)))
    scores = json.loads((work / "out" / "results.json").read_text())["scores"]
    expected = plain_folder(truth, prediction)
    if max(abs(scores["J"] - expected[0]), abs(scores["F"] - expected[1])) > 1e-12:
        raise RuntimeError(f"scores {scores} differ from the plain ones {expected}")
    found = {"one_process": best(one), "two_processes": best(two), "plain_one_process": best(plain), "scores": scores}
    found["ratio_cpu"] = round(found["plain_one_process"]["cpu_s"] / found["one_process"]["cpu_s"], 2)
    found["speedup_two_processes"] = round(min(run["wall_s"] for run in one) / min(run["wall_s"] for run in two), 2)
    return found


def milliseconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """Return the least CPU time of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(1000 * (time.process_time() - start))
    return min(times)


def core(truth: Path, prediction: Path) -> dict[str, Any]:
    """Return milliseconds for J and F of one object on decoded 854x480 frames, mean over frames of all videos."""
    rows = []
    for folder in sorted(truth.iterdir()):
        files = sorted(folder.glob("*.png")) if (prediction / folder.name).is_dir() else []
        for path in files[len(files) // 4 :: max(len(files) // 2, 1)]:
            g, p = ((read_indices(file) > 0).astype(np.uint8) for file in (path, prediction / folder.name / path.name))
            if g.shape != (480, 854):
                continue
            mine = milliseconds(lambda g=g, p=p: measure_pair(LabelFrame(g).mask(1), LabelFrame(p).mask(1)))
            plain = milliseconds(lambda g=g, p=p: (np.unique(g), np.unique(p), plain_j(g > 0, p > 0), plain_f(g > 0, p > 0)))
            rows.append((mine, plain))
    mine, plain = np.mean(rows, axis=0)
    return {"frames": len(rows), "ms": round(mine, 3), "plain_ms": round(plain, 3), "ratio": round(plain / mine, 1)}


def matching(prediction: Path) -> dict[str, Any]:
    """Return milliseconds of one frame of unsupervised matching: 20 proposals against 3 objects."""
    truth = read_indices(sorted((prediction / "kite-surf").glob("*.png"))[10])
    objects = [int(k) for k in np.unique(truth) if k]
    guess = np.roll(truth, (3, -4), axis=(0, 1))
    rng = np.random.default_rng(0)
    for k in range(len(objects) + 1, PROPOSALS + 1):
        x, y, a, b, turn = (int(rng.integers(low, high)) for low, high in ((0, 854), (0, 480), (10, 90), (10, 90), (0, 180)))
        cv2.ellipse(guess, (x, y), (a, b), float(turn), 0, 360, k, -1)

    def mine() -> Any:
        table = PairTable(objects)
        table.add(truth, guess, proposals=range(1, PROPOSALS + 1))
        return table.stacked(range(1, PROPOSALS + 1))

    def plain() -> Any:
        pairs = [[(truth == k, guess == p) for k in objects] for p in range(1, PROPOSALS + 1)]
        return [np.array([[measure(*pair) for pair in row] for row in pairs]) for measure in (plain_j, plain_f)]

    for a, b in zip(mine(), plain(), strict=True):
        np.testing.assert_array_equal(a[..., 0], b)
    cost, plain_cost = milliseconds(mine), milliseconds(plain, repeats=2)
    found = {"proposals": PROPOSALS, "objects": len(objects), "ms": round(cost, 2), "plain_ms": round(plain_cost, 2)}
    return {**found, "ratio": round(plain_cost / cost, 1)}


def long_clip(truth: Path, prediction: Path, work: Path) -> dict[str, Any]:
    """Return the cost of one clip of 2000 frames, to show that memory does not grow with length."""
    for side, root in (("truth", truth), ("prediction", prediction)):
        folder = work / f"long_{side}" / "clip"
        folder.mkdir(parents=True)
        files = sorted((root / "camel").glob("*.png"))
        for t in range(LONG_CLIP):
            (folder / f"{t:05d}.png").symlink_to(files[t % len(files)])
    cost = ours(work / "long_truth", work / "long_prediction", work / "out", processes=1)
    return {"frames": LONG_CLIP, **{key: round(value, 3) for key, value in cost.items()}}


def main() -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "evaluation.json")
    parser.add_argument("--plain", nargs=2, type=Path, metavar=("TRUTH", "PREDICTION"), help="run the plain evaluator only")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if options.plain:
        print(*plain_folder(*options.plain))
        return
    shared = Path(os.environ.get("VOS_SHARED", "../shared")).resolve()
    grey, prediction = shared / "davis2016-val-gt" / "Annotations" / "480p", shared / "davis2017-val-osvos"
    if not grey.is_dir() or not prediction.is_dir():
        parser.error(f"{shared} lacks davis2016-val-gt or davis2017-val-osvos; set VOS_SHARED")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for path in grey.glob("*/*.png"):
            write_mask(work / "palette" / path.parent.name / path.name, read_indices(path) > 0)
        record = {
            "machine": machine()
            | {"load_before": round(os.getloadavg()[0], 1), "numpy": np.__version__, "opencv": cv2.__version__},
            "vos_benchmark_elsewhere": QUOTED,
            "core": core(grey, prediction),
            "matching": matching(prediction),
            "palette": whole_runs(work / "palette", prediction, work, repeats=options.repeats),
            "grey": whole_runs(grey, prediction, work, repeats=options.repeats),
            "long_clip": long_clip(work / "palette", prediction, work),
        }
    write_json(options.output, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
