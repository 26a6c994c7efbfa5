import pytest

from sartor.fit.progress import Progress, each, telling


class Heard(Progress):
    def __init__(self) -> None:
        self.words: list[object] = []

    def begin(self, stage: str, total: int) -> None:
        self.words.append((stage, total))

    def advance(self, text: str = "") -> None:
        self.words.append(text)


def test_a_listener_hears_of_each_part_when_it_is_done() -> None:
    heard = Heard()
    with telling(heard):
        for seed in each((3, 4)):
            heard.words.append(f"works on {seed}")
    assert heard.words == [("seeds", 2), "works on 3", "3", "works on 4", "4"]


def test_nobody_hears_outside() -> None:
    heard = Heard()
    with pytest.raises(ValueError, match="broken"), telling(heard):
        raise ValueError("broken")
    assert list(each(iter("ab"), "letters")) == ["a", "b"]
    assert heard.words == []
