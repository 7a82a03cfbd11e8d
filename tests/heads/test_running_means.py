"""Decay of the running class means: of the classes in a batch, and of no others."""

import torch

from etf_heads import ClassMeanHead


def test_decay_is_of_the_classes_in_the_batch():
    head = ClassMeanHead(1, 2, decay=0.5)
    head.observe(torch.tensor([[0.0], [8.0]]), torch.tensor([0, 1]))
    head.observe(torch.tensor([[3.0]]), torch.tensor([0]))
    assert head.running.counts.tolist() == [1.5, 1.0]
    assert head.running.means.tolist() == [[2.0], [8.0]]
