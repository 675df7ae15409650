"""The sections of a page, in order; `SECTIONS['mine'] = section` adds one."""

from collections.abc import Callable

from purify.core.registry import Registry
from purify.report.markup import Section
from purify.report.run import Finished
from purify.report.sections import (
    cost,
    curves,
    detection,
    diffusion_classifier,
    features,
    gaze,
    generations,
    images,
    provenance,
    quality,
    replication,
    result,
    rounds,
)

SECTIONS: Registry[Callable[[Finished], Section | None]] = Registry(
    'section',
    result=result.section,
    diffusion_classifier=diffusion_classifier.section,
    generations=generations.section,
    replication=replication.section,
    images=images.section,
    detection=detection.section,
    features=features.section,
    rounds=rounds.section,
    gaze=gaze.section,
    quality=quality.section,
    curves=curves.section,
    cost=cost.section,
    provenance=provenance.section,
)
