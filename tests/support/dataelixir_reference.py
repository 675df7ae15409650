"""DataElixir once more: eqs. 1 to 5 of Zhou 2024 in float64 NumPy, image by image, as the released
code reads them.

Written from the paper and from what is known of the released code, not from `purify`; loops where
that has arrays.
"""

import math
from collections import Counter

import numpy as np


def one_round(x, betas, start, predict, noise, *, released, kept, state='x_t'):
    """Eqs. 1 and 2 for one image f64[h w c]: noised, then `start` ancestral steps with variance
    beta -> (x, last states).

    `noise(i)` is the normal draw of index i going back, `noise('forward')` that of the way there.
    """
    bars = np.cumprod(1 - betas)
    level = bars[start if released else start - 1]
    x, states = math.sqrt(level) * x + math.sqrt(1 - level) * noise('forward'), []
    for i in reversed(range(start)):
        bar, before = bars[i], bars[i - 1] if i else 1.0
        eps = predict(x, i)
        x0 = np.clip(x / math.sqrt(bar) - math.sqrt(1 / bar - 1) * eps, -1, 1)
        mean = (math.sqrt(before) * betas[i] * x0 + math.sqrt(1 - betas[i]) * (1 - before) * x) / (
            1 - bar
        )
        x = mean + (math.sqrt(betas[i]) * noise(i) if i else 0)
        if i < kept:
            states.append(x if state == 'x_t' else x0)
    return x, states


def grey_levels(x, levels='rounded'):
    """[-1, 1] -> 8-bit; the released code leaves what is behind the point away."""
    if levels == 'truncated':
        return np.floor(255 * (np.clip(x, -1, 1) / 2 + 0.5))
    return np.clip(np.rint((x + 1) * 127.5), 0, 255)


def there_and_back(image):
    """8-bit f64[h w c] -> 8-bit: a tensor in [0, 1], to [-1, 1], back, times 255, truncated; number
    by number in float32.
    """
    one = np.float32(1)
    signed = [np.float32(value) / np.float32(255) * (one + one) - one for value in image.ravel()]
    return np.array(
        [int((value + one) / (one + one) * np.float32(255)) for value in signed], float
    ).reshape(image.shape)


def ssim(a, b):
    """Windows of 3 x 3 x 3 inside, sample covariance (Wang 2004, K1 .01, K2 .03, range 255)."""
    values = []
    for i in range(a.shape[0] - 2):
        for j in range(a.shape[1] - 2):
            p, q = a[i : i + 3, j : j + 3].ravel(), b[i : i + 3, j : j + 3].ravel()
            (vp, cov), (_, vq) = np.cov(p, q)
            top = (2 * p.mean() * q.mean() + 6.5025) * (2 * cov + 58.5225)
            values.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 6.5025) * (vp + vq + 58.5225)))
    return np.mean(values)


def distance(image, candidate, features):
    """Eq. 5 as released, of 8-bit images and a function from them to features."""
    a, b = features(image), features(candidate)
    cosine = float(a @ b / math.sqrt((a @ a) * (b @ b)))
    return 0.5 * (1 - (ssim(image, candidate) + 1) / 2) + 0.5 * (1 - (cosine + 1) / 2)


def most_common(labels, reading):
    """The vote; of labels as common the last seen, or the first, as in the released code."""
    counted = Counter(labels).most_common()
    winners = [label for label, count in counted if count == counted[0][1]]
    return (
        winners[0]
        if reading == 'predicted'
        else next(label for label in reversed(labels) if label in winners)
    )


def sort_out(candidates, given, raw, tau, reading):
    """Eq. 3 for one image: (set, eta, candidates left after the few others are dropped)."""
    ranked = [count for _, count in Counter(candidates).most_common()]
    eta = ranked[1] if len(ranked) > 1 else 0
    if eta >= tau * len(candidates) or (reading == 'given' and ranked[0] / len(candidates) <= 0.5):
        return 'S', eta, list(candidates)
    winner = most_common(candidates, reading)
    return (
        ('B' if winner == (given if reading == 'given' else raw) else 'P'),
        eta,
        [x for x in candidates if x == winner],
    )


def final_verdict(image, targets, *, tau, reading, rank, count_raw, choice, final):
    """Section 3.5 for one image -> (set, label, candidate, -1 for the raw image).

    `image`: {'candidates', 'distance' of each, 'given', 'raw', 'benign' and 'finetuned': (label,
    labels of the candidates)}, the last two what the benign model says after its first and second
    stage.
    """
    candidates, given = image['candidates'], image['given']
    letter = sort_out(candidates, given, image['raw'], tau, reading)[0]
    if letter == 'B' or given not in targets:
        return letter, given, -1
    voted = most_common(candidates, reading)
    if letter == 'P':
        return (
            letter,
            voted,
            choose(image['distance'], rank, count_raw, [x == voted for x in candidates]),
        )
    label, theirs = image['benign']
    if final == 'all' or label != voted:
        label, theirs = image['finetuned']
    allowed = [choice == 'all' or x == label for x in theirs]
    return letter, label, choose(image['distance'], rank, count_raw, allowed)


def divergence(own, pooled):
    """KL(one-hot own || labels pooled by eq.

    4), nats, as a sum over labels; infinite where none of them is `own`.
    """
    if own not in pooled:
        return math.inf
    total = 0.0
    for label in set(pooled):
        ideal, actual = float(label == own), pooled.count(label) / len(pooled)
        total += ideal * math.log(ideal / actual) if ideal else 0.0
    return total


def anomaly_indices(scores):
    """As released."""
    apart = [abs(score - np.median(scores)) for score in scores]
    return [value / 1.4826 / (np.median(apart) + 1e-6) for value in apart]


def choose(distances, rank, with_raw, allowed):
    """Which candidate lies at `rank`; -1 for the raw image, which is at no distance from itself."""
    entries = sorted((d, k) for k, (d, ok) in enumerate(zip(distances, allowed, strict=True)) if ok)
    entries = [(0.0, -1)] * with_raw + entries
    return entries[min(int(rank * len(entries)), len(entries) - 1)][1] if entries else -1
