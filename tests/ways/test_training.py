"""Training loops over networks with every kind of head."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tests.cases import all_logits
from tests.ways.networks import MAKERS, OBSERVING, Network, batch, loss_of, train

each_kind = pytest.mark.parametrize("kind", MAKERS)


@each_kind
def test_float16_with_a_gradient_scaler(kind):
    network = Network(kind)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)  # overflows at first, by intention
    images, labels = batch()
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_of(network, images, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert scaler.get_scale() < 2.0**20
    assert losses[-1] < losses[0]
    assert all(torch.isfinite(p).all() for p in network.parameters())


@each_kind
def test_gradients_under_bfloat16_autocast_point_where_those_of_float32_do(kind):
    exact, rounded = Network(kind), Network(kind)
    loss_of(exact, *batch()).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(rounded, *batch())
    loss.backward()
    for a, b in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert torch.cosine_similarity(a.grad.flatten(), b.grad.flatten(), dim=0) > 0.999


@each_kind
def test_activation_checkpointing_gives_the_same_gradients(kind):
    images, labels = batch()
    plain, saving = Network(kind), Network(kind)
    loss_of(plain, images, labels).backward()

    def through_checkpoints(images, labels):
        features = checkpoint(saving.backbone, images, use_reentrant=False)
        given = (features, labels) if isinstance(saving.head, OBSERVING) else (features,)
        # A head that observes would take the batch in a second time, when it is recomputed.
        if isinstance(saving.head, OBSERVING):
            return saving.head(*given)
        return checkpoint(saving.head, *given, use_reentrant=False)

    loss_of(through_checkpoints, images, labels).backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("kind", [k for k in MAKERS if not isinstance(MAKERS[k](), OBSERVING)])
def test_accumulated_gradients_are_those_of_the_whole_batch(kind):
    images, labels = batch()
    whole, parts = Network(kind), Network(kind)
    loss_of(whole, images, labels).backward()
    for rows in (slice(0, 8), slice(8, 16)):
        (loss_of(parts, images[rows], labels[rows]) / 2).backward()
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@each_kind
def test_an_averaged_copy_has_the_geometry_of_the_original(kind):
    network = Network(kind)
    average = AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(5):
        train(network, optimizer, steps=1)
        average.update_parameters(network)
    ours, copied = network.head, average.module.head
    # Its scale and bias are averages; buffers are the original's, so the angles are exact.
    assert torch.equal(ours.frame(), copied.frame())
    assert torch.equal(copied.weight, copied.frame().to(copied.weight) * copied.scale)
    assert all_logits(average.eval()(batch()[0])).isfinite().all()


@each_kind
def test_frozen_heads_have_no_gradient_and_leave_the_optimiser_alone(kind):
    network = Network(kind)
    network.head.requires_grad_(False)
    before = copy.deepcopy(dict(network.head.named_parameters()))
    trained = [p for p in network.parameters() if p.requires_grad]
    train(network, torch.optim.AdamW(trained, lr=0.1))
    for name, parameter in network.head.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
