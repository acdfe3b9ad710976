"""Where cells lie is found by changing blocks of an image: every order is told, and what is none is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import conceptlens as cl
from conceptlens.model.cell_experiment import BLOCKS, IMAGES, changed_images, layer_changes
from conceptlens.model.cell_reading import placed
from conceptlens.model.layout import MAP_ORDERS, Arrangement, Grid
from conceptlens.model.model_input import ModelInput

SIZE = (64, 96)
ROWS, COLUMNS = 8, 12


class Ordered(nn.Module):
    """Patches of 8 x 8 that are put in some order, mixed a little, and averaged for the classes."""

    def __init__(
        self, order: Callable[[Tensor], Tensor], mean: Callable[[Tensor], Tensor] = lambda t: t.mean(1)
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.mix, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 16), nn.Linear(16, 5)
        self.order, self.mean = order, mean

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.mix(self.order(self.patch(images)))
        return self.head(self.mean(tokens))


def tokens_of(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


def arranged(arrangement: Arrangement) -> Callable[[Tensor], Tensor]:
    numbers = arrangement.numbers(ROWS, COLUMNS)
    assert numbers is not None
    return lambda maps: tokens_of(maps)[:, numbers.argsort()]


def beside(before: int = 0, behind: int = 0, middle: int = 0) -> Callable[[Tensor], Tensor]:
    def order(maps: Tensor) -> Tensor:
        tokens, half = tokens_of(maps), ROWS * COLUMNS // 2
        ones = [torch.ones(len(maps), n, 16) for n in (before, middle, behind)]
        return torch.cat([ones[0], tokens[:, :half], ones[1], tokens[:, half:], ones[2]], 1)

    return order


def found(module: nn.Module, layer: str = "mix", size: tuple[int, int] = SIZE) -> Grid | str:
    anatomy = cl.Backbone(module, input_size=size).anatomy
    return anatomy.grids.get(layer) or anatomy.refused[layer]


TOKENS: dict[str, tuple[Callable[[Tensor], Tensor], Grid]] = {
    "row by row": (tokens_of, Grid("image token channel", ROWS, COLUMNS, 16)),
    "column by column": (
        lambda maps: tokens_of(maps.transpose(2, 3)),
        Grid("image token channel", ROWS, COLUMNS, 16, arrangement=Arrangement("columns")),
    ),
    "a class token before": (beside(1), Grid("image token channel", ROWS, COLUMNS, 16, prefix=1)),
    "seven tokens before": (beside(7), Grid("image token channel", ROWS, COLUMNS, 16, prefix=7)),
    "a class token behind": (beside(0, 1), Grid("image token channel", ROWS, COLUMNS, 16, suffix=1)),
    "one before, column by column": (
        lambda maps: torch.cat([torch.ones(len(maps), 1, 16), tokens_of(maps.transpose(2, 3))], 1),
        Grid("image token channel", ROWS, COLUMNS, 16, prefix=1, arrangement=Arrangement("columns")),
    ),
    "one behind, window by window": (
        lambda maps: torch.cat([arranged(Arrangement("windows", 4))(maps), torch.ones(len(maps), 1, 16)], 1),
        Grid("image token channel", ROWS, COLUMNS, 16, suffix=1, arrangement=Arrangement("windows", 4)),
    ),
    "a class token amidst": (beside(0, 0, 1), Grid("image token channel", ROWS, COLUMNS, 16, middle=1)),
    "one before, 30 behind": (beside(1, 30), Grid("image token channel", ROWS, COLUMNS, 16, 1, 30)),
    **{
        f"{one.kind} {one.size}": (arranged(one), Grid("image token channel", ROWS, COLUMNS, 16, arrangement=one))
        for one in (Arrangement("windows", 4), Arrangement("halved", 1), Arrangement("interleaved", 2))
    },
}


@pytest.mark.parametrize(("order", "grid"), TOKENS.values(), ids=TOKENS)
def test_the_order_of_tokens_is_found(order: Callable[[Tensor], Tensor], grid: Grid) -> None:
    module = Ordered(order)
    read = found(module)
    assert isinstance(read, Grid), read
    # Two names may mean one order: windows of half a side, or halves. What counts is where each cell is.
    numbered = torch.arange(float(ROWS * COLUMNS)).view(1, 1, ROWS, COLUMNS).expand(1, 16, -1, -1)
    assert torch.equal(read.read(order(numbered)), numbered)
    assert (read.height, read.width, read.prefix, read.suffix, read.middle) == (
        grid.height, grid.width, grid.prefix, grid.suffix, grid.middle,
    )  # fmt: skip


@pytest.mark.parametrize("order", MAP_ORDERS)
@pytest.mark.parametrize("size", [SIZE, (64, 64)])
def test_the_axes_of_a_map_are_found(order: str, size: tuple[int, int]) -> None:
    """Square images and as many channels as rows say nothing by their shape."""
    axes = [["image", "channel", "height", "width"].index(name) for name in order.split()]

    class Map(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.out, self.head = nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Linear(8, 5)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.out(self.patch(images).permute(axes))
            return self.head(maps.permute([axes.index(i) for i in range(4)]).mean((2, 3)))

    torch.manual_seed(0)
    assert found(Map(), "out", size) == Grid(order, size[0] // 8, size[1] // 8, 8)  # type: ignore[arg-type]


def test_tokens_first_and_channels_first() -> None:
    first = Ordered(lambda maps: tokens_of(maps).transpose(0, 1), lambda tokens: tokens.mean(0))
    assert found(first) == Grid("token image channel", ROWS, COLUMNS, 16)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.flat, self.head = nn.Conv2d(3, 16, 8, 8), nn.Conv1d(16, 16, 1), nn.Linear(16, 5)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.flat(self.patch(images).flatten(2)).mean(2))

    assert found(Flat(), "flat") == Grid("image channel token", ROWS, COLUMNS, 16)


@pytest.mark.parametrize("count", [4, 96])
def test_the_axes_are_the_layers_whatever_the_batch(count: int) -> None:
    """96 images of 96 tokens: each photo's map is that of the photo alone."""
    module = Ordered(lambda maps: tokens_of(maps).transpose(0, 1), lambda tokens: tokens.square().mean(0))
    model = cl.Backbone(module, input_size=SIZE)
    images = torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    together = model.observe(images, layers="mix").feature()
    assert torch.allclose(together[:1], model.observe(images[:1], layers="mix").feature(), atol=1e-5)


