"""What a model says with "foveate" against what it says with "eager": one type, in one process."""

from __future__ import annotations

import importlib
import inspect
import time
import warnings
from typing import Any

import foveate.transformers
import torch
import transformers
from inputs import inputs_of
from tiny import build, configurations
from transformers.models.auto import modeling_auto

# Relative to the largest of each output. Weights are O(1), and so are scores: what is off by more
# is no rounding. Routers of experts may choose others where two are nearly equal.
TOLERANCE = 1e-4
MOST_SECONDS = 12  # of a processor, to find a configuration and inputs

_FIRST = ("MODEL_MAPPING_NAMES",)
_GENERATING = (
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
)


def classes_of(kind: str, mappings: tuple[str, ...] = ()) -> list[str]:
    """Give the names of the classes that a type of model has in these mappings, or in any."""
    every = [x for x in dir(modeling_auto) if x.endswith("_NAMES") and "CONFIG" not in x]
    found: list[str] = []
    for mapping in mappings or (*_FIRST, *_GENERATING, *every):
        names = getattr(modeling_auto, mapping).get(kind, ())
        found += [names] if isinstance(names, str) else names
    return list(dict.fromkeys(found))


def _classes_that_take(configuration: type[Any]) -> list[type[Any]]:
    """Give the models of a configuration that no mapping has: it is that of a part of another."""
    path = configuration.__module__.replace(".configuration_", ".modeling_")
    modeling = importlib.import_module(path)
    return [
        x
        for x in vars(modeling).values()
        if isinstance(x, type)
        and issubclass(x, transformers.PreTrainedModel)
        and x.config_class is configuration
        and "forward" in vars(x)
    ]


