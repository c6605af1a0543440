"""The name "flash_attention_2", where transformers would have no device for it."""

from __future__ import annotations

from transformers import modeling_flash_attention_utils

from ..flash_attn._transformers import allow


def give_flash_attention() -> None:
    """Let models on the CPU use flash-attention 2, unless a device for it is there."""
    known = getattr(modeling_flash_attention_utils, "FLASH_ATTENTION_COMPATIBILITY_MATRIX", {})
    devices = known.get(2, {}).get("supported_devices", ())
    if not any(is_there() for is_there, _ in devices):
        allow("register")
