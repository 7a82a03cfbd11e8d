"""The table of models that replace_head is checked on: small, random, nothing downloaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import nn

TIMM = {  # by the side of the images they take here
    32: """test_vit test_vit2 test_resnet test_efficientnet test_byobnet test_convnext test_nfnet
        test_mambaout resnet10t resnetv2_50x1_bit dpn48b dla46_c repvit_m0_9 crossvit_9_240
        caformer_s18 poolformer_s12 convformer_s18 densenet121 mobilenetv3_small_050
        mobilenetv4_conv_small_035 ghostnet_050 hrnet_w18_small lcnet_035 tinynet_e regnetx_002
        rexnet_100 xcit_nano_12_p16_224 mvitv2_tiny edgenext_xx_small efficientvit_b0
        efficientvit_m0 fastvit_t8 hgnetv2_b0 iformer_t inception_next_atto mobileone_s0
        mobilevit_xxs mobilevitv2_050 pvt_v2_b0 repghostnet_050 shvit_s1 starnet_s050
        swiftformer_xs tiny_vit_5m_224 mambaout_femto nf_regnet_b0 resnest14d skresnet18
        convnext_atto convnextv2_atto repvgg_a0 ese_vovnet19b_dw gernet_s cspresnet50 xception41
        davit_tiny focalnet_tiny_srf sequencer2d_s""",
    224: """levit_128s levit_conv_128s deit_tiny_distilled_patch16_224 pit_ti_distilled_224
        efficientformer_l1 efficientformerv2_s0 coat_lite_tiny convit_tiny visformer_tiny
        eva02_tiny_patch14_224 volo_d1_224""",
}
TORCHVISION = {
    32: """resnet18 resnext50_32x4d densenet121 mobilenet_v2 mobilenet_v3_small
        efficientnet_b0 convnext_tiny mnasnet0_5 regnet_y_400mf shufflenet_v2_x0_5 swin_t
        swin_v2_t small_vit fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large""",
    64: "alexnet googlenet",
    96: "inception_v3",
}
_SMALL_VIT = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "mlp_dim": 48,
}
_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 50,
    "pad_token_id": 0,
}
_LLAMA = _BERT | {"num_key_value_heads": 2}
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
_SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 4,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
_T5 |= {"decoder_start_token_id": 0, "eos_token_id": 2}
_BART = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 50,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "pad_token_id": 0}
_DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": 50}
_XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 50}
_XLNET = {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "vocab_size": 50}
_FUNNEL = {
    "d_model": 32,
    "n_head": 4,
    "d_head": 8,
    "d_inner": 48,
    "block_sizes": [1, 1],
    "num_decoder_layers": 1,
    "vocab_size": 50,
}
_LEVIT = {
    "image_size": 64,
    "hidden_sizes": [16, 24, 32],
    "num_attention_heads": [2, 2, 2],
    "depths": [1, 1, 1],
    "key_dim": [4, 4, 4],
}
TRANSFORMERS = {
    "BertForSequenceClassification": _BERT,
    "RobertaForSequenceClassification": _BERT,
    "ElectraForSequenceClassification": _BERT | {"embedding_size": 32},
    "AlbertForSequenceClassification": _BERT | {"embedding_size": 16},
    "MPNetForSequenceClassification": _BERT,
    "DebertaV2ForSequenceClassification": _BERT,
    "DistilBertForSequenceClassification": _DISTIL,
    "GPT2ForSequenceClassification": _GPT2,
    "LlamaForSequenceClassification": _LLAMA,
    "MistralForSequenceClassification": _LLAMA,
    "Qwen2ForSequenceClassification": _LLAMA,
    "T5ForSequenceClassification": _T5,
    "BartForSequenceClassification": _BART,
    "XLNetForSequenceClassification": _XLNET,
    "XLMForSequenceClassification": _XLM,
    "FunnelForSequenceClassification": _FUNNEL,
    "ModernBertForSequenceClassification": _BERT | {"global_attn_every_n_layers": 1},
    "BertForTokenClassification": _BERT,
    "RobertaForTokenClassification": _BERT,
    "ElectraForTokenClassification": _BERT | {"embedding_size": 32},
    "DistilBertForTokenClassification": _DISTIL,
    "GPT2ForTokenClassification": _GPT2,
    "LlamaForTokenClassification": _LLAMA,
    "ViTForImageClassification": _VIT,
    "DeiTForImageClassification": _VIT,
    "DeiTForImageClassificationWithTeacher": _VIT,
    "BeitForImageClassification": _VIT,
    "Dinov2ForImageClassification": _VIT,
    "ConvNextForImageClassification": _STAGES,
    "ConvNextV2ForImageClassification": _STAGES,
    "ResNetForImageClassification": _STAGES | {"embedding_size": 8},
    "RegNetForImageClassification": _STAGES | {"embedding_size": 8, "groups_width": 8},
    "SwinForImageClassification": _SWIN,
    "Swinv2ForImageClassification": _SWIN,
    "LevitForImageClassification": _LEVIT,
    "LevitForImageClassificationWithTeacher": _LEVIT,
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.35, "image_size": 32},
    "MobileNetV1ForImageClassification": {"depth_multiplier": 0.25, "image_size": 32},
    "PoolFormerForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4},
    "SwiftFormerForImageClassification": {"depths": [1] * 4, "embed_dims": [24, 32, 40, 48]},
    "SegformerForImageClassification": {"hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4},
}
TASKS = {"species": 7, "attribute": 4}
CLASSES = 11  # of both; no layer inside these models has as many outputs


@dataclass(frozen=True)
class Architecture:
    """A model of one of the libraries, and something that it takes."""

    library: str
    name: str
    make: Callable[[int], nn.Module] = field(repr=False)
    example: Callable[[], torch.Tensor] = field(repr=False)

    def build(self, classes: int = CLASSES) -> nn.Module:
        """The same model each time, in eval mode."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs
            return self.make(classes).eval()

    def inputs(self) -> torch.Tensor:
        torch.manual_seed(1)
        return self.example()

    def __str__(self) -> str:
        return f"{self.library}-{self.name}"