class TestRefused:
    def test_shuffled_tokens(self) -> None:
        numbers = torch.randperm(ROWS * COLUMNS, generator=torch.Generator().manual_seed(0))
        read = found(Ordered(lambda maps: tokens_of(maps)[:, numbers]))
        assert "a change in one block of the image is not found at that block" in str(read)

    def test_tokens_shuffled_anew_for_each_image(self) -> None:
        """As a masked autoencoder does, whose default layer is then where its tokens still are in order."""
        config = transformers.ViTMAEConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            image_size=64,
            patch_size=8,
        )
        model = cl.Backbone(transformers.ViTMAEModel(config), input_size=(64, 64), task="embedding")
        assert "not the same for the same image twice" in model.anatomy.refused["layers.0"]
        with pytest.raises(cl.InputError, match="has no cells: its output is not the same for the same image twice"):
            model.observe(torch.rand(1, 3, 64, 64), layers="layers.0")

    def test_vectors_of_queries(self) -> None:
        class Queries(nn.Module):
            """A decoder with one query a class: 24 vectors of a 64 x 96 image pass for 4 x 6 cells."""

            def __init__(self) -> None:
                super().__init__()
                self.patch, self.query = nn.Conv2d(3, 32, 8, 8), nn.Parameter(torch.randn(24, 32))
                layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
                self.decoder, self.out = nn.TransformerDecoder(layer, 1), nn.Linear(32, 1)

            def forward(self, images: Tensor) -> Tensor:
                queries = self.query.expand(len(images), -1, -1)
                return self.out(self.decoder(queries, tokens_of(self.patch(images))))[..., 0]

        torch.manual_seed(0)
        model = cl.Backbone(Queries(), input_size=SIZE)
        assert model.default_layers == ("patch",)
        assert "decoder" in model.anatomy.refused

    @pytest.mark.parametrize("seed", range(3))
    def test_matrices_of_attention(self, seed: int) -> None:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patch, self.query, self.soft = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 32), nn.Softmax(-1)
                self.head = nn.Linear(32, 5)

            def forward(self, images: Tensor) -> Tensor:
                tokens = tokens_of(self.patch(images))
                queries = self.query(tokens)
                weights = self.soft((queries @ queries.transpose(1, 2))[:, None] / 32**0.5)
                return self.head((weights[:, 0] @ tokens).mean(1))

        torch.manual_seed(seed)
        assert "not found at that block" in str(found(Attention(), "soft", (64, 64)))

    def test_pixels_of_a_patch_by_patches(self) -> None:
        """As MobileViT unfolds its maps: 2 x 4 cells as 4 pixels of 2 patches are no 4 rows of 2 columns."""

        class Unfolded(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patch, self.mix, self.head = nn.Conv2d(3, 16, 16, 16), nn.Conv2d(16, 16, 1), nn.Linear(16, 5)

            def forward(self, images: Tensor) -> Tensor:
                cells = self.patch(images).unflatten(3, (2, 2)).permute(0, 1, 2, 4, 3).flatten(2, 3)
                return self.head(self.mix(cells).mean((2, 3)))

        torch.manual_seed(0)
        model = cl.Backbone(Unfolded(), input_size=(32, 64))
        assert "mix" in model.anatomy.refused
        assert model.default_layers == ("patch",)

    def test_cells_that_depend_on_the_batch(self) -> None:
        class LessTheOthers(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patch, self.less, self.head = nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Linear(8, 5)

            def forward(self, images: Tensor) -> Tensor:
                maps = self.patch(images)
                return self.head(self.less(maps - maps.mean(0, keepdim=True)).mean((2, 3)))

        assert "an image alone gives other cells" in str(found(LessTheOthers(), "less"))

    def test_what_does_not_depend_on_the_image(self) -> None:
        class Fixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.places, self.patch, self.head = nn.Identity(), nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 5)
                self.table = nn.Parameter(torch.randn(1, 8, 8, 12))

            def forward(self, images: Tensor) -> Tensor:
                maps = self.patch(images) + self.places(self.table.expand(len(images), -1, -1, -1))
                return self.head(maps.mean((2, 3)))

        assert "does not depend on the image" in str(found(Fixed(), "places"))

    def test_tokens_that_are_not_finite(self) -> None:
        module = Ordered(tokens_of, lambda tokens: tokens.log().nan_to_num().mean(1))
        module.mix = nn.Sequential(nn.Linear(16, 16), Logarithm())  # type: ignore[assignment]
        assert "not finite" in str(found(module, "mix"))


class Logarithm(nn.Module):
    """The logarithm, which is no number below 0."""

    def forward(self, values: Tensor) -> Tensor:
        return values.log()


class TestCoarseMaps:
    """What an experiment cannot tell has the order of axes that finer maps of the network have."""

    def test_cells_that_all_see_the_whole_image(self) -> None:
        """A map of 2 x 3 cells of which none changes where the image does: chance may not choose the default layer."""
        torch.manual_seed(0)
        mixed = nn.Sequential(
            nn.Conv2d(3, 8, 8, 8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 4, 4),
            nn.Flatten(2),
            nn.Linear(6, 6),
            nn.Unflatten(2, (2, 3)),
        )
        module = nn.Sequential(mixed, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        model = cl.Backbone(module, input_size=SIZE)
        assert model.anatomy.grids["0"] == Grid("image channel height width", 2, 3, 8)
        assert model.default_layers == ("1",)

    def test_maps_that_overflow_for_noise(self) -> None:
        module = nn.Sequential(
            nn.Conv2d(3, 8, 8, 8), Logarithm(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )
        assert found(module, "1") == Grid("image channel height width", ROWS, COLUMNS, 8)

    def test_not_where_the_order_of_axes_is_not_known(self) -> None:
        """Attention between six tokens is a map of 6 x 6 at best, and nothing finer is channels-first beside it."""
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 96, 8 * 6), nn.Unflatten(1, (8, 2, 3)), nn.ReLU())
        anatomy = cl.Backbone(nn.Sequential(module, nn.Flatten(), nn.Linear(48, 5)), input_size=SIZE).anatomy
        assert anatomy.grids == {}


class TestDefault:
    def test_a_recurrent_layer_of_which_the_last_step_is_read(self) -> None:
        class Recurrent(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patch, self.rnn = nn.Conv2d(3, 12, 8, 8), nn.GRU(12, 12, batch_first=True)
                self.head = nn.Linear(12, 4)

            def forward(self, images: Tensor) -> Tensor:
                return self.head(self.rnn(tokens_of(self.patch(images)))[0][:, -1])

        torch.manual_seed(0)
        assert cl.Backbone(Recurrent(), input_size=SIZE).default_layers != ("rnn",)

    def test_a_map_of_class_scores_is_the_answer_not_what_it_rests_on(self) -> None:
        class Dense(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.trunk, self.scores = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU()), nn.Conv2d(8, 5, 1)
                self.up = nn.Upsample(scale_factor=8)

            def forward(self, images: Tensor) -> Tensor:
                return self.up(self.scores(self.trunk(images)))

        torch.manual_seed(0)
        assert cl.Backbone(Dense(), input_size=SIZE).default_layers == ("trunk",)

    def test_a_network_whose_last_layer_is_a_map_of_class_scores(self) -> None:
        """As SqueezeNet: the map before the scores, unless the scores are all that there is."""
        squeeze = timm.create_model("test_resnet", num_classes=0, global_pool="")
        whole = nn.Sequential(squeeze, nn.Conv2d(squeeze.num_features, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert cl.Backbone(whole, input_size=(64, 96)).default_layers == ("0",)
        alone = nn.Sequential(nn.Conv2d(3, 5, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert cl.Backbone(alone, input_size=SIZE).default_layers == ("0",)

    def test_hiera_is_read_at_every_stage(self) -> None:
        """Its tokens follow each other in the order of its pooling, which differs from stage to stage."""
        torch.manual_seed(0)
        module = timm.models.hiera.Hiera(
            img_size=(64, 64), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), mask_unit_size=(8, 8), num_classes=5
        ).eval()
        model = cl.Backbone(module, input_size=(64, 64))
        images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        changed = images.clone()
        changed[..., 40:48, 8:16] += 3
        for block in range(4):
            before, after = (model.observe(x, layers=f"blocks.{block}").feature() for x in (images, changed))
            moved = (after - before).norm(dim=1)[0]
            row, column = divmod(int(moved.argmax()), moved.shape[1])
            place = (row + 0.5) / moved.shape[0], (column + 0.5) / moved.shape[1]
            assert max(abs(place[0] - 44 / 64), abs(place[1] - 12 / 64)) < 0.5 / moved.shape[0] + 0.13, block


class TestCost:
    def test_eleven_images_once(self) -> None:
        seen: list[int] = []
        module = Ordered(tokens_of)
        module.patch.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        model = cl.Backbone(module, input_size=SIZE)
        _ = model.anatomy
        assert seen == [IMAGES, 1]
        assert sum(seen) == 11
        _ = cl.Backbone(module, input_size=SIZE).anatomy
        assert sum(seen) == 11

    def test_other_weights_are_tried_again(self) -> None:
        seen: list[int] = []
        module = Ordered(tokens_of)
        module.patch.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        _ = cl.Backbone(module, input_size=SIZE).anatomy
        with torch.no_grad():
            module.patch.weight.mul_(2)
        _ = cl.Backbone(module, input_size=SIZE).anatomy
        assert sum(seen) == 22

    def test_a_module_that_takes_one_image_at_a_time(self) -> None:
        class One(Ordered):
            def forward(self, images: Tensor) -> Tensor:
                return super().forward(images.view(1, 3, *SIZE))

        model = cl.Backbone(One(beside(1)), input_size=SIZE)
        assert model.anatomy.grids["mix"] == Grid("image token channel", ROWS, COLUMNS, 16, prefix=1)
        assert model.default_layers == ("mix",)

    @pytest.mark.parametrize(("noise", "refused"), [(0.5, True), (1e-6, False)])
    def test_an_answer_that_is_drawn_at_random_has_no_default(self, noise: float, refused: bool) -> None:
        class Drawn(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
                self.head = nn.Linear(8, 5)

            def forward(self, images: Tensor) -> Tensor:
                found = self.head(self.stem(images).mean((2, 3)))
                return found + noise * torch.randn_like(found)

        torch.manual_seed(0)
        model = cl.Backbone(Drawn())
        if not refused:
            assert model.observe(torch.rand(2, 3, *SIZE)).layer == "stem"
            return
        with pytest.raises(cl.InputError, match="another answer for the same image twice"):
            model.observe(torch.rand(2, 3, *SIZE))
        assert model.observe(torch.rand(2, 3, *SIZE), layers="stem").feature().shape == (2, 8, ROWS, COLUMNS)

    def test_the_size_of_the_images_at_hand(self) -> None:
        module = nn.Sequential(nn.Conv2d(4, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 96, 5))
        assert cl.Backbone(module).observe(torch.rand(3, 4, *SIZE)).feature().shape == (3, 8, ROWS, COLUMNS)


def test_the_share_is_that_of_pairs_in_plain_loops() -> None:
    """An oracle: count the pairs of a cell in a block and one outside, cell by cell."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.Conv2d(6, 6, 3, padding=1))
    images, masks = changed_images(3, SIZE)
    changes = layer_changes(module, ModelInput(images), ["1"]).layers
    grid = Grid("image channel height width", ROWS, COLUMNS, 6)
    cells = module(images).detach()
    change = (cells[2:] - cells[:1]).norm(dim=1)
    relative = change / change.mean(0).clamp_min(1e-30)
    shares = []
    for block in range(len(BLOCKS)):
        covered = F.avg_pool2d(masks[block, 0][None], 8)[0]
        inside = [
            relative[block][i, j] for i in range(ROWS) for j in range(COLUMNS) if covered[i, j] >= covered.max() / 2
        ]
        outside = [relative[block][i, j] for i in range(ROWS) for j in range(COLUMNS) if covered[i, j] == 0]
        pairs = [float(a > b) + float(a == b) / 2 for a in inside for b in outside]
        shares.append(sum(pairs) / len(pairs))
    assert placed(changes["1"], grid, masks).share == pytest.approx(sum(shares) / len(shares), abs=1e-6)


def test_images_differ_in_their_block_alone() -> None:
    images, masks = changed_images(3, SIZE)
    assert len(images) == IMAGES == 2 + len(BLOCKS)
    assert torch.equal(images[0], images[1])
    for image, mask in zip(images[2:], masks, strict=True):
        assert torch.equal((image != images[0]).any(0), mask[0] > 0)


def test_images_along_another_axis_are_told_as_such() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.turned, self.head = nn.Conv2d(3, 16, 8, 8), nn.Identity(), nn.Linear(16, 3)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.turned(self.patch(images).relu().permute(1, 0, 2, 3)).permute(1, 0, 2, 3)
            return self.head(maps.mean((2, 3)))

    why = found(Turned(), "turned", (64, 64))
    assert why == (
        "the 10 images do not lie along its first axis, where they are looked for: its output has shape (16, 10, 8, 8)"
    )
