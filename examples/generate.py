"""
A chat with a cache of few bits
===============================

A language model answers turn by turn. Keys and values of all tokens so far are in a cache, and each
new token attends to them: the longer the chat, the more is read for a token, and the more is held.
The model is a small Llama of Hugging Face transformers with random weights, so that what it says
means nothing; how fast it says it, and in how many bytes, is that of any model of this size.

The cache of foveate keeps a number in a byte, and can let go of what is out of a window, but the
first tokens, which attention leans on. Transformers' own caches stand beside it. Tokens are drawn:
in one pass over the logits here, by warpers and torch.multinomial there.

Run it with ``python examples/generate.py [PICTURE]``, or ``python -m foveate demo generate``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

import foveate
import numpy as np
from foveate import reference

from promise import WIDTH, Promise

TURNS, ASKED, ANSWERED = 6, 160, 16  # turns, tokens of the user and of the model in each
WINDOW, SINKS = 256, 4
SAMPLING = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
SIZES = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


@dataclass
class Chat:
    """A cache, and how the chat went with it."""

    name: str
    cache: Any
    ours: bool  # whether foveate attends and draws
    seconds: float = 0.0  # that answers took
    kib: list[float] = field(default_factory=list)  # of keys and values, after each turn

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return TURNS * ANSWERED / self.seconds


# %%
# The model and the caches
# ------------------------


def make_model(seed: int) -> Any:
    """A Llama whose weights are random: the same ones for each cache."""
    import foveate.transformers
    import torch
    import transformers

    foveate.transformers.register()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=None)
    return transformers.LlamaForCausalLM(config).eval()


def make_chats(config: Any) -> list[Chat]:
    """Ours and theirs; a kind of theirs needs a package that may not be there."""
    from foveate.transformers import KVCache
    from transformers import DynamicCache, QuantizedCache

    window = KVCache(config, dtype="int8", window=WINDOW, sinks=SINKS)
    chats = [
        Chat(f"foveate, int8, window {WINDOW}", window, ours=True),
        Chat("foveate, int8", KVCache(config, dtype="int8"), ours=True),
        Chat("foveate, int4", KVCache(config, dtype="int4"), ours=True),
        Chat("transformers, dynamic", DynamicCache(config=config), ours=False),
    ]
    for backend in ("quanto", "hqq", "fp8"):
        try:
            cache = QuantizedCache(backend, config)
        except (ImportError, ValueError, TypeError):  # not installed, or not known yet
            continue
        chats.append(Chat(f"transformers, quantized, {backend}", cache, ours=False))
    return chats


def kib_of(cache: Any) -> float:
    """KiB of the tensors that a cache holds, however deep in its layers."""
    if hasattr(cache, "nbytes"):
        return float(cache.nbytes) / 1024
    found = [x for layer in cache.layers for x in vars(layer).values()]
    total = 0
    while found:
        x = found.pop()
        if isinstance(x, tuple):
            found += x
        elif hasattr(x, "_data"):  # of quanto
            found += (x._data, x._scale)
        else:
            total += getattr(x, "nbytes", 0)
    return total / 1024


# %%
# The chat
# --------
#
# The user writes, and the model answers. The cache goes on from turn to turn: what was written
# before is not computed again.


def talk(model: Any, chat: Chat, seed: int, tell: Callable[[str], None]) -> None:
    """Let a user who says the same to each cache talk with the model."""
    import torch
    from foveate.transformers import generate

    model.set_attn_implementation("foveate" if chat.ours else "sdpa")
    how = {"custom_generate": generate} if chat.ours else {}
    said = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    text = torch.empty(1, 0, dtype=torch.int64)
    for turn in range(TURNS):
        tell(f"{chat.name}, turn {turn + 1} of {TURNS}")
        asked = torch.randint(3, SIZES["vocab_size"], (1, ASKED), generator=said)
        text = torch.cat([text, asked], dim=1)
        with torch.no_grad():  # all that was asked but its last token, whose answer is generated
            begun = chat.cache.get_seq_length()
            model(text[:, begun:-1], cache=chat.cache)
        start = time.perf_counter()
        text = model.generate(
            text, cache=chat.cache, max_new_tokens=ANSWERED, do_sample=True, **SAMPLING, **how
        )
        chat.seconds += time.perf_counter() - start
        chat.kib.append(kib_of(chat.cache))


# %%
# The check, and what is printed
# ------------------------------


def check(seed: int) -> Promise:
    """A cache of few bits with a window, against the definition over the same rows."""
    rng = np.random.default_rng(seed)
    query, key, value = rng.standard_normal((3, 1, 4, 3 * WINDOW, 32)).astype(np.float32)
    kept: dict[str, Any] = {"head_size": 32, "window": WINDOW, "sinks": SINKS}
    few = [foveate.quantize(x) for x in (key, value)]

    def of(cache: Any, dtype: Any, rows: list[Any]) -> Any:
        answers = []
        for part in (slice(0, 500), slice(500, 767), slice(767, 768)):
            cache.append(*(x[..., part, :] for x in rows))
            answers.append(cache.attention(query[..., part, :].astype(dtype)))
        return np.concatenate(answers, axis=-2)

    answer = of(foveate.KVCache(1, 4, dtype="int8", **kept), np.float32, [key, value])
    exact, plain = (
        of(reference.KVCache(1, 4, **kept), dtype, [x.dequantize(dtype) for x in few])
        for dtype in ("float64", "float32")
    )
    return Promise.of(answer, plain=plain, exact=exact)


def run(seed: int, picture: Path | None) -> bool:
    """Chat with each cache, check, draw; says whether the check passed."""
    model = make_model(seed)
    chats = make_chats(model.config)
    shown = sys.stderr.isatty()
    for chat in chats:
        talk(model, chat, seed, lambda text: progress(text) if shown else None)
    if shown:
        progress("")
    tokens = TURNS * (ASKED + ANSWERED)
    print(f"A chat of {TURNS} turns and {tokens} tokens, by a Llama with random weights.\n")
    print(f"{'  cache':<34}{'tokens/s':>12}{'KiB, first turn':>17}{'last turn':>13}")
    for chat in chats:
        print(f"  {chat.name:<32}{chat.speed:>12.0f}{chat.kib[0]:>17.0f}{chat.kib[-1]:>13.0f}")
    promise = check(seed)
    print(f"\n  against foveate.reference          {promise}")
    print()
    print(
        fill(
            f"How: in each turn the user writes {ASKED} tokens, and the model answers {ANSWERED}, "
            "drawn with temperature, top_k and top_p. Keys and values of all tokens stay in the "
            "cache. In int8 a number has a byte, and a row of a head one scale. With a window a "
            f"token sees {WINDOW} tokens before it and the first {SINKS}; what is out of it is "
            "freed, so that the cache stops to grow.",
            WIDTH,
        ),
        end="\n\n",
    )
    print(
        fill(
            "Attention reads the codes as they are, and decodes them in registers. What "
            "transformers keeps in few bits becomes a dense tensor for each token. The model is "
            "so small that most of the time is that of its Python: with a longer text, and more "
            "heads, what is read decides.",
            WIDTH,
        ),
        end="\n\n",
    )
    if picture is not None:
        draw(chats, picture)
        print(
            f"Picture: {picture}\nLeft: bytes of the cache, turn by turn. Right: tokens a second."
        )
    return promise.kept


def progress(text: str) -> None:
    """Show what is being done, on one line of a terminal."""
    sys.stderr.write(f"\r{text:<{WIDTH}}\r")
    sys.stderr.flush()


# %%
# The picture
# -----------


def draw(chats: list[Chat], path: Path) -> None:
    """Save a picture: how caches grow, and how fast tokens come."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    figure.suptitle("A chat with caches of keys and values")
    for chat in chats:
        style = "-" if chat.ours else "--"
        left.plot(range(1, TURNS + 1), chat.kib, style, marker="o", label=chat.name)
    left.set(xlabel="turns", ylabel="KiB of keys and values", ylim=(0, None))
    left.legend(fontsize=8)
    names = [chat.name for chat in chats]
    colors = ["tab:blue" if chat.ours else "tab:gray" for chat in chats]
    right.barh(names[::-1], [chat.speed for chat in chats][::-1], color=colors[::-1])
    right.set(xlabel="tokens a second")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# %%
# Run it
# ------

if __name__ == "__main__":
    picture = Path(sys.argv[1]) if sys.argv[1:] else None
    if not run(0, picture):
        raise SystemExit("an answer is further from that of the reference than is promised")
