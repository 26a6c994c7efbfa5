"""Bad bytes end in a clear refusal, whatever they are."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.serve import RequestError
from sartor.serve.decode import JSON_TYPE, MAX_PIXELS, NPY_TYPE, decode_image, decode_tensor

SHAPE = (1, 4, 4)


def npy(array, **more):
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


def js(value):
    return json.dumps({"inputs": value}).encode()


def tensor(body, kind=NPY_TYPE):
    return decode_tensor(body, kind, SHAPE, max_images=8)


def picture(size=(9, 7), mode="RGB", kind="PNG"):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, size, 128).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("dtype", ["f4", ">f8", "f2", "i4", "u1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_and_json_give_the_same_numbers(dtype, order):
    values = np.asfortranarray if order == "F" else np.ascontiguousarray
    array = values(np.arange(32).reshape(2, 1, 4, 4).astype(dtype))
    got = tensor(npy(array))
    assert got.dtype == np.float32 and got.flags.writeable
    np.testing.assert_array_equal(got, array.astype("f4"))
    np.testing.assert_array_equal(tensor(js(array.tolist()), JSON_TYPE), got)
    assert tensor(npy(array[0])).shape == (1, 1, 4, 4)


GOOD = npy(np.zeros((2, 1, 4, 4), "f4"))
HUGE = GOOD.replace(b"(2, 1, 4, 4)", b"(9" + b"9" * 9 + b",)")


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"", JSON_TYPE, 422, "not valid JSON"),
        (b"[" * 100_000, JSON_TYPE, 422, "not valid JSON"),
        (b"\xff", JSON_TYPE, 422, "not valid JSON"),
        (b'{"inputs": [NaN]}', JSON_TYPE, 422, "NaN is no JSON number"),
        (b'{"inputs": [], "extra": 1}', JSON_TYPE, 422, "one field 'inputs'"),
        (b"[1]", JSON_TYPE, 422, "one field 'inputs'"),
        (js([[1], [1, 2]]), JSON_TYPE, 422, "regular nested list"),
        (js("text"), JSON_TYPE, 422, "dtype"),
        (js(np.full(SHAPE, "1").tolist()), JSON_TYPE, 422, "dtype"),
        (js(np.full(SHAPE, True).tolist()), JSON_TYPE, 422, "dtype bool"),
        (js(None), JSON_TYPE, 422, "dtype object"),
        (js(10**400), JSON_TYPE, 422, "dtype object"),
        (js(np.full(SHAPE, 1e39).tolist()), JSON_TYPE, 422, "not finite"),
        (b'{"inputs": 1e999}', JSON_TYPE, 422, "shape"),
        (js([]), JSON_TYPE, 422, "shape"),
        (npy(np.zeros((0, 1, 4, 4))), NPY_TYPE, 422, "n >= 1"),
        (npy(np.zeros((2, 3, 4, 4))), NPY_TYPE, 422, "shape"),
        (npy(np.zeros((9, 1, 4, 4))), NPY_TYPE, 413, "at most 8"),
        (npy(np.full(SHAPE, np.nan)), NPY_TYPE, 422, "not finite"),
        (npy(np.full(SHAPE, np.inf)), NPY_TYPE, 422, "not finite"),
        (npy(np.zeros(SHAPE, complex)), NPY_TYPE, 422, "dtype complex"),
        (npy(np.full(SHAPE, None), allow_pickle=True), NPY_TYPE, 422, "dtype object"),
        (npy(np.zeros(3, "S5")), NPY_TYPE, 422, "dtype"),
        (GOOD[:-1], NPY_TYPE, 422, "which is not the"),
        (GOOD + b"0", NPY_TYPE, 422, "which is not the"),
        (HUGE, NPY_TYPE, 422, "npy"),
        (GOOD[:20], NPY_TYPE, 422, "not an npy file"),
        (b"PK\x03\x04", NPY_TYPE, 422, "not an npy file"),
        (GOOD, "application/octet-stream", 415, "not known"),
        (GOOD, "", 415, "not known"),
    ],
)
def test_bad_tensors_are_refused(body, kind, status, words):
    with pytest.raises(RequestError, match=words) as caught:
        tensor(body, kind)
    assert caught.value.status == status and len(str(caught.value)) < 500


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "JPEG"), ("L", "PNG"), ("RGBA", "PNG")])
@pytest.mark.parametrize("shape", [(1, 8, 6), (3, 5, 5)])
def test_pictures_become_inputs(mode, kind, shape):
    got = decode_image(picture((40, 30), mode, kind), f"image/{kind.lower()}", shape)
    assert got.shape == (1, *shape) and got.dtype == np.float32
    assert 0 <= got.min() <= got.max() <= 1
    scaled = decode_image(
        picture((40, 30), mode, kind),
        f"image/{kind.lower()}",
        shape,
        {"mean": [0.5] * shape[0], "std": [0.25] * shape[0]},
    )
    np.testing.assert_allclose(scaled, (got - 0.5) / 0.25, atol=1e-6)


def chunk(kind, data):
    head = struct.pack(">I", len(data)) + kind + data
    return head + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height):
    """A PNG of a few bytes that states a huge size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(5001, 5000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_before_they_go_off(size):
    assert size[0] * size[1] > MAX_PIXELS
    with pytest.raises(RequestError) as caught:
        decode_image(bomb(*size), "image/png", SHAPE)
    assert caught.value.status in (413, 422)


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xd8\xff", picture(kind="JPEG")[:200], picture(kind="PNG")]
)
def test_broken_and_mislabelled_pictures_are_refused(body):
    with pytest.raises(RequestError, match="not a whole JPEG") as caught:
        decode_image(body, "image/jpeg", SHAPE)
    assert caught.value.status == 422


def test_models_without_pictures_say_so():
    with pytest.raises(RequestError, match="send a tensor"):
        decode_image(picture(), "image/png", (4, 8, 8))


def mutated(seed):
    """Bytes like a valid body, with some replaced."""

    @st.composite
    def draw(drawn):
        body = bytearray(seed)
        for _ in range(drawn(st.integers(0, 6))):
            body[drawn(st.integers(0, len(body) - 1))] = drawn(st.integers(0, 255))
        return bytes(body[: drawn(st.integers(0, len(body)))])

    return draw()


@given(st.binary(max_size=300) | mutated(GOOD) | mutated(js(np.zeros(SHAPE).tolist())))
def test_any_bytes_give_finite_inputs_or_a_refusal(body):
    for kind in (NPY_TYPE, JSON_TYPE):
        try:
            got = tensor(body, kind)
        except RequestError as error:
            assert 400 <= error.status < 500
        else:
            assert got.shape[1:] == SHAPE and np.isfinite(got).all()


@given(mutated(picture(kind="PNG")) | mutated(picture(kind="JPEG")))
def test_any_picture_gives_an_input_or_a_refusal(body):
    for kind in ("image/png", "image/jpeg"):
        try:
            got = decode_image(body, kind, SHAPE)
        except RequestError as error:
            assert 400 <= error.status < 500
        else:
            assert got.shape == (1, *SHAPE)
