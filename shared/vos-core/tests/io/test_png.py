from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vos_core.errors import MaskError
from vos_core.io.palette import DAVIS_PALETTE
from vos_core.io.png import GREY, INDEXED, encode_png, palette_of, png_header, read_indices
from vos_core.testing import needs_shared


def filtered_png(samples: np.ndarray, *, bits: int, colour: int, filters: list[int], idat_size: int = 97) -> bytes:
    """A PNG writer of the test's own: any bit depth, a row filter per row, many IDAT chunks."""
    height, width = samples.shape
    packed = np.packbits((samples[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1, axis=-1, bitorder="big") if bits == 8 else None
    if packed is None:
        planes = ((samples[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(height, -1)
        rows = np.packbits(planes, axis=1)
    else:
        rows = packed[:, :, 0]
    raw, above = b"", np.zeros(rows.shape[1], int)
    for y, row in enumerate(rows.astype(int)):
        kind = filters[y % len(filters)]
        left = np.concatenate(([0], row[:-1]))
        corner = np.concatenate(([0], above[:-1]))
        guess = left + above - corner
        a, b, c = abs(guess - left), abs(guess - above), abs(guess - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        predicted = [np.zeros_like(row), left, above, (left + above) // 2, paeth][kind]
        raw += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    data = zlib.compress(raw)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    if colour == 3:
        out += chunk(b"PLTE", DAVIS_PALETTE[: 1 << bits].tobytes()) + chunk(b"tRNS", b"\x00")
    out += chunk(b"tEXt", b"Comment\x00between")
    for at in range(0, len(data), idat_size):
        out += chunk(b"IDAT", data[at : at + idat_size])
    return out + chunk(b"IEND", b"")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 23), st.sampled_from([1, 2, 4, 8]), st.sampled_from([GREY, INDEXED]),
    st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_depth_and_row_filter(width: int, height: int, bits: int, colour: int, filters: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).integers(0, 1 << bits, (height, width), dtype=np.uint8)
    data = filtered_png(samples, bits=bits, colour=colour, filters=filters)
    found = read_indices(data)
    np.testing.assert_array_equal(found, samples)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable
    if colour == INDEXED:  # the writer above is right if another reader agrees
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(data))), samples)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_png_of_pillow(tmp_path: Path, bits: int) -> None:
    labels = np.random.default_rng(bits).integers(0, 1 << bits, (31, 45), dtype=np.uint8)
    image = Image.fromarray(labels)
    image.putpalette(DAVIS_PALETTE.tobytes())
    image.save(tmp_path / "a.png", bits=bits)
    assert png_header(tmp_path / "a.png").bits == bits
    np.testing.assert_array_equal(read_indices(tmp_path / "a.png"), labels)


def test_one_bit_grey_is_zero_and_one(tmp_path: Path) -> None:
    mask = np.eye(19, dtype=bool)
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_indices(tmp_path / "a.png"), mask.astype(np.uint8))


def test_sixteen_bit_keeps_its_values() -> None:
    labels = np.array([[0, 255, 256], [1000, 65535, 7]], np.uint16)
    found = read_indices(encode_png(labels))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, labels)
    assert cv2.imdecode(np.frombuffer(encode_png(labels), np.uint8), cv2.IMREAD_UNCHANGED).tolist() == labels.tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (13, 21)])
def test_interlaced(bits: int, size: tuple[int, int]) -> None:
    samples = np.random.default_rng(bits).integers(0, 1 << bits, size, dtype=np.uint8)
    raw = b""
    adam7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    for y, x, dy, dx in adam7:
        part = samples[y::dy, x::dx]
        for row in part if part.size else ():
            planes = ((row[:, None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(-1)
            raw += b"\x00" + np.packbits(planes).tobytes()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, 3, 0, 0, 1))
    data += chunk(b"PLTE", DAVIS_PALETTE.tobytes()[: 3 << bits]) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(read_indices(data), samples)
    with pytest.raises(MaskError, match="damaged"):
        read_indices(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])


@pytest.mark.parametrize("palette", [DAVIS_PALETTE, None])
@pytest.mark.parametrize("keep", [0, 7, 20, 40, 0.5, -20, -13, -1])
def test_truncated_names_the_file(tmp_path: Path, palette: np.ndarray | None, keep: float) -> None:
    data = encode_png(np.random.default_rng(0).integers(0, 9, (50, 60), dtype=np.uint8), palette=palette)
    path = tmp_path / "cut.png"
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(MaskError, match=r"cut\.png"):
        read_indices(path)


@pytest.mark.parametrize("palette", [DAVIS_PALETTE, None])
def test_flipped_bits_are_found(palette: np.ndarray | None) -> None:
    data = bytearray(encode_png(np.random.default_rng(0).integers(0, 9, (50, 60), dtype=np.uint8), palette=palette))
    at = data.index(b"IDAT") + 60
    data[at] ^= 0x10
    with pytest.raises(MaskError, match="damaged"):
        read_indices(bytes(data))
    data[at] ^= 0x10
    data[17] ^= 1
    with pytest.raises(MaskError, match="header"):
        read_indices(bytes(data))


@pytest.mark.parametrize("colour", [GREY, INDEXED])
def test_too_few_rows_in_whole_chunks(colour: int) -> None:
    data = filtered_png(np.ones((4, 9), np.uint8), bits=8, colour=colour, filters=[0], idat_size=9999)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    tall = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 8, 8, colour, 0, 0, 0))
    with pytest.raises(MaskError, match="damaged"):
        read_indices(data[:8] + tall + data[33:])


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=r"nothing\.png does not exist"):
        read_indices(tmp_path / "nothing.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    with pytest.raises(MaskError, match=r"a\.jpg is not a PNG"):
        read_indices(tmp_path / "a.jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    with pytest.raises(MaskError, match=r"rgb\.png is a colour PNG"):
        read_indices(tmp_path / "rgb.png")


def test_encoder_writes_filter_0_palette_png() -> None:
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    data = encode_png(labels, palette=DAVIS_PALETTE)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.array(image), labels)
    at = data.index(b"IDAT")
    raw = zlib.decompress(data[at + 4 : at + 4 + struct.unpack(">I", data[at - 4 : at])[0]])
    assert set(raw[::8]) == {0}
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(bgr[..., ::-1], DAVIS_PALETTE[labels])


def test_palette_of(tmp_path: Path) -> None:
    colours = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    image = Image.fromarray(np.zeros((2, 2), np.uint8))
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "a.png")
    found = palette_of(tmp_path / "a.png")
    assert found is not None
    assert found.shape == (256, 3)
    np.testing.assert_array_equal(found[:2], colours)
    assert palette_of(encode_png(np.zeros((2, 2), np.uint8))) is None


@pytest.mark.parametrize(
    "pattern", ["davis2017-val-osvos/*/00010.png", "davis2016-val-gt/Annotations/480p/*/00010.png", "clips/*/Annotations/*0.png"]
)
def test_real_files_equal_pillow(pattern: str) -> None:
    files = sorted(needs_shared().glob(pattern))[:40]
    assert files
    for path in files:
        np.testing.assert_array_equal(read_indices(path), np.array(Image.open(path)), err_msg=str(path))
