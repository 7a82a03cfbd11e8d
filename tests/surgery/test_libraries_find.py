"""Locations of classifiers in every architecture of timm and of transformers."""

import warnings

import pytest
import timm
import torch
import torchvision
import transformers
from transformers.models.auto import modeling_auto as auto

from etf_heads.surgery import find_heads
from tests.surgery.architectures import BY_NAME, classifier_names

pytestmark = pytest.mark.recipes


def test_a_timm_model_without_classifier_is_refused():
    model = timm.create_model("test_resnet", num_classes=0)
    with pytest.raises(
        ValueError, match=r"ResNet: no classifier found \(models built with num_classes=0"
    ):
        find_heads(model)


def test_detectors_and_bare_encoders_are_refused():
    detector = torchvision.models.get_model(
        "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None
    )
    bert = BY_NAME["transformers-BertForSequenceClassification"].build().config
    for model in (detector, transformers.BertModel(bert), transformers.BertForMaskedLM(bert)):
        with pytest.raises(ValueError, match=r"is not a classifier of timm.*Name the classifier"):
            find_heads(model)


def test_a_subclass_of_a_known_model_is_known():
    class MyResNet(torchvision.models.ResNet):
        pass

    block = torchvision.models.resnet.BasicBlock
    assert list(find_heads(MyResNet(block, [1, 1, 1, 1]))) == ["fc"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_architecture_of_timm():
    found, without = 0, []
    for name in timm.list_models():
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            model = timm.create_model(name, num_classes=997)
        expected = classifier_names(model, 997)
        if not expected:
            without.append(name)
            with pytest.raises(ValueError, match=r"Name the classifier|no linear layer"):
                find_heads(model)
            continue
        assert set(find_heads(model)) == expected, name
        found += 1
    assert found >= 1364
    assert all(name.endswith("_enc") for name in without), without


@pytest.mark.slow
def test_every_classifier_of_transformers_that_its_default_configuration_builds():
    found = 0
    for kind in ("IMAGE", "SEQUENCE", "TOKEN", "AUDIO", "VIDEO"):
        table = getattr(auto, f"MODEL_FOR_{kind}_CLASSIFICATION_MAPPING")
        for config in table:
            classes = table[config]
            for cls in classes if isinstance(classes, tuple) else (classes,):
                model = _on_meta(cls, config)
                if model is None or cls.__name__ == "ShieldGemma2ForImageClassification":
                    continue  # the latter answers with a language model's head
                assert set(find_heads(model)) == classifier_names(model, 997), cls.__name__
                found += 1
    assert found > 250


def _on_meta(cls, config):
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            return cls(config(num_labels=997))
    except Exception:  # noqa: BLE001 (anything: extra libraries, defaults that do not fit)
        return None
