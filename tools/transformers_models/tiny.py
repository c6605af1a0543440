"""A tiny model of any type of transformers: its configuration shrunk by the names of its fields.

Widths are divided by one number, so that what was equal stays equal, and what was a multiple stays
one. What fits no rule stays as it is, and what then is too large or inconsistent fails, in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch

WIDTH, HEADS, LAYERS, VOCABULARY = 64, 4, 2, 120
MOST_PARAMETERS = 30_000_000

_HEADS = re.compile(r"(^|_)(n|num)?_?(\w+_)?(heads?|n_head)$")
_HEAD_SIZES = re.compile(r"(head_dim|head_size|d_kv|d_head|rope_dim|v_head_dim|key_dim|per_head)$")
_LAYERS = re.compile(
    r"(layers?|depth|depths|num_blocks|n_layer|num_hidden_groups|num_self_attends_per_block|"
    r"num_stages_layers|layers_per_block)$"
)
_NO_WIDTH = re.compile(
    r"(image|patch|kernel|window|chunk|stride|vocab|block|sample|codebook_size|grid|max|pos|crop|"
    r"input_size|img|temporal|pool|merge|rate|cache|group_size|context|type_vocab|output_size|"
    r"downsample|tile|upscale|conv_bias|bias|spatial|num_|size_divisor|local_size|look|history)"
)
_WIDTH = re.compile(
    r"(hidden|embed|dim|width|channel|d_model|n_embd|d_ff|d_inner|n_inner|ffn|inter|inner|proj|"
    r"size|lora_rank|emb$|features$)"
)
_SMALL = {
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("num_queries", "num_query_tokens", "num_latents", "num_object_queries"), 8),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "local_attention"), 5),
    "attention_chunk_size": 6,
}
_POSITIONS = re.compile(
    r"(max_position_embeddings|n_positions|max_(source|target)_positions|max_seq_len|"
    r"max_sequence_length|n_ctx|seq_length|max_2d_position_embeddings)$"
)


def _factor(fields: dict[str, Any]) -> int:
    """By how much widths are divided."""
    for name in ("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "hidden_dim", "width"):
        x = fields.get(name)
        if isinstance(x, list) and x and isinstance(x[0], int):
            x = x[0]
        if isinstance(x, int) and x >= WIDTH:
            return max(1, x // WIDTH)
    return 16


def _divided(x: Any, by: int, least: int = 8) -> Any:
    if isinstance(x, list | tuple):
        return [_divided(y, by, least) for y in x]
    if isinstance(x, bool) or not isinstance(x, int) or x <= least:
        return x
    return max(least, x // by // least * least)


def _shrunk(fields: dict[str, Any], keep: frozenset[str]) -> dict[str, Any]:
    """Shrink the fields of a configuration, and those within.

    `keep` holds what stays as it is: "widths", "layers", "images".
    """
    own = _factor(fields)
    made: dict[str, Any] = {}
    for name, x in fields.items():
        made[name] = _field(name, x, fields, keep, own)
    for kinds in ("layer_types", "layers_block_type", "mlp_layer_types", "attention_types"):
        before = fields.get(kinds)
        if isinstance(before, list) and "layers" not in keep and len(before) > 1:
            count = len(made[kinds])
            if isinstance(made.get("num_hidden_layers"), int):
                made["num_hidden_layers"] = max(count, 2)
            for name, x in fields.items():  # what has an entry for each layer
                if isinstance(x, list) and len(x) == len(before) and name != kinds:
                    made[name] = x[:count]
    return made


# In place of those that come with another package.
_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 32, 64],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}


def _field(name: str, x: Any, fields: dict[str, Any], keep: frozenset[str], by: int) -> Any:
    if name == "backbone_config" and isinstance(x, dict) and "timm" in x.get("model_type", ""):
        return _BACKBONE
    if name in ("rope_parameters", "rope_scaling") and isinstance(x, dict):
        made = {y: _rope(y, z, x) for y, z in x.items()}
        is_one = "rope_type" in made and "rope" in keep
        return {**made, "mrope_section": _rope("mrope_section", [1, 1, 1], x)} if is_one else made
    if (
        name == "head_dim"
        and x is None
        and "num_attention_heads" in fields
        and "widths" not in keep
    ):
        return WIDTH // HEADS
    if name == "num_experts_per_tok" and x is None:
        return 2
    if name == "rope_parameters" and x is None and "rope" in keep:
        return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    if isinstance(x, dict) and ("model_type" in x or name.endswith("_config")):
        return _shrunk(x, keep)
    if name in ("use_timm_backbone", "use_pretrained_backbone"):
        return False
    if x is None or isinstance(x, bool | str | float):
        return 0.3 if name == "initializer_range" else x
    if name.endswith(("token_id", "token_index")):
        return _token(x)
    if "vocab_size" in name and name != "type_vocab_size":
        return min(x, VOCABULARY) if isinstance(x, int) else x
    if name in _SMALL and isinstance(x, int):
        return min(x, _SMALL[name])
    if _POSITIONS.search(name) and isinstance(x, int):
        return min(x, 128)
    if name in ("layer_types", "layers_block_type", "mlp_layer_types") and isinstance(x, list):
        return x if "layers" in keep else _few(x)
    if re.search(r"experts$", name) and isinstance(x, int) and "per_tok" not in name:
        return min(x, 4)
    if _LAYERS.search(name) and "layers" not in keep:
        if isinstance(x, int):
            return min(x, LAYERS)
        return [min(y, 1) if isinstance(y, int) else y for y in x] if isinstance(x, list) else x
    if "widths" in keep:
        return x
    if _HEAD_SIZES.search(name):
        return min(x, WIDTH // HEADS) if isinstance(x, int) else x
    if _HEADS.search(name) and isinstance(x, int):
        most = max(y for z, y in fields.items() if _HEADS.search(z) and isinstance(y, int))
        return max(1, x * HEADS // most) if most > HEADS else x
    if name == "image_size" or name == "img_size":
        return x if "images" in keep else _smaller(x, 32)
    if name == "patch_size":
        return x if "images" in keep else _smaller(x, 8)
    if _WIDTH.search(name) and not _NO_WIDTH.search(name):
        return _divided(x, by)
    return x


def _rope(name: str, x: Any, fields: dict[str, Any]) -> Any:
    """Shrink the sections of a rotation, which fill half of a head, or of its part that turns."""
    if isinstance(x, dict):
        return {y: _rope(y, z, x) for y, z in x.items()}
    if name == "mrope_section" and isinstance(x, list) and len(x) == 3:
        half = int(WIDTH // HEADS // 2 * fields.get("partial_rotary_factor", 1.0))
        return [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    return x


def _smaller(x: Any, most: int) -> Any:
    if isinstance(x, list | tuple):
        return [_smaller(y, most) for y in x]
    return min(x, most) if isinstance(x, int) else x


def _token(x: Any) -> Any:
    if isinstance(x, list):
        return [_token(y) for y in x]
    return x if not isinstance(x, int) or x < 8 else 8 + x % 100


def _few(kinds: list[Any]) -> list[Any]:
    """Take a layer of each kind, and two at least, in the order in which they come."""
    few = list(dict.fromkeys(kinds))
    return few[:4] if len(few) >= LAYERS else (few + kinds)[:LAYERS]


# What is kept as it is, one attempt after the other; and what is left out.
_ATTEMPTS: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (frozenset(), ()),
    (frozenset({"rope"}), ()),
    (frozenset(), ("layer_types", "mlp_layer_types")),
    (frozenset({"images"}), ()),
    (frozenset({"layers"}), ()),
    (frozenset({"images", "layers"}), ()),
    (frozenset({"widths"}), ()),
    (frozenset({"widths"}), ("layer_types", "mlp_layer_types")),
    (frozenset({"widths", "images"}), ()),
    (frozenset({"widths", "layers", "images"}), ()),
)
_DROPPED = ("model_type", "transformers_version", "dtype", "architectures", "_name_or_path")
# Of configurations that have no defaults for these.
_GIVEN = {"prediction_length": 8, "context_length": 24}


def configurations(kind: type[Any]) -> Iterator[Any]:
    """Make configurations of a class, the smallest first.

    Raises
    ------
    Exception
        Where none can be made, of the first attempt.
    """
    first: Exception | None = None
    count = 0
    for keep, without in _ATTEMPTS:
        try:
            fields = kind().to_dict()
            fields |= {x: y for x, y in _GIVEN.items() if x in fields and fields[x] is None}
            made = _shrunk(fields, keep)
            left = {name: x for name, x in made.items() if name not in (*without, *_DROPPED)}
            config = kind(**left)
        except Exception as error:
            first = first or error
            continue
        count += 1
        yield config
    if not count and first is not None:
        raise first


def build(model_class: type[Any], config: Any) -> Any:
    """Make a model of a configuration, with weights so large that it matters who is seen.

    Raises
    ------
    ValueError
        For more parameters than are tiny.
    """
    with torch.device("meta"):
        count = sum(x.numel() for x in model_class(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count / 1e6:.0f} million parameters, as small as it was made")
    torch.manual_seed(5)
    model = model_class(config).eval()
    with torch.no_grad():
        for x in model.parameters():
            if x.ndim > 1 and x.is_floating_point():
                x.normal_(0.0, 1.4 / max(1.0, x[0].numel()) ** 0.5)
            elif x.is_floating_point():
                x.add_(torch.randn_like(x), alpha=0.1)
    return model.float()
