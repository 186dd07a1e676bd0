"""nano's vocabulary in CLIP's format (byte-level BPE with `</w>` word ends).

    python tokenizer.py BASE       # writes BASE/tokenizer and BASE/tokenizer_2

The merges are trained on the words of the grammar until each of them is a single token, so
vocab.json and merges.txt behave as CLIP's do; any other text still encodes, in pieces.
"""
import json
import os
import re
import sys
from collections import Counter

import torch

import toyworld

LENGTH = 40
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols():
    """The printable symbol of every byte, as in GPT-2 and CLIP."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = (b for b in range(256) if b not in plain)
    return [chr(b) for b in plain] + [chr(256 + i) for i, _ in enumerate(spare)]


def train_merges(words):
    """Greedy BPE: the most frequent pair first (ties by name), until every word is one token."""
    pieces = {w: (*w[:-1], w[-1] + "</w>") for w in words}
    merges = []
    while any(len(p) > 1 for p in pieces.values()):
        count = Counter(pair for p in pieces.values() for pair in zip(p, p[1:]))
        a, b = min(count, key=lambda pair: (-count[pair], pair))
        merges.append((a, b))
        for word, old in pieces.items():
            new, i = [], 0
            while i < len(old):
                if old[i:i + 2] == (a, b):
                    new.append(a + b)
                    i += 2
                else:
                    new.append(old[i])
                    i += 1
            pieces[word] = tuple(new)
    return merges


def write_tokenizer(folder, pad):
    """Writes one tokenizer folder; `pad` is SDXL's: end-of-text for 1, "!" (id 0) for 2."""
    os.makedirs(folder, exist_ok=True)
    base, merges = byte_symbols(), train_merges(toyworld.words())
    tokens = [*base, *(s + "</w>" for s in base), *(a + b for a, b in merges), START, END]
    if len(set(tokens)) != len(tokens):
        raise ValueError("a token occurs twice")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **special,
              "do_lower_case": True, "add_prefix_space": False, "errors": "replace"}
    files = {"special_tokens_map.json": json.dumps(special, indent=1),
             "tokenizer_config.json": json.dumps(config, indent=1),
             "vocab.json": json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False),
             "merges.txt": "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""])}
    for name, text in files.items():
        with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
            file.write(text)


class Tokenizer:
    """Looks words of the grammar up; equal to transformers' CLIPTokenizer on them."""

    def __init__(self, folder):
        with open(folder + "/vocab.json", encoding="utf-8") as file:
            self.ids = json.load(file)

    def __call__(self, texts):
        """Token ids [n, LENGTH] for encoder 1 (padded with end-of-text) and 2 (with 0)."""
        rows = []
        for text in texts:
            words = re.findall(r"[a-z]+|[.,!]", text.lower())[:LENGTH - 2]
            rows.append([self.ids[START], *(self.ids[w + "</w>"] for w in words), self.ids[END]])
        return [torch.tensor([r + [pad] * (LENGTH - len(r)) for r in rows])
                for pad in (self.ids[END], 0)]


if __name__ == "__main__":
    write_tokenizer(sys.argv[1] + "/tokenizer", END)
    write_tokenizer(sys.argv[1] + "/tokenizer_2", "!")
