"""Files of weights: what shares memory is stored once and comes back under every name."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sartor.core import ArtifactError
from sartor.train import load_tensors, save_tensors, tensor_shapes


def test_a_shared_tensor_is_stored_once(tmp_path):
    weight, other = torch.randn(64, 64), torch.randn(64, 64)
    tensors = {"a": weight, "b": weight, "c": weight.T, "d": other, "e": torch.empty(0)}
    save_tensors(tensors, tmp_path / "w.safetensors")
    back = load_tensors(tmp_path / "w.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert back["a"].data_ptr() == back["b"].data_ptr() != back["c"].data_ptr()
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["a", "c", "d", "e"]


@pytest.mark.parametrize("aliases", ["[1]", '{"b": "nothing"}', "no JSON", "3"])
def test_tampered_aliases_are_refused(tmp_path, aliases):
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors", {"aliases": aliases})
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        load_tensors(tmp_path / "w.safetensors")


def test_shapes_do_not_depend_on_names(tmp_path):
    save_tensors({"b": torch.zeros(2, 3), "a": torch.zeros(4)}, tmp_path / "one.safetensors")
    save_tensors({"x": torch.ones(2, 3), "y": torch.ones(4)}, tmp_path / "two.safetensors")
    one, two = (tensor_shapes(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    assert one == two == ((2, 3), (4,))
    (tmp_path / "no.safetensors").write_bytes(b"none")
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        tensor_shapes(tmp_path / "no.safetensors")
