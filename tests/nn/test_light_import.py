from __future__ import annotations

import subprocess
import sys

import pytest

import sartor.nn

_CODE = """
import sys
import sartor.data, sartor.nn
optional = {"timm", "torchvision", "PIL", "sklearn", "datasets"}
print(sorted(optional & {name.split(".")[0] for name in sys.modules}))
print(sartor.nn.load_family(["hvt_tiny_1"]).names)
"""


def test_a_fresh_process_imports_no_optional_package_and_knows_our_backbones() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split("\n")[:2] == ["[]", "('hvt_tiny_1',)"]


@pytest.mark.parametrize(
    "names",
    [
        "HiLoAttention TokenHiLo ConvFfn LITv2",
        "DeformableTokenMerging MapAttention LIT",
        "KernelHash EcoAttention fit_hashes_ attention_energy eco_pvt_v2",
        "TokenPool1d HVT",
        "UnifiedAttention UnifiedMlp spvit_deit",
        "MoELayer SparseMixerBlock aux_loss sparse_mlp",
        "RepConvBN expand_for_training fold",
        "selective_scan SS2D VMRNNCell VMRNN VMRNNMultiScale forecast_loss",
        "MetaPooling insert_meta_pooling PMPL mobilenetv2_metapool",
        "RFCell insert_rf_cells DifferentiableSearch rf_resnet cifar_resnet",
        "MaskedAutoencoder over_smoothing_report bamboo",
    ],
)
def test_every_method_is_reached_by_the_package(names: str) -> None:
    """Layers, what goes with them, and what makes the models."""
    for name in names.split():
        assert name in sartor.nn.__all__ and callable(getattr(sartor.nn, name))
