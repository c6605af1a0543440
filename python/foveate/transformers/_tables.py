"""Models of transformers that look their attention up in a table of classes of their own.

They never ask the interface. Such a table has a class for "eager", and for what else the model
knows; a name that is not in it is a bare KeyError. Here the name gets the class for "eager", whose
modules write out their attention.
"""

from __future__ import annotations

from importlib import import_module

# Below transformers.models. A test looks for tables that are not here.
TABLES = (
    "bark.modeling_bark.BARK_ATTENTION_CLASSES",
    "data2vec.modeling_data2vec_vision.DATA2VEC_VISION_SELF_ATTENTION_CLASSES",
    "deepseek_ocr2.modeling_deepseek_ocr2.DEEPSEEK_OCR2_SAM_VISION_ATTENTION_CLASSES",
    "falcon.modeling_falcon.FALCON_ATTENTION_CLASSES",
    "git.modeling_git.GIT_SELF_ATTENTION_CLASSES",
    "gpt_neo.modeling_gpt_neo.GPT_NEO_ATTENTION_CLASSES",
    "sam.modeling_sam.SAM_VISION_ATTENTION_CLASSES",
    "sam_hq.modeling_sam_hq.SAM_HQ_VISION_ATTENTION_CLASSES",
    "superglue.modeling_superglue.SUPERGLUE_SELF_ATTENTION_CLASSES",
    "unlimited_ocr.modeling_unlimited_ocr.UNLIMITED_OCR_SAM_VISION_ATTENTION_CLASSES",
)


def enter_in_tables(name: str) -> None:
    """Let models with a table take this name, and their class for "eager", which is adopted."""
    for path in TABLES:
        module, _, table = path.rpartition(".")
        try:
            classes = getattr(import_module(f"transformers.models.{module}"), table)
        except Exception:  # another version, or what it needs is missing: no such model can be made
            continue
        classes.setdefault(name, classes["eager"])
