"""Small networks with every kind of head, and a few steps of training, for all ways to run them."""

import torch
from torch import nn
from torch.nn import functional as F

from etf_heads import ClassMeanHead, CompoundETFHead, ETFHead, NearestETFHead, PrototypeHead
from tests.cases import all_logits

MAKERS = {
    "tiled": lambda: CompoundETFHead(24, [5, 5]),
    "hadamard": lambda: CompoundETFHead(24, [5, 5], orientation="hadamard", bias=True),
    "random": lambda: CompoundETFHead(24, [5, 5], orientation="random:1", learn_scale=True),
    "unit": lambda: CompoundETFHead(24, [5, 5], feature_norm="unit", scale=8.0),
    "one": lambda: ETFHead(24, 5, orientation="canonical"),
    "nearest": lambda: NearestETFHead(24, [5, 5]),
    "nearest-gradient": lambda: NearestETFHead(24, [5, 5], gradient=True),
    "class-mean": lambda: ClassMeanHead(24, [5, 5]),
    # float32: where rounding decides, the last digits of the features do
    "prototypes": lambda: PrototypeHead(24, [5, 5], means_dtype=torch.float32),
}
OBSERVING = (ClassMeanHead, NearestETFHead, PrototypeHead)


class Network(nn.Module):
    """A backbone and a head; heads that observe get the labels."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24))
        self.head = MAKERS[kind]()

    def forward(self, images, labels=None):
        features = self.backbone(images)
        if isinstance(self.head, OBSERVING):
            return self.head(features, labels)
        return self.head(features)


def batch(size=16):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 12, generator=generator)
    return images, torch.randint(5, (size, 2), generator=generator)


def loss_of(network, images, labels):
    logits = all_logits(network(images, labels.unbind(1)))
    return sum(F.cross_entropy(z, y) for z, y in zip(logits.split(5, -1), labels.T, strict=False))


def train(network, optimizer, steps=3, rows=slice(None)):
    images, labels = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(network, images[rows], labels[rows]).backward()
        optimizer.step()
