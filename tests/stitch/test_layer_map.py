import json
import warnings
from dataclasses import asdict

import pytest

from sartor.core import RecipeError
from sartor.stitch.scalenet import ScaleNetConfig, layer_map


def test_the_orders() -> None:
    assert layer_map(12, 24) == [*range(12), *range(12)]
    assert layer_map(12, 24, "block") == [block for block in range(12) for _ in range(2)]
    assert layer_map(4, 6) == [0, 1, 2, 3, 0, 1]
    assert layer_map(4, 6, "block") == [0, 0, 1, 2, 2, 3]
    assert layer_map(2, 4, [1, 0, 0, 1]) == [1, 0, 0, 1]


@pytest.mark.parametrize("order", ["cyclic", "block"])
@pytest.mark.parametrize("depth", [1, 3, 12])
def test_the_orders_lose_no_block_and_equal_the_identity_at_the_same_depth(
    order: str, depth: int
) -> None:
    assert layer_map(depth, depth, order) == list(range(depth))
    for num_layers in range(depth, 3 * depth + 2):
        numbers = layer_map(depth, num_layers, order)
        assert len(numbers) == num_layers and set(numbers) == set(range(depth))
        counts = [numbers.count(block) for block in range(depth)]
        assert max(counts) - min(counts) <= 1  # no block is repeated twice more than another


@pytest.mark.parametrize(
    ("depth", "num_layers", "mapping", "message"),
    [
        (12, 11, "cyclic", "12 blocks and 11 layers were asked for; give at least 12"),
        (2, 4, "zigzag", "'cyclic', 'block' or a block for each layer, got 'zigzag'"),
        (2, 4, [0, 1, 0], "names 3 blocks for 4 layers"),
        (2, 3, [0, 1, 2], "takes block 2 of 2; give numbers from 0 to 1"),
        (2, 3, [0, 1, -1], "takes block -1 of 2"),
        (2, 3, [0, 1, True], "takes block True of 2"),
        (2, 3, [0, 1, 0.5], "takes block 0.5 of 2"),
    ],
)
def test_what_is_no_order(depth: int, num_layers: int, mapping: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        layer_map(depth, num_layers, mapping)


def test_a_block_that_is_left_out_is_named() -> None:
    with pytest.warns(UserWarning, match="leaves out the blocks 1, 3"):
        assert layer_map(4, 4, [0, 2, 0, 2]) == [0, 2, 0, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer_map(2, 4, (1, 1, 0, 0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank of an adapter must be at least 1, got 0; for none"),
        ({"rank": -4}, "at least 1, got -4"),
        ({"adapter": "prefix"}, "'parallel', 'lora' or None, got 'prefix'"),
        ({"drop_path": 1.0}, r"lie in \[0, 1\), got 1.0"),
        ({"drop_path": -0.1}, r"lie in \[0, 1\), got -0.1"),
    ],
)
def test_what_is_no_config(wrong: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        ScaleNetConfig(**wrong)


def test_a_config_comes_back_from_json() -> None:
    config = ScaleNetConfig(mapping=(0, 1, 1), adapter=None, drop_path=0.1)
    assert ScaleNetConfig(**json.loads(json.dumps(asdict(config)))) == config
