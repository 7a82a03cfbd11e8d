"""The definitions once more: NumPy, two passes, loops over classes, no code of etf_heads."""

import numpy as np


def within_between(features, groups):
    """Group means, Σ_W and Σ_B as dense matrices; groups is a list of hashable labels."""
    features = np.asarray(features, dtype=np.float64)
    names = sorted(set(groups))
    rows = {name: [i for i, g in enumerate(groups) if g == name] for name in names}
    means = np.stack([features[rows[name]].mean(0) for name in names])
    dim = features.shape[1]
    within = np.zeros((dim, dim))
    for mean, name in zip(means, names, strict=True):
        for i in rows[name]:
            within += np.outer(features[i] - mean, features[i] - mean)
    within /= len(features)
    centre = means.mean(0)
    between = sum(np.outer(m - centre, m - centre) for m in means) / len(names)
    return names, means, within, between, rows


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def nc1(within, between, groups):
    return np.trace(within @ np.linalg.pinv(between, hermitian=True, rcond=1e-10)) / groups


def norms(v):
    length = np.linalg.norm(v, axis=1)
    return length.std() / length.mean()


def angles(v):
    cosines = unit(v) @ unit(v).T
    k = len(v)
    return np.mean([abs(cosines[i, j] + 1 / (k - 1)) for i in range(k) for j in range(k) if i != j])


def simplex_distance(product):
    k = len(product)
    target = (np.eye(k) - 1 / k) / np.sqrt(k - 1)
    return np.linalg.norm(product / np.linalg.norm(product) - target)


def cdnv(features, means, names, rows):
    named = zip(names, means, strict=True)
    variance = [np.mean(((features[rows[n]] - m) ** 2).sum(1)) for n, m in named]
    values = []
    for i in range(len(names)):
        for j in range(len(names)):
            if i != j:
                distance = ((means[i] - means[j]) ** 2).sum()
                values.append((variance[i] + variance[j]) / (2 * distance))
    return np.mean(values)


def single_task(features, labels, weight):
    features, weight = np.asarray(features, np.float64), np.asarray(weight, np.float64)
    names, means, within, between, rows = within_between(features, list(labels))
    M = means - means.mean(0)
    W = weight - weight.mean(0)
    seen = weight[names] - weight[names].mean(0)
    return {
        "nc1": nc1(within, between, len(names)),
        "nc1_ratio": np.trace(within) / np.trace(between),
        "cdnv": cdnv(features, means, names, rows),
        "nc2_norms_means": norms(M),
        "nc2_angles_means": angles(M),
        "nc2_gram_means": simplex_distance(M @ M.T),
        "nc2_norms_weights": norms(W),
        "nc2_angles_weights": angles(W),
        "nc2_gram_weights": simplex_distance(W @ W.T),
        "nc3": ((seen / np.linalg.norm(seen) - M / np.linalg.norm(M)) ** 2).sum(),
        "nc3_product": simplex_distance(seen @ M.T),
    }


def multi_task(features, labels, weights, names, task_weights=None):
    """labels (N, T); weights a list of (K_t, d); names of the tasks."""
    features = np.asarray(features, np.float64)
    tuples, means, within, between, _ = within_between(features, [tuple(y) for y in labels])
    W = [np.asarray(w, np.float64) - np.asarray(w, np.float64).mean(0) for w in weights]
    values = {
        "s_nc1": nc1(within, between, len(tuples)),
        "s_nc1_ratio": np.trace(within) / np.trace(between),
    }
    for name, w in zip(names, W, strict=True):
        values[f"s_nc2_norms/{name}"] = norms(w)
        values[f"s_nc2_angles/{name}"] = angles(w)
    values["s_nc2_norms"] = np.mean([norms(w) for w in W])
    values["s_nc2_angles"] = np.mean([angles(w) for w in W])
    cross = [abs(unit(a) @ unit(b).T).ravel() for i, a in enumerate(W) for b in W[i + 1 :]]
    if cross:
        values["s_nc3"] = np.concatenate(cross).mean()
    centred = unit(means - means.mean(0))
    c = np.ones(len(W)) if task_weights is None else np.asarray(task_weights)
    for key, factors in {
        "s_nc4": np.ones(len(W)),
        "s_nc4_weighted": np.sqrt(c * [len(w) for w in W]),
    }.items():
        gaps = []
        for h, label in zip(centred, tuples, strict=True):
            total = sum(f * w[k] for f, w, k in zip(factors, W, label, strict=True))
            gaps.append(np.linalg.norm(h - unit(total)))
        values[key] = np.mean(gaps)
    return values


def disagreement(features, labels, weight, bias):
    """Share of samples that classifier and nearest class mean put into different classes."""
    features = np.asarray(features, np.float64)
    names, means, *_ = within_between(features, list(labels))
    differ = 0
    for h in features:
        nearest = names[int(np.argmin([np.linalg.norm(h - m) for m in means]))]
        differ += int(np.argmax(weight @ h + bias)) != nearest
    return differ / len(features)
