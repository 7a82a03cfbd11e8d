"""What is recorded of runs for which the claims about transfer hold."""

from recipes.claims import class_means, layer_tuning, transfer, variance


def _class_means(variant):
    ahead = variant in (class_means.CLASS_MEANS, class_means.ETF)
    return {"collapse": {"shifted": (None, 0.8 if ahead else 0.7)}}


def _layer_tuning(variant):
    """The later the block, the more collapsed and accurate."""
    block = variant.removesuffix(layer_tuning.SKIP)
    rank = 1 + layer_tuning.BLOCKS.index(block) if block in layer_tuning.BLOCKS else 0
    accuracy = 0.79 if variant == layer_tuning.FULL else 0.7 + 0.01 * rank
    pairs = {
        "nc1": (5.0, 1 - 0.1 * rank),
        "held_out": (None, accuracy),
        "tuned_share": (None, 0.1 * rank),
    }
    return {"collapse": pairs, "accuracy": accuracy}


def _transfer(variant):
    """The longer on parity, the more collapsed and the worse; the longer on digits, the better."""
    labels, _, rest = variant.partition(", ")
    rank = transfer.CHECKPOINTS.index(int(rest.partition(" ")[0]))
    layers = {f"source_{layer}": (4.0 - i, None) for i, layer in enumerate(transfer.LAYERS)}
    pairs = layers | {"source_variance": (0.5 - 0.1 * rank, None), "source_loss": (0.01, None)}
    accuracies = (0.8, 0.79, 0.78, 0.74) if labels == "parity" else (0.8, 0.81, 0.82, 0.83)
    return {"collapse": pairs, "accuracy": accuracies[rank]}


def _variance(variant):
    rank = list(variance.VARIANTS).index(variant)
    return {"collapse": {}, "extra": {"train": 0.1 + 0.01 * rank, "test": 0.9 - 0.1 * rank}}


OF_TRANSFER = {
    "class-means": _class_means,
    "layer-tuning": _layer_tuning,
    "transfer": _transfer,
    "variance": _variance,
}
"""By claim: what ``claim_evidence.record`` makes a record of, for a variant."""
