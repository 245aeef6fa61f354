"""Dynamic evaluation and the continuous cache once more, slow and plain: float64 NumPy and loops.

Shapes: N tokens of one stream, T tokens of a segment, H units, V words.
"""

from math import exp, log

import numpy as np
from numpy_lstm import NumpyLanguageModel


def forward(model, inputs, state):
    """p of every word and h of layer L, at each step: (T, V), (T, H)."""
    x = model.p["embedding.weight"][inputs[:, None]]
    for layer in range(model.layers):
        x, _, _ = model.layer_forward(layer, x, state[layer])
    logits = x[:, 0] @ model.p["softmax.weight"].T + model.p["softmax.bias"]
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), x[:, 0]


def gradients_of(model, inputs, targets, state, tied):
    """The gradient of the summed NLL by the parameters' names, and the state after: (T, B)."""
    masks = np.ones((model.layers + 1, *inputs.shape, 1))
    _, gradients, state = model.gradients(inputs, targets, state, masks)
    if tied:  # one matrix, here kept as two that are equal
        both = gradients["embedding.weight"] + gradients["softmax.weight"]
        gradients["embedding.weight"] = gradients["softmax.weight"] = both
    return gradients, state


def cache_distribution(pairs, h, vocabulary_size, theta, size):
    """p_cache of every word, by the pairs of a state and the word after it."""
    shares = np.zeros(vocabulary_size)
    for state, word in pairs[-size:]:
        shares[word] += exp(theta * np.dot(h, state))
    return shares / shares.sum()


def scores(parameters, layers, tokens, segment, update=None, cache=None, tied=False):
    """ln p of the tokens 1 … N-1.

    update: from the parameters, the trained ones and the gradients, by their names, to the new
    parameters. cache: size, theta, weight.
    """
    model = NumpyLanguageModel(parameters, layers)
    trained = {name: value.copy() for name, value in model.p.items()}
    state, pairs, found = model.zero_state(1), [], []
    for start in range(0, len(tokens) - 1, segment):
        targets = tokens[start + 1 : start + 1 + segment]
        inputs = tokens[start : start + len(targets)]
        probabilities, h = forward(model, inputs, state)
        for p, h_t, word in zip(probabilities, h, targets, strict=True):
            if cache is not None and pairs:
                size, theta, weight = cache
                p_cache = cache_distribution(pairs, h_t, len(p), theta, size)
                p = (1 - weight) * p + weight * p_cache
            found.append(log(p[word]))
            pairs.append((h_t, word))
        gradients, state = gradients_of(model, inputs[:, None], targets[:, None], state, tied)
        if update is not None:
            model.p = {
                name: update(name, model.p[name], trained[name], gradients[name])
                for name in model.p
            }
    return np.array(found)


def mean_squares(parameters, layers, tokens, segment, streams, tied=False):
    """MS_g by the parameters' names, over segments of the text in so many streams."""
    model = NumpyLanguageModel(parameters, layers)
    length = len(tokens) // streams
    columns = tokens[: length * streams].reshape(streams, length).T
    state, total = model.zero_state(streams), dict.fromkeys(model.p, 0.0)
    starts = range(0, length - segment, segment)
    for start in starts:
        inputs = columns[start : start + segment]
        targets = columns[start + 1 : start + segment + 1]
        gradients, state = gradients_of(model, inputs, targets, state, tied)
        for name in total:
            total[name] = total[name] + gradients[name] ** 2
    return {name: square / len(starts) for name, square in total.items()}
