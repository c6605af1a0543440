"""The page of the documentation that says what became of each type of model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

_HEAD = """# Models of transformers that were tried

`tools/transformers_models` makes a tiny model of each type that transformers {transformers} has,
those of parts of other models included: {count} were tried. With random weights it compares what a
model returns with `attn_implementation="foveate"` and with `"eager"` (torch {torch}, one CPU).
This page is what it wrote.

{untried}
| result | types | what it means |
|---|---|---|
{summary}

*Equal* is within {tolerance} of the largest of each output, for weights and scores of order 1.
Where float32 is not so near, which happens after many layers, float64 was compared. *Padded*: the
second text has padding on the left. *Weights*: those of `output_attentions`. *Growing*, *static*:
the logits of four generated tokens with such a cache, where "eager" generates.

## Models that attend by foveate

| model | padded | weights | growing | static |
|---|---|---|---|---|
{rows}

Where a model has sinks and its weights differ, its "eager" attention returns the weights from
before a sink takes its share, and foveate what the values were summed by.

## The others

{others}
"""
_MEANS = {
    "equal": "foveate is called for its attention, and the answers are equal",
    "differs": "foveate is called, and the answers differ",
    "refused": "foveate refuses by name what the model asks for",
    "by itself": 'none of its attention is known to foveate: it computes as with "eager"',
    "no attention": "no module of it is attention",
    "not built": "no tiny model was made or run by the script",
    "died": "the process died",
}
# Why some compute by themselves.
_OWN_WAYS = {
    "cpmant": "it fills weights after the softmax",
    "deta": "it samples at points",
    "imagegpt": "its mask multiplies scores",
    "led": "windows in chunks of their own",
    "longformer": "windows in chunks of their own",
    "mobilevitv2": "no product of queries and keys",
    "mra": "an approximation of its own",
    "openai-gpt": "its mask multiplies scores",
    "patchtsmixer": "no product of queries and keys",
    "reformer": "hashes of its own",
    "rwkv": "no product of queries and keys",
    "sew-d": "a softmax of its own",
    "slanet": "no product of queries and keys",
    "swiftformer": "no product of queries and keys",
    "wavlm": "it calls a function of torch for all of its attention",
}


def _untried(found: dict[str, Any]) -> str:
    """Say which types of this version have no result yet."""
    left = sorted(set(CONFIG_MAPPING_NAMES) - set(found))
    return f"Not tried yet: {', '.join(left)}.\n" if left else ""


def _mark(x: str | None) -> str:
    return {"equal": "yes", None: "", "": ""}.get(x, x or "")


def write(results: Path, page: Path) -> None:
    """Write the page from the file of results; of several for a type the last one counts."""
    found: dict[str, dict[str, Any]] = {}
    for line in results.read_text().splitlines():
        answer = json.loads(line)
        found[answer["kind"]] = answer
    counts = Counter(x["result"] for x in found.values())
    summary = "\n".join(
        f"| {result} | {counts[result]} | {means} |"
        for result, means in _MEANS.items()
        if counts[result]
    )
    rows = []
    for kind, x in sorted(found.items()):
        if x["result"] == "equal":
            caches = x.get("generation") or {}
            parts = x.get("padded"), x.get("weights"), caches.get("dynamic"), caches.get("static")
            rows.append(f"| {kind} | " + " | ".join(map(_mark, parts)) + " |")
    parts = []
    for result in ("differs", "refused", "died", "by itself", "no attention"):
        chosen = sorted(kind for kind, x in found.items() if x["result"] == result)
        if not chosen:
            continue
        if result in ("by itself", "no attention"):
            ways = _OWN_WAYS if result == "by itself" else {}
            named = (f"{x} ({ways[x]})" if x in ways else x for x in chosen)
            parts.append(f"**{result.capitalize()}**: {', '.join(named)}.")
        else:
            whys = [f"- {kind}: {_why(found[kind])}" for kind in chosen]
            parts.append(f"**{result.capitalize()}**\n\n" + "\n".join(whys))
    whys = [
        f"| {kind} | {_why(x)} |" for kind, x in sorted(found.items()) if x["result"] == "not built"
    ]
    if whys:
        parts.append(
            "**Not built**: what the smallest attempt raised, of transformers or of the script's "
            "guess at a configuration and inputs.\n\n| model | why |\n|---|---|\n" + "\n".join(whys)
        )
    page.write_text(
        _HEAD.format(
            transformers=transformers.__version__,
            torch=torch.__version__.partition("+")[0],
            count=len(found),
            summary=summary,
            tolerance="1e-4",
            rows="\n".join(rows),
            others="\n\n".join(parts),
            untried=_untried(found),
        )
    )


# What a result does not tell.
_NOTES = {
    "bridgetower": "its outputs are equal; it returns weights that it does not ask its layers for, "
    "and gets none from foveate: attention_weights does",
}


def _why(x: dict[str, Any]) -> str:
    if x["kind"] in _NOTES:
        return _NOTES[x["kind"]]
    text = x.get("why") or f"by {x.get('apart'):.1g}, where sdpa differs by {x.get('sdpa')}"
    return (
        " ".join(str(text).split()).replace("|", "/").replace("<", "&lt;").replace("{", "(")[:110]
    )
