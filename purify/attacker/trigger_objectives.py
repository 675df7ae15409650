"""The losses that fit triggers, a task for each kind of trigger.

Stamped images are rounded to 8 bits in the forward pass, as the dataset will be, and the gradient
passes through.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from purify.attacks.learned.input_aware import mix_by_mask, to_pattern, to_sharp_mask
from purify.attacks.learned.lira import perturb
from purify.core.errors import UserError
from purify.core.limits import Chance, Limited, Natural, NotNegative, Portion, number
from purify.core.types import Tree
from purify.train.objectives.tasks import Batch, Key, Result, Task, cross_entropy, hits, unit_images
from purify.train.state import split_network

RARE = 1e-7  # keeps the diversity loss finite (Nguyen & Tran 2020)


def to_grey_levels(images: jax.Array) -> jax.Array:
    """Rounds images to multiples of 1/255; the gradient passes through (Bengio et al. 2013)."""
    return images + jax.lax.stop_gradient(jnp.rint(images * 255) / 255 - images)


def batch_psnr(images: jax.Array, changed: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB over a batch of images in [0, 1]."""
    return -10 * jnp.log10(jnp.maximum(jnp.square(images - changed).mean(), 1e-10))


def shift(images: jax.Array, pixels: int, key: jax.Array) -> jax.Array:
    """Shifts each image of f32[b h w c] by up to `pixels` along each axis; what opens is black."""
    if not pixels:
        return images
    padded = jnp.pad(images, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)))
    starts = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)

    def cut(image: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (start[0], start[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, starts)


def diversity(
    images: jax.Array, others: jax.Array, made: jax.Array, made_others: jax.Array
) -> jax.Array:
    """How little a generator's answers differ where images do (Nguyen & Tran 2020, eq. 6).

    Mean ||x - x'|| / (||g(x) - g(x')|| + 1e-7), norms by rms.
    """
    return (_distance(images, others) / (_distance(made, made_others) + RARE)).mean()


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.square(a - b).mean((1, 2, 3)) + RARE**2)


@dataclass(frozen=True, eq=False)
class HideSecret(Limited, Task, place='objective.'):
    """Fits an encoder that hides a random secret in every image, and its decoder.

    Binary cross-entropy of the decoded secret + weight x mean squared residual. The weight rises
    from 0 to `image` while the share of right bits rises from .75 to .95: an encoder that must be
    invisible before it can write never learns to write (Tancik et al. 2020 ramp it over steps for
    that reason). The papers' perceptual term (LPIPS) is left out: it needs weights from outside.

    Attributes:
      image: weight of the residual.
      shift_px: the decoder sees each image shifted by up to so many pixels, as a victim's
        augmentation does (BackdoorBox's may have a spatial transformer there); 0 leaves it in
        place.
    """

    graph: nnx.GraphDef
    secret_bits: int
    image: NotNegative
    shift_px: Natural = 0
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        network = nnx.merge(self.graph, params, stats)
        images = unit_images(batch)
        bit_key, shift_key = jax.random.split(key)
        bits = jax.random.bernoulli(bit_key, 0.5, (len(images), self.secret_bits))
        secrets = bits.astype(jnp.float32)
        residual = network.encoder(images, secrets)
        stamped = to_grey_levels(jnp.clip(images + residual, 0, 1))
        logits = network.decoder(shift(stamped, self.shift_px, shift_key))
        right = ((logits > 0) == (secrets > 0.5)).mean()
        weight = self.image * jnp.clip((right - 0.75) / 0.2, 0, 1)
        loss = optax.sigmoid_binary_cross_entropy(logits, secrets).mean()
        loss = loss + weight * jnp.square(residual).mean()
        metrics = {'bit_accuracy': right, 'psnr': batch_psnr(images, stamped)}
        return loss, (split_network(network)[2], metrics)


@dataclass(frozen=True, eq=False)
class FitMask(Limited, Task, place='objective.'):
    """Input-aware, first stage: masks of at most `density` of an image that differ as images do.

    Attributes:
      density: share of the pixels that a mask may cover.
      norm: weight of what exceeds the density.
      diversity: weight of how alike the masks of different images are.
    """

    graph: nnx.GraphDef
    density: Portion
    norm: NotNegative
    diversity: NotNegative
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        network = nnx.merge(self.graph, params, stats)
        images = unit_images(batch)
        masks = to_sharp_mask(network(images - 0.5))
        spread = diversity(images, jnp.roll(images, 1, 0), masks, jnp.roll(masks, 1, 0))
        loss = self.norm * jax.nn.relu(masks - self.density).mean() + self.diversity * spread
        return loss, (split_network(network)[2], {'density': masks.mean(), 'diversity': spread})


def check_modes(poison: float, cross: float) -> None:
    """Raises `UserError` unless the shares `poison` and `cross` of a batch fit into it together."""
    together = number(above=0, most=1).check('objective.poison', poison)
    together += number(least=0, most=1).check('objective.cross', cross)
    if together > 1:
        raise UserError(
            f'input_aware: shares poison={poison} and cross={cross} exceed 1 together. Lower one.'
        )


@dataclass(frozen=True, eq=False)
class FitInputAware(Limited, Task, place='objective.'):
    """Input-aware, second stage: a classifier and the pattern network, the mask network frozen.

    Of each batch the first `poison` share carries its own trigger and is labelled `target`, the
    next `cross` share carries the trigger of another image and keeps its label, the rest is clean;
    plus the diversity of the patterns.

    Attributes:
      poison: share of a batch that carries its own trigger and the target label.
      cross: share of a batch that carries the trigger of another image and keeps its label.
      diversity: weight of how alike the patterns of different images are.
    """

    graph: nnx.GraphDef
    mask_graph: nnx.GraphDef
    frozen: Tree  # the mask network's {'params', 'stats'}
    target: int
    poison: Portion
    cross: Chance
    diversity: NotNegative
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_modes(self.poison, self.cross)

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        network = nnx.merge(self.graph, params, stats)
        masker = nnx.merge(self.mask_graph, frozen['params'], frozen['stats'])
        images, labels = unit_images(batch), batch['label']
        own = max(round(self.poison * len(images)), 1)
        both = min(own + round(self.cross * len(images)), len(images))
        others = jnp.roll(images, 1, 0)  # each image's giver of a crossed trigger
        givers = jnp.concatenate([images[:own], others[own:both]])
        patterns = to_pattern(network.generator(givers - 0.5))
        masks = to_sharp_mask(masker(givers - 0.5))
        stamped = to_grey_levels(mix_by_mask(images[:both], patterns, masks))
        labels = labels.at[:own].set(self.target)
        logits = network.classifier(jnp.concatenate([stamped, images[both:]]), train=True, key=key)
        made_others = to_pattern(network.generator(others[:own] - 0.5))
        spread = diversity(images[:own], others[:own], patterns[:own], made_others)
        loss = cross_entropy(logits, labels) + self.diversity * spread
        clean = hits(logits[both:], labels[both:]) if both < len(images) else jnp.float32(0)
        metrics = {'accuracy': clean, 'success': hits(logits[:own], self.target)}
        metrics |= {'diversity': spread, 'psnr': batch_psnr(images[:own], stamped[:own])}
        return loss, (split_network(network)[2], metrics)


@dataclass(frozen=True, eq=False)
class FitLira(Limited, Task, place='objective.'):
    """LIRA: minimises alpha CE(f(x), y) + (1 - alpha) CE(f(x'), target) in all images (Doan 2021).

    Generator and classifier take one step together. The reference alternates between the two; their
    gradients are the same, as only the second term knows the generator.

    Attributes:
      alpha: weight of clean images; triggered ones have the rest.
    """

    graph: nnx.GraphDef
    target: int
    epsilon: float
    alpha: Chance
    ema_decay: float = 0.0
    frozen: Tree = ()

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        network = nnx.merge(self.graph, params, stats)
        images, labels = unit_images(batch), batch['label']
        stamped = to_grey_levels(perturb(images, network.generator(images - 0.5), self.epsilon))
        logits = network.classifier(jnp.concatenate([images, stamped]), train=True, key=key)
        clean, triggered = jnp.split(logits, 2)
        goals = jnp.full_like(labels, self.target)
        backdoor = cross_entropy(triggered, goals)
        loss = self.alpha * cross_entropy(clean, labels) + (1 - self.alpha) * backdoor
        metrics = {'accuracy': hits(clean, labels), 'success': hits(triggered, goals)}
        metrics |= {'psnr': batch_psnr(images, stamped)}
        return loss, (split_network(network)[2], metrics)


@dataclass(frozen=True, eq=False)
class FitField(Task):
    """Low-frequency: one smooth field that sends a classifier to the target from every image.

    Zeng et al. 2021 (arXiv:2104.03413) seek the same by DeepFool steps on 100 images, each blurred
    by a Gaussian. This is a gradient fit of that objective and not their loop: the field has low
    frequencies alone, and the cross-entropy over all images that are not of the target is
    descended.
    """

    graph: nnx.GraphDef
    surrogate_graph: nnx.GraphDef
    frozen: Tree  # the surrogate's {'params', 'stats'}
    target: int
    amplitude: float
    ema_decay: float = 0.0

    def __call__(self, params: Tree, stats: Tree, frozen: Tree, batch: Batch, key: Key) -> Result:
        """See `Task`."""
        network = nnx.merge(self.graph, params, stats)
        surrogate = nnx.merge(self.surrogate_graph, frozen['params'], frozen['stats'])
        images = unit_images(batch)
        stamped = to_grey_levels(jnp.clip(images + self.amplitude * network()[None], 0, 1))
        logits = surrogate(stamped, train=False)
        counted = (batch['label'] != self.target).astype(jnp.float32)
        mean = lambda values: (values * counted).sum() / jnp.maximum(counted.sum(), 1)
        goals = jnp.full_like(batch['label'], self.target)
        loss = mean(optax.softmax_cross_entropy_with_integer_labels(logits, goals))
        success = mean(logits.argmax(-1) == goals)
        metrics = {'success': success, 'psnr': batch_psnr(images, stamped)}
        return loss, (split_network(network)[2], metrics)
