"""The continual learners once more, as plain NumPy loops in float64 over a two-layer network.

Draws are handed in, so that a learner of jmeta and its loop here see the same examples.
"""

import numpy as np

KEYS = ("W1", "b1", "W2", "b2")


def relu(z):
    return np.maximum(z, 0)


def loss_and_grads(params, x, y):
    """Mean cross-entropy of a ReLU network with one hidden layer, and its gradient."""
    z = x @ params["W1"] + params["b1"]
    h = relu(z)
    logits = h @ params["W2"] + params["b2"]
    logits = logits - logits.max(1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows = np.arange(len(y))
    loss = -np.log(p[rows, y]).mean()
    p[rows, y] -= 1
    p /= len(y)
    back = (p @ params["W2"].T) * (z > 0)
    return loss, {"W1": x.T @ back, "b1": back.sum(0), "W2": h.T @ p, "b2": p.sum(0)}


def gradient(params, x, y):
    return loss_and_grads(params, x, y)[1]


def clip(tree, limit):
    norm = np.sqrt(sum((leaf**2).sum() for leaf in tree.values()))
    return {k: v * min(1.0, limit / norm) if norm else v for k, v in tree.items()}


def glance(params, learned, rates, order, batch, drawn, update, limit):
    """One glance of look-ahead meta-replay: A5 of the code's description, line by line."""
    x, y = batch[0][order], batch[1][order]
    qx, qy = np.concatenate([drawn[0], x]), np.concatenate([drawn[1], y])
    n = len(y)
    phi = {k: v.copy() for k, v in params.items()}
    total = {k: np.zeros_like(v) for k, v in params.items()}
    g_weights = {k: np.zeros_like(v) for k, v in params.items()}
    g_rates = {k: np.zeros_like(v) for k, v in params.items()}
    for i in range(n):
        g = gradient(phi, x[i : i + 1], y[i : i + 1])
        for k in KEYS:
            phi[k] = phi[k] - rates[k] * g[k]
            total[k] = total[k] + g[k]
        outer = gradient(phi, qx, qy)
        for k in KEYS:
            g_weights[k] += outer[k] / n
            g_rates[k] += -outer[k] * total[k] / n
    return update(params, learned, clip(g_weights, limit), g_rates)


def la_maml_update(eta, limit, learning_rate=None):
    def update(params, alpha, g_weights, g_rates):
        g_alpha = clip({k: g_rates[k] * (alpha[k] > 0) for k in KEYS}, limit)
        alpha = {k: alpha[k] - eta * g_alpha[k] for k in KEYS}
        rates = {k: relu(alpha[k]) if learning_rate is None else learning_rate for k in KEYS}
        return {k: params[k] - rates[k] * g_weights[k] for k in KEYS}, alpha

    return update


def sparse_update(rate, mask_rate, limit):
    def update(params, scores, g_weights, g_rates):
        g_scores = clip({k: rate * g_rates[k] for k in KEYS}, limit)
        scores = {k: scores[k] - mask_rate * g_scores[k] for k in KEYS}
        return {k: params[k] - rate * (scores[k] >= 0) * g_weights[k] for k in KEYS}, scores

    return update


def replay_maml_update(learning_rate):
    return lambda params, learned, g_weights, g_rates: (
        {k: params[k] - learning_rate * g_weights[k] for k in KEYS},
        learned,
    )


def mer_example(params, current, draws, rate, within, across):
    before = {k: v.copy() for k, v in params.items()}
    for drawn_x, drawn_y in draws:
        start = {k: v.copy() for k, v in params.items()}
        for x, y in zip([current[0], *drawn_x], [current[1], *drawn_y]):
            g = gradient(params, x[None], np.asarray([y]))
            params = {k: params[k] - rate * g[k] for k in KEYS}
        params = {k: start[k] + within * (params[k] - start[k]) for k in KEYS}
    return {k: before[k] + across * (params[k] - before[k]) for k in KEYS}
