import numpy as np
import pytest
import torch
from collapse_reference import angles, disagreement, nc1, norms, unit, within_between

from etf_heads.collapse import MultiSourceCollapse, multi_source_collapse

TASKS = {"a": 4, "b": 3, "c": 6}


def case():
    generator = torch.Generator().manual_seed(2)
    features, labels, weights = {}, {}, {}
    for name, k in TASKS.items():
        n = 40 * k
        labels[name] = torch.randint(k - (name == "c"), (n,), generator=generator)  # c lacks one
        noise = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        means = torch.randn(k, 4, generator=generator, dtype=torch.float64)
        features[name] = noise + 2 * means[labels[name]]
        weights[name] = torch.randn(k, 4, generator=generator, dtype=torch.float64) + 1
    return features, labels, weights


def fed(features, labels, **options):
    measure = MultiSourceCollapse(4, TASKS, **options)
    for name in TASKS:  # a batch holds one task or several
        half = len(labels[name]) // 2
        measure.update({name: features[name][:half]}, {name: labels[name][:half]})
    rest = {name: slice(len(labels[name]) // 2, None) for name in TASKS}
    measure.update(
        {name: features[name][rows] for name, rows in rest.items()},
        {name: labels[name][rows] for name, rows in rest.items()},
    )
    return measure


def test_agrees_with_the_reference():
    features, labels, weights = case()
    measure = fed(features, labels)
    values = measure.compute(weights)
    for name in TASKS:
        own = features[name].numpy()
        seen, means, within, between, _ = within_between(own, labels[name].tolist())
        centred, w = means - means.mean(0), weights[name].numpy()
        dual = w[seen] - w[seen].mean(0)
        expected = {
            "m_nc1": nc1(within, between, len(seen)),
            "m_nc1_ratio": np.trace(within) / np.trace(between),
            "m_nc2_norms_means": norms(centred),
            "m_nc2_angles_means": angles(centred),
            "m_nc2_norms_weights": norms(w - w.mean(0)),
            "m_nc2_angles_weights": angles(w - w.mean(0)),
            "m_nc3": ((unit(centred) - unit(dual)) ** 2).sum(1).mean(),
        }
        assert {key: values[f"{key}/{name}"] for key in expected} == pytest.approx(expected, 1e-6)
    for key in expected:
        mean = np.mean([values[f"{key}/{name}"] for name in TASKS])
        assert values[key] == pytest.approx(mean)
    statistics = [measure.class_statistics(source) for source in range(3)]
    assert multi_source_collapse(statistics, TASKS, list(weights.values())) == values


@pytest.mark.parametrize("reservoir", [0, 1000])
def test_decisions_agree_with_the_reference(reservoir):
    features, labels, weights = case()
    measure = fed(features, labels, reservoir=reservoir)
    if reservoir:  # holds every sample: the second pass in one
        values = measure.compute(weights)
    else:
        decisions = measure.decisions(weights)
        decisions.update({"c": features["c"]}, {"c": labels["c"]})
        decisions.update([features["a"], features["b"], None], [labels["a"], labels["b"], None])
        values = decisions.compute()
    for name in TASKS:
        expected = disagreement(
            features[name].numpy(), labels[name].tolist(), weights[name].numpy(), 0.0
        )
        assert values[f"m_nc4/{name}"] == expected
    assert 0 < values["m_nc4"] < 1


def test_bad_input():
    features, labels, _ = case()
    measure = MultiSourceCollapse(4, TASKS)
    with pytest.raises(ValueError, match="features must map task names to tensors"):
        measure.update(features["a"], labels["a"])
    with pytest.raises(ValueError, match=r"features are of the tasks \['a'\], labels of \['b'\]"):
        measure.update({"a": features["a"]}, {"b": labels["b"]})
    with pytest.raises(ValueError, match=r"labels has the tasks \['d'\], known are"):
        measure.update({"a": features["a"]}, {"d": labels["b"]})
    with pytest.raises(ValueError, match="labels of task 'b' run from 0 to 3, expected 0 to 2"):
        measure.update({"b": features["a"]}, {"b": labels["a"]})
    with pytest.raises(ValueError, match=r"features\['a'\] has shape"):
        measure.update({"a": features["a"][:, :2]}, {"a": labels["a"]})
    spoilt = {"a": features["a"], "b": features["b"] * float("nan")}
    with pytest.raises(ValueError, match="NaN or infinite"):
        measure.update(spoilt, {"a": labels["a"], "b": labels["b"]})
    with pytest.raises(ValueError, match="seen no data"):  # not even that of task "a"
        measure.class_statistics(0)
    measure.update({"a": features["a"]}, {"a": labels["a"]})
    with pytest.raises(ValueError, match="seen no data of task 'b': call update"):
        measure.compute()
    measure.update([None, features["b"], features["c"]], [None, labels["b"] * 0, labels["c"]])
    with pytest.raises(ValueError, match="only one class of task 'b' were seen"):
        measure.compute()
