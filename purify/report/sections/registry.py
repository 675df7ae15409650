"""The sections of a page, in order; `SECTIONS['mine'] = section` adds one."""

from purify.core.registry import Registry
from purify.report.sections import (
    cost,
    curves,
    detection,
    features,
    filters,
    gaze,
    generations,
    images,
    provenance,
    quality,
    replication,
    result,
    rounds,
)

SECTIONS = Registry(
    'section',
    result=result.section,
    filters=filters.section,
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
