"""Build each member's wheel, install it with nothing but what it requires and run its command on a clip, outside the checkout.

Usage: python ci/wheel_smoke.py shared/vos-core packages/stcn-ttt
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# Console script and arguments that follow an object through `clip/`; untrained weights, since the point is that it runs.
CLIP = ["--video", "clip/JPEGImages", "--mask", "clip/first.png"]
SMOKE = {
    "vos-core": ("vos", ["run", "--method", "flow", *CLIP, "--output", "out"]),
    "rmem-deaot": ("rmem-deaot", ["infer", *CLIP, "--weights", "random", "--variant", "deaott", "--output", "out"]),
    "sam2-rcms": (
        "sam2-rcms",
        ["infer", *CLIP, "--variant", "tiny", "--weights", "random", "--image_size", "128", "--output", "out"],
    ),
    "rsp-pretrain": ("rsp-pretrain", ["propagate", *CLIP, "--weights", "random", "--scale", "96,128", "--output", "out"]),
    "stcn-ttt": ("stcn-ttt", ["infer", *CLIP, "--weights", "random", "--res", "96", "--output", "out"]),
    "object-pursuit": (
        "object-pursuit",
        ["infer", *CLIP, "--weights", "random", "--variant", "tiny", "--resize", "64", "64", "--steps", "2", "--output", "out"],
    ),
}
FRAMES = 6


def main(members: list[Path]) -> int:
    """Return 0 if every member's wheel builds, installs alone and follows an object."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        built = {member.name: build(member, place / "dist") for member in members}
        run(["uv", "venv", "--quiet", "--python", sys.executable, str(place / "env")], cwd=place)
        for name, wheel in built.items():
            check_contents(wheel)
            smoke(name, wheel, place)
    print(f"{len(built)} passed, 0 failed")
    return 0


def build(member: Path, target: Path) -> Path:
    """Return the wheel that `member` builds into `target`."""
    before = set(target.glob("*.whl")) if target.exists() else set()
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)], cwd=member)
    (wheel,) = set(target.glob("*.whl")) - before
    return wheel


def check_contents(wheel: Path) -> None:
    """Fail unless the wheel is pure Python, typed and licensed."""
    assert wheel.name.endswith("-py3-none-any.whl"), wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("py.typed") for name in names), f"{wheel.name} has no py.typed"
    assert any(name.endswith("LICENSE") for name in names), f"{wheel.name} has no licence"
    assert not any(part in name for name in names for part in ("tests/", ".npz", ".pth")), f"{wheel.name} ships test data"


def smoke(name: str, wheel: Path, place: Path) -> None:
    """Make the environment hold `wheel` and what it requires, then run its command on a clip in an empty folder."""
    work = place / f"work-{name}"
    work.mkdir()
    scripts = place / "env" / ("Scripts" if os.name == "nt" else "bin")
    install(wheel, scripts / "python", cwd=work)
    images, masks = synthetic_clip(scripts / "vos", work)
    (work / "clip").mkdir()
    images.rename(work / "clip/JPEGImages")
    sorted(masks.iterdir())[0].rename(work / "clip/first.png")
    command, arguments = SMOKE[name]
    run([str(scripts / command), "--help"], cwd=work)
    run([str(scripts / command), *arguments], cwd=work)
    written = list((work / "out").rglob("*.png"))
    assert len(written) == FRAMES, f"{name}: {len(written)} masks for {FRAMES} frames"
    print(f"{name}: wheel {wheel.name} works alone")


def install(wheel: Path, python: Path, *, cwd: Path) -> None:
    """Give the environment of `python` the requirements of `wheel`, no more and no less.

    What two wheels both require stays, and with it the bytecode of torch, which takes ten seconds to make.
    """
    options = ["--quiet", "--python", str(python), "--find-links", str(wheel.parent)]
    (cwd / "wheel.in").write_text(f"{wheel.stem.split('-')[0]} @ {wheel.as_uri()}\n")
    run(["uv", "pip", "compile", *options, "wheel.in", "-o", "wheel.txt"], cwd=cwd)
    run(["uv", "pip", "sync", *options, "wheel.txt"], cwd=cwd)


def synthetic_clip(vos: Path, work: Path) -> tuple[Path, Path]:
    """Return the folders of frames and of masks of a clip of one object that the installed command makes below `work`."""
    options = ["--layout", "davis", "--clips", "1", "--frames", str(FRAMES), "--size", "96x128"]
    run([str(vos), "data", "synth", "synth", *options], cwd=work)
    (images,) = (work / "synth/JPEGImages/480p").iterdir()
    (masks,) = (work / "synth/Annotations/480p").iterdir()
    return images, masks


def run(command: list[str], *, cwd: Path) -> None:
    """Run `command`, echoing it; fail when it fails."""
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=cwd, check=True, env={**os.environ, "PYTHONPATH": ""})


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
