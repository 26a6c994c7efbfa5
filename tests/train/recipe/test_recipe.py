"""Recipes: JSON, refusals, and that every switch does what a hand-written training does."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.layers import PatchDropout
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sartor.core import NoEffectError, RecipeError, SartorError, TrainingError
from sartor.data import digits_task
from sartor.nn import tiny_vit
from sartor.train import CAME, CowClip, TrainSettings, prune_data, pruned_mean, train
from sartor.train.progressive import ProgressiveSchedule
from sartor.train.recipe.options import CONFLICTS, OPTIONS
from sartor.train.recipe.recipe import Recipe
from sartor.train.schedule import warmup_cosine

X = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(48) % 10
SETTINGS = TrainSettings(epochs=4, lr=3e-3, weight_decay=0.1, warmup_epochs=1)


def model(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny_vit(embed_dim=16, depth=2, num_heads=2, **options)


def data(shuffle=False):
    return DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=shuffle)


def losses(net, inputs, targets):
    return F.cross_entropy(net(inputs), targets, reduction="none")


def trained(recipe=None, *, batches=None, net=None, **options):
    net = net or model()
    history = train(net, batches or data(), losses, SETTINGS, recipe=recipe, **options)
    return net, history


def same(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def epochs_of(loader):
    """Batches of four epochs, each seeded as the loop seeds it."""
    for epoch in range(4):
        torch.manual_seed(epoch)
        yield from loader


def by_hand(optimizer_of, *, before=None, loader=None):
    """A plain loop over the data, with the schedule of the settings."""
    net, loader = model().train(), loader or data()
    optimizer = optimizer_of(net)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step, (x, y) in enumerate(epochs_of(loader)):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * warmup_cosine(step, 4 * len(loader), warmup=len(loader))
        if before:
            before(net, step)
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return net


# --- the object -----------------------------------------------------------------------------------


def test_json_round_trip_keeps_every_field():
    recipe = Recipe(
        precision="bf16",
        optimizer="came",
        lr_scale=0.5,
        data_pruning="infobatch",
        batch_factor=2,
        token_drop=0.25,
        late_dropout=0.1,
    )
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe and len(recipe.active()) == 6
    sized = Recipe(progressive=ProgressiveSchedule(start=4, end=8, multiple=2))
    assert Recipe.from_dict(json.loads(json.dumps(sized.to_dict()))) == sized
    assert Recipe().to_dict() == {"version": 1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimiser": "came"}, "no switch 'optimiser'; did you mean 'optimizer'"),
        ({"version": 2}, "version 2"),
        ({"progressive": {"begin": 3}}, "no setting 'begin'"),
        ({"progressive": {"start": 3}}, "needs start and end"),
    ],
    ids=str,
)
def test_unreadable_json_is_refused(given, said):
    with pytest.raises(RecipeError, match=said):
        Recipe.from_dict(given)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"precision": "fp8"}, "precision cannot be 'fp8'"),
        ({"checkpointing": "all"}, "checkpointing cannot be 'all'"),
        ({"activations": "messa"}, "did you mean 'mesa'"),
        ({"optimizer": "adam8bit"}, "did you mean 'adamw8bit'"),
        ({"data_pruning": "random"}, "data_pruning cannot be"),
        ({"embeddings": "clip"}, "embeddings cannot be"),
        ({"token_drop": 1.0}, r"in \[0, 1\), got 1.0"),
        ({"token_drop": -0.1}, r"in \[0, 1\)"),
        ({"late_dropout": 1.0}, r"in \[0, 1\)"),
        ({"token_drop_until": 0.0}, "token_drop_until"),
        ({"late_dropout_start": 1.5}, "late_dropout_start"),
        ({"lr_scale": 0.0}, "lr_scale"),
        ({"lr_scale": math.nan}, "lr_scale"),
        ({"batch_factor": 0}, "batch_factor"),
    ],
    ids=str,
)
def test_illegal_values_are_refused(wrong, said):
    with pytest.raises(RecipeError, match=said):
        Recipe(**wrong)


SIZES = ProgressiveSchedule(start=4, end=8)


@pytest.mark.parametrize(
    ("pair", "why"),
    [
        ({"activations": "mesa", "compile": True}, "inside the compiled graph"),
        ({"activations": "offload", "compile": True}, "inside the compiled graph"),
        ({"activations": "mesa", "checkpointing": "blocks"}, "keeps no activations"),
        ({"activations": "offload", "checkpointing": "selective"}, "keeps no activations"),
        ({"data_pruning": "infobatch", "embeddings": "cowclip"}, "counts every sample once"),
        ({"embeddings": "cowclip", "optimizer": "came"}, "made for Adam"),
        ({"progressive": SIZES, "compile": True}, "compiled anew"),
        ({"progressive": SIZES, "token_drop": 0.5}, "both shorten"),
        ({"progressive": SIZES, "data_pruning": "infobatch"}, "one score"),
    ],
    ids=str,
)
def test_contradictory_pairs_are_refused_with_the_reason(pair, why):
    for name in pair:
        Recipe(**{name: pair[name]})
    with pytest.raises(RecipeError, match=f"contradict each other: .*{why}"):
        Recipe(**pair)


def test_every_conflict_names_options_that_exist():
    for one, other, why in CONFLICTS:
        assert any(name.startswith(one) for name in OPTIONS), one
        assert any(name.startswith(other) for name in OPTIONS), other
        assert not why.endswith(".")


# --- each switch against a hand-written training --------------------------------------------------


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=SETTINGS.lr, weight_decay=0.1)


def test_nothing_switched_on_is_the_plain_training():
    net, history = trained(Recipe())
    assert same(net, by_hand(adamw)) and history.changes == []
    assert same(net, trained(None)[0])


@pytest.mark.parametrize("name", ["blocks", "selective"])
def test_checkpointing_changes_no_number_and_is_undone(name):
    net, history = trained(Recipe(checkpointing=name))
    assert same(net, by_hand(adamw))
    assert history.changes[0].startswith("2 blocks are computed again")
    assert all("forward" not in vars(module) for module in net.modules())


def test_optimizers_are_those_that_are_named():
    net, history = trained(Recipe(optimizer="came", lr_scale=0.1))
    rate = SETTINGS.lr * 0.1
    assert same(net, by_hand(lambda m: CAME(m.parameters(), lr=rate, weight_decay=0.1)))
    assert history.changes == [
        "learning rate 0.0003 instead of 0.003",
        "came steps 12 matrices and 20 vectors",
    ]
    net, _ = trained(Recipe(optimizer="adafactor"))
    assert same(
        net, by_hand(lambda m: torch.optim.Adafactor(m.parameters(), lr=3e-3, weight_decay=0.1))
    )


@pytest.mark.parametrize("name", ["lion", "lamb", "lars", "muon"])
def test_optimizers_of_timm(name):
    import timm.optim

    net, _ = trained(Recipe(optimizer=name, lr_scale=0.1))
    kind = getattr(timm.optim, name.capitalize())
    made = by_hand(lambda m: kind(m.parameters(), lr=SETTINGS.lr * 0.1, weight_decay=0.1))
    assert same(net, made) and not same(net, model())


def test_larger_batches_take_a_larger_rate_and_a_warm_up():
    settings = TrainSettings(epochs=4, lr=3e-3, weight_decay=0.1)
    net = model()
    history = train(net, data(), losses, settings, recipe=Recipe(batch_factor=3))
    rate = 3e-3 * math.sqrt(3)
    plain = by_hand(
        lambda m: torch.optim.AdamW(m.parameters(), lr=rate, weight_decay=0.1),
        loader=DataLoader(TensorDataset(X, Y), batch_size=48),
    )
    assert same(net, plain)
    assert history.steps == [1] * 4 and history.samples == [48] * 4


def test_infobatch_equals_its_own_loop():
    net, history = trained(Recipe(data_pruning="infobatch"), batches=data(shuffle=True))
    plain = model().train()
    loader = prune_data(data(shuffle=True), epochs=4)
    optimizer = adamw(plain)
    for epoch in range(4):
        torch.manual_seed(epoch)
        loader.sampler.set_epoch(epoch)
        steps = len(loader)
        for number, (x, y, indices) in enumerate(loader):
            step = epoch * 3 + number * 3 // steps
            optimizer.param_groups[0]["lr"] = 3e-3 * warmup_cosine(step, 12, warmup=3)
            pruned_mean(loader.sampler, losses(plain, x, y), indices).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert same(net, plain)
    assert history.samples[0] == 48 and min(history.samples) < 48


def tables():
    torch.manual_seed(0)
    return nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 3))


IDS = torch.randint(9, (48, 5), generator=torch.Generator().manual_seed(2))
CLICKS = TensorDataset(IDS, Y % 3)


def test_cowclip_clips_the_tables_and_leaves_their_rate():
    net, plain = tables(), tables().train()
    settings = TrainSettings(epochs=2, lr=0.01, weight_decay=0.1)
    recipe = Recipe(embeddings="cowclip", batch_factor=2)
    history = train(net, DataLoader(CLICKS, batch_size=12), losses, settings, recipe=recipe)
    groups = [
        {"params": plain[0].parameters(), "lr": 0.01, "weight_decay": 0.0},
        {"params": plain[1].parameters(), "lr": 0.01 * math.sqrt(2), "weight_decay": 0.1},
    ]
    optimizer = CowClip(torch.optim.AdamW(groups), plain, l2=2e-5)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step, rows in enumerate(torch.arange(48).split(24) * 2):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * warmup_cosine(step, 4, warmup=2)
        losses(plain, *CLICKS[rows]).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(net, plain) and history.steps == [2, 2]
    assert "1 embedding tables are clipped" in history.changes[-1]


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("recipe", "make", "items"),
    [
        (Recipe(embeddings="cowclip"), tables, CLICKS),
        (Recipe(optimizer="adamw8bit"), wide, TensorDataset(X, Y)),
        (Recipe(optimizer="adamw4bit"), wide, TensorDataset(X, Y)),
        (Recipe(optimizer="adamwfp8"), wide, TensorDataset(X, Y)),
    ],
    ids=["cowclip", "8 bits", "4 bits", "fp8"],
)
def test_killed_run_of_other_optimizers_goes_on(tmp_path, recipe, make, items):
    def run(**options):
        net, loader = make(), DataLoader(items, batch_size=16, shuffle=True)
        return trained(recipe, batches=loader, net=net, **options)

    def stop(epoch, _):
        if epoch == 2:
            raise KeyboardInterrupt

    whole, history = run()
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path, on_epoch=stop)
    resumed, again = run(folder=tmp_path)
    assert same(whole, resumed) and again.losses == history.losses
    assert not same(whole, make())


def test_moments_of_few_bits_are_close_to_plain_ones():
    _, history = trained(Recipe(optimizer="adamw8bit"), net=wide())
    _, exact = trained(net=wide())
    assert history.losses[-1] == pytest.approx(exact.losses[-1], rel=0.05)
    assert history.changes == ["adamw8bit holds moments of 1 of 4 tensors in few bits"]
    with pytest.raises(NoEffectError, match="No tensor of the model has 4096"):
        trained(Recipe(optimizer="adamw8bit"))


def test_token_drop_ends_and_is_undone():
    def before(net, step):
        drops = 0.5 if step < 9.6 else 0.0
        net.patch_drop = PatchDropout(drops, num_prefix_tokens=1)

    net, _ = trained(Recipe(token_drop=0.5))
    assert same(net, by_hand(adamw, before=before)) and isinstance(net.patch_drop, nn.Identity)
    assert not same(net, trained()[0])


def test_late_dropout_begins_late_and_is_undone():
    def before(net, step):
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.2 if step >= 6 else 0.0

    net, _ = trained(Recipe(late_dropout=0.2))
    assert same(net, by_hand(adamw, before=before))
    assert all(m.p == 0 for m in net.modules() if isinstance(m, nn.Dropout))


def test_mesa_changes_the_gradients_by_its_rounding_alone_and_is_undone():
    net, history = trained(Recipe(activations="mesa"))
    plain, exact = trained()
    assert "forward" not in vars(net)
    assert history.losses[0] == pytest.approx(exact.losses[0], abs=1e-3)
    assert not same(net, plain)


def test_progressive_sizes_see_small_images_first():
    sizes = []

    class Watching(nn.Conv2d):
        def forward(self, x):
            sizes.append(x.shape[-1])
            return super().forward(x)

    net = nn.Sequential(Watching(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    schedule = ProgressiveSchedule(start=4, end=8, until=0.5, multiple=2)
    trained(Recipe(progressive=schedule), net=net)
    assert sizes == [4, 4, 4, 6, 6, 6, 8, 8, 8, 8, 8, 8]


def test_bf16_and_back():
    net, history = trained(Recipe(precision="bf16"))
    plain, exact = trained()
    assert history.changes == ["the forward pass runs in bf16"]
    assert history.losses[0] == pytest.approx(exact.losses[0], rel=0.02)
    assert not same(net, plain) and same(plain, by_hand(adamw))


@pytest.mark.slow
def test_compiled_training_equals_the_eager_one():
    net, _ = trained(Recipe(compile=True))
    plain, _ = trained()
    for one, other in zip(net.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert net._compiled_call_impl is None


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(data_pruning="infobatch", late_dropout=0.1),
        Recipe(activations="mesa", optimizer="came", lr_scale=0.1),
        Recipe(data_pruning="infobatch", activations="mesa", batch_factor=2),
        Recipe(checkpointing="blocks", token_drop=0.5),
        Recipe(optimizer="muon"),
        Recipe(optimizer="lion"),
        Recipe(optimizer="adafactor"),
    ],
    ids=lambda recipe: "+".join(recipe.active()),
)
@pytest.mark.parametrize("epochs", [1, 3])
def test_killed_run_goes_on_as_if_it_had_not_been(tmp_path, recipe, epochs):
    whole, history = trained(recipe, batches=data(shuffle=True))

    def stop(epoch, _):
        if epoch == epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(recipe, batches=data(shuffle=True), folder=tmp_path, on_epoch=stop)
    resumed, again = trained(recipe, batches=data(shuffle=True), folder=tmp_path)
    assert same(whole, resumed)
    assert (again.losses, again.samples) == (history.losses, history.samples)


# --- what does not fit ----------------------------------------------------------------------------


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(
    ("recipe", "error", "said"),
    [
        ({"checkpointing": "blocks"}, NoEffectError, "no list of blocks"),
        ({"token_drop": 0.5}, NoEffectError, "no timm VisionTransformer"),
        ({"late_dropout": 0.1}, NoEffectError, "no dropout"),
        ({"embeddings": "cowclip"}, NoEffectError, "no embeddings"),
        ({"activations": "offload"}, NoEffectError, "in its memory already"),
        ({"precision": "fp16"}, RecipeError, "needs a GPU"),
        ({"batch_factor": 4}, TrainingError, "a batch_factor of 3 at most"),
        ({"data_pruning": "infobatch"}, SartorError, "shuffle=True"),
        ({"progressive": ProgressiveSchedule(start=4, end=16)}, SartorError, "give end=8"),
    ],
    ids=str,
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a CPU cannot do")
def test_what_does_not_fit_is_refused(recipe, error, said):
    net = mlp()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(error, match=said):
        trained(Recipe(**recipe), net=net)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_models_without_matrices_need_no_optimizer_for_matrices():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.AvgPool2d(8), nn.Flatten())
    with pytest.raises(NoEffectError, match="no matrices"):
        trained(Recipe(optimizer="came"), net=net)


def test_token_maps_are_not_dropped():
    with pytest.raises(NoEffectError, match="pools its patch tokens"):
        net = model()
        net.global_pool = ""
        trained(Recipe(token_drop=0.5), net=net)


def test_two_words_on_one_thing_are_refused():
    with pytest.raises(RecipeError, match="another one"):
        trained(Recipe(optimizer="came"), optimizer=torch.optim.AdamW)
    half = TrainSettings(precision="fp16")
    with pytest.raises(RecipeError, match="bf16 and the settings for fp16"):
        train(model(), data(), losses, half, recipe=Recipe(precision="bf16"))


def test_batches_without_a_length_have_no_schedule():
    batches = iter([(X, Y)])
    with pytest.raises(TrainingError, match="with a length"):
        trained(Recipe(late_dropout=0.1), batches=batches)
    with pytest.raises(TrainingError, match="DataLoader with a batch_size"):
        trained(Recipe(batch_factor=2), batches=[(X, Y)])


def test_scalar_losses_cannot_say_which_samples_are_learned():
    with pytest.raises(TrainingError, match="per-sample losses"):
        train(
            model(),
            data(shuffle=True),
            lambda net, x, y: F.cross_entropy(net(x), y),
            SETTINGS,
            recipe=Recipe(data_pruning="infobatch"),
        )


def test_built_in_tasks_are_pruned_with_their_variants():
    task = digits_task(batch_size=100)
    net = model()
    history = train(
        net, task.train, losses, TrainSettings(epochs=4), recipe=Recipe(data_pruning="infobatch")
    )
    assert history.steps[0] == 10 and min(history.steps) < 10


# --- sizes over the training ----------------------------------------------------------------------


def test_sequences_are_cut_with_their_targets():
    schedule = ProgressiveSchedule(start=2, end=6, until=1.0, field="seq_len", multiple=2)
    tokens, following = torch.arange(12).view(2, 6), torch.arange(1, 13).view(2, 6)
    small, wanted = schedule.shrink(tokens, following, schedule.size(0, 10))
    assert small.tolist() == [[0, 1], [6, 7]] and wanted.tolist() == [[1, 2], [7, 8]]
    labels = torch.tensor([0, 1])
    assert schedule.shrink(tokens, labels, 4)[1] is labels
    assert schedule.shrink(tokens, following, 6)[0] is tokens


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": 8, "end": 4}, "start <= end"),
        ({"start": 4, "end": 8, "until": 0}, "until"),
        ({"start": 5, "end": 8, "multiple": 2}, "multiples of 2"),
        ({"start": 4, "end": 8, "field": "depth"}, "cannot change the 'depth'"),
    ],
    ids=str,
)
def test_illegal_schedules_are_refused(wrong, said):
    with pytest.raises(RecipeError, match=said):
        ProgressiveSchedule(**wrong)


# --- the page -------------------------------------------------------------------------------------


def test_the_page_lists_every_switch_with_its_provider():
    page = Path(__file__).parents[3] / "docs" / "training-for-less.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    for name, option in OPTIONS.items():
        field, _, word = name.partition("=")
        said = [
            row
            for row in rows
            if (f"`{field}=" in row and f'"{word}"' in row)
            or (not word and row.startswith(f"| `{field}="))
        ]
        assert any(f"| {option.provider} | {option.saves} |" in row for row in said), name
    for one, other, _ in CONFLICTS:
        pair = [part.partition("=")[0] for part in (one, other)]
        assert any(all(f"`{part}`" in row.split("|")[1] for part in pair) for row in rows), pair
