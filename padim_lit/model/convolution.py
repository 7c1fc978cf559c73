"""A network's convolutions on a CPU, in less time: the same features but for rounding."""

from torch import Tensor, nn
from torch.nn import functional as F

from padim_lit.model.onednn import on_cpu, pointwise
from padim_lit.model.weights import timm


class Foldable:
    """A convolution that multiplies with its own weights, or has a batch norm in them.

    >>> conv = Conv2d(3, 2, 1)
    >>> conv.factors[0] is conv.weight
    True
    """

    #: The batch norm that is folded into it, in a tuple, so that it is no part of it.
    norm: tuple[nn.Module, ...] = ()
    weight: Tensor
    bias: Tensor | None
    folded_weight: Tensor
    folded_bias: Tensor

    @property
    def factors(self) -> tuple[Tensor, Tensor | None]:
        """What it multiplies with and adds."""
        return (self.folded_weight, self.folded_bias) if self.norm else (self.weight, self.bias)


class Conv2d(Foldable, nn.Conv2d):
    """A convolution with weights of its own, or those that `padim_lit.model.folding` gave it.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 2, 1))
    >>> quicken(net)
    >>> type(net[0]) is Conv2d, net(torch.rand(1, 3, 4, 4)).shape
    (True, torch.Size([1, 2, 4, 4]))
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.factors
        alone = self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1
        if alone and self.kernel_size == (1, 1):
            return pointwise(x, weight, bias)
        return self._conv_forward(x, weight, bias)


class Conv2dSame(Foldable, timm.layers.Conv2dSame):
    """TensorFlow's: rows and columns of zeros are added, at times one more behind than before.

    Adding them copies the whole map. A kernel with a row and a column of zeros before its own lets
    a convolution add as many on both sides, and it adds them without a copy. Where each channel has
    a kernel of its own the larger one costs less than the copy.

    >>> import torch
    >>> net = nn.Sequential(timm.layers.Conv2dSame(2, 2, 3, stride=2, groups=2))
    >>> quicken(net)
    >>> type(net[0]) is Conv2dSame, net(torch.rand(1, 2, 4, 4)).shape
    (True, torch.Size([1, 2, 2, 2]))
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.factors
        if on_cpu(x) and self.groups == self.in_channels and self.dilation == (1, 1):
            sizes = zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
            added = [timm.layers.get_same_padding(*size, 1) for size in sizes]
            more = [total % 2 for total in added]  # zeros that are added behind alone
            weight = F.pad(weight, (more[1], 0, more[0], 0))
            sides = [-(-total // 2) for total in added]
            return F.conv2d(x, weight, bias, self.stride, sides, 1, self.groups)
        x = timm.layers.pad_same(x, self.kernel_size, self.stride, self.dilation)
        return self._conv_forward(x, weight, bias)


#: A subclass of these may compute something else, so it stays as it is.
QUICK: dict[type, type] = {nn.Conv2d: Conv2d, timm.layers.Conv2dSame: Conv2dSame}


def quicken(net: nn.Module) -> None:
    """Let the convolutions of a network take the quickest way, in place.

    >>> net = nn.Sequential(nn.Conv2d(3, 3, 1))
    >>> quicken(net)
    >>> type(net[0]).__module__
    'padim_lit.model.convolution'
    """
    for module in net.modules():
        module.__class__ = QUICK.get(type(module), type(module))
