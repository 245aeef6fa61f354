"""A second implementation of the trainer, sharing nothing with the first: float64 NumPy.

An LSTM language model with forward pass, backpropagation through time by hand, the clip of the
global norm and plain SGD. Parameters have the names and layouts of the network's state dict, so
that both can start from the same values and be compared at the end.

Shapes: T steps, B streams, H units, V words, L layers.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class NumpyLanguageModel:
    def __init__(self, parameters, layers):
        self.p = {name: value.numpy().astype(np.float64) for name, value in parameters.items()}
        self.layers = layers

    def zero_state(self, streams):
        width = self.p["embedding.weight"].shape[1]
        return [(np.zeros((streams, width)), np.zeros((streams, width)))] * self.layers

    def step(self, inputs, targets, state, masks, rate, clip_norm):
        """One training step; returns NLL sum, gradient norm before the clip, state after."""
        nll, gradients, state = self.gradients(inputs, targets, state, masks)
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        scale = min(1.0, clip_norm / norm)
        for name, gradient in gradients.items():
            self.p[name] -= rate * scale * gradient
        return nll, norm, state

    def gradients(self, inputs, targets, state, masks):
        """NLL sum, gradient of (NLL sum / B), state after; masks are (L+1, T, B, H)."""
        steps, streams = inputs.shape
        x = self.p["embedding.weight"][inputs] * masks[0]  # (T, B, H)
        tapes, after = [], []
        for layer in range(self.layers):
            x, tape, final = self.layer_forward(layer, x, state[layer])
            tapes.append(tape)
            after.append(final)
            x = x * masks[layer + 1]
        logits = x @ self.p["softmax.weight"].T + self.p["softmax.bias"]  # (T, B, V)
        logits -= logits.max(axis=-1, keepdims=True)
        probabilities = np.exp(logits)
        probabilities /= probabilities.sum(axis=-1, keepdims=True)
        at_target = np.take_along_axis(probabilities, targets[..., None], axis=-1)
        nll = -np.log(at_target).sum()

        d_logits = probabilities  # (T, B, V), made in place
        t, b = np.indices((steps, streams))
        d_logits[t, b, targets] -= 1
        d_logits /= streams
        gradients = {
            "softmax.weight": np.einsum("tbv,tbh->vh", d_logits, x),
            "softmax.bias": d_logits.sum(axis=(0, 1)),
        }
        d_x = d_logits @ self.p["softmax.weight"]  # (T, B, H)
        for layer in reversed(range(self.layers)):
            d_x = self.layer_backward(layer, d_x * masks[layer + 1], tapes[layer], gradients)
        d_embedding = np.zeros_like(self.p["embedding.weight"])
        np.add.at(d_embedding, inputs, d_x * masks[0])
        gradients["embedding.weight"] = d_embedding
        return nll, gradients, after

    def weights(self, layer):
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        return [self.p[f"layers.{layer}.{name}"] for name in names]

    def layer_forward(self, layer, x, state):
        w_ih, w_hh, b_ih, b_hh = self.weights(layer)
        h, c = state
        outputs, tape = [], []
        for x_t in x:
            i, f, g, o = np.split(x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, axis=1)
            i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
            h_before, c_before = h, c
            c = f * c + i * g
            h = o * np.tanh(c)
            outputs.append(h)
            tape.append((x_t, h_before, c_before, i, f, g, o, c))
        return np.stack(outputs), tape, (h, c)

    def layer_backward(self, layer, d_outputs, tape, gradients):
        w_ih, w_hh, _, _ = self.weights(layer)
        d_w_ih, d_w_hh = np.zeros_like(w_ih), np.zeros_like(w_hh)
        d_b = np.zeros(w_ih.shape[0])
        d_x = np.empty_like(d_outputs)
        d_h_next, d_c_next = 0.0, 0.0
        for t in reversed(range(len(tape))):
            x_t, h_before, c_before, i, f, g, o, c = tape[t]
            d_h = d_outputs[t] + d_h_next
            d_c = d_h * o * (1 - np.tanh(c) ** 2) + d_c_next
            d_affine = np.concatenate(
                [
                    d_c * g * i * (1 - i),
                    d_c * c_before * f * (1 - f),
                    d_c * i * (1 - g**2),
                    d_h * np.tanh(c) * o * (1 - o),
                ],
                axis=1,
            )
            d_w_ih += d_affine.T @ x_t
            d_w_hh += d_affine.T @ h_before
            d_b += d_affine.sum(axis=0)
            d_x[t] = d_affine @ w_ih
            d_h_next = d_affine @ w_hh
            d_c_next = d_c * f
        gradients[f"layers.{layer}.weight_ih_l0"] = d_w_ih
        gradients[f"layers.{layer}.weight_hh_l0"] = d_w_hh
        gradients[f"layers.{layer}.bias_ih_l0"] = d_b
        gradients[f"layers.{layer}.bias_hh_l0"] = d_b
        return d_x
