"""Models of several kinds while foveate is active: loss, gradients and answers are those of torch.

The weights are random and the models tiny. Those that are built here are of the shape of their
originals where these attend: what each passes to torch's function, and how it joins the heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from torch_checks import ft, torch

nn = torch.nn
attend = nn.functional.scaled_dot_product_attention


class Attend(nn.Module):
    """Self-attention with one projection, as of ViT in timm, or attention to another input."""

    def __init__(self, size: int, heads: int, context: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.rest = nn.Linear(context or size, 2 * size)
        self.join = nn.Linear(size, size)

    def forward(self, x: Any, context: Any = None) -> Any:
        rest = self.rest(x if context is None else context).unflatten(-1, (2, self.heads, -1))
        key, value = rest.movedim(-3, 0).transpose(-2, -3)
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        return self.join(attend(query, key, value).transpose(-2, -3).flatten(-2))


class Block(nn.Module):
    """A block of ViT."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attend = Attend(size, 4)
        self.feed = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, x: Any) -> Any:
        x = x + self.attend(self.before(x))
        return x + self.feed(self.behind(x))


class UNetBlock(nn.Module):
    """The transformer of a U-Net: pixels attend to pixels, and to the words of a prompt."""

    def __init__(self, channels: int, words: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 1)
        self.pixels, self.words = Attend(channels, 2), Attend(channels, 2, words)

    def forward(self, x: Any, words: Any) -> Any:
        rows = self.conv(self.norm(x)).flatten(2).transpose(1, 2)
        rows = rows + self.pixels(rows)
        rows = rows + self.words(rows, words)
        return x + rows.transpose(1, 2).unflatten(-1, x.shape[2:])


class Table(nn.Module):
    """TabPFN's layer: cells attend along the columns, then along the rows to those with labels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.columns, self.rows = Attend(size, 2), Attend(size, 2)

    def forward(self, x: Any, labeled: int) -> Any:  # (batch, rows, columns, size)
        x = x + self.columns(x)
        turned = x.transpose(1, 2)
        return x + self.rows(turned, turned[:, :, :labeled]).transpose(1, 2)


def vit() -> Any:
    blocks = nn.Sequential(Block(16), Block(16))
    x = torch.randn(2, 50, 16)
    return blocks, lambda: blocks(x), 2


def unet() -> Any:
    block = UNetBlock(16, 12)
    x, words = torch.randn(2, 16, 8, 8), torch.randn(2, 7, 12)
    return block, lambda: block(x, words), 2


def table() -> Any:
    layer = Table(16)
    x = torch.randn(2, 20, 5, 16)
    return layer, lambda: layer(x, 15), 2  # two tensors of five axes, which torch has formulas for


def minilm() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    words = torch.randint(50, (4, 20))
    valid = torch.arange(20) < torch.tensor([20, 13, 7, 1])[:, None]

    def sentences() -> Any:
        output = model(words, attention_mask=valid.long()).last_hidden_state
        return (output * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)

    return model, sentences, 2


def whisper() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        vocab_size=50,
        num_mel_bins=8,
        encoder_layers=1,
        decoder_layers=1,
        d_model=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=30,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation="sdpa",
    )
    model = transformers.WhisperModel(config)
    sound, words = torch.randn(2, 8, 60), torch.randint(3, 50, (2, 9))
    return model, lambda: model(sound, decoder_input_ids=words).last_hidden_state, 3


MODELS = [vit, unet, table, minilm, whisper]


@pytest.fixture(autouse=True)
def leaves_torch_as_it_was() -> Iterator[None]:
    ft.explain(reset=True)
    yield
    ft.deactivate()


@pytest.mark.parametrize("make", MODELS)
def test_answers_loss_and_gradients(make):
    torch.manual_seed(9)
    model, run, attentions = make()

    def outcome() -> list[Any]:
        with torch.inference_mode():
            model.eval()
            output = run()
        model.train()
        model.zero_grad()
        loss = run().pow(2).mean()
        loss.backward()
        used = [x.grad.clone() for x in model.parameters() if x.grad is not None]
        return [output.clone(), loss.detach(), *used]

    theirs = outcome()
    with ft.activated():
        ours = outcome()
    explained = ft.explain()
    for one, other in zip(ours, theirs, strict=True):
        scale = float(other.abs().max()) + 1e-3
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5 * scale)
    counts = {**explained.here}
    gradients = counts.pop("its gradients", 0) + sum(explained.left.values())
    assert sum(counts.values()) == 2 * attentions
    assert gradients == attentions - counts.get("attention by formulas", 0) // 2
    assert all("fewer than 64 queries" in reason for reason in explained.left)
