"""Making DAVIS-C: determinism, resume, what is refused, and each corruption against a plain formulation or its statistics."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from stcn_ttt.davis_c import pixel, stylised, temporal
from stcn_ttt.davis_c.make import CORRUPTIONS, STRENGTHS, STYLES, Settings, make_davis_c
from vos_core.data import davis_c
from vos_core.errors import FrameError, MissingExtraError, UsageError
from vos_core.io.frames import read_image
from vos_core.types import Clip

PLAIN = [name for name in CORRUPTIONS if name not in (*STYLES, "cartoon", "crf_compression")]
NEEDS_AV = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs the extra vos-core[video]")


def invert(content, style):
    """A style transfer that shows what it was given."""
    return (255 - content // 2 - style.reshape(-1, 3).mean(0).astype(np.uint8) // 8).astype(np.uint8)


def picture(seed=0, size=(36, 50)):
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def clips(tmp_path):
    made = []
    for number, name in enumerate(("bear", "cat")):
        folder = tmp_path / "clean" / name
        folder.mkdir(parents=True)
        paths = tuple(folder / f"{t:05d}.jpg" for t in range(3))
        for t, path in enumerate(paths):
            Image.fromarray(picture(10 * number + t)).save(path)
        made.append(Clip(name, frames=paths))
    return made


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def test_a_seed_fixes_everything_whatever_the_processes(clips, tmp_path):
    settings, options = Settings(seed=1), {"corruptions": PLAIN, "strengths": ("low", "high")}
    written = make_davis_c(clips, tmp_path / "a", settings=settings, **options)
    assert written == 2 * 2 * 3 * len(PLAIN)
    first = tree(tmp_path / "a")
    assert set(first) == {
        f"{strength}/{name}/{clip}/{t:05d}.jpg"
        for strength in ("low", "high")
        for name in PLAIN
        for clip in ("bear", "cat")
        for t in range(3)
    }
    done = []
    some = {"corruptions": ("gaussian_noise", "glass_blur", "motion_blur"), "strengths": ("low",)}
    make_davis_c(clips[::-1], tmp_path / "b", settings=settings, processes=2, on_done=done.append, **some)
    again = tree(tmp_path / "b")
    assert again == {name: first[name] for name in again}
    assert len(done) == 6
    make_davis_c(clips[:1], tmp_path / "c", settings=Settings(seed=2), **some)
    changed = {name for name, data in tree(tmp_path / "c").items() if data != first[name]}
    assert changed == {f"low/{kind}/bear/{t:05d}.jpg" for kind in ("gaussian_noise", "glass_blur") for t in range(3)}
    assert len({first[f"low/gaussian_noise/{clip}/{t:05d}.jpg"] for clip in ("bear", "cat") for t in range(3)}) == 6


def test_without_a_seed_noise_is_drawn_anew(clips, tmp_path):
    options = {"corruptions": ("gaussian_noise", "contrast"), "strengths": ("med",)}
    for name in "ab":
        make_davis_c(clips[:1], tmp_path / name, **options)
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert {name for name in a if a[name] == b[name]} == {name for name in a if "contrast" in name}


def test_a_rerun_writes_what_is_missing(clips, tmp_path):
    options = {"corruptions": ("gaussian_noise", "motion_blur"), "strengths": ("low",), "settings": Settings(seed=3)}
    out = tmp_path / "out"
    assert make_davis_c(clips, out, **options) == 12
    before, lost = tree(out), [out / "low/motion_blur/bear/00002.jpg", out / "low/gaussian_noise/cat/00000.jpg"]
    stamp = (out / "low/motion_blur/bear/00001.jpg").stat().st_mtime_ns
    for path in lost:
        path.unlink()
    assert make_davis_c(clips, out, **options) == 2
    assert tree(out) == before
    assert (out / "low/motion_blur/bear/00001.jpg").stat().st_mtime_ns == stamp
    assert make_davis_c(clips, out, **options) == 0
    for other in (Settings(seed=4), Settings(seed=3, quality=80), Settings()):
        with pytest.raises(UsageError, match="other settings"):
            make_davis_c(clips, out, **{**options, "settings": other})
    (out / "davis_c.json").write_text("{")
    with pytest.raises(UsageError, match=r"davis_c\.json"):
        make_davis_c(clips, out, **options)


def test_quality_is_that_of_the_files(clips, tmp_path):
    for quality in (50, 95):
        make_davis_c(
            clips[:1], tmp_path / str(quality), corruptions=["contrast"], strengths=["low"], settings=Settings(quality=quality)
        )
    sizes = [sum(map(len, tree(tmp_path / name).values())) for name in ("50", "95")]
    assert sizes[0] < sizes[1]


def test_what_cannot_be_made_is_refused_before_anything_is_written(clips, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for options, blamed in (
        ({"corruptions": ["fog"]}, "fog"),
        ({"corruptions": ["contrast"], "strengths": ["medium"]}, "medium"),
        ({"corruptions": ["contrast", "style2"]}, "style transfer network"),
        ({"corruptions": ["style1"], "settings": Settings(stylise="json:dumps")}, "four style pictures"),
    ):
        with pytest.raises(UsageError, match=blamed):
            make_davis_c(clips, out, **options)
    pictures = tuple(clips[0].frames[:1]) * 4
    for name in ("none.such:f", "json:none", "json", ":", "json:__doc__"):
        with pytest.raises(UsageError, match="cannot be"):
            make_davis_c(clips, out, corruptions=["style1"], settings=Settings(stylise=name, style_pictures=pictures))
    missing = (*pictures[:3], tmp_path / "none.jpg")
    with pytest.raises(FrameError, match=r"none\.jpg"):
        make_davis_c(clips, out, corruptions=["style1"], settings=Settings(stylise="json:dumps", style_pictures=missing))
    video = Clip("film", video=tmp_path / "film.mp4")
    with pytest.raises(UsageError, match="film"):
        make_davis_c([video], out, corruptions=["contrast"])
    monkeypatch.setitem(sys.modules, "imgaug.augmenters", None)
    with pytest.raises(MissingExtraError, match=r"stcn-ttt\[cartoon\]"):
        make_davis_c(clips, out, corruptions=["cartoon"])
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"vos-core\[video\]"):
        make_davis_c(clips, out, corruptions=["crf_compression"])
    assert not out.exists()


def test_a_broken_frame_is_named(clips, tmp_path):
    clips[0].frames[1].write_bytes(b"no picture")
    with pytest.raises(FrameError, match=r"00001\.jpg"):
        make_davis_c(clips, tmp_path / "out", corruptions=["contrast"], strengths=["low"])


def test_styles_use_the_function_that_is_given(clips, tmp_path, monkeypatch):
    module = type("Module", (), {"invert": staticmethod(invert)})
    monkeypatch.setitem(sys.modules, "my_styles", module)
    pictures = tuple(tmp_path / f"s{i}.png" for i in range(4))
    for i, path in enumerate(pictures):
        Image.fromarray(np.full((5 + i, 7, 3), 60 * i, np.uint8)).save(path)
    settings = Settings(stylise="my_styles:invert", style_pictures=pictures, quality=100)
    make_davis_c(clips[:1], tmp_path / "out", corruptions=STYLES, settings=settings)
    made = tree(tmp_path / "out")
    assert len({made[f"low/style{i}/bear/00000.jpg"] for i in range(1, 5)}) == 4, "each style has its picture"
    clean = read_image(clips[0].frames[0])
    whole = read_image(tmp_path / "out/high/style3/bear/00000.jpg")
    assert np.abs(whole.astype(int) - invert(clean, np.full((1, 1, 3), 120, np.uint8))).mean() < 6
    for i in range(1, 5):
        assert (
            made[f"low/style{i}/bear/00001.jpg"] == made[f"med/style{i}/bear/00001.jpg"] != made[f"high/style{i}/bear/00001.jpg"]
        )


def test_low_styles_keep_the_chroma():
    bgr, gray = picture(), np.full((9, 9, 3), 128, np.uint8)
    found = stylised.style(bgr, 0, picture=gray, stylise=lambda content, _: content // 2)
    ours, before = (cv2.cvtColor(np.ascontiguousarray(x[..., ::-1]), cv2.COLOR_BGR2YCrCb).astype(int) for x in (found, bgr))
    inside = ((found > 0) & (found < 255)).all(-1)  # where nothing was cut
    assert inside.mean() > 0.5
    assert np.abs(ours - before)[inside][:, 1:].max() <= 2
    assert ours[inside][:, 0].mean() == pytest.approx(before[inside][:, 0].mean() / 2, abs=2)
    with pytest.raises(UsageError, match="content's"):
        stylised.style(bgr, 0, picture=gray, stylise=lambda content, _: content[1:])


def slow_glass_blur(bgr, strength, rng):
    """The spec's words: a Python loop over pixels."""
    sigma, reach, rounds = dataclasses.astuple(pixel.GLASS[strength])

    def blurred(x):
        return np.stack([gaussian_filter(x[..., c], sigma, mode="nearest", truncate=4.0) for c in range(3)], -1)

    x = (blurred(bgr / 255.0) * 255).astype(np.uint8)
    height, width = x.shape[:2]
    for _ in range(rounds):
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                right, down = rng.randint(-reach, reach, size=(2,))
                x[row, column] = x[row + down, column + right]
    return np.rint(np.clip(blurred(x / 255.0), 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("strength", range(3))
@pytest.mark.parametrize("size", [(20, 31), (11, 9), (4, 5)])
def test_glass_blur_is_the_slow_loop(strength, size):
    bgr = np.random.default_rng(strength).integers(0, 255, (*size, 3), dtype=np.uint8)
    found = pixel.glass_blur(bgr, strength, np.random.RandomState(7))
    np.testing.assert_array_equal(found, slow_glass_blur(bgr, strength, np.random.RandomState(7)))


def test_gaussian_noise_has_its_deviation_and_no_bias():
    bgr = np.full((200, 200, 3), 128, np.uint8)
    for strength, sigma in enumerate((0.18, 0.26, 0.38)):
        noise = pixel.gaussian_noise(bgr, strength, np.random.RandomState(0)) / 255.0 - 128 / 255
        middle = np.abs(noise) < 0.49  # values are cut at 0 and 1
        cut = 1 - middle.mean()
        assert cut == pytest.approx(2 * (1 - 0.5 * (1 + math.erf(0.49 / sigma / 2**0.5))), abs=0.01)
        assert noise.mean() == pytest.approx(0, abs=0.005)
        if strength == 0:
            assert noise.std() == pytest.approx(sigma, rel=0.02)
        flat = noise.reshape(-1, 3)
        assert np.abs(np.corrcoef(flat.T) - np.eye(3)).max() < 0.02, "channels are independent"
        assert abs(np.corrcoef(noise[:, 1:].ravel(), noise[:, :-1].ravel())[0, 1]) < 0.02, "so are pixels"


@pytest.mark.parametrize("name", ["gaussian_noise", "contrast", "brightness", "defocus_blur", "pixelate", "saturate"])
def test_strengths_grow(name):
    bgr = picture(3, (90, 120))
    distance = []
    for strength in range(3):
        extra = (np.random.RandomState(0),) if name == "gaussian_noise" else ()
        found = getattr(pixel, name)(bgr, strength, *extra)
        assert found.shape == bgr.shape
        assert found.dtype == np.uint8
        distance.append(np.abs(found.astype(int) - bgr).mean())
    assert 0 < distance[0] < distance[1] < distance[2]


def test_contrast_brightness_and_saturation_do_what_they_say():
    bgr = picture(1)
    mean = bgr.mean((0, 1))
    np.testing.assert_allclose(pixel.contrast(bgr, 0), mean + 0.2 * (bgr - mean), atol=0.51)
    bright = pixel.brightness(bgr, 0)
    np.testing.assert_allclose(bright.max(-1), np.minimum(255, bgr.max(-1) + 0.3 * 255), atol=1)
    gray = np.repeat(bgr[..., :1], 3, 2)
    np.testing.assert_array_equal(pixel.saturate(gray, 0), gray)  # nothing to scale, and no shift at this strength
    np.testing.assert_allclose(pixel.saturate(bgr, 0).max(-1), bgr.max(-1), atol=1)


def test_motion_blur_weighs_the_last_frames():
    frames = [np.full((4, 5, 3), 60 * t, np.uint8) for t in range(4)]
    for strength, count in enumerate((2, 3, 4)):
        found = [int(frame[0, 0, 0]) for frame in temporal.motion_blur(frames, strength)]
        expected = []
        for t in range(4):
            used = list(range(max(0, t - count + 1), t + 1))
            expected.append(round(sum(w * 60 * i for w, i in enumerate(used, 1)) / sum(range(1, len(used) + 1))))
        assert found == expected


@NEEDS_AV
def test_crf_compression_keeps_count_and_size_and_loses_detail(clips, tmp_path):
    make_davis_c(clips[:1], tmp_path / "out", corruptions=["crf_compression"], strengths=("low", "high"))
    losses = []
    for strength in ("low", "high"):
        paths = sorted((tmp_path / "out" / strength / "crf_compression" / "bear").glob("*.jpg"))
        assert [path.stem for path in paths] == ["00000", "00001", "00002"]
        frames = [read_image(path) for path in paths]
        assert all(frame.shape == (36, 50, 3) for frame in frames)
        losses.append(
            np.mean([np.abs(read_image(a).astype(int) - b).mean() for a, b in zip(clips[0].frames, frames, strict=True)])
        )
    assert 0 < losses[0] < losses[1] < 60


@NEEDS_AV
def test_crf_compression_keeps_odd_sizes(tmp_path):
    found = temporal.compress([picture(t, (33, 47)) for t in range(2)], 1, where=tmp_path)
    assert [cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape[:2] for data in found] == [(33, 47)] * 2


def test_names_are_those_of_the_data_set():
    assert CORRUPTIONS == davis_c.CORRUPTIONS
    assert STRENGTHS == davis_c.STRENGTHS
    assert len(CORRUPTIONS) == 14
