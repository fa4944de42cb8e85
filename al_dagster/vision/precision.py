"""Parts of a network that keep their precision when the rest of it gives up some of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class FullPrecision(nn.Module):
    """A module that stays in float32 when what it is part of changes its precision, and moves with it all the same.

    Tensors that it is given are brought to float32 first. Places of prompts need it, for bfloat16 has 8 bits, which on
    an input of 1024 pixels is up to 4 pixels; and so does a head whose logits are compared, for in bfloat16 the best
    two are often the same number.

    Args:
        module: the module, in float32.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "FullPrecision":
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)
        return self

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the module gives."""
        return self.module(*map(_in_float32, inputs), **{name: _in_float32(one) for name, one in named.items()})


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
