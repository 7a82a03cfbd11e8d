"""save_pretrained and back: fixed heads come with the configuration, strictly; pipelines."""

import json
import logging

import pytest
import torch

from etf_heads import NearestETFHead, from_pretrained, load_model, replace_head, save_model
from etf_heads.heads import Head
from etf_heads.surgery import merge, one_task_view, update_config
from tests.ways.trainer_checks import TASKS, check_same_logits, head_of

transformers = pytest.importorskip("transformers", reason="transformers is in the trainers extra")
pytestmark = [pytest.mark.recipes, pytest.mark.filterwarnings("ignore")]

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXTS = {"input_ids": torch.arange(16).reshape(2, 8)}
IMAGES = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)}


def bert(classes=2):
    config = transformers.BertConfig(
        vocab_size=50, intermediate_size=32, num_labels=classes, **SMALL
    )
    return transformers.BertForSequenceClassification(config).eval()


def vit(classes=2):
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, intermediate_size=32, num_labels=classes, **SMALL
    )
    return transformers.ViTForImageClassification(config).eval()


def resnet():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return transformers.ResNetForImageClassification(config).eval()


OF_TEXTS, OF_IMAGES = (
    getattr(transformers, f"AutoModelFor{kind}Classification") for kind in ("Sequence", "Image")
)
MODELS = {
    "bert": (bert, OF_TEXTS, TEXTS),
    "vit": (vit, OF_IMAGES, IMAGES),
    "resnet": (resnet, OF_IMAGES, IMAGES),
    "class": (bert, transformers.BertForSequenceClassification, TEXTS),
}
OPTIONS = {
    "formula": {"feature_norm": "batch"},
    "stored": {"orientation": "random:3", "bias": True, "learn_scale": True, "scale": 3.0},
}


def learned_a_little(model):
    """Numbers that a new head would not have, in all that a head stores."""
    head = head_of(model)
    with torch.no_grad():
        for tensor in [*head.parameters(), *head.buffers()]:
            if tensor.is_floating_point() and tensor.numel() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("tasks", [4, TASKS], ids=["one", "several"])
@pytest.mark.parametrize("name", MODELS)
def test_the_fixed_head_comes_back(name, tasks, options, tmp_path):
    build, auto, inputs = MODELS[name]
    model = learned_a_little(replace_head(build(), tasks, **OPTIONS[options]))
    model.save_pretrained(tmp_path)
    twin = from_pretrained(auto, tmp_path)
    assert type(twin) is type(model)
    assert repr(twin) == repr(model)
    assert not twin.training
    assert twin.config.num_labels == len(twin.config.id2label) == head_of(model).out_features
    check_same_logits(model, twin, **inputs)
    twin.save_pretrained(tmp_path / "again")
    check_same_logits(model, from_pretrained(auto, tmp_path / "again"), **inputs)
    save_model(twin, tmp_path / "model.safetensors")
    again = load_model(build(), tmp_path / "model.safetensors")
    assert again.config.etf_heads == model.config.etf_heads


def test_a_head_that_follows_class_means_comes_back_as_it_was_trained(tmp_path):
    model = replace_head(bert(), lambda d: NearestETFHead(d, 4))
    model.classifier.observe(torch.randn(40, 32), torch.arange(40) % 4)
    model.save_pretrained(tmp_path)
    twin = from_pretrained(OF_TEXTS, tmp_path)
    assert twin.classifier.running.updates == 1
    check_same_logits(model, twin, **TEXTS)


def test_options_are_those_of_transformers(tmp_path):
    replace_head(bert(), 4, orientation="random:3").save_pretrained(tmp_path)
    twin, report = from_pretrained(
        OF_TEXTS,
        str(tmp_path),
        dtype=torch.bfloat16,
        output_loading_info=True,
        local_files_only=True,
    )
    assert twin.dtype == twin.classifier.weight.dtype == torch.bfloat16
    assert not report["missing_keys"]
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.hidden_dropout_prob = 0.75
    assert from_pretrained(OF_TEXTS, tmp_path, config=config).config.hidden_dropout_prob == 0.75
    named = from_pretrained(OF_TEXTS, tmp_path, hidden_dropout_prob=0.25)
    assert named.config.hidden_dropout_prob == 0.25


def test_a_folder_of_another_head_is_refused(tmp_path):
    replace_head(bert(), 4, feature_norm="batch").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    (place,) = config["etf_heads"]["heads"]

    def refused(message):
        path.write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            from_pretrained(OF_TEXTS, tmp_path)

    arguments = place["head"]["arguments"]
    arguments["feature_norm"] = None
    refused("unexpected_keys.*classifier.norm.running_mean")
    arguments["feature_norm"], arguments["bias"] = "batch", True
    refused("missing_keys.*classifier.bias")
    arguments["bias"] = False
    frame = place["head"]["frame"]
    place["head"]["frame"] = [[x + 1 for x in row] for row in frame]
    refused("class vectors of ETFHead are not those that were saved")
    place["head"]["frame"] = frame
    place["names"] = ["bert.pooler"]
    refused("a fixed head at 'bert.pooler', where the model has")
    config["etf_heads"] = {"format": 2}
    refused("format is 2")
    config["etf_heads"] = "no description"
    refused("describes no fixed heads")


