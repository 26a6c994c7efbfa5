import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.core import TrainingError
from sartor.losses import (
    DISTILLERS,
    LogitKD,
    MatchOutputs,
    Outputs,
    VanillaKD,
    distillation_loss,
    kd_loss,
    make_distiller,
)

Z = torch.tensor([[1, 2, 0.5], [0, -1, 3]])
T = torch.tensor([[2.0, 1, 0], [-1, 0.5, 2]])
Y = torch.tensor([0, 2])


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_it_is_the_function(mode: str) -> None:
    settings = {"alpha": 0.7, "temperature": 2.0}
    found = LogitKD(mode, **settings)(Outputs(Z), Outputs(T), Y)
    assert torch.equal(found, distillation_loss(Z, Y, T, mode=mode, **settings))


def test_outputs_are_matched_by_hand() -> None:
    loss = MatchOutputs(lambda z, y: z.sum() + y.sum(), alpha=0.25)
    wanted = 0.75 * (Z.sum() + 2) + 0.25 * (Z - T).square().mean()
    torch.testing.assert_close(loss(Outputs(Z), Outputs(T), Y), wanted)
    with pytest.raises(TrainingError, match=r"alpha in \[0, 1\], got 2"):
        MatchOutputs(F.mse_loss, alpha=2)


def test_names() -> None:
    net = nn.Linear(3, 3)
    made = {name: make_distiller(name, net, net) for name in ("soft", "hard", "vanilla")}
    assert set(made) <= set(DISTILLERS)
    assert isinstance(made["vanilla"], VanillaKD)
    cross = F.cross_entropy(Z, Y)
    values = {name: loss(Outputs(Z), Outputs(T), Y) for name, loss in made.items()}
    torch.testing.assert_close(values["soft"], 0.1 * cross + 0.9 * kd_loss(Z, T, 4.0))
    torch.testing.assert_close(values["hard"], cross)  # the teacher's classes are the labels
    torch.testing.assert_close(values["vanilla"], cross + kd_loss(Z, T))


def test_the_tasks_loss_is_used() -> None:
    net = nn.Linear(3, 3)
    made = make_distiller("vanilla", net, net, label_loss=lambda z, y: z.new_tensor(7.0))
    torch.testing.assert_close(made(Outputs(Z), Outputs(Z), Y), torch.tensor(7.0))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(TrainingError, match="no distiller 'vanila'; did you mean 'vanilla'"):
        make_distiller("vanila", nn.Linear(1, 1), nn.Linear(1, 1))
