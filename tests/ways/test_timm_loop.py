"""A loop of timm's tools with fixed heads: optimisers, schedules, averages, checkpoints."""

import pytest
import torch
from torch.nn import functional as F

from etf_heads import replace_head
from etf_heads.losses import CompoundCrossEntropy
from etf_heads.surgery import load_model, save_model
from tests.ways.trainer_checks import TASKS, check_same_logits, check_trained, snapshot

timm = pytest.importorskip("timm", reason="timm is in the trainers extra")
for part in ("loss", "models", "optim", "scheduler", "utils"):
    pytest.importorskip(f"timm.{part}")
pytestmark = pytest.mark.recipes


def build(tasks, **options):
    model = timm.create_model("test_efficientnet", drop_path_rate=0.1)
    return replace_head(model, tasks, feature_norm="batch", **options)


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8)


def one_loss(model, images, n):
    return timm.loss.LabelSmoothingCrossEntropy()(model(images), n % 4)


def several_losses(model, images, n):
    logits = model(images)
    return F.cross_entropy(logits["left"], n % 4) + F.cross_entropy(logits["right"], n % 3)


def loss_from_features(model, images, n):
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    labels = {"left": n % 4, "right": n % 3}
    return CompoundCrossEntropy()(features, model.classifier.head, labels)


@pytest.mark.parametrize(
    ("tasks", "loss_of"), [(4, one_loss), (TASKS, several_losses), (TASKS, loss_from_features)]
)
@pytest.mark.parametrize("optimizer", ["sgd", "lamb"])
def test_it_trains_and_comes_back(tasks, loss_of, optimizer, tmp_path):
    model = build(tasks)
    before = snapshot(model)
    optimizer = timm.optim.create_optimizer_v2(
        model, optimizer, lr=0.01, weight_decay=0.05, momentum=0.9
    )
    scheduler, epochs = timm.scheduler.create_scheduler_v2(optimizer, num_epochs=3)
    average = timm.utils.ModelEmaV3(model, decay=0.5)
    scaler = timm.utils.NativeScaler("cpu")
    saver = timm.utils.CheckpointSaver(
        model, optimizer, model_ema=average, amp_scaler=scaler, checkpoint_dir=tmp_path
    )
    images, labels = batch()
    for epoch in range(epochs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, images, labels)
        optimizer.zero_grad()
        scaler(loss, optimizer, clip_grad=1.0, clip_mode="agc", parameters=model.parameters())
        average.update(model)
        scheduler.step(epoch + 1)
        saver.save_checkpoint(epoch)
    check_trained(model, optimizer, before)

    twin = build(tasks)
    path = str(tmp_path / "last.pth.tar")
    assert timm.models.resume_checkpoint(twin, path, optimizer, scaler) == epochs
    check_same_logits(model, twin, images)
    timm.models.load_checkpoint(twin, path)  # the average, where there is one
    check_same_logits(average.module, twin, images)
    save_model(average.module, tmp_path / "average.safetensors")
    learned = timm.create_model("test_efficientnet")
    check_same_logits(average.module, load_model(learned, tmp_path / "average.safetensors"), images)


def test_a_learned_head_and_a_fixed_one_refuse_each_others_checkpoints(tmp_path):
    fixed, learned = build(4), timm.create_model("test_efficientnet", num_classes=4)
    path = str(tmp_path / "model.pth")
    torch.save(fixed.state_dict(), path)
    with pytest.raises(RuntimeError, match=r"Missing key.*classifier\.weight"):
        timm.models.load_checkpoint(learned, path)
    torch.save(learned.state_dict(), path)
    with pytest.raises(RuntimeError, match="the checkpoint has a learned classifier there"):
        timm.models.load_checkpoint(fixed, path)


def test_a_checkpoint_of_another_fixed_head_is_not_noticed(tmp_path):
    model, other = build(4), build(4, orientation="hadamard")
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", lr=0.01)
    timm.utils.CheckpointSaver(model, optimizer, checkpoint_dir=tmp_path).save_checkpoint(0)
    timm.models.load_checkpoint(other, str(tmp_path / "last.pth.tar"))
    images, _ = batch()
    assert not torch.equal(other.eval()(images), model.eval()(images))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_layer_decay_counts_one_layer_less_than_with_a_learned_head(name):
    # As the documentation says: timm gives the last layer that has parameters the whole rate.
    def rates(model):
        optimizer = timm.optim.create_optimizer_v2(model, "adamw", lr=1.0, layer_decay=0.5)
        names = {id(p): name for name, p in model.named_parameters()}
        groups = optimizer.param_groups
        return {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}

    learned = rates(timm.create_model(name, num_classes=4))
    fixed = rates(replace_head(timm.create_model(name), 4))
    assert fixed == {key: learned[key] / 0.5 for key in fixed}
