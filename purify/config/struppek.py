"""The experiments of Struppek 2023 at 224 px: one config for its two datasets, and its tables as the points of sweeps."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from purify.config import parts
from purify.config.arguments import parse_words

HUB = {  # model: (hub id, revision) of its published weights
    'versatile': ('shi-labs/versatile-diffusion', ''),
    'sd_variation': ('lambdalabs/sd-image-variations-diffusers', 'v2.0'),
    'sd_img2img': ('stable-diffusion-v1-5/stable-diffusion-v1-5', ''),
}
_OWN = {  # what attacks need at 224 px
    'patch': {'size_px': 9},
    'white_patch': {'size_px': 21},  # the others' sizes at 224 px
    'warp': {'control_px': 0, 'strength': 1.0, 'covers': 0.0},
    'dct': {'magnitude': 50.0},
}
CLEAN = {'words': {'attack': 'none', 'rate': 0.0}, 'config.clean_source': True}  # whose false alarms count
Points = Iterator[dict[str, Any]]


def words_of(arg: str | None, *, rate: float, source: str) -> Any:
    """The words of both configs, with their own rate and source."""
    own = {'model': 'versatile', 'prior': 'usual', 'defense': 'variations', 'distill': True}
    words = parse_words(arg, attack='patch', rate=rate, seed=0, source=source, **own)
    if words.model not in (*HUB, 'pixel'):
        raise ValueError(f'model={words.model!r}: choose from {", ".join(sorted((*HUB, "pixel")))}.')
    if words.defense not in ('variations', 'augmentations', 'none'):
        raise ValueError(f'defense={words.defense!r}: choose from augmentations, none, variations.')
    if words.prior == 'train' and words.model != 'pixel':
        raise ValueError('prior=train trains a pixel prior; say model=pixel with it.')
    return words


def struppek_config(name: str, words: Any, *, prior_steps: int, prior_batch: int, shard_size: int, **source: Any) -> ConfigDict:
    """Table 1 and its neighbours. `source` goes to the part of that name, `reference` images only where a prior is trained."""
    trained = words.defense == 'variations' and words.model == 'pixel' and words.prior in ('usual', 'train')
    if not trained:
        source = {key: value for key, value in source.items() if not key.startswith('reference')}
    memory = {'batch_per_device': 256} if trained else {'batch_per_device': 16, 'vae_slice': 8}
    config = parts.run_config(name, words.seed, shard_size=shard_size, inference_batch=256, **memory)
    config.source = parts.source(words.source, size_px=224, **source)
    config.teacher = classifier(parts.classify(), {'flip': {'p': 0.5}})
    parts.set_attack(config, words.attack, rate=words.rate, base='nontarget', **_OWN.get(words.attack, {}))
    if words.defense == 'none':
        return config
    objective = parts.distill(alpha=0.5, tau=5.0) if words.distill else parts.classify()
    if words.defense == 'augmentations':
        config.student = classifier(objective, parts.STRONG_AUGMENTATIONS)
        config.defense = parts.augmentations()
        return config
    config.student = classifier(objective, {'flip': {'p': 0.5}})
    config.defense = parts.variations(_vary(words.model), dtype='bfloat16')
    if trained:
        wide = {'channels': (128, 256, 256, 512), 'attention_levels': 2, 'lr': 1e-4, 'size_px': 64}
        config.prior = parts.wide_prior(**wide, steps=prior_steps, batch=prior_batch)
    elif words.prior == 'usual':
        config.prior = parts.loaded_prior(*HUB[words.model])
    else:
        config.prior = parts.loaded_prior(words.prior)
    return config


def classifier(objective: ConfigDict, augment: dict[str, Any]) -> ConfigDict:
    """ResNet-101 from scratch: Adam 1e-3, a tenth at epochs 30 and 50 of 100, batch 128 (Struppek 2023, appendix A.2)."""
    schedule = parts.optim('adam', lr=1e-3, schedule='step', drops=(0.3, 0.5), factor=0.1)
    network = parts.network('resnet101', stem='imagenet', dtype='bfloat16')
    return parts.classifier(network, schedule, epochs=100, batch=128, augment=augment, objective=objective)


def _vary(model: str) -> dict[str, Any]:
    if model == 'pixel':
        return parts.vary_pixels(start=300, steps=50)
    own = {'strength': 0.6, 'caption': 'A photo of a {}'} if model == 'sd_img2img' else {}
    return parts.vary_latents(model, **own)


# the tables: every point is one run, whose teacher is the column 'standard' ----------------------------------------------


def solid(colour: str) -> dict[str, Any]:
    """A patch of one colour."""
    return {'words': {'attack': 'patch'}, 'config.attack.pattern': 'solid', 'config.attack.colours': f'("{colour}",)'}


def checkerboard(*colours: str, size_px: int = 9) -> dict[str, Any]:
    """A checkerboard patch, black and white unless told otherwise."""
    own = {'config.attack.colours': str(colours)} if colours else {}
    return {'words': {'attack': 'patch'}, 'config.attack.size_px': size_px} | own


def attacked() -> Points:
    """The five triggers of tables 1, 2, 3 and 6. In place of Hello Kitty stands the drawn cartoon."""
    yield checkerboard()
    yield solid('white')
    yield solid('black')
    yield {'words': {'attack': 'blended'}, 'config.attack.ratio': 0.1}
    yield {'words': {'attack': 'blended'}, 'config.attack.pattern': 'cartoon', 'config.attack.ratio': 0.05}


def main() -> Points:
    """Table 1: clean, and the five triggers; variations and distillation."""
    yield dict(CLEAN)
    yield from attacked()


def without_distillation(points: Points) -> Points:
    """Each point twice: with distillation, and trained on the variations alone."""
    for point in points:
        for distill in (True, False):
            yield point | {'words': point['words'] | {'distill': distill}}


def colours() -> Points:
    """Table 4: patches of one colour, and checkerboards of two."""
    yield dict(CLEAN)
    yield checkerboard()
    yield from map(solid, ('white', 'black', 'yellow', 'red', 'blue'))
    yield from (checkerboard(*pair) for pair in (('yellow', 'red'), ('yellow', 'blue'), ('red', 'blue')))


def sizes() -> Points:
    """Table 5: checkerboards of 9 to 25 pixels."""
    yield from (checkerboard(size_px=size) for size in (9, 13, 17, 21, 25))


def ablation() -> Points:
    """Table 6: strong augmentations and distillation, variations alone, variations and distillation."""
    for point in attacked():
        yield point | {'words': point['words'] | {'defense': 'augmentations'}}
        yield from without_distillation(iter([point]))
