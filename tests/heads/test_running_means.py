"""Running class means: decay of the classes in a batch and of no others, missing labels."""

import pytest
import torch

from etf_heads import ClassMeanHead, NearestETFHead

TASKS = {"shape": 3, "colour": 2}


def test_decay_is_of_the_classes_in_the_batch():
    head = ClassMeanHead(1, 2, decay=0.5)
    head.observe(torch.tensor([[0.0], [8.0]]), torch.tensor([0, 1]))
    head.observe(torch.tensor([[3.0]]), torch.tensor([0]))
    assert head.running.counts.tolist() == [1.5, 1.0]
    assert head.running.means.tolist() == [[2.0], [8.0]]


@pytest.mark.parametrize("kind", [ClassMeanHead, NearestETFHead])
def test_samples_without_a_label_count_in_their_other_tasks_only(kind):
    head = kind(8, TASKS, feature_norm=None, dtype=torch.float64)
    alone = {task: kind(8, size, feature_norm=None) for task, size in TASKS.items()}
    generator = torch.Generator().manual_seed(0)
    for missing in (slice(0, 0), slice(4, 9), slice(None)):
        features = torch.randn(12, 8, generator=generator, dtype=torch.float64)
        labels = {t: torch.randint(k, (12,), generator=generator) for t, k in TASKS.items()}
        labels["colour"][missing] = -100
        head(features, labels)
        for task, column in labels.items():
            known = column >= 0
            alone[task].to(torch.float64).observe(features[known], column[known])
    for rows, own in zip(head.tasks.slices, alone.values(), strict=True):
        torch.testing.assert_close(head.running.means[rows], own.running.means)
        assert head.running.counts[rows].tolist() == own.running.counts.tolist()
