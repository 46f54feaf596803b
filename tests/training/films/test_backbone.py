"""The start of the film classifier: normalisation adapted to films, and folded away without changing what comes out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from model.experts.efficientnet import EfficientNetLite0, InvertedBottleneck
from training.films.backbone import adapt_backbone, first_blocks, fold_norms, set_training


@pytest.fixture(scope="module")
def state() -> Mapping[str, Tensor]:
    """Weights by their published names, drawn at random."""
    torch.manual_seed(0)
    network = EfficientNetLite0()
    found: dict[str, Tensor] = {}

    def add(convolution: str, norm: str, layer: nn.Module) -> None:
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight.detach().clone()
        found[f"{convolution}.weight"] = weight if convolution != "_conv_stem" else weight.repeat(1, 3, 1, 1) / 3.0
        found[f"{norm}.weight"] = torch.rand(layer.out_channels) + 0.5
        found[f"{norm}.bias"] = torch.randn(layer.out_channels) * 0.1

    add("_conv_stem", "_bn0", network.stem)
    for number, block in enumerate(network.blocks):
        assert isinstance(block, InvertedBottleneck)
        start = f"_blocks.{number}"
        if block.expand is not None:
            add(f"{start}._expand_conv", f"{start}._bn0", block.expand)
        add(f"{start}._depthwise_conv", f"{start}._bn1", block.depth)
        add(f"{start}._project_conv", f"{start}._bn2", block.project)
    add("_conv_head", "_bn1", network.last)
    return found


def _films(seed: int) -> Tensor:
    return torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_folding_changes_nothing_and_leaves_a_network_that_serving_can_load(state: Mapping[str, Tensor]) -> None:
    network = adapt_backbone(state, [_films(1), _films(2)], dropped=0.1).eval()
    with torch.inference_mode():
        before = network(_films(3))
        after = fold_norms(network)(_films(3))
    assert torch.allclose(before.last, after.last, atol=1e-3)
    assert torch.allclose(before.eighth, after.eighth, atol=1e-3)
    EfficientNetLite0().load_state_dict(network.state_dict())


def test_stages_of_a_trained_network_are_kept_and_get_no_normalisation(state: Mapping[str, Tensor]) -> None:
    trained = {name: value for name, value in EfficientNetLite0().state_dict().items() if not name.startswith("last")}
    network = adapt_backbone(state, [_films(1)], dropped=0.0, trained=trained)
    assert isinstance(network.stem, nn.Conv2d)
    assert isinstance(network.last, nn.Sequential)
    assert torch.equal(network.state_dict()["blocks.3.project.weight"], trained["blocks.3.project.weight"])


def test_frozen_blocks_keep_weights_and_statistics(state: Mapping[str, Tensor]) -> None:
    network = adapt_backbone(state, [_films(1)], dropped=0.0)
    frozen = first_blocks(network, 3)
    set_training(network, frozen)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(_films(2)).last.sum().backward()
    after = network.state_dict()
    moved = {name for name, value in after.items() if "running" in name and not torch.equal(value, before[name])}
    assert moved
    assert not any(name.startswith(("stem", "blocks.0.", "blocks.1.", "blocks.2.")) for name in moved)
    learning = {name for name, value in network.named_parameters() if value.grad is not None}
    assert "blocks.3.project.0.weight" in learning
    assert not any(name.startswith(("stem", "blocks.2.")) for name in learning)