def _tensors(x: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Give all float tensors of an output, by their paths."""
    if isinstance(x, torch.Tensor):
        return {path: x.double()} if x.is_floating_point() else {}
    if isinstance(x, dict):
        pairs = list(x.items())
    elif isinstance(x, list | tuple):
        pairs = list(enumerate(x))
    else:
        return {}
    return {k: y for n, z in pairs for k, y in _tensors(z, f"{path}.{n}").items()}


def _apart(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """How far apart at most, relative to the largest; infinite where other things came out."""
    if got.keys() != wanted.keys():
        return float("inf")
    worst = 0.0
    for path, x in wanted.items():
        y = got[path]
        if x.shape != y.shape:
            return float("inf")
        if x.numel() == 0:
            continue
        x, y = (torch.nan_to_num(z, 0.0, 1e30, -1e30) for z in (x, y))
        worst = max(worst, float((x - y).abs().max() / x.abs().max().clamp(min=1e-3)))
    return worst


def _run(model: Any, implementation: str, inputs: dict[str, Any], **more: Any) -> Any:
    model.set_attn_implementation(implementation)
    torch.manual_seed(3)
    with torch.no_grad():
        return model(**inputs, **more)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:160]


def _runnable(kind: str, names: list[str]) -> tuple[Any, dict[str, Any]] | str:
    """Give a tiny model that runs, with its inputs; or say why there is none."""
    configuration = transformers.models.auto.configuration_auto.CONFIG_MAPPING[kind]
    classes = [getattr(transformers, name) for name in names if hasattr(transformers, name)]
    classes = classes or _classes_that_take(configuration)[:2]
    if not classes:
        return "no class takes its configuration"
    whys: list[str] = []  # the first one is of the smallest attempt
    end = time.process_time() + MOST_SECONDS
    for config in configurations(configuration):
        for model_class in classes:
            if whys and time.process_time() > end:
                return whys[0]
            try:
                config._attn_implementation = "eager"
                model = build(model_class, config)
            except Exception as error:
                whys.append(_short(error))
                continue
            tried = 0
            for inputs in inputs_of(model):
                tried += 1
                if tried > 16:
                    break
                try:
                    output = _tensors(_run(model, "eager", inputs))
                    if output and all(torch.isfinite(x).all() for x in output.values()):
                        return model, inputs
                    whys.append("its answer is not finite" if output else "it returns no tensors")
                except Exception as error:
                    whys.append(_short(error))
            if not tried:
                whys.append("no inputs are known for it")
    return whys[0]


def _attends(model: Any) -> bool:
    return any("attention" in type(x).__name__.lower() for x in model.modules())


def examine(kind: str) -> dict[str, Any]:
    """Say what became of a type of model."""
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {"kind": kind}
    made = _runnable(kind, classes_of(kind)[:4])
    if isinstance(made, str):
        return {**found, "result": "not built", "why": made}
    model, inputs = made
    found["class"] = type(model).__name__
    wanted = _tensors(_run(model, "eager", inputs))
    if _apart(_tensors(_run(model, "eager", inputs)), wanted) > 0:
        return {**found, "result": "not built", "why": "two runs with eager differ"}
    try:
        with foveate.transformers.calls(model) as count:
            got = _tensors(_run(model, "foveate", inputs))
    except Exception as error:
        return {**found, "result": "refused", "why": _short(error)}
    apart = _apart(got, wanted)
    if count and apart >= TOLERANCE:  # rounding, or more?
        apart, found["dtype"] = _apart_in_double(model, inputs, apart)
    found["apart"], found["calls"] = apart, count.total()
    if not count:
        found["result"] = "by itself" if _attends(model) else "no attention"
    else:
        found["result"] = "equal" if apart < TOLERANCE else "differs"
    if count and apart >= TOLERANCE:
        try:
            found["sdpa"] = _apart(_tensors(_run(model, "sdpa", inputs)), wanted)
        except Exception as error:
            found["sdpa"] = _short(error)
    if count:
        found["padded"] = _padded(model, inputs)
        found["weights"] = _weights(model, inputs)
    found["generation"] = _generation(kind)
    return found


def _apart_in_double(model: Any, inputs: dict[str, Any], apart: float) -> tuple[float, str]:
    """Compare again in float64, where rounding is not seen."""
    wide = {
        x: y.double() if isinstance(y, torch.Tensor) and y.is_floating_point() else y
        for x, y in inputs.items()
    }
    model.double()
    try:
        outputs = [_tensors(_run(model, x, wide)) for x in ("foveate", "eager")]
        return _apart(*outputs), "float64"
    except Exception:
        return apart, "float32"
    finally:
        model.float()


def _padded(model: Any, inputs: dict[str, Any]) -> str:
    """Compare where the second text has padding on the left, of its last token."""
    parameters = inspect.signature(model.forward).parameters
    if "input_ids" not in inputs or "attention_mask" not in parameters:
        return ""
    if inputs["input_ids"].ndim != 2 or len(inputs) > 1:
        return ""
    mask = torch.ones_like(inputs["input_ids"])
    mask[1, :4] = 0
    try:
        outputs = [_run(model, x, {**inputs, "attention_mask": mask}) for x in ("eager", "foveate")]
    except Exception as error:
        return _short(error)
    name = next((x for x in ("logits", "last_hidden_state") if x in outputs[0]), None)
    if name is None or outputs[0][name].ndim != 3 or outputs[0][name].shape[1] != mask.shape[1]:
        return ""
    one, other = (_tensors({"": x[name][:, 4:]}) for x in outputs)
    return "equal" if _apart(other, one) < TOLERANCE else f"differs by {_apart(other, one):.1g}"


def _weights(model: Any, inputs: dict[str, Any]) -> str:
    try:
        wanted = _run(model, "eager", inputs, output_attentions=True)
    except Exception:
        return ""
    wanted = _tensors({x: wanted[x] for x in wanted if "attentions" in x})
    if not wanted:
        return ""
    try:
        got = _run(model, "foveate", inputs, output_attentions=True)
    except Exception as error:
        return _short(error)
    apart = _apart(_tensors({x: got[x] for x in got if "attentions" in x}), wanted)
    if apart >= TOLERANCE:
        apart, _ = _apart_in_double(model, {**inputs, "output_attentions": True}, apart)
    return "equal" if apart < TOLERANCE else f"differs by {apart:.1g}"


def _generation(kind: str, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Generate with a cache that grows, and with a static one, where "eager" can."""
    names = classes_of(kind, _GENERATING)
    made = _runnable(kind, names[:2]) if names else "no class"
    if isinstance(made, str) or not made[0].can_generate():
        return {}
    model, inputs = made
    model.to(dtype)
    inputs = {x: y for x, y in inputs.items() if not x.startswith("decoder")}
    inputs = {x: y.to(dtype) if y.is_floating_point() else y for x, y in inputs.items()}
    found = {}
    for cache in ("dynamic", "static"):
        logits = {}
        for implementation in ("eager", "foveate"):
            model.set_attn_implementation(implementation)
            options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
            kept = {"output_logits": True, "return_dict_in_generate": True}
            more = {"pad_token_id": 0, "cache_implementation": cache}
            torch.manual_seed(3)
            try:
                with foveate.transformers.calls(model) as count:
                    output = model.generate(**inputs, **options, **kept, **more)
                logits[implementation] = torch.stack(output.logits)
            except Exception as error:
                if implementation == "foveate":
                    found[cache] = _short(error)
                break
        if len(logits) == 2:
            apart = _apart(*({"": torch.nan_to_num(x, neginf=0.0)} for x in logits.values()))
            if apart >= TOLERANCE and model.dtype == torch.float32:
                return _generation(kind, torch.float64)
            found[cache] = "equal" if apart < TOLERANCE else f"differs by {apart:.1g}"
            if not count:
                found[cache] = "by itself"
    return found
