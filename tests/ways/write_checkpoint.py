"""Write what the tests of other versions of torch read: ``python -m tests.ways.write_checkpoint``.

It makes ``checkpoints/torch-VERSION.pt`` and ``.safetensors``, of the torch that runs it, of a
network with all that a checkpoint may hold: metadata only, learned numbers, statistics, data.
"""

from pathlib import Path

import torch
from torch import nn

from etf_heads import CompoundETFHead, CorrelatedETFHead, ETFHead, NearestETFHead
from etf_heads.surgery import save_model
from tests.cases import all_logits

FOLDER = Path(__file__).parent / "checkpoints"


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        counts = torch.tensor([[4.0, 1.0, 2.0], [1.0, 4.0, 1.0]])
        options = {"feature_norm": "batch", "learn_scale": True, "bias": True}
        self.backbone = nn.Linear(4, 12)
        self.heads = nn.ModuleDict({
            "tiled": CompoundETFHead(12, {"a": 3, "b": 4}),
            "hadamard": CompoundETFHead(12, [3, 4], orientation="hadamard", **options),
            "random": ETFHead(12, 5, orientation="random:3"),
            "correlated": CorrelatedETFHead(12, [2, 3], counts),
            "nearest": NearestETFHead(12, 5),
        })  # fmt: skip

    def forward(self, images):
        features = self.backbone(images)
        return torch.cat([all_logits(head(features)) for head in self.heads.values()], dim=-1)


def bare():
    """The network as a library without fixed heads would build it."""
    network = Network()
    for name, head in network.heads.items():
        network.heads[name] = nn.Linear(12, head.out_features)
    return network


def trained():
    torch.manual_seed(0)
    network = Network()
    images, labels = torch.randn(20, 4), torch.arange(20) % 5
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        network(images).square().sum().div(20).backward()
        optimizer.step()
        optimizer.zero_grad()
    network.heads["nearest"].observe(network.backbone(images), labels)
    return network.eval()


def main(folder=FOLDER):
    folder.mkdir(exist_ok=True)
    network, images = trained(), torch.randn(2, 4)
    path = folder / f"torch-{torch.__version__.split('+')[0]}"
    save_model(network, path.with_name(path.name + ".safetensors"))
    example = {"images": images, "logits": network(images).detach()}
    torch.save({"model": network.state_dict()} | example, path.with_name(path.name + ".pt"))


if __name__ == "__main__":
    main()
