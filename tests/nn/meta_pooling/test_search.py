import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.core import ArtifactError, NoEffectError, RecipeError, TrainingError
from sartor.nn.architecture_step import ArchitectureAdam
from sartor.nn.meta_pooling.layer import MetaPooling, apply_choices, meta_poolings
from sartor.nn.meta_pooling.search import PMPL, load_choices, save_choices
from sartor.nn.sources import seeded

POOLS = ("skip", "max3", "max5")


def net() -> nn.Sequential:
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            MetaPooling(4, POOLS),
            MetaPooling(4, POOLS),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )


IMAGES = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1] * 4)


def test_a_step_moves_mixtures_alone() -> None:
    model = net()
    search = PMPL(model, total_epochs=3, arch_lr=0.1)
    before = [p.detach().clone() for p in search.weights()]
    alphas = [a.detach().clone() for a in search.alphas]
    search.arch_step(IMAGES, LABELS)
    assert all(torch.equal(a, b) for a, b in zip(before, search.weights(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(alphas, search.alphas, strict=True))
    assert len(search.weights()) == len([*model.parameters()]) - 2


def test_the_step_is_adam_s() -> None:
    one, other = (nn.Parameter(torch.tensor([0.3, -0.2])) for _ in range(2))
    ours = ArchitectureAdam([one], lr=0.1)
    theirs = torch.optim.Adam([other], lr=0.1, betas=(0.5, 0.999), weight_decay=1e-3)
    for _ in range(3):
        ours.step(one.softmax(0)[0], [one])
        theirs.zero_grad()
        other.softmax(0)[0].backward()
        theirs.step()
    assert torch.equal(one, other)


def test_a_leader_is_fixed_and_leaves_the_search() -> None:
    model = net()
    search = PMPL(model, total_epochs=3)
    assert search.maybe_fix() == {}
    model[1].alpha.data = torch.tensor([0.0, 0.0, 5.0])
    assert search.maybe_fix() == {"1": ("max5",)}, "the highest, not the second"
    assert len(search.alphas) == 1
    search.arch_step(IMAGES, LABELS)
    assert search.export()["1"] == ("max5",)


def test_the_undecided_keep_two_after_two_thirds() -> None:
    model = net()
    search = PMPL(model, total_epochs=9)
    for layer in meta_poolings(model).values():
        layer.alpha.data = torch.tensor([0.02, 0.0, 0.01])
    assert all(search.end_epoch(epoch) == {} for epoch in range(1, 6))
    assert search.end_epoch(6) == {"1": ("skip", "max5"), "2": ("skip", "max5")}
    assert search.alphas == [] and search.end_epoch(7) == {}
    search.arch_step(IMAGES, LABELS)  # nothing is left to learn
    F.cross_entropy(model(IMAGES), LABELS).backward()


def test_choices_go_through_a_file(tmp_path: Path) -> None:
    model = net()
    search = PMPL(model, total_epochs=1)
    search.end_epoch(1)
    save_choices(search.export(), tmp_path / "choices.json")
    choices = load_choices(tmp_path / "choices.json")
    assert choices == search.export()
    static = apply_choices(net(), choices)
    static.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(static.eval()(IMAGES), model.eval()(IMAGES))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    with pytest.raises(ArtifactError, match="does not exist"):
        load_choices(path)
    for value in ({"other": {}}, {"choices": {"1": "max3"}}):
        path.write_text(json.dumps(value))
        with pytest.raises(RecipeError):
            load_choices(path)


@pytest.mark.parametrize(
    "kwargs",
    [{"total_epochs": 0}, {"arch_lr": 0.0}, {"weight_decay": -1.0}, {"resolve_at": 0.0}],
)
def test_numbers_out_of_range_are_refused(kwargs: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="The search takes"):
        PMPL(net(), **{"total_epochs": 3, **kwargs})


def test_a_net_without_choices_is_refused() -> None:
    with pytest.raises(NoEffectError, match="insert_meta_pooling"):
        PMPL(nn.Linear(2, 2), total_epochs=3)
