"""Decoding: bytes of a request to a checked float32 array, or a clear refusal.

Nothing here trusts a size that a header states: it is compared with what was sent before memory
is taken. Nothing is unpickled.
"""

from __future__ import annotations

import ast
import io
import json
import math
import struct
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sartor.core.packages import require
from sartor.serve.backend import Array
from sartor.serve.errors import RequestError

__all__ = ["IMAGE_TYPES", "JSON_TYPE", "MAX_PIXELS", "NPY_TYPE", "decode_image", "decode_tensor"]

JSON_TYPE = "application/json"
NPY_TYPE = "application/x-npy"
IMAGE_TYPES = {"image/jpeg": "JPEG", "image/png": "PNG"}
#: a larger picture is refused before it is decoded
MAX_PIXELS = 25_000_000
_MAX_HEADER = 4096


def decode_tensor(body: bytes, kind: str, shape: Sequence[int], *, max_images: int) -> Array:
    """Read normalised inputs.

    Args:
        body: ``{"inputs": [...]}`` as JSON, or an npy file.
        kind: media type, :data:`JSON_TYPE` or :data:`NPY_TYPE`.
        shape: of one input, such as (C, H, W).
        max_images: that one request may hold, at least 1.

    Returns:
        (n, *shape) float32; n = 1 if the tensor had the shape of one input.

    Raises:
        RequestError: 422 for what is malformed, not finite or of a wrong shape or dtype, 413 for
            too many images, 415 for another media type.
    """
    if kind == JSON_TYPE:
        array = _from_json(body)
    elif kind == NPY_TYPE:
        array = _from_npy(body)
    else:
        raise RequestError(
            f"The content type {kind[:80]!r} is not known; send {JSON_TYPE}, {NPY_TYPE} or, one "
            f"picture at a time, {' or '.join(IMAGE_TYPES)}.",
            status=415,
        )
    if array.dtype.kind not in "iuf":
        raise RequestError(
            f"The tensor has the dtype {array.dtype}; send floating-point numbers or integers."
        )
    wanted = tuple(shape)
    array = array[None] if array.shape == wanted else array
    if array.ndim == 0 or array.shape[1:] != wanted or not len(array):
        sizes = ", ".join(map(str, wanted))
        raise RequestError(
            f"The tensor has the shape {array.shape}; send ({sizes}) or (n, {sizes}) with n >= 1."
        )
    if len(array) > max_images:
        raise RequestError(
            f"The request has {len(array)} images and at most {max_images} may come in one; split "
            "it.",
            status=413,
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused
        result = np.array(array, dtype=np.float32, order="C")  # a copy: the body is read-only
    if not np.isfinite(result).all():
        raise RequestError("The tensor has values that are not finite; send finite numbers.")
    return result


def _from_json(body: bytes) -> Array:
    try:
        value = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        raise RequestError(
            f'The body is not valid JSON ({str(error)[:100]}); send {{"inputs": [...]}}.'
        ) from error
    if not isinstance(value, dict) or set(value) != {"inputs"}:
        given = sorted(map(str, value))[:5] if isinstance(value, dict) else type(value).__name__
        raise RequestError(
            f"The JSON has {str(given)[:200]}; send an object with the one field 'inputs'."
        )
    try:
        return np.asarray(value["inputs"])
    except (ValueError, OverflowError, RecursionError) as error:
        raise RequestError(
            "The field 'inputs' is not a regular nested list of numbers; make all rows equally "
            "long."
        ) from error


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _from_npy(body: bytes) -> Array:
    """Read an npy file of version 1 or 2 without taking more memory than was sent."""
    header, start = _npy_header(body)
    try:
        dtype = np.dtype(header["descr"])
        shape = tuple(int(size) for size in header["shape"])
        fortran = bool(header["fortran_order"])
    except (TypeError, ValueError, KeyError, SyntaxError) as error:
        raise RequestError(
            "The npy header is malformed; write the file with numpy.save."
        ) from error
    if dtype.hasobject or dtype.kind not in "iufb" or dtype.subdtype is not None:
        raise RequestError(
            f"The tensor has the dtype {str(dtype)[:40]}; send floating-point numbers or integers."
        )
    count = math.prod(shape)
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(body) - start:
        raise RequestError(
            f"The npy header states {str(shape)[:80]} of {dtype}, which is not the "
            f"{len(body) - start} bytes that follow; write the file with numpy.save."
        )
    flat = np.frombuffer(body, dtype=dtype, count=count, offset=start)
    return flat.reshape(shape, order="F" if fortran else "C")


def _npy_header(body: bytes) -> tuple[Mapping[str, Any], int]:
    """The header's fields and where the data begin."""
    malformed = RequestError("The body is not an npy file; write it with numpy.save.")
    if body[:6] != b"\x93NUMPY" or len(body) < 12 or body[6] not in (1, 2):
        raise malformed
    at, form = (10, "<H") if body[6] == 1 else (12, "<I")
    length = struct.unpack_from(form, body, 8)[0]
    if length > _MAX_HEADER or at + length > len(body):
        raise malformed
    try:
        fields = ast.literal_eval(body[at : at + length].decode("latin1").strip())  # constants only
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise malformed from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise malformed
    if not isinstance(fields["shape"], tuple) or not isinstance(fields["descr"], str):
        raise malformed
    return fields, at + length


def decode_image(
    body: bytes, kind: str, shape: Sequence[int], preprocess: Mapping[str, Any] | None = None
) -> Array:
    """Read one picture: channels converted, resized to the input's size, scaled to 0..1.

    Args:
        body: a JPEG or PNG file.
        kind: media type.
        shape: (C, H, W) with C = 1 or 3.
        preprocess: ``mean`` and ``std`` of each channel, which normalise the scaled pixels; none
            leaves them in 0..1.

    Returns:
        (1, C, H, W) float32.

    Raises:
        RequestError: 422 for what is no whole picture of that type, 413 for one with more than
            :data:`MAX_PIXELS`, 415 where the models take no pictures.
    """
    image_module = require("PIL.Image")
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise RequestError(
            f"The models take inputs of shape {tuple(shape)}, which no picture has; send a tensor.",
            status=415,
        )
    channels, height, width = shape
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with image_module.open(io.BytesIO(body), formats=(IMAGE_TYPES[kind],)) as picture:
                _check_pixels(picture.width, picture.height)
                picture = picture.convert("L" if channels == 1 else "RGB")
                small = picture.resize((width, height), image_module.Resampling.BILINEAR)
    except RequestError:
        raise
    except image_module.DecompressionBombError as error:
        raise _too_large("more") from error
    except Exception as error:  # decoders raise anything on broken bytes
        raise RequestError(
            f"The body is not a whole {IMAGE_TYPES[kind]} picture ({str(error)[:80]}); send the "
            "complete file."
        ) from error
    pixels = np.asarray(small, dtype=np.float32) / 255.0  # (H, W) or (H, W, C)
    array = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)  # (C, H, W)
    if preprocess:
        mean, std = (np.float32(preprocess[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
        array = (array - mean) / std
    return np.ascontiguousarray(array[None], dtype=np.float32)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height}")


def _too_large(given: str) -> RequestError:
    return RequestError(
        f"The picture has {given} pixels and at most {MAX_PIXELS} are decoded; make it smaller.",
        status=413,
    )
