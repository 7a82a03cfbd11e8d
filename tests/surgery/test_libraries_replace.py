"""On a hundred architectures: the model with a fixed head is the model with its class vectors."""

import pytest
import torch
import torchvision
import transformers
from torch import nn

from etf_heads import CompoundETFHead, replace_head
from etf_heads.geometry import compound_etf, simplex_etf
from etf_heads.surgery import find_heads
from tests.surgery.architectures import (
    ARCHITECTURES,
    BY_NAME,
    CLASSES,
    TASKS,
    classifier_names,
    logits_of,
)

pytestmark = pytest.mark.recipes
SPECIAL = {  # several classifiers, outputs of their own kinds, or a position to choose
    "timm-crossvit_9_240",
    "timm-deit_tiny_distilled_patch16_224",
    "timm-volo_d1_224",
    "torchvision-densenet121",
    "torchvision-fcn_resnet50",
    "torchvision-googlenet",
    "torchvision-inception_v3",
    "transformers-BertForTokenClassification",
    "transformers-DeiTForImageClassificationWithTeacher",
    "transformers-GPT2ForSequenceClassification",
    "transformers-LevitForImageClassificationWithTeacher",
    "transformers-T5ForSequenceClassification",
    "transformers-XLMForSequenceClassification",
}
each_architecture = pytest.mark.parametrize(
    "architecture",
    [
        case
        if number % 6 == 0 or str(case) in SPECIAL
        else pytest.param(case, marks=pytest.mark.slow)
        for number, case in enumerate(ARCHITECTURES)
    ],
    ids=str,
)


