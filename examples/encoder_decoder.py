"""An encoder-decoder with attention (Luong et al., 2015), and its gradients by hand.

    hbar_1 .. hbar_S = GRU(x_1 .. x_S)                    the encoder's states
    h_1 .. h_T       = GRU(start, y_1 .. y_T-1)           the decoder's, begun at hbar_S
    c_t              = attention of h_t over hbar         (7), (9), (10) of the paper
    htilde_t         = tanh([c_t; h_t] W_c)               (5)
    p(y_t | y_<t, x) = softmax(htilde_t W_s)              (6)

Rows are multiplied from the right, so that each matrix is the paper's transposed. Words and symbols
are one-hot: the matrix of a GRU's inputs is their embedding. Arrays are (batch, steps, size).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import foveate
import numpy as np
from numpy.typing import DTypeLike, NDArray

from spoken_dates import SYMBOLS, VOCABULARY, WRITTEN, Dates, Integers

WAYS = ("no attention", "local-m", "local-p", "global")
HALF_WIDTH = 3  # D of the paper: a local query sees 7 words at most
START = len(SYMBOLS)  # what the decoder reads before the first symbol

Floats = NDArray[Any]  # float32; float64 where gradients are checked
Parameters = dict[str, Floats]


class GruGradients(NamedTuple):
    """What the pullback of `gru_vjp` returns."""

    start: Floats
    wx: Floats
    wh: Floats
    b: Floats


def gru_vjp(
    x: Floats, start: Floats, wx: Floats, wh: Floats, b: Floats
) -> tuple[Floats, Callable[[Floats], GruGradients]]:
    """Run a gated recurrent net (Cho et al., 2014); return its states and their pullback.

    z, r = sigmoid(x W + h U),  n = tanh(x W_n + r (h U_n)),  h' = (1 - z) n + z h

    Parameters
    ----------
    x : array (batch, steps, inputs)
    start : array (batch, size)
        The state before the first step.
    wx, wh, b : arrays (inputs, 3 size), (size, 3 size), (3 size,)
        Of z, r and n, side by side.
    """
    batch, steps, size = *x.shape[:2], len(wh)
    given = x @ wx + b
    states = np.empty((batch, steps + 1, size), given.dtype)
    states[:, 0] = start
    gates, recalled = np.empty_like(given), np.empty_like(states)
    for t in range(steps):
        h = states[:, t]
        own = h @ wh
        z, r = np.split(_sigmoid(given[:, t, : 2 * size] + own[:, : 2 * size]), 2, axis=-1)
        recalled[:, t] = own[:, 2 * size :]
        n = np.tanh(given[:, t, 2 * size :] + r * recalled[:, t])
        gates[:, t] = np.concatenate([z, r, n], axis=-1)
        states[:, t + 1] = (1 - z) * n + z * h

    def pullback(d_states: Floats) -> GruGradients:
        """Go back through time, with the gradients of all states (batch, steps, size)."""
        d_given, d_own = np.empty_like(given), np.empty_like(given)
        d_h = np.zeros((batch, size), given.dtype)
        for t in reversed(range(steps)):
            z, r, n = np.split(gates[:, t], 3, axis=-1)
            d_h = d_h + d_states[:, t]
            d_z = d_h * (states[:, t] - n) * z * (1 - z)
            d_n = d_h * (1 - z) * (1 - n * n)
            d_r = d_n * recalled[:, t] * r * (1 - r)
            d_given[:, t] = np.concatenate([d_z, d_r, d_n], axis=-1)
            d_own[:, t] = np.concatenate([d_z, d_r, d_n * r], axis=-1)
            d_h = d_h * z + d_own[:, t] @ wh.T
        d_wx, d_wh = _of_matrix(x, d_given), _of_matrix(states[:, :-1], d_own)
        return GruGradients(d_h, d_wx, d_wh, d_given.sum(axis=(0, 1)))

    return states[:, 1:], pullback


class ContextGradients(NamedTuple):
    """What the pullback of `attend_vjp` returns."""

    h: Floats
    key: Floats
    value: Floats
    parameters: Parameters


def attend_vjp(
    way: str,
    p: Parameters,
    h: Floats,
    key: Floats,
    value: Floats,
    lengths: Integers,
    *,
    first: int = 0,
    library: Any = foveate,
) -> tuple[Floats, Callable[[Floats], ContextGradients]]:
    """Attend for all target positions at once; return the contexts and their pullback.

    Parameters
    ----------
    way : "global", "local-m" or "local-p"
    p : the parameters w_a, and w_p and v_p for local-p
    h : array (batch, targets, size)
        The decoder's states: the queries.
    key, value : arrays (batch, sources, size)
        The encoder's states, both.
    lengths : int array (batch,)
        How many of them there are.
    first : the target position of h[:, 0]
    library : foveate, or foveate.reference
    """
    options: dict[str, Any] = {"score": foveate.Bilinear(p["w_a"]), "key_lengths": lengths}
    if way == "global":
        contexts, pull_contexts = library.attention_vjp(h, key, value, **options)
    else:
        options |= {"half_width": HALF_WIDTH}
        if way == "local-m":
            options |= {"centers": first + np.arange(h.shape[1]), "sigma": None}
        else:  # sigma is half of half_width
            centers, pull_centers = library.predict_centers_vjp(h, p["w_p"], p["v_p"], lengths)
            options |= {"centers": centers}
        contexts, pull_contexts = library.local_attention_vjp(h, key, value, **options)

    def pullback(d_contexts: Floats) -> ContextGradients:
        found = pull_contexts(d_contexts)
        d_h, d_p = found.query, {"w_a": found.score.w}
        if way == "local-p":
            predicted = pull_centers(found.centers)
            d_h, d_p = d_h + predicted.query, {**d_p, "w_p": predicted.w, "v_p": predicted.v}
        return ContextGradients(d_h, found.key, found.value, d_p)

    return contexts, pullback


class Translation(NamedTuple):
    """What was written, and the states that attention was between."""

    symbols: Integers  # (batch, 10)
    h: Floats  # (batch, 10, size)
    hbar: Floats  # (batch, sources, size)


@dataclass
class EncoderDecoder:
    """A translator from sentences to dates, which attends in one of the `WAYS`."""

    way: str
    parameters: Parameters

    @classmethod
    def initial(
        cls, way: str, seed: int, size: int = 64, dtype: DTypeLike = np.float32
    ) -> EncoderDecoder:
        """With random nets. Attention begins even over all words, or around the middle."""
        rng = np.random.default_rng(seed)

        def random(rows: int, columns: int, deviation: float) -> Floats:
            return rng.normal(0.0, deviation, (rows, columns)).astype(dtype)

        parameters: Parameters = {}
        for net, words in (("encoder", len(VOCABULARY)), ("decoder", len(SYMBOLS) + 1)):
            parameters[f"{net}.wx"] = random(words, 3 * size, 0.3)
            parameters[f"{net}.wh"] = random(size, 3 * size, size**-0.5)
            parameters[f"{net}.b"] = np.zeros(3 * size, dtype)
        parameters["w_c"] = random(2 * size, size, (2 * size) ** -0.5)
        parameters["w_s"] = random(size, len(SYMBOLS), size**-0.5)
        if way != "no attention":
            parameters["w_a"] = np.zeros((size, size), dtype)
        if way == "local-p":
            parameters["w_p"] = random(size, size, size**-0.5)
            parameters["v_p"] = np.zeros(size, dtype)
        return cls(way, parameters)

    def encode(self, source: Integers) -> tuple[Floats, Callable[[Floats], GruGradients]]:
        """The states hbar; those beyond the end of a sentence are never looked at."""
        return self._run("encoder", source, np.zeros_like(self.parameters["encoder.wh"][:, 0]))

    def decode(
        self, before: Integers, start: Floats
    ) -> tuple[Floats, Callable[[Floats], GruGradients]]:
        """The states h, from the symbols that come before each."""
        return self._run("decoder", before, start)

    def _run(
        self, net: str, symbols: Integers, start: Floats
    ) -> tuple[Floats, Callable[[Floats], GruGradients]]:
        wx, wh, b = (self.parameters[f"{net}.{name}"] for name in ("wx", "wh", "b"))
        return gru_vjp(np.eye(len(wx), dtype=wx.dtype)[symbols], start, wx, wh, b)

    def attend(
        self, h: Floats, hbar: Floats, lengths: Integers, first: int = 0
    ) -> tuple[Floats, Callable[[Floats], ContextGradients]]:
        """The contexts; without attention, 0."""
        if self.way == "no attention":
            nothing = np.zeros_like(hbar)
            found = ContextGradients(np.zeros_like(h), nothing, nothing, {})
            return np.zeros_like(h), lambda _: found
        return attend_vjp(self.way, self.parameters, h, hbar, hbar, lengths, first=first)

    def loss_and_gradients(self, dates: Dates) -> tuple[float, Parameters]:
        """The mean of -log p(y_t | y_<t, x), and its gradients, by teacher forcing.

        The decoder reads the symbols that should have come before, and its states do not depend on
        the contexts. So all of them are there before any attention, which is then one call.
        """
        p = self.parameters
        rows, last = np.arange(len(dates.source)), dates.lengths - 1
        hbar, pull_encoder = self.encode(dates.source)
        before = np.insert(dates.target[:, :-1], 0, START, axis=1)
        h, pull_decoder = self.decode(before, hbar[rows, last])
        contexts, pull_contexts = self.attend(h, hbar, dates.lengths)
        both = np.concatenate([contexts, h], axis=-1)
        htilde = np.tanh(both @ p["w_c"])
        log_p = _log_softmax(htilde @ p["w_s"])
        right = np.eye(len(SYMBOLS), dtype=log_p.dtype)[dates.target]
        loss = -float(np.sum(log_p * right)) / dates.target.size

        d_logits = (np.exp(log_p) - right) / dates.target.size
        d_both = (d_logits @ p["w_s"].T) * (1 - htilde * htilde)
        d_contexts, d_h = np.split(d_both @ p["w_c"].T, 2, axis=-1)
        attended = pull_contexts(d_contexts)
        decoded = pull_decoder(d_h + attended.h)
        d_hbar = attended.key + attended.value
        d_hbar[rows, last] += decoded.start
        encoded = pull_encoder(d_hbar)
        gradients = {"w_s": _of_matrix(htilde, d_logits), "w_c": _of_matrix(both, d_both)}
        for net, found in (("encoder", encoded), ("decoder", decoded)):
            gradients |= {f"{net}.wx": found.wx, f"{net}.wh": found.wh, f"{net}.b": found.b}
        return loss, gradients | attended.parameters

    def translate(self, dates: Dates) -> Translation:
        """Write dates symbol by symbol: the most probable one, which is read in the next step."""
        p = self.parameters
        hbar, _ = self.encode(dates.source)
        state = hbar[np.arange(len(hbar)), dates.lengths - 1]
        symbols, states = np.full((len(hbar), 1), START), []
        for t in range(WRITTEN):
            h, _ = self.decode(symbols[:, -1:], state)
            contexts, _ = self.attend(h, hbar, dates.lengths, first=t)
            htilde = np.tanh(np.concatenate([contexts, h], axis=-1) @ p["w_c"])
            symbols = np.append(symbols, (htilde @ p["w_s"]).argmax(axis=-1), axis=1)
            states.append(h)
            state = h[:, 0]
        return Translation(symbols[:, 1:], np.concatenate(states, axis=1), hbar)

    def alignment(self, translation: Translation, lengths: Integers) -> Floats:
        """The weights (batch, targets, sources) of the contexts: those of one-hot values."""
        _, h, hbar = translation
        if self.way == "no attention":
            return np.zeros((*h.shape[:2], hbar.shape[1]), h.dtype)
        one_hot = np.eye(hbar.shape[1], dtype=hbar.dtype)
        return attend_vjp(self.way, self.parameters, h, hbar, one_hot, lengths)[0]


class Adam:
    """Gradient descent whose steps are of a size of their own for each number (Kingma, Ba, 2015).

    Parameters
    ----------
    rate : about how far a number goes in a step
    keep, keep_square : how much of the means of gradients, and of their squares, stays in a step
    """

    def __init__(self, rate: float, keep: float = 0.9, keep_square: float = 0.99) -> None:
        self.rate, self.keep, self.keep_square = rate, keep, keep_square
        self.steps = 0
        self.mean: Parameters = {}
        self.square: Parameters = {}

    def step(self, parameters: Parameters, gradients: Parameters) -> None:
        """Change the parameters, in place."""
        self.steps += 1
        for name, gradient in gradients.items():
            self._move(self.mean, name, gradient, self.keep)
            self._move(self.square, name, gradient * gradient, self.keep_square)
            mean = self.mean[name] / (1 - self.keep**self.steps)
            square = self.square[name] / (1 - self.keep_square**self.steps)
            parameters[name] -= self.rate * mean / (np.sqrt(square) + 1e-8)

    @staticmethod
    def _move(means: Parameters, name: str, new: Floats, keep: float) -> None:
        means[name] = keep * means.get(name, np.zeros_like(new)) + (1 - keep) * new


def _of_matrix(rows: Floats, d_products: Floats) -> Floats:
    """The gradient of a matrix that rows (batch, steps, size) were multiplied by."""
    return np.tensordot(rows, d_products, axes=((0, 1), (0, 1)))


def _sigmoid(x: Floats) -> Floats:
    return 0.5 * np.tanh(0.5 * x) + 0.5


def _log_softmax(logits: Floats) -> Floats:
    """Of logits that are sums of a few dozen tanh: exp does not overflow."""
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))
