"""Encoded pictures: decoding, one check of all of them before training, loading by index."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sartor.core.errors import DataError
from sartor.core.packages import require

__all__ = ["Checked", "Normalization", "PictureData", "Pictures", "Preparation", "check_pictures"]

#: means and standard deviations of the three channels, of pixels in 0..1
Normalization = tuple[Sequence[float], Sequence[float]]

CORRUPT_SHARE = 0.01
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: share of the shorter side that a validation crop covers
CROP_SHARE = 0.875


class Pictures(Protocol):
    """Encoded pictures with labels, wherever they lie."""

    labels: Tensor

    def opened(self, index: int) -> Path | bytes:
        """Path or content of picture ``index``."""
        ...

    def name(self, index: int) -> str:
        """What to call picture ``index`` in a message."""
        ...


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the check of one split found.

    Attributes:
        intact: indices of the pictures that can be decoded, (n,).
        notes: one line that names what is skipped, if anything is.
        size: (height, width) that all intact pictures have, or ``None`` if they differ.
    """

    intact: Tensor
    notes: tuple[str, ...]
    size: tuple[int, int] | None


def check_pictures(pictures: Pictures, *, split: str, threads: int = 8) -> Checked:
    """Decode every picture once.

    Args:
        pictures: to check.
        split: name for messages.
        threads: pictures decoded at the same time.

    Raises:
        DataError: more than 1 % of the pictures are corrupt or larger than Pillow allows.
    """
    count = len(pictures.labels)
    with _quiet(), ThreadPoolExecutor(threads) as pool:
        sizes = list(pool.map(lambda index: _size(pictures.opened(index)), range(count)))
    corrupt = [index for index, size in enumerate(sizes) if size is None]
    named = ", ".join(pictures.name(index) for index in corrupt[:5])
    named += f" and {len(corrupt) - 5} more" if len(corrupt) > 5 else ""
    if len(corrupt) > CORRUPT_SHARE * count:
        raise DataError(
            f"{len(corrupt)} of the {count} images of {split} are corrupt, and at most 1 % may be "
            f"({named}); replace or remove them."
        )
    notes = (f"{split}: skipped {len(corrupt)} of {count} images as corrupt: {named}",)
    found = set(sizes) - {None}
    return Checked(
        intact=torch.tensor([index for index, size in enumerate(sizes) if size is not None]),
        notes=notes if corrupt else (),
        size=found.pop() if len(found) == 1 else None,
    )


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How pictures become inputs.

    Attributes:
        size: (C, H, W), with C = 1 or 3.
        mean: of each channel of the decoded picture, of pixels in 0..1.
        std: the same, positive.
    """

    size: tuple[int, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size[0] not in (1, 3):
            raise DataError(
                f"The models take {self.size[0]} channels and pictures give 3 (or 1); give models "
                "with 3 input channels."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise DataError(
                f"The normalisation needs 3 means and 3 positive deviations, got {self.mean} and "
                f"{self.std}."
            )


class PictureData(Dataset[tuple[Tensor, Tensor]]):
    """Some of the pictures as inputs; nothing is read before it is asked for.

    Input ``i`` in variant ``d`` is item ``i + len(self) * d``. An augmented item is a random
    resized crop, flipped half of the time; its randomness follows from ``seed`` and the item alone,
    so that any process gives the same one.

    Args:
        pictures: all pictures.
        chosen: indices of those to give out, (n,).
        preparation: how they become inputs.
        augment: seed of the augmentation; ``None`` takes the middle of the picture.
    """

    def __init__(
        self,
        pictures: Pictures,
        chosen: Tensor,
        preparation: Preparation,
        *,
        augment: int | None = None,
    ) -> None:
        self.pictures, self.chosen, self.preparation = pictures, chosen, preparation
        self.augment = augment

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        index = int(self.chosen[item % len(self)])
        with _quiet():
            picture = _decode(self.pictures.opened(index))
        if self.augment is None:
            picture = _middle(picture, self.preparation.size)
        else:
            with _seeded(f"{self.augment}:{item}"):
                picture = _random_crop(picture, self.preparation.size)
        return _normalised(picture, self.preparation), self.pictures.labels[index]


def _decode(picture: Path | bytes) -> Any:
    """Decode a whole picture as RGB."""
    image_module = require("PIL.Image")
    with image_module.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as image:
        limit = image_module.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise image_module.DecompressionBombError(f"{image.width} x {image.height} pixels")
        return image.convert("RGB")


def _size(picture: Path | bytes) -> tuple[int, int] | None:
    """(height, width) of a picture that decodes, else ``None``."""
    image_module = require("PIL.Image")
    try:
        with image_module.open(
            picture if isinstance(picture, Path) else io.BytesIO(picture)
        ) as image:
            image.verify()
        decoded = _decode(picture)
    except Exception:  # decoders raise anything on broken bytes
        return None
    return decoded.height, decoded.width


def _middle(picture: Any, size: Sequence[int]) -> Any:
    """Resize so that the crop covers the share of the picture that training crops cover on
    average, and take the middle; pictures that have the size already are left alone.
    """
    height, width = size[1:]
    if (picture.height, picture.width) == (height, width):
        return picture
    functional = require("torchvision.transforms.v2.functional")
    scale = max(height / picture.height, width / picture.width)
    if min(height, width) > 64:
        scale /= CROP_SHARE
    shape = [max(height, round(picture.height * scale)), max(width, round(picture.width * scale))]
    return functional.center_crop(functional.resize(picture, shape), [height, width])


def _random_crop(picture: Any, size: Sequence[int]) -> Any:
    functional = require("torchvision.transforms.v2.functional")
    transforms = require("torchvision.transforms")
    box = transforms.RandomResizedCrop.get_params(picture, [0.35, 1.0], [0.75, 4 / 3])
    picture = functional.resized_crop(picture, *box, list(size[1:]))
    return functional.horizontal_flip(picture) if torch.rand(()) < 0.5 else picture


def _normalised(picture: Any, preparation: Preparation) -> Tensor:
    """RGB picture to (C, H, W)."""
    pixels = require("torchvision.transforms.v2.functional").pil_to_tensor(picture).float() / 255
    mean = torch.tensor(preparation.mean).reshape(3, 1, 1)
    std = torch.tensor(preparation.std).reshape(3, 1, 1)
    inputs: Tensor = (pixels - mean) / std  # (3, H, W)
    return inputs if preparation.size[0] == 3 else inputs.mean(dim=0, keepdim=True)


@contextmanager
def _seeded(text: str) -> Iterator[None]:
    """Seed torch's CPU generator from a text inside, and give it back as it was."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's remarks on odd files to itself; what cannot be decoded is reported by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