def logits_of(output: Any) -> dict[str, Any]:
    """All logits of what a model returns, by name; of each either a tensor or one a task."""
    if isinstance(output, torch.Tensor) or set(output) == set(TASKS):
        return {"": output}
    names = [name for name in output if "logits" in name] or list(output)
    return {name: output[name] for name in names}


def classifier_names(model: nn.Module, classes: int = CLASSES) -> set[str]:
    """Layers of as many outputs as a model has classes: for a number that nothing else has."""
    return {
        name
        for name, module in model.named_modules(remove_duplicate=False)
        if classes in (getattr(module, "out_features", 0), getattr(module, "out_channels", 0))
        and isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)
    }


def images(side: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(2, 3, side, side)


def tokens() -> torch.Tensor:
    ids = torch.randint(3, 50, (2, 9))
    ids[:, -1] = 2  # end of sequence
    return ids


def _torchvision(name: str) -> Callable[[int], nn.Module]:
    def make(classes: int) -> nn.Module:
        if name == "small_vit":
            return torchvision.models.VisionTransformer(**_SMALL_VIT, num_classes=classes)
        options: dict[str, Any] = {"weights": None, "num_classes": classes}
        if name in ("googlenet", "inception_v3"):
            options["init_weights"] = False
        if name.partition("_")[0] in ("fcn", "deeplabv3", "lraspp"):
            options["weights_backbone"] = None
        return torchvision.models.get_model(name, **options)

    return make


def _transformers(name: str) -> Callable[[int], nn.Module]:
    def make(classes: int) -> nn.Module:
        cls = getattr(transformers, name)
        return cls(cls.config_class(**TRANSFORMERS[name], num_labels=classes))

    return make


def _timm(name: str) -> Callable[[int], nn.Module]:
    return lambda classes: timm.create_model(name, num_classes=classes)


def _example(name: str) -> Callable[[], torch.Tensor]:
    image = "ImageClassification" in name
    return images(TRANSFORMERS[name].get("image_size", 64)) if image else tokens


ARCHITECTURES = [
    *(
        Architecture("timm", name, _timm(name), images(side))
        for side, names in TIMM.items()
        for name in names.split()
    ),
    *(
        Architecture("torchvision", name, _torchvision(name), images(side))
        for side, names in TORCHVISION.items()
        for name in names.split()
    ),
    *(
        Architecture("transformers", name, _transformers(name), _example(name))
        for name in TRANSFORMERS
    ),
]
BY_NAME = {str(architecture): architecture for architecture in ARCHITECTURES}
