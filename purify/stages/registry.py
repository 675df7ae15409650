"""The kinds of steps by name: what a method may ask for."""

from purify.core.registry import Registry
from purify.stages import (
    decide,
    fit_densities,
    generate_images,
    measure,
    purify_images,
    train_classifier,
    train_diffusion,
    train_encoder,
    write_dataset,
)
from purify.stages.kind import Kind

KINDS: Registry[Kind] = Registry(
    'kind of step',
    classifier=train_classifier.KIND,
    encoder=train_encoder.KIND,
    generator=train_diffusion.KIND,
    generate=generate_images.KIND,
    measure=measure.KIND,
    densities=fit_densities.KIND,
    decide=decide.KIND,
    look=decide.LOOK,
    purify=purify_images.KIND,
    rewrite=write_dataset.KIND,
)
