"""A projection of one's own: each channel goes to one dimension, with a random sign.

python run.py --config-dir examples/conf own=[examples] proj=hash dim=50
python run.py --config-dir examples/conf own=[examples] -m proj=jl,hash dim=50,100 seed=0,1,2
"""

import torch
from torch import Tensor

from padim_lit import InputError, Projection


class Hash(Projection):
    """Feature hashing: column c of Π has a single ±1, in row h(c) (Weinberger et al. 2009)."""

    name = "hash"

    def draw(self, generator: torch.Generator) -> Tensor:
        rows = torch.randint(self.dim, (self.in_channels,), generator=generator)
        signs = torch.randint(2, (self.in_channels,), generator=generator) * 2.0 - 1
        matrix = torch.zeros(self.dim, self.in_channels)
        matrix[rows, torch.arange(self.in_channels)] = signs
        return matrix

    def nested(self, dim: int) -> tuple[Tensor, float]:
        """experiment=ablation asks for smaller dimensions of the same draw; here there are none."""
        if dim != self.dim:
            raise InputError("hash: a smaller dim is another draw; use -m, or one of dims")
        return torch.arange(dim), 1.0
