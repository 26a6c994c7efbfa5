"""The registry: which methods exist, what each is and where it is found. Explicit, lazy, and
without duplicates.
"""

from __future__ import annotations

import fnmatch
import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from sartor.core.errors import RecipeError, nearest

__all__ = ["Method", "attribute", "engines", "find", "methods", "moves"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of ``sartor methods``.

    Attributes:
        slug: stable id.
        role: package that holds it.
        summary: one line.
        source: the published work, or who provides it.
        verb: ``module:name`` of its main function or class.
        move: ``module:name`` of its adaptor in ``fit``; empty if it has none.
        engine: ``module:name`` of its :class:`~sartor.core.Engine`; empty if it makes no elastic
            network in ``fit``.
        reproduce: ``module`` of its evidence; empty if it is not a published system of the line.
    """

    slug: str
    role: str
    summary: str
    source: str
    verb: str
    move: str = ""
    engine: str = ""
    reproduce: str = ""


_BUILT_IN = (
    Method(
        slug="anchor",
        role="moves",
        summary="take one model of the family as it is",
        source="sartor",
        verb="sartor.moves.anchor:AnchorMove",
        move="sartor.moves.anchor:AnchorMove",
    ),
    Method(
        slug="sn-net",
        role="stitch",
        summary="stitch a family of pretrained models into one elastic network",
        source="Pan, Cai, Zhuang, CVPR 2023, arXiv 2302.06586",
        verb="sartor.stitch.sn_net:stitch",
        move="sartor.moves.sn_net:SnNetMove",
        engine="sartor.moves.sn_net:SnNetEngine",
        reproduce="sartor.reproduce.sn_net",
    ),
    Method(
        slug="sn-netv2",
        role="stitch",
        summary="stitch two models in both directions, for classes and for dense heads",
        source="Pan, Liu, He, Cai, Zhuang, ECCV 2024, arXiv 2307.00154",
        verb="sartor.stitch.sn_netv2:stitch_two_way",
        move="sartor.moves.sn_netv2:SnNetV2Move",
        engine="sartor.moves.sn_netv2:SnNetV2Engine",
        reproduce="sartor.reproduce.sn_netv2",
    ),
    Method(
        slug="esta",
        role="stitch",
        summary="adapt a stitched family with few weights, deploy what training found good",
        source="He, Pan, Liu, Cai, Zhuang, CVPR 2024, arXiv 2311.17352",
        verb="sartor.stitch.esta:adapt_stitchable",
        move="sartor.moves.esta:EstaMove",
        engine="sartor.moves.esta:EstaEngine",
        reproduce="sartor.reproduce.esta",
    ),
    Method(
        slug="scalenet",
        role="stitch",
        summary="deepen a pretrained transformer with layers that share its weights",
        source="Hao et al., IEEE TIP 2025, arXiv 2510.18431",
        verb="sartor.stitch.scalenet:scale_depth",
        move="sartor.moves.scalenet:ScaleNetMove",
        reproduce="sartor.reproduce.scalenet",
    ),
    Method(
        slug="t-stitch",
        role="stitch",
        summary="let a small diffusion model take the early denoising steps, a large one the rest",
        source="Pan et al., 2024, arXiv 2402.14167",
        verb="sartor.stitch.t_stitch.assignment:TrajectoryStitcher",
        move="sartor.moves.t_stitch:TStitchMove",
        engine="sartor.moves.t_stitch:TStitchEngine",
        reproduce="sartor.reproduce.t_stitch",
    ),
    Method(
        slug="vanilla-kd",
        role="losses",
        summary="distil from labels and a teacher's logits, the baseline of every other distiller",
        source="Hao et al., NeurIPS 2023, arXiv 2305.15781",
        verb="sartor.losses.vanilla_kd:VanillaKD",
        reproduce="sartor.reproduce.vanilla_kd",
    ),
    Method(
        slug="ofa-kd",
        role="losses",
        summary="distil any vision teacher into any vision student through exits to logits",
        source="Hao et al., NeurIPS 2023, arXiv 2310.19444",
        verb="sartor.losses.ofa_kd:ofa_loss",
        reproduce="sartor.reproduce.ofa_kd",
    ),
    Method(
        slug="manifold-kd",
        role="losses",
        summary="distil between models of patches by how alike their patches are",
        source="Hao et al., NeurIPS 2022, arXiv 2107.01378",
        verb="sartor.losses.manifold_kd:manifold_loss",
        reproduce="sartor.reproduce.manifold_kd",
    ),
    Method(
        slug="cdfkd-mfs",
        role="train",
        summary="distil several trained classifiers into one small one without any data",
        source="Hao, Luo, Wang, Hu, An, IEEE TMM 2022, arXiv 2205.11845",
        verb="sartor.train.cdfkd_mfs.distiller:distill_data_free",
        reproduce="sartor.reproduce.cdfkd_mfs",
    ),
    Method(
        slug="came",
        role="train",
        summary="an optimiser like Adam that keeps about half of its state",
        source="Luo et al., ACL 2023, arXiv 2307.02047",
        verb="sartor.train.came.optimizer:CAME",
        reproduce="sartor.reproduce.came",
    ),
    Method(
        slug="cowclip",
        role="train",
        summary="train click-through models at a large batch: clip embedding rows by id counts",
        source="Zheng et al., AAAI 2023, arXiv 2204.06240",
        verb="sartor.train.cowclip.optimizer:CowClip",
        reproduce="sartor.reproduce.cowclip",
    ),
    Method(
        slug="token-crisis",
        role="train",
        summary="see when repeated data begin to hurt, and switch dropout on late",
        source="Xue et al., NeurIPS 2023, arXiv 2305.13230",
        verb="sartor.train.token_crisis.dropout:DropoutSchedule",
        reproduce="sartor.reproduce.token_crisis",
    ),
    Method(
        slug="lit",
        role="nn",
        summary="a pyramid with attention in its last two stages alone, merging deformable windows",
        source="Pan, Zhuang, He, Liu, Cai, AAAI 2022, arXiv 2105.14217",
        verb="sartor.nn.lit.backbone:LIT",
        reproduce="sartor.reproduce.lit",
    ),
    Method(
        slug="litv2",
        role="nn",
        summary="HiLo attention: heads for windows and for the pooled map; pyramids made of it",
        source="Pan, Cai, Zhuang, NeurIPS 2022, arXiv 2205.13213",
        verb="sartor.nn.litv2.backbone:LITv2",
        move="sartor.moves.litv2:HiLoMove",
        reproduce="sartor.reproduce.litv2",
    ),
    Method(
        slug="hvt",
        role="nn",
        summary="pool the tokens of a vision transformer between its blocks",
        source="Pan, Zhuang, Liu, He, Cai, ICCV 2021, arXiv 2103.10619",
        verb="sartor.nn.hvt.backbone:HVT",
        move="sartor.moves.hvt:TokenPoolMove",
        reproduce="sartor.reproduce.hvt",
    ),
    Method(
        slug="autorf",
        role="nn",
        summary="searched cells of poolings that widen the receptive field of residual blocks",
        source="Dong et al., MultiMedia Modeling 2023",
        verb="sartor.nn.autorf.cell:insert_rf_cells",
        reproduce="sartor.reproduce.autorf",
    ),
    Method(
        slug="ghostnetv3",
        role="nn",
        summary="branches for training that fold into the plain convolution",
        source="Liu et al., 2024, arXiv 2404.11202",
        verb="sartor.nn.ghostnetv3.branches:expand_for_training",
        reproduce="sartor.reproduce.ghostnetv3",
    ),
    Method(
        slug="meta-pooling",
        role="nn",
        summary="each block of a light network chooses a pooling, and so its receptive field",
        source="Dong et al., ICASSP 2023, arXiv 2301.10038",
        verb="sartor.nn.meta_pooling.layer:insert_meta_pooling",
        reproduce="sartor.reproduce.meta_pooling",
    ),
    Method(
        slug="ecoformer",
        role="nn",
        summary="attention linear in the tokens on learned binary codes of queries and keys",
        source="Liu, Pan, He, Cai, Zhuang, NeurIPS 2022, arXiv 2209.09004",
        verb="sartor.nn.ecoformer.attention:EcoAttention",
        move="sartor.moves.ecoformer:EcoMove",
        reproduce="sartor.reproduce.ecoformer",
    ),
    Method(
        slug="bamboo",
        role="nn",
        summary="deeper and narrower transformers, masked autoencoding, how alike tokens become",
        source="Xue et al., ICML 2023, arXiv 2205.10505",
        verb="sartor.nn.bamboo.backbone:bamboo",
        reproduce="sartor.reproduce.bamboo",
    ),
    Method(
        slug="mesa",
        role="train",
        summary="train with exact forward passes and 8-bit copies of the activations",
        source="Pan, Chen, He, Liu, Cai, Zhuang, 2021, arXiv 2111.11124",
        verb="sartor.train.mesa.context:mesa_",
        reproduce="sartor.reproduce.mesa",
    ),
    Method(
        slug="infobatch",
        role="train",
        summary="skip a random half of the samples that are learned already, weight the rest",
        source="Qin et al., ICLR 2024, arXiv 2303.04947",
        verb="sartor.train.infobatch.data:prune_data",
        reproduce="sartor.reproduce.infobatch",
    ),
    Method(
        slug="low-precision",
        role="train",
        summary="train with 8, 4 or fewer bits, natively where possible, emulated elsewhere",
        source="Hao et al., 2025, arXiv 2505.01043",
        verb="sartor.train.low_precision.prepare:prepare_low_precision_",
        reproduce="sartor.reproduce.low_precision",
    ),
    Method(
        slug="vmrnn",
        role="nn",
        summary="forecast frames with recurrent cells of selective scans, in plain PyTorch",
        source="Tang, Dong, Tang, Chu, Liang, CVPR 2024 workshops, arXiv 2403.16536",
        verb="sartor.nn.vmrnn.forecaster:VMRNN",
        reproduce="sartor.reproduce.vmrnn",
    ),
    Method(
        slug="sparse-mlp",
        role="nn",
        summary="send tokens and channels to experts in the last blocks of a Mixer",
        source="Lou, Xue, Zheng, You, 2021, arXiv 2109.02008",
        verb="sartor.nn.sparse_mlp.backbone:sparse_mlp",
        reproduce="sartor.reproduce.sparse_mlp",
    ),
    Method(
        slug="prune",
        role="compress",
        summary="remove whole heads, channels and hidden units inside blocks",
        source="Fang et al., CVPR 2023, arXiv 2301.12900, through torch-pruning",
        verb="sartor.compress.prune:prune_",
        move="sartor.moves.prune:PruneMove",
    ),
    Method(
        slug="spvit",
        role="compress",
        summary="search which attention can become a convolution and which hidden units can go",
        source="He, Cai, Liu, Pan, Zhang, Tao, Zhuang, TPAMI 2024, arXiv 2111.11802",
        verb="sartor.compress.spvit:prune_attention_",
        move="sartor.moves.spvit:SPViTMove",
        reproduce="sartor.reproduce.spvit",
    ),
    Method(
        slug="int8-dynamic",
        role="compress",
        summary="8-bit weights and, at run time, 8-bit activations, in ONNX Runtime",
        source="ONNX Runtime",
        verb="sartor.compress.int8:quantize_dynamic",
        move="sartor.moves.int8:DynamicInt8Move",
    ),
    Method(
        slug="int8-static",
        role="compress",
        summary="8-bit weights and activations with calibrated ranges, in ONNX Runtime",
        source="ONNX Runtime",
        verb="sartor.compress.int8:quantize_static",
        move="sartor.moves.int8:StaticInt8Move",
    ),
)


def methods(pattern: str = "*") -> tuple[Method, ...]:
    """List methods whose slug or role matches a wildcard, built-in ones first, then those of
    installed plug-ins.

    Third-party packages add methods under the entry-point group ``sartor.methods``; each entry is a
    :class:`Method`.

    Raises:
        RecipeError: two methods have the same slug.
    """
    rows = [*_BUILT_IN, *(entry.load() for entry in entry_points(group="sartor.methods"))]
    slugs = [row.slug for row in rows]
    repeated = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if repeated:
        raise RecipeError(
            f"Two methods are called {repeated[0]!r}; uninstall the plug-in that repeats it."
        )
    return tuple(
        row
        for row in rows
        if fnmatch.fnmatch(row.slug, pattern) or fnmatch.fnmatch(row.role, pattern)
    )


def find(slug: str) -> Method:
    """Return one method.

    Raises:
        RecipeError: there is none of that name; the nearest are named.
    """
    table = {row.slug: row for row in methods()}
    if slug not in table:
        raise RecipeError(f"There is no method {slug!r}; {nearest(slug, table)}")
    return table[slug]


def moves() -> dict[str, Method]:
    """The methods that compose in ``fit``, by slug."""
    return {row.slug: row for row in methods() if row.move}


def engines() -> dict[str, Method]:
    """The methods that make a family elastic in ``fit``, by slug."""
    return {row.slug: row for row in methods() if row.engine}


def attribute(path: str) -> Any:
    """Import ``module:name``, a path that sartor or an installed plug-in wrote; never one from a
    file.
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
