"""A picture of many small pictures: one row of samples for each setting, as SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape

from torch import Tensor

from sartor.core.errors import DataError
from sartor.core.packages import require

__all__ = ["mosaic"]

#: of one sample, of the space between, and of the labels beside the rows, in SVG units
CELL, GAP, LABEL = 40, 4, 150


def mosaic(rows: Mapping[str, Tensor], title: str) -> str:
    """Draw rows of grey samples with a label each; the same rows give the same text.

    Args:
        rows: label -> samples (N, H, W), of values in [-1, 1], black to white.
        title: stands above.

    Returns:
        The text of an SVG file that refers to nothing outside.

    Raises:
        DataError: there is no row, or a row is not (N, H, W).
        MissingPackageError: pillow is not installed.
    """
    if not rows or any(samples.ndim != 3 or 0 in samples.shape for samples in rows.values()):
        raise DataError("A mosaic takes at least one row, and of each row samples (N, H, W).")
    columns = max(map(len, rows.values()))
    width = LABEL + columns * (CELL + GAP)
    height = 36 + len(rows) * (CELL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="20" font-weight="bold">{escape(title)}</text>',
    ]
    for number, (label, samples) in enumerate(rows.items()):
        top = 32 + number * (CELL + GAP)
        parts.append(f'<text x="8" y="{top + CELL // 2 + 5}">{escape(label)}</text>')
        for column, sample in enumerate(samples):
            left = LABEL + column * (CELL + GAP)
            parts.append(
                f'<image x="{left}" y="{top}" width="{CELL}" height="{CELL}" '
                f'style="image-rendering:pixelated" href="{_png(sample)}"/>'
            )
    return "\n".join([*parts, "</svg>", ""])


def _png(sample: Tensor) -> str:
    """A grey picture (H, W) as a data address."""
    pixels = ((sample.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    require("PIL.Image").fromarray(pixels).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
