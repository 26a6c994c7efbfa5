"""Parallel convolutions with a batch norm each that fold into one convolution.

Source: Liu, Hao, Han, Tang, Wang, GhostNetV3: Exploring the Training Strategies for Compact Models,
    2024, arXiv 2404.11202, section 3.1; the algebra is that of RepVGG (arXiv 2101.03697).
    Deviations: the branch of 1 x 1 takes the stride of the convolution, and branches beside the
    first can start without effect, so that a trained convolution keeps its function.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sartor.core.errors import FamilyError, TrainingError

__all__ = ["RepConvBN", "centred", "folded", "identity_kernel"]


def folded(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution that is followed by a batch norm in eval mode.

    Args:
        weight: (O, I / groups, kh, kw).
        norm: of O channels, with running statistics.

    Returns:
        Kernel of the same shape, and bias (O,).

    Example:
        >>> norm = nn.BatchNorm2d(1, eps=1.0).eval()
        >>> _ = norm.load_state_dict(
        ...     {
        ...         "weight": torch.tensor([2.0]),
        ...         "bias": torch.tensor([0.5]),
        ...         "running_mean": torch.tensor([1.0]),
        ...         "running_var": torch.tensor([3.0]),
        ...         "num_batches_tracked": torch.tensor(0),
        ...     }
        ... )
        >>> kernel, bias = folded(torch.ones(1, 1, 1, 1), norm)
        >>> kernel.item(), bias.item()
        (1.0, -0.5)
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise FamilyError(
            "A batch norm without running statistics cannot be folded; keep track_running_stats on."
        )
    scale = (var + norm.eps).rsqrt()  # (O,)
    scale = scale if norm.weight is None else norm.weight * scale
    bias = -mean * scale if norm.bias is None else norm.bias - mean * scale
    return weight * scale.view(-1, 1, 1, 1), bias


def centred(weight: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """Put a kernel (O, I, 1, 1) into the middle of an odd one (O, I, kh, kw) of zeros."""
    larger = weight.new_zeros(*weight.shape[:2], *kernel_size)
    larger[:, :, kernel_size[0] // 2, kernel_size[1] // 2] = weight[:, :, 0, 0]
    return larger


def identity_kernel(channels: int, groups: int) -> Tensor:
    """Kernel (C, C / groups, 1, 1) that gives back what it reads.

    Example:
        >>> identity_kernel(4, 2)[:, :, 0, 0].tolist()
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    return torch.eye(channels // groups).repeat(groups, 1)[:, :, None, None]


class RepConvBN(nn.Module):
    """Sum of parallel convolutions and batch norms; in eval mode equal to one convolution.

    Branch 0 has the weights of the given pair. The others start with a batch norm whose gain is 0,
    so that the function is kept.

    Args:
        conv: without a bias; is copied.
        norm: of its output channels; is copied.
        num_branches: convolutions of the given shape, at least 1.
        scale_branch: a 1 x 1 convolution beside them, where the kernel is larger than 1.
        identity_branch: a batch norm of the input, where shapes allow it.

    Raises:
        FamilyError: the convolution has a bias, its channels are not those of the norm, there is no
            branch, or an even or shifted kernel has no centre for the two small branches.

    Example:
        >>> conv, norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        >>> layer = RepConvBN(conv, norm).eval()
        >>> inputs = torch.randn(1, 8, 5, 5)
        >>> torch.allclose(layer.fuse()(inputs), layer(inputs), atol=1e-5)
        True
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d,
        num_branches: int = 3,
        scale_branch: bool = True,
        identity_branch: bool = True,
    ) -> None:
        super().__init__()
        _check(conv, norm, num_branches, small_branches=scale_branch or identity_branch)
        self.convs = nn.ModuleList([copy.deepcopy(conv)])
        self.norms = nn.ModuleList([_plain(norm)])
        for _ in range(num_branches - 1):
            self.convs.append(_like(conv, conv.kernel_size))
            self.norms.append(_fresh(norm))
        self.scale: nn.Conv2d | None = None
        self.scale_norm: nn.BatchNorm2d | None = None
        if scale_branch and max(conv.kernel_size) > 1:
            self.scale, self.scale_norm = _like(conv, (1, 1)), _fresh(norm)
        same = conv.in_channels == conv.out_channels and max(conv.stride) == 1
        self.identity = _fresh(norm) if identity_branch and same else None

    @property
    def added_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """The norms of all branches but the first."""
        others = (*list(self.norms)[1:], self.scale_norm, self.identity)
        return tuple(norm for norm in others if isinstance(norm, nn.BatchNorm2d))

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        total: Tensor = self.norms[0](self.convs[0](x))
        for conv, norm in zip(list(self.convs)[1:], list(self.norms)[1:], strict=True):
            total = total + norm(conv(x))
        if self.scale is not None and self.scale_norm is not None:
            total = total + self.scale_norm(self.scale(x))
        if self.identity is not None:
            total = total + self.identity(x)
        return total

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Make the one convolution, with a bias, that all branches are in eval mode.

        Called by ``timm.utils.reparameterize_model`` too.

        Raises:
            TrainingError: the layer is in training mode, in which statistics are the batch's.
        """
        if self.training:
            raise TrainingError(
                "Branches in training mode are not one convolution; call eval() on the model first."
            )
        first = self.convs[0]
        assert isinstance(first, nn.Conv2d)
        size = (first.kernel_size[0], first.kernel_size[1])
        parts = [
            folded(conv.weight, norm) for conv, norm in zip(self.convs, self.norms, strict=True)
        ]
        if self.scale is not None and self.scale_norm is not None:
            parts.append(folded(centred(self.scale.weight, size), self.scale_norm))
        if self.identity is not None:
            delta = identity_kernel(first.in_channels, first.groups).to(first.weight)
            parts.append(folded(centred(delta, size), self.identity))
        fused = _like(first, size, bias=True)
        fused.weight.copy_(torch.stack([weight for weight, _ in parts]).sum(0))
        assert fused.bias is not None
        fused.bias.copy_(torch.stack([bias for _, bias in parts]).sum(0))
        return fused.eval()


def _check(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, num_branches: int, *, small_branches: bool
) -> None:
    if conv.bias is not None or conv.out_channels != norm.num_features or num_branches < 1:
        raise FamilyError(
            "Branches take a convolution without a bias, a norm of its output channels and "
            f"num_branches >= 1, got bias={conv.bias is not None}, {conv.out_channels} and "
            f"{norm.num_features} channels, and {num_branches}."
        )
    if small_branches and not _has_centre(conv):
        raise FamilyError(
            "The branches of 1 x 1 and identity need an odd kernel with padding (kernel - 1) / 2 * "
            f"dilation, got kernel {conv.kernel_size} and padding {conv.padding}; set "
            "scale_branch=False and identity_branch=False."
        )


def _has_centre(conv: nn.Conv2d) -> bool:
    """Whether the middle weight of the kernel reads the pixel that a 1 x 1 kernel would read."""
    if isinstance(conv.padding, str):
        return False
    sides = zip(conv.kernel_size, conv.padding, conv.dilation, strict=True)
    return all(k % 2 == 1 and p == d * (k - 1) // 2 for k, p, d in sides)


def _like(conv: nn.Conv2d, kernel_size: tuple[int, ...], *, bias: bool = False) -> nn.Conv2d:
    """A fresh convolution of the same channels, stride, groups, device and type."""
    full = kernel_size == tuple(conv.kernel_size)
    return nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (kernel_size[0], kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        padding=conv.padding if full else 0,
        dilation=(conv.dilation[0], conv.dilation[1]) if full else 1,
        groups=conv.groups,
        bias=bias,
        padding_mode=conv.padding_mode if full else "zeros",
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )


def _plain(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """The same norm as torch's own class, without an activation that timm's may carry."""
    made = nn.BatchNorm2d(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    if norm.weight is not None:
        made = made.to(device=norm.weight.device, dtype=norm.weight.dtype)
    made.load_state_dict(norm.state_dict())
    return made


def _fresh(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """An untrained norm of the same settings whose gain is 0."""
    made = nn.BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    if norm.weight is not None:
        made = made.to(device=norm.weight.device, dtype=norm.weight.dtype)
    nn.init.zeros_(made.weight)
    return made
