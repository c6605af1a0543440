"""Inputs for a model of any type, by the names of what its forward takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

LENGTH, BATCH = 13, 2


def _of(config: Any, *names: str, default: Any = None) -> Any:
    """Look for a field in a configuration, and in those within."""
    parts = [config]
    for part in ("vision_config", "text_config", "audio_config", "backbone_config", "encoder"):
        parts.append(getattr(config, part, None))
    for part in parts:
        for name in names:
            found = getattr(part, name, None)
            if found is not None:
                return found
    return default


def _pair(x: Any) -> tuple[int, int]:
    if isinstance(x, dict):
        return x["height"], x["width"]
    return (x, x) if isinstance(x, int) else (tuple(x)[-2], tuple(x)[-1])


def _words(config: Any, length: int = LENGTH) -> torch.Tensor:
    text = config.get_text_config()
    most = min(_of(text, "vocab_size", default=100), 100)
    return torch.randint(8, max(most, 10), (BATCH, length))


def _candidates(name: str, config: Any) -> list[Any]:
    """Give tensors that an argument may be, the likeliest first; nothing: it is left out."""
    if name in ("input_ids", "decoder_input_ids"):
        rows = _words(config)
        most = _of(config, "max_source_positions")
        return [
            rows,
            rows[:, :8],
            rows[:, :, None].repeat(1, 1, _of(config, "num_codebooks", default=4)),
            most,
        ]
    if name == "pixel_values":
        found = _of(config, "image_size", "input_size", "img_size")
        sizes = [_pair(x) for x in (found, 32, 64, 96, 224, 512) if x]
        channels = _of(
            config, "num_channels", "in_channels", "in_chans", "num_input_channels", default=3
        )
        frames = _of(config, "num_frames", "frames_per_clip", default=0)
        plain = [torch.randn(BATCH, channels, *size) for size in sizes]
        video = [torch.randn(1, frames, channels, *size) for size in sizes[:2]] if frames else []
        patch = _of(config, "patch_size", default=8)
        rows = channels * (_pair(patch)[0] * _pair(patch)[1])
        times = _of(config, "temporal_patch_size", default=1)
        flat = [torch.randn(16, rows * times), torch.randn(1, 16, rows)]
        pairs = [torch.randn(1, 2, channels, *sizes[0])] if sizes else []
        return video + plain[:2] + flat + pairs + plain[2:]
    if name in ("pixel_values_videos", "video"):
        size = _pair(_of(config, "image_size", "crop_size", default=32))
        return [torch.randn(1, _of(config, "num_frames", "frames_per_clip", default=4), 3, *size)]
    if name == "input_features":
        bins = _of(
            config,
            "num_mel_bins",
            "input_feat_per_channel",
            "feature_size",
            "input_dim",
            default=80,
        )
        frames = 2 * _of(config, "max_source_positions", default=64)
        return [
            torch.randn(BATCH, bins, frames),
            torch.randn(BATCH, 64, bins),
            torch.randn(BATCH, 64, 2 * bins),
        ]
    if name in ("input_values", "audio_values", "waveform"):
        length = _of(config, "max_length", default=16)
        bins = _of(config, "num_mel_bins", default=80)
        plain = [torch.randn(BATCH, 4000), torch.randn(BATCH, 1, 3840), torch.randn(BATCH, 16, 80)]
        return [*plain, torch.randn(BATCH, length if isinstance(length, int) else 16, bins)]
    if name == "bbox":
        return [torch.randint(1, 90, (BATCH, LENGTH, 4)).cumsum(-1).clamp(max=99)]
    if name == "past_values":
        length = _of(config, "context_length", default=32) + max(
            _of(config, "lags_sequence", default=[0])
        )
        wide = _of(config, "num_input_channels", "input_size", default=1)
        return [torch.randn(BATCH, length, wide), torch.randn(BATCH, length)]
    if name in ("past_time_features", "future_time_features"):
        length = _of(config, "context_length", default=32) + max(
            _of(config, "lags_sequence", default=[0])
        )
        length = length if name[0] == "p" else _of(config, "prediction_length", default=8)
        return [torch.randn(BATCH, length, _of(config, "num_time_features", default=1))]
    if name == "past_observed_mask":
        return [torch.ones_like(_candidates("past_values", config)[0])]
    if name in ("input_features_mask", "feature_attention_mask"):
        return [
            torch.ones(BATCH, x.shape[y])
            for x in _candidates("input_features", config)
            for y in (-1, -2)
        ]
    if name == "qformer_input_ids":
        return [_words(config)]
    if name in ("inputs_embeds", "hidden_states", "encoder_hidden_states", "x"):
        if hasattr(config, "temporal_patch_size"):
            patch = config.in_channels * config.temporal_patch_size * config.patch_size**2
            return [torch.randn(16, patch)]
        return [
            torch.randn(BATCH, LENGTH, _of(config, "hidden_size", "d_model", "dim", default=32))
        ]
    if name == "visual_feats":
        return [torch.randn(BATCH, 5, _of(config, "visual_feat_dim", default=32))]
    if name == "visual_pos":
        return [torch.rand(BATCH, 5, 4)]
    if name in ("image_grid_thw", "grid_thw", "grid_hws"):
        return [torch.tensor([[1, 4, 4]])]
    if name == "labels":
        return [_words(config)]
    return []


# Beside what has no default, what a model cannot do without, though its signature says so.
_NEEDED = (
    *("input_ids", "decoder_input_ids", "pixel_values", "input_features", "input_values", "bbox"),
    *("past_values", "past_time_features", "past_observed_mask", "future_time_features"),
    *("visual_feats", "visual_pos", "pixel_values_videos"),
)


def inputs_of(model: Any) -> Iterator[dict[str, Any]]:
    """Give what may be inputs of a model, one after the other."""
    torch.manual_seed(7)
    config = model.config
    parameters = inspect.signature(model.forward).parameters
    required = [
        name
        for name, x in parameters.items()
        if x.default is inspect.Parameter.empty and x.kind is x.POSITIONAL_OR_KEYWORD
    ]
    main = model.main_input_name
    names = list(dict.fromkeys([*required, *(x for x in _NEEDED if x in parameters)]))
    if not config.is_encoder_decoder and "decoder_input_ids" in names:
        names.remove("decoder_input_ids")
    found = {
        name: [x for x in _candidates(name, config) if isinstance(x, torch.Tensor)]
        for name in names
    }
    found = {name: x for name, x in found.items() if x}
    sets = [[main], *([main, x] for x in found if x != main), list(found), required]
    seen = set()
    for chosen in sets:
        chosen = [x for x in dict.fromkeys([*chosen, *required]) if x in found]
        if not chosen or tuple(chosen) in seen:
            continue
        seen.add(tuple(chosen))
        for n in range(max(len(found[x]) for x in chosen)):
            yield {x: found[x][min(n, len(found[x]) - 1)] for x in chosen}
