"""Lightning trains a network with a fixed head, and its checkpoints know the head."""

import pytest
import torch
from torch.nn import functional as F

from etf_heads import NearestETFHead, replace_head
from tests.ways.trainer_checks import TASKS, check_same_logits, check_trained, head_of, snapshot

lightning = pytest.importorskip("lightning", reason="lightning is in the trainers extra")
timm = pytest.importorskip("timm", reason="timm is in the trainers extra")
pytestmark = [pytest.mark.recipes, pytest.mark.filterwarnings("ignore")]


class Network(lightning.LightningModule):
    def __init__(self, tasks, learned=False, **options):
        super().__init__()
        self.save_hyperparameters()
        classes = tasks if isinstance(tasks, int) else sum(tasks.values())
        self.model = timm.create_model("test_efficientnet", num_classes=classes)
        if not learned:
            replace_head(self.model, tasks, **options)

    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, _):
        images, labels = batch
        logits = self(images)
        if isinstance(logits, torch.Tensor):
            return F.cross_entropy(logits, labels["left"])
        return sum(F.cross_entropy(logits[task], labels[task]) for task in logits)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def samples():
    return [(torch.randn(3, 32, 32), {"left": n % 4, "right": n % 3}) for n in range(12)]


def trained(network, path):
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(network, torch.utils.data.DataLoader(samples(), batch_size=4))
    trainer.save_checkpoint(path)
    return trainer


@pytest.mark.parametrize("tasks", [4, TASKS])
def test_a_checkpoint_comes_back(tasks, tmp_path):
    network = Network(tasks, feature_norm="batch")
    before = snapshot(network)
    trainer = trained(network, tmp_path / "last.ckpt")
    check_trained(network, trainer.optimizers[0], before)
    twin = Network.load_from_checkpoint(tmp_path / "last.ckpt")
    check_same_logits(network, twin, torch.randn(2, 3, 32, 32))


def test_a_checkpoint_of_another_head_is_refused(tmp_path):
    path = tmp_path / "last.ckpt"
    trained(Network(4), path)
    for other, message in [
        ({"orientation": "hadamard"}, "the checkpoint is of another head: orientation"),
        ({"tasks": {"left": 2, "right": 2}}, "the checkpoint is of another head: FixedHead"),
        ({"learned": True}, r"Missing key.*classifier\.weight"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            Network.load_from_checkpoint(path, **other)
    trained(Network(4, learned=True), path)
    with pytest.raises(RuntimeError, match="the checkpoint has a learned classifier there"):
        Network.load_from_checkpoint(path, learned=False)


def test_a_head_that_follows_class_means_observes_in_the_training_step(tmp_path):
    class Observing(Network):
        def __init__(self):
            super().__init__(4)
            replace_head(self.model, lambda d: NearestETFHead(d, 4))

        def training_step(self, batch, _):
            images, labels = batch
            features = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
            return F.cross_entropy(self.model.classifier(features, labels["left"]), labels["left"])

    network = Observing()
    trained(network, tmp_path / "last.ckpt")
    assert head_of(network).running.updates == 3
    twin = Observing.load_from_checkpoint(tmp_path / "last.ckpt")
    check_same_logits(network, twin, torch.randn(2, 3, 32, 32))
