"""The Trainer of transformers with fixed heads: what it saves, resumes, and cannot bring back."""

import pytest
import torch
from torch.nn import functional as F

from etf_heads import from_pretrained, replace_head
from etf_heads.surgery import load_model, save_model
from tests.ways.trainer_checks import TASKS, check_same_logits, check_trained, head_of, snapshot

transformers = pytest.importorskip("transformers", reason="transformers is in the trainers extra")
pytest.importorskip("accelerate", reason="accelerate is in the trainers extra")
pytestmark = [pytest.mark.recipes, pytest.mark.filterwarnings("ignore")]

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = {"pixel_values": lambda: torch.randn(3, 32, 32)}
BUILDERS = {
    "bert": (
        lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(vocab_size=50, intermediate_size=32, **SMALL)
        ),
        {"input_ids": lambda: torch.randint(50, (8,))},
    ),
    "vit": (
        lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(image_size=32, patch_size=8, intermediate_size=32, **SMALL)
        ),
        IMAGES,
    ),
    "resnet": (
        lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        ),
        IMAGES,
    ),
}


def loss(outputs, labels, **_):
    return sum(
        F.cross_entropy(z, y) for z, y in zip(outputs.logits.values(), labels.T, strict=True)
    )


def trainer(model, data, folder, several, **arguments):
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=4, save_steps=2, per_device_train_batch_size=4, report_to=[],
        use_cpu=True, disable_tqdm=True, learning_rate=1e-3, **arguments,
    )  # fmt: skip
    own = {"compute_loss_func": loss} if several else {}
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data, **own)


def samples(inputs, several):
    torch.manual_seed(0)
    labels = [[n % 4, n % 3] if several else n % 4 for n in range(12)]
    return [
        {name: draw() for name, draw in inputs.items()} | {"labels": torch.tensor(label)}
        for label in labels
    ]


def stacked(data, inputs):
    return {name: torch.stack([sample[name] for sample in data[:2]]) for name in inputs}


each_number_of_tasks = pytest.mark.parametrize("tasks", [4, TASKS], ids=["one", "several"])


@each_number_of_tasks
@pytest.mark.parametrize("name", BUILDERS)
def test_it_trains_and_comes_back(name, tasks, tmp_path):
    build, inputs = BUILDERS[name]
    several = isinstance(tasks, dict)
    data = samples(inputs, several)
    model = replace_head(build(), tasks, feature_norm="batch")
    before = snapshot(model)
    ours = trainer(model, data, tmp_path, several, eval_strategy="steps", eval_steps=2)
    ours.train()
    check_trained(model, ours.optimizer.optimizer, before)
    assert ours.evaluate()["eval_loss"] > 0
    save_model(model, tmp_path / "model.safetensors")
    twin = load_model(build(), tmp_path / "model.safetensors")
    assert twin.config.num_labels == head_of(model).out_features
    check_same_logits(model, twin, **stacked(data, inputs))
    twin = from_pretrained(type(model), tmp_path / "checkpoint-4")
    check_same_logits(model, twin, **stacked(data, inputs))


@each_number_of_tasks
@pytest.mark.parametrize("name", ["bert", "resnet"])  # 5.23 does not find its own weights of ViT
def test_it_resumes(name, tasks, tmp_path):
    build, inputs = BUILDERS[name]
    data = samples(inputs, isinstance(tasks, dict))
    model, resumed = (replace_head(build(), tasks, feature_norm="batch") for _ in range(2))
    trainer(model, data, tmp_path, isinstance(tasks, dict)).train()
    again = trainer(resumed, data, tmp_path, isinstance(tasks, dict))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    check_same_logits(model, resumed, **stacked(data, inputs))


def test_from_pretrained_reports_a_learned_head_of_random_weights(tmp_path):
    # The Trainer's checkpoints are those of save_pretrained: tensors, and a configuration.
    build, _ = BUILDERS["bert"]
    model = replace_head(build(), 4)
    model.save_pretrained(tmp_path)
    twin, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(twin.classifier, torch.nn.Linear)
    assert twin.num_labels == 4
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(ValueError, match="was not written by save_model"):
        load_model(build(), tmp_path / "model.safetensors")
