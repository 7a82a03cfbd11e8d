import copy

import pytest
import torch

from etf_heads.collapse import MultiTaskCollapse, SingleTaskCollapse


def fed(size, batches, **options):
    measure = SingleTaskCollapse(1, 2, reservoir=size, **options)
    for start in range(0, 1000, batches):
        values = torch.arange(start, min(start + batches, 1000), dtype=torch.float64)
        measure.update(values[:, None], (values >= 500).long())
    return measure


def kept(measure):
    return measure._sample().features[:, 0].long()


def test_the_sample_is_bounded_and_of_distinct_samples():
    measure = fed(50, 30)
    assert len(set(kept(measure).tolist())) == 50
    measure = fed(50, 30)
    assert sum(len(part) for part in measure.features_0) <= 2 * 50
    assert torch.equal(measure._sample().labels, (kept(measure) >= 500).long())


def test_every_sample_is_kept_equally_often():
    # 400 draws of 50 of 1000: each tenth of the data expects 2000 hits, deviation 42.
    hits = torch.zeros(10)
    for seed in range(400):
        hits += torch.bincount(kept(fed(50, 250, seed=seed)) // 100, minlength=10)
    assert hits.sum() == 20_000
    assert (hits - 2000).abs().max() < 5 * 42


def test_the_draw_follows_the_seed():
    assert torch.equal(kept(fed(50, 30)), kept(fed(50, 30)))
    assert not torch.equal(kept(fed(50, 30)), kept(fed(50, 30, seed=1)))


def test_samples_of_parts_merge():
    measure, other = fed(50, 30), fed(50, 30, seed=1)
    twin = copy.deepcopy(measure)
    measure.merge_state(other)
    union = torch.cat([twin._sample().priorities, other._sample().priorities])
    assert torch.equal(measure._sample().priorities, union.sort().values[:50])


def test_disagreement_is_estimated_from_the_sample():
    weight, bias = torch.tensor([[-1.0], [1.0]]), torch.tensor([699.5, -699.5])
    # Centres decide at 499.5, the classifier at 699.5: they differ on 200 of 1000.
    assert fed(1000, 30).compute(weight, bias)["nc4"] == 0.2
    assert fed(300, 30).compute(weight, bias)["nc4"] == pytest.approx(0.2, abs=0.1)
    assert "nc4" not in fed(300, 30).compute()
    assert "nc4" not in fed(0, 30).compute(weight)
    with pytest.raises(ValueError, match=r"reservoir must be a number of samples \(0: none\)"):
        fed(-1, 30)


def test_label_tuples_come_back_from_the_sample():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    labels = torch.stack([torch.randint(k, (60,), generator=generator) for k in (3, 4)], dim=1)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    measure = MultiTaskCollapse(5, [3, 4], reservoir=60)
    measure.update(features, labels)
    second_pass = measure.decisions(weight)
    second_pass.update(features, labels)
    values = measure.compute(weight)
    shares = {key: value for key, value in second_pass.compute().items() if "s_nc5" in key}
    assert {key: values[key] for key in shares} == shares
    assert len(shares) == 3
