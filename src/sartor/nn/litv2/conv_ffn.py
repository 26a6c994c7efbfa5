"""The feed-forward layer of LITv2: a depthwise convolution between its two linear layers.

Source: Pan, Cai, Zhuang, NeurIPS 2022, arXiv 2205.13213, section 3.4. Its zero padding tells a
position how far the border is, which takes the place of positional embeddings.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ConvFfn"]


class ConvFfn(nn.Module):
    """Linear, depthwise 3 x 3 convolution, GELU, linear, on maps (B, H, W, C).

    Args:
        in_features: channels C of inputs and outputs.
        hidden_features: channels between the linear layers.

    Example:
        >>> import torch
        >>> ConvFfn(8, 32)(torch.zeros(2, 4, 4, 8)).shape
        torch.Size([2, 4, 4, 8])
    """

    def __init__(self, in_features: int, hidden_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.dwconv = nn.Conv2d(
            hidden_features, hidden_features, kernel_size=3, padding=1, groups=hidden_features
        )
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, H, W, C) -> maps (B, H, W, C)."""
        hidden = self.fc1(x).permute(0, 3, 1, 2)  # (B, hidden, H, W)
        mixed: Tensor = self.fc2(self.act(self.dwconv(hidden)).permute(0, 2, 3, 1))
        return mixed
