import pytest
import torch
from torch import nn

from sartor.core import TrainingError
from sartor.losses.exit_branch import ConvExit, TokenExit, exit_branch

#: channels and side of ResNet-18's stages
RESNET18 = ((64, 56), (128, 28), (256, 14), (512, 7))


def sizes(branches: list[nn.Module]) -> list[int]:
    return [sum(p.numel() for p in branch.parameters()) for branch in branches]


@pytest.mark.parametrize(
    ("width", "classes", "wanted"),
    [
        (768, 100, [411_748, 397_924, 345_700, 470_884]),  # teacher Swin-T, CIFAR-100
        (768, 1000, [1_103_848, 1_090_024, 1_037_800, 1_162_984]),  # ImageNet
        (512, 100, [320_100, 306_276, 254_052, 313_956]),  # teacher DeiT-T: the student is wider
    ],
)
def test_the_cards_parameters_of_a_resnet(width: int, classes: int, wanted: list[int]) -> None:
    branches = [
        exit_branch((1, channels, side, side), classes, stage=stage, width=width)
        for stage, (channels, side) in enumerate(RESNET18, start=1)
    ]
    assert sizes(branches) == wanted
    assert (
        sum(wanted)
        == {768: {100: 1_626_256, 1000: 4_394_656}, 512: {100: 1_194_384}}[width][classes]
    )


def test_the_cards_parameters_of_deit_tiny() -> None:
    branches = [
        exit_branch((1, 197, 192), 100, stage=stage, width=192, prefix=1) for stage in range(1, 5)
    ]
    assert sizes(branches) == [1_501_156, 1_056_868, 612_580, 612_580]
    assert sum(sizes(branches)) == 3_783_184


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_maps_of_any_size_become_logits(stage: int) -> None:
    branch = exit_branch((2, 8, 5, 6), 3, stage=stage, width=16)
    assert isinstance(branch, ConvExit)
    maps = torch.randn(2, 8, 5, 6, requires_grad=True)
    assert branch(maps).shape == (2, 3)
    branch(maps).sum().backward()
    assert maps.grad is not None and maps.grad.abs().sum() > 0
    strided = [m for m in branch.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == 4 - stage


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize(("final_grid", "left"), [(1, 1), (2, 4), (3, 16), (7, 16)])
def test_tokens_merge_down_to_the_final_grid(prefix: int, final_grid: int, left: int) -> None:
    shape = (2, prefix + 16, 8)
    branch = exit_branch(shape, 3, stage=2, width=8, prefix=prefix, final_grid=final_grid)
    assert isinstance(branch, TokenExit) and len(branch.blocks) == 2
    seen = []
    branch.blocks.register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    assert branch(torch.randn(shape)).shape == (2, 3)
    assert seen == [(2, prefix + left, 8)]


def test_the_last_of_several_merges_has_no_activation() -> None:
    def kinds(final_grid: int) -> list[type]:
        branch = exit_branch((1, 64, 8), 3, stage=4, width=8, final_grid=final_grid)
        return [type(merge[-1]) for merge in branch.merging]

    assert kinds(1) == [nn.GELU, nn.GELU, nn.Identity]
    assert kinds(2) == [nn.GELU, nn.Identity]
    assert kinds(4) == [nn.GELU]


def test_the_first_prefix_token_is_classified_else_the_mean() -> None:
    torch.manual_seed(0)
    branch = exit_branch((1, 18, 8), 3, stage=4, width=8, prefix=2).eval()
    branch.blocks = nn.Identity()
    tokens = torch.randn(1, 18, 8)
    assert torch.equal(branch(tokens), branch.head(tokens[:, 0]))
    branch = exit_branch((1, 16, 8), 3, stage=4, width=8).eval()
    branch.blocks = nn.Identity()
    torch.testing.assert_close(branch(tokens[:, 2:]), branch.head(tokens[:, 2:].mean(dim=1)))


def test_tokens_of_another_width_are_bridged() -> None:
    assert exit_branch((2, 16, 12), 3, stage=1, width=8)(torch.randn(2, 16, 12)).shape == (2, 3)
    merged = exit_branch((2, 16, 12), 3, stage=1, width=8, final_grid=2)
    assert merged(torch.randn(2, 16, 12)).shape == (2, 3)


def test_initialisation() -> None:
    torch.manual_seed(0)
    conv = exit_branch((1, 64, 8, 8), 10, stage=3, width=256)
    linear = conv.head.weight
    assert abs(linear.std().item() - 0.02) < 0.001 and not conv.head.bias.any()
    wide = conv.projector[0][1].weight  # 1 x 1, 64 inputs
    assert abs(wide.std().item() - (2 / 64) ** 0.5) < 0.01


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((2, 8), {}, r"got \(2, 8\)"),
        ((2, 8, 4, 4), {"prefix": 1}, "prefix of 1"),
        ((2, 1, 8), {"prefix": 1}, "prefix of 1"),
        ((2, 16, 8), {"stage": 5}, "stage in 1..4.*got 5"),
        ((2, 16, 8), {"stage": 0}, "stage in 1..4.*got 0"),
        ((2, 16, 8), {"width": 0}, "at least 1"),
        ((2, 16, 8), {"width": 6}, "width of 4, 8, 12, ..., got 6"),
        ((2, 17, 8), {}, "17 tokens are not the patches of a square grid"),
        ((2, 25, 8), {"final_grid": 2}, "5 x 5 patches cannot be halved 1 times.*above 2"),
        ((2, 17, 12), {"final_grid": 2, "prefix": 1}, "from width 12 to 8.*width=12"),
    ],
)
def test_refusals(shape: tuple[int, ...], settings: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        exit_branch(shape, 3, **{"stage": 1, "width": 8, **settings})
