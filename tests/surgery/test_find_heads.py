"""Locations of classifiers in models of one's own, and refusals."""

import pytest
from torch import nn

from etf_heads import ETFHead, replace_head
from etf_heads.surgery import find_heads


def test_names_that_are_given():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 6), nn.ReLU()), nn.Linear(6, 3))
    assert find_heads(model, "1") == {"1": model[1]}
    assert find_heads(model, ["0.0", "1"]) == {"0.0": model[0][0], "1": model[1]}
    assert find_heads(model, "0") == {"0.0": model[0][0]}  # the last layer of a container
    assert repr(find_heads(model, "1")) == "{'1': Linear(in_features=6, out_features=3, bias=True)}"


def test_a_fixed_head_is_found_again():
    model = nn.Sequential(nn.Linear(8, 6), ETFHead(6, 3))
    assert find_heads(model, "1") == {"1": model[1]}
    assert replace_head(model, [3, 2], at="1")[1].head.out_features == 5
    assert find_heads(model, "1") == {"1": model[1]}
    assert type(replace_head(model, at="1")[1]) is ETFHead


def test_finding_changes_nothing():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    before = dict(model.named_modules())
    find_heads(model, "1")
    assert dict(model.named_modules()) == before


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 6)
        self.pool = nn.Conv1d(6, 3, 1)
        self.out = nn.Conv2d(6, 3, 3)


@pytest.mark.parametrize(
    ("model", "at", "message"),
    [
        (
            Own(),
            None,
            (
                r"Own is not a classifier of timm, torchvision or transformers\. Name the "
                r"classifier, such as at='pool'; layers are:\n"
                r"  'fc': Linear\(in_features=8, out_features=6, bias=True\)\n  'pool': Conv1d"
            ),
        ),
        (Own(), "head", r"Own has no module 'head'\. Name the classifier, such as at='pool'; la"),
        (Own(), "out", r"'out' is Conv2d\(6, 3.*: only a convolution with kernel 1, stride 1 and"),
        (nn.Linear(3, 2), "", "Linear has no module ''"),
        (
            nn.Sequential(nn.ReLU()),
            "0",
            "Sequential: no classifier found .* It has no linear layer",
        ),
        (
            nn.Sequential(*(nn.Linear(3, 3) for _ in range(20))),
            None,
            r"layers are \(the last 12 of 20\):\n  '8': Linear",
        ),
    ],
)
def test_what_is_refused(model, at, message):
    with pytest.raises(ValueError, match=message):
        find_heads(model, at)