@torch.no_grad()
def with_class_vectors(model, frame):
    """The model itself, its classifier layers holding the first columns of a frame as weights."""
    for name in classifier_names(model):
        layer = model.get_submodule(name)
        weight = torch.zeros(CLASSES, layer.weight.shape[1])
        weight[:, :CLASSES] = frame
        layer.weight.copy_(weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.zero_()
    return model


def in_parts(logits):
    species, attribute = logits.split(tuple(TASKS.values()), dim=1 if logits.ndim == 4 else -1)
    return {"species": species, "attribute": attribute}


@each_architecture
def test_the_head_takes_the_place_of_the_classifier(architecture):
    model, x = architecture.build(), architecture.inputs()
    assert set(find_heads(model)) == classifier_names(model)
    with torch.no_grad():
        expected = logits_of(with_class_vectors(model, simplex_etf(CLASSES))(x))
        parted = logits_of(with_class_vectors(model, compound_etf(list(TASKS.values())))(x))
        found = logits_of(replace_head(model, orientation="canonical")(x))
        by_task = logits_of(replace_head(model, TASKS, orientation="canonical")(x))
    assert found.keys() == expected.keys() == by_task.keys()
    for name in expected:
        assert expected[name].std() > 0
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(by_task[name], in_parts(parted[name]), rtol=1e-4, atol=1e-5)


def test_there_are_more_than_sixty():
    assert len(ARCHITECTURES) > 60
    assert {a.library for a in ARCHITECTURES} == {"timm", "torchvision", "transformers"}
    assert BY_NAME.keys() >= SPECIAL


def test_nothing_else_is_replaced():
    for architecture in ARCHITECTURES[::20]:
        model = architecture.build()
        before = dict(model.named_modules())
        inside = tuple(find_heads(model))
        after = dict(replace_head(model).named_modules())
        assert all(after[n] is m for n, m in before.items() if not n.startswith(inside))


def test_squeezenet_keeps_negative_logits():
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(weights=None, num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    assert list(find_heads(model)) == ["classifier.1"]
    replace_head(model, 10)
    logits = model(x)
    assert logits.min() < 0
    torch.testing.assert_close(logits.sum(1), torch.zeros(2), rtol=0, atol=1e-5)
    pooled = model.features(x).mean((2, 3))
    expected = pooled @ model.classifier[1].head.weight.T
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert isinstance(model.classifier[2], nn.Identity)


def test_auxiliary_classifiers_of_a_training_googlenet():
    model = BY_NAME["torchvision-googlenet"].build().train()
    outputs = replace_head(model, TASKS)(torch.randn(2, 3, 64, 64))
    assert type(outputs).__name__ == "GoogLeNetOutputs"
    for logits in outputs:
        assert {task: z.shape[1] for task, z in logits.items()} == TASKS


def test_distilled_training_has_two_outputs():
    model = BY_NAME["timm-deit_tiny_distilled_patch16_224"].build().train()
    model.set_distilled_training(True)
    outputs = replace_head(model, TASKS)(torch.randn(1, 3, 224, 224))
    assert [list(logits) for logits in outputs] == [list(TASKS)] * 2


@pytest.mark.parametrize(
    "name", ["timm-resnet10t", "timm-test_vit", "transformers-ViTForImageClassification"]
)
def test_two_tasks_train(name):
    architecture = BY_NAME[name]
    model = replace_head(architecture.build(), TASKS, feature_norm="batch").train()
    images = torch.randn(6, *architecture.inputs().shape[1:])
    (logits,) = logits_of(model(images)).values()
    labels = {task: torch.arange(6) % k for task, k in TASKS.items()}
    loss = sum(nn.functional.cross_entropy(logits[task], labels[task]) for task in TASKS)
    loss.backward()
    (place,) = find_heads(model)
    assert not list(model.get_submodule(place).parameters())
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    assert next(g for name, g in gradients.items() if name.endswith("weight")).any()


def test_logits_are_the_head_of_the_models_own_features():
    model = BY_NAME["timm-resnet10t"].build()
    x = torch.randn(2, 3, 64, 64)
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    replace_head(model, TASKS, scale=2.0)
    expected = CompoundETFHead(512, TASKS, scale=2.0)(pooled)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)
    assert model.get_classifier().head.tasks.names == tuple(TASKS)


def test_what_models_say_of_their_classes_follows():
    timm_model = replace_head(BY_NAME["timm-test_vit"].build(), TASKS | {"more": 3})
    assert timm_model.num_classes == 14
    bert = replace_head(BY_NAME["transformers-BertForSequenceClassification"].build(), 7)
    assert (bert.config.num_labels, bert.num_labels, len(bert.config.id2label)) == (7, 7, 7)


def test_transformers_own_loss():
    architecture = BY_NAME["transformers-BertForSequenceClassification"]
    ids, labels = architecture.inputs(), torch.tensor([6, 0])
    model = replace_head(architecture.build(), 7)
    output = model(ids, labels=labels)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits, labels))
    replace_head(model, TASKS)
    with pytest.raises(ValueError, match=r"several tasks and computes no loss: leave labels out"):
        model(ids, labels=labels)
    with pytest.raises(ValueError, match=r"were expected: .* ask with return_dict=True"):
        model(ids, return_dict=False, output_hidden_states=True)
    assert replace_head(model, 7)(ids, labels=labels).loss.isfinite()


def test_a_head_over_tokens():
    architecture = BY_NAME["transformers-BertForTokenClassification"]
    output = replace_head(architecture.build(), TASKS)(architecture.inputs())
    assert {task: tuple(z.shape) for task, z in output.logits.items()} == {
        "species": (2, 9, 7),
        "attribute": (2, 9, 4),
    }


def test_transformers_wrapper_of_timm():
    config = transformers.TimmWrapperConfig(
        architecture="test_resnet", label2id={str(i): i for i in range(CLASSES)}
    )
    model = transformers.TimmWrapperForImageClassification(config).eval()
    assert list(find_heads(model)) == ["timm_model.fc"]
    output = replace_head(model, TASKS)(torch.randn(2, 3, 32, 32))
    assert {task: z.shape[1] for task, z in output.logits.items()} == TASKS
