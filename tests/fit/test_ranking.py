import torch
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import Task
from sartor.fit.ranking import ranking_batches


def test_whole_batches_until_there_are_enough() -> None:
    data = TensorDataset(torch.arange(50.0).unsqueeze(1), torch.zeros(50))
    task = Task.from_loader(DataLoader(data, batch_size=8), lambda model: 0.0, num_classes=2)
    assert [len(x) for x, _ in ranking_batches(task, 17)] == [8, 8, 8]
    assert torch.cat([x for x, _ in ranking_batches(task)]).flatten().tolist() == list(range(50))
