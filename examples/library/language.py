"""A small language model: interpolated trigrams over the words of the library's docstrings."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from corpus import docstrings
from words import words_of

START = "<s>"


@dataclass
class Model:
    """Counts of word sequences of length one to three, and the weights that mix them."""

    unigrams: Counter[str] = field(default_factory=Counter)
    followers: dict[str, Counter[str]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    weights: tuple[float, float, float] = (0.1, 0.3, 0.6)

    def probability(self, first: str, second: str, third: str) -> float:
        """How likely the third word is after the other two."""
        total = sum(self.unigrams.values())
        alone = (self.unigrams[third] + 1) / (total + len(self.unigrams) + 1)
        after_one = _share(self.followers.get(second), third)
        after_two = _share(self.pairs.get((first, second)), third)
        low, middle, high = self.weights
        return low * alone + middle * after_one + high * after_two

    def perplexity(self, text: str) -> float:
        """How surprised the model is by a text, per word; lower is better."""
        words = [START, START, *words_of(text)]
        logs = [math.log(self.probability(*words[i - 2 : i + 1])) for i in range(2, len(words))]
        return math.exp(-sum(logs) / max(1, len(logs)))

    def likeliest(self, first: str, second: str) -> str:
        """The word that most often follows two others."""
        found = self.pairs.get((first, second)) or self.followers.get(second) or self.unigrams
        return found.most_common(1)[0][0]


def train(texts: Iterable[str] | None = None) -> Model:
    """A model of the given texts, of all docstrings by default, with its weights tuned on every
    tenth of them."""
    kept_back, followers, pairs = [], defaultdict(Counter), defaultdict(Counter)
    model = Model()
    for number, text in enumerate(docstrings() if texts is None else texts):
        if number % 10 == 0:
            kept_back.append(text)
            continue
        words = [START, START, *words_of(text)]
        for i in range(2, len(words)):
            model.unigrams[words[i]] += 1
            followers[words[i - 1]][words[i]] += 1
            pairs[words[i - 2], words[i - 1]][words[i]] += 1
    model.followers, model.pairs = dict(followers), dict(pairs)
    choices = [(low, round(1 - low - high, 2), high) for low in (0.05, 0.2) for high in (0.3, 0.6)]
    sample = kept_back[:40]
    model.weights = min(choices, key=lambda weights: _surprise(model, weights, sample))
    return model


def _surprise(model: Model, weights: tuple[float, float, float], texts: list[str]) -> float:
    model.weights = weights
    return sum(model.perplexity(text) for text in texts)


def _share(counts: Counter[str] | None, word: str) -> float:
    return counts[word] / counts.total() if counts else 0.0
