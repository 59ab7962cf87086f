"""A small stack of attention-like blocks, and helpers that fill its adapters with numbers."""

import pytest
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x):
        weights = (self.q(x) @ self.k(x).transpose(-1, -2)).softmax(-1)
        return x + self.out(weights @ self.v(x))


class Stack(nn.Module):
    def __init__(self, width=24, depth=3):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 6)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture
def make_stack():
    """Builds the same model every time it is called."""

    def build(**sizes):
        torch.manual_seed(0)
        return Stack(**sizes).eval()

    return build


@pytest.fixture
def randomise():
    """Gives every trainable parameter of a model other numbers; returns the model."""

    def fill(model, seed=1, scale=0.2):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
        return model

    return fill


@pytest.fixture
def inputs():
    return torch.randn(4, 5, 24, generator=torch.Generator().manual_seed(2))