def test_a_folder_without_fixed_heads_is_refused(tmp_path):
    bert().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"describes no fixed heads.*update_config"):
        from_pretrained(OF_TEXTS, tmp_path)


def test_a_head_that_cannot_be_described_is_named_when_it_is_loaded(tmp_path):
    class Forgetful(Head):
        def __init__(self, in_features, classes, secret=1):
            super().__init__(in_features, classes)
            self.factor = secret

        def scores(self, features):
            return self.factor * features[..., : self.out_features]

    model = replace_head(bert(), lambda d: Forgetful(d, 4))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"could not be described.*keeps no attribute"):
        from_pretrained(OF_TEXTS, tmp_path)


def test_the_plain_class_logs_that_the_learned_head_is_missing(tmp_path, caplog):
    # Public API of transformers leaves no way to make it fail: the configuration is checked when
    # it is made, and the models that would fail are those that were saved.
    replace_head(bert(), 4).save_pretrained(tmp_path)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    twin = OF_TEXTS.from_pretrained(tmp_path)
    logger.removeHandler(caplog.handler)
    assert isinstance(twin.classifier, torch.nn.Linear)
    assert "classifier.weight" in caplog.text
    assert "MISSING" in caplog.text


def test_the_configuration_follows_the_heads():
    model = bert(3)
    assert update_config(model) is model
    assert not hasattr(model.config, "etf_heads")
    model.config.id2label = {0: "glad", 1: "sad", 2: "neither"}
    replace_head(model, 3)
    assert model.config.id2label[2] == "neither"  # as many classes: they are the same ones
    replace_head(model, 5)
    assert list(model.config.id2label) == list(range(5))
    assert model.config.etf_heads["heads"][0]["names"] == ["classifier"]
    model.classifier = torch.nn.Linear(32, 5)
    assert not hasattr(update_config(model).config, "etf_heads")


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]


def tokenizer():
    return transformers.BertTokenizerFast(vocab={word: n for n, word in enumerate(WORDS)})


def test_pipelines_of_texts():
    model = replace_head(bert(), 4)
    (answer,) = transformers.pipeline(
        "text-classification", model=model, tokenizer=tokenizer(), top_k=4
    )(["good bad"])
    expected = model(**tokenizer()(["good bad"], return_tensors="pt")).logits.softmax(-1)[0]
    assert [a["label"] for a in answer] == [f"LABEL_{n}" for n in expected.argsort(descending=True)]
    assert answer[0]["score"] == pytest.approx(expected.max().item())

    several = replace_head(bert(), {"topic": 4, "mood": 3}).eval()
    mood = one_task_view(several, "mood", ["glad", "sad", "neither"])
    (answer,) = transformers.pipeline(
        "text-classification", model=mood, tokenizer=tokenizer(), top_k=3
    )(["good bad"])
    scores = several(**tokenizer()(["good bad"], return_tensors="pt")).logits["mood"].softmax(-1)[0]
    assert {a["label"]: a["score"] for a in answer} == {
        label: pytest.approx(score) for label, score in
        zip(["glad", "sad", "neither"], scores.tolist(), strict=True)
    }  # fmt: skip
    assert several.config.num_labels == 7


@pytest.mark.parametrize("task", [None, "right"])
def test_pipelines_of_images(task):
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    image_module = pytest.importorskip("PIL.Image")
    model = replace_head(vit(), TASKS if task else 4)
    view = one_task_view(model, task) if task else model
    classify = transformers.pipeline(
        "image-classification", model=view, image_processor=processor, top_k=9
    )
    answer = classify(image_module.new("RGB", (32, 32), "teal"))
    assert len(answer) == (TASKS[task] if task else 4)


@pytest.mark.parametrize("tasks", [4, TASKS], ids=["one", "several"])
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_merged_models_load_strictly_into_the_plain_architecture(name, tasks, tmp_path):
    build, auto, inputs = MODELS[name]
    model = learned_a_little(replace_head(build(), tasks, feature_norm="batch"))
    with torch.no_grad():
        before = model(**inputs).logits
        merge(model)
        assert not hasattr(model.config, "etf_heads")
        model.save_pretrained(tmp_path)
        plain, report = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys"))
        build(plain.config.num_labels).load_state_dict(model.state_dict(), strict=True)
        after = plain(**inputs).logits
    before = torch.cat(list(before.values()), -1) if isinstance(before, dict) else before
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
