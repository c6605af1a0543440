"""The draw of the next token in one pass: what the warpers and `torch.multinomial` do together.

Transformers asks its processors of logits for scores, and takes the largest one where it does not
sample. So a processor that draws gives scores of which all but one are -inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .._draws import draw, filters_of
from .._inputs.arrays import real
from ..torch._attention import draw_seed
from ..torch._problem import key_of
from ..torch._tensors import as_array, threads_of_torch

# In the order in which `generate` has them, with the option that each stands for.
_WARPERS = (
    (TemperatureLogitsWarper, "temperature"),
    (TopKLogitsWarper, "top_k"),
    (TopPLogitsWarper, "top_p"),
    (MinPLogitsWarper, "min_p"),
)


class LogitsSampler(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """Draw the next token of `generate` in one pass over the logits, without sorting them.

    It takes the place of the warpers of transformers, and of the softmax and `torch.multinomial`
    behind them: `model.generate(text, do_sample=False, logits_processor=[LogitsSampler(...)])`.
    With `do_sample=False` transformers takes the token of the largest score, and there is one that
    was drawn. `custom_generate=foveate.transformers.generate` does the same by the options of
    `generate` itself.

    Parameters
    ----------
    temperature : float, default 1
        The logits are divided by it.
    top_k : int, optional
        Only the most probable tokens, so many; what ties with the last of them stays. None and 0
        mean all.
    top_p : float, optional
        Of these, the smallest set of the most probable tokens whose probabilities sum to this much.
    min_p : float, optional
        Of these, those whose probability is at least this share of the largest one.
    repetition_penalty : float, default 1
        Positive logits of tokens that are in the text are divided by it, others are multiplied.
    generator : torch.Generator, optional
        The seed of each draw is drawn from it. None means torch's default generator, so that
        `torch.manual_seed` reproduces a text.

    Raises
    ------
    TypeError, ValueError
        For options that are no numbers, or outside their range, as `foveate.multinoulli`.

    See Also
    --------
    generate : the same with the options of `model.generate`.
    foveate.multinoulli : the draw, with its promises.

    Notes
    -----
    The distribution is that of the warpers: `TemperatureLogitsWarper`, `TopKLogitsWarper`,
    `TopPLogitsWarper` and `MinPLogitsWarper`, in this order. The tokens for one seed are others
    than those of `torch.multinomial`. The draw of a row depends on the seed and its place in the
    batch alone, and is the same for any number of threads.

    With `output_scores` the scores are those of the drawn token alone: 0, and -inf for the others;
    `output_logits` has the logits. In beam search, which draws by itself, it is of no use.

    Examples
    --------
    >>> import torch
    >>> from foveate.transformers import LogitsSampler
    >>> sampler = LogitsSampler(top_k=2, generator=torch.Generator().manual_seed(0))
    >>> logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]]).expand(1000, 4)
    >>> draws = sampler(torch.zeros(1000, 1, dtype=torch.int64), logits).argmax(dim=-1)
    >>> draws.unique().tolist()
    [1, 2]
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        penalty = real("repetition_penalty", repetition_penalty)
        if not penalty > 0:
            raise ValueError(f"repetition_penalty: got {penalty}, wanted a number above 0")
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator: got {generator!r}, wanted a torch.Generator")
        self.filters = filters_of(temperature, top_k, top_p, min_p)
        one = np.zeros((1, 1), np.float32)  # a draw checks their ranges
        draw(one, True, self.filters, (0, 0), np.zeros((1, 1), np.int64))
        self.generator = generator
        self._penalize = None if penalty == 1 else RepetitionPenaltyLogitsProcessor(penalty)

    def __repr__(self) -> str:
        """Show the options that are given."""
        usual = filters_of(1.0, None, None, None)._asdict()
        given = {name: x for name, x in self.filters._asdict().items() if x != usual[name]}
        if self._penalize is not None:
            given["repetition_penalty"] = self._penalize.penalty
        return f"LogitsSampler({', '.join(f'{name}={x!r}' for name, x in given.items())})"

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Draw a token for each row of logits.

        Parameters
        ----------
        input_ids : int tensor (batch, length)
            The text.
        scores : float tensor (batch, vocabulary)
            The logits.

        Returns
        -------
        tensor (batch, vocabulary)
            0 at the token that was drawn, -inf elsewhere.
        """
        if self._penalize is not None:
            scores = self._penalize(input_ids, scores)
        found = torch.full_like(scores, -torch.inf)
        return found.scatter_(-1, self._draw(scores), 0.0)

    def draw(self, scores: torch.Tensor) -> torch.Tensor:
        """Draw a token for each row of logits.

        Parameters
        ----------
        scores : float tensor (..., vocabulary)
            The logits.

        Returns
        -------
        int64 tensor (...)
            The tokens.
        """
        return self._draw(scores)[..., 0]

    def _draw(self, scores: torch.Tensor) -> torch.Tensor:
        rows = as_array("scores", scores.detach() if scores.requires_grad else scores)
        index = np.empty((*scores.shape[:-1], 1), np.int64)
        key = key_of(draw_seed(self.generator))
        with threads_of_torch:
            draw(rows, True, self.filters, key, index)
        tokens: torch.Tensor = torch.from_numpy(index)
        return tokens


def parted(processors: Any) -> tuple[Any, LogitsSampler]:
    """Part processors into what comes before the draw, and a sampler that does what is left.

    The warpers at the end are what is left, in the order of `generate`, each once. Where something
    else stands among them, or one of them has an option that is not known here, it and what is
    before it stay as they are.
    """
    rest = list(processors)
    options: dict[str, Any] = {}
    for kind, name in reversed(_WARPERS):
        if rest and type(rest[-1]) is kind and _is_plain(rest[-1]):
            options[name] = getattr(rest.pop(), name)
    return LogitsProcessorList(rest), LogitsSampler(**options)


def _is_plain(warper: Any) -> bool:
    """Tell whether a warper hides what it filters, and may leave one token alone."""
    hides = getattr(warper, "filter_value", -torch.inf) == -torch.inf
    return hides and getattr(warper, "min_tokens_to_keep", 1) == 1
