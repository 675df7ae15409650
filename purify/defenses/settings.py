"""Gives a defence, and the parts that go with it, to a config that has its teacher."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from purify.core.types import Facts
from purify.defenses.filters.score_filter import SCORES
from purify.defenses.filters.spectral import Spectral
from purify.defenses.method import Defense
from purify.defenses.registry import DEFENSES
from purify.train.optim import OPTIMIZERS


@dataclass(frozen=True)
class Loaded:
    """The part `prior` or `encoder` of a config: a finished one, which is loaded.

    Attributes:
      load: of a prior 'digits' or 'photos32' (embedded), a folder in diffusers' format, a finished
        stage, or a hub id; of an encoder CLIP (a folder, or 'openai/clip-vit-base-patch32'), SSCD's
        file, a finished encoder or classifier.
      revision: of a hub id.
    """

    load: str
    revision: str = ''


@dataclass(frozen=True)
class TrustedSettings:
    """The part `trusted`: training images that the defender knows to be clean.

    Attributes:
      per_class: so many of each class ...
      share: ... or a share of all.
    """

    per_class: int = 0
    share: float = 0.0


@dataclass(frozen=True)
class DissectionSettings:
    """The part `dissection`: who judges generated images, truth in hand (Pan 2024, section 4).

    Attributes:
      labeller: the classifier that says which class an image shows; trained on clean images.
      detector: the one that says whether it shows the trigger; trained on clean images of which
        half are stamped.
      faintest: least strength of the trigger on those stamped images; 1 is the attack's own.
    """

    labeller: Facts
    detector: Facts
    faintest: float = 0.3


@dataclass(frozen=True)
class Evaluation:
    """The part `evaluation`: what is measured besides ACC, ASR and detection.

    Attributes:
      features: by which FID and IS look: 'student', 'teacher', 'none' for no such numbers, or the
        folder of a finished classifier.
      residual: whether the ASR of triggered test images that were purified themselves is measured
        too (Zhou 2024, section 5.1).
    """

    features: str = 'student'
    residual: bool = False


def loaded(load: str, revision: str = '') -> Facts:
    """Makes the part of a config for a finished prior or encoder, see `Loaded`."""
    return asdict(Loaded(load, revision))


def plain_defenses() -> tuple[str, ...]:
    """Lists the defences that work without settings: all of theirs have defaults."""
    return tuple(name for name in DEFENSES if not DEFENSES.wanted(name))


def preset(name: str, *kinds: str) -> Mapping[str, Any]:
    """Looks up a defence's settings for the first of these kinds of data that it has a preset for.

    A kind is 'digits' or 'small', say; {} where it has a preset for none. A score removes as large
    a share as Spectral does.
    """
    presets = (SCORES if name in SCORES else DEFENSES).bare(name).presets
    kind = next((kind for kind in kinds if kind in presets), None)
    if kind is None:
        return {}
    own = presets[kind]
    return {'remove': Spectral.remove, 'score': own} if name in SCORES else own


def defend(
    config: Any,
    name: str,
    changes: Mapping[str, Any] | None = None,
    *,
    semi_steps: int = 0,
    prior: Any = None,
) -> None:
    """Gives a config that has its teacher a defence: `defense`, `student`, and what else it needs.

    The student has the teacher's network and recipe, objective included; what MixMatch trains, of
    DBD and ASD, has Adam and `semi_steps`, as its authors'. `changes` are to the defence's settings
    (see `Registry.part`). The `prior` is given where the defence asks one.
    """
    kind: type[Defense] = DEFENSES.bare(name)
    needs, teacher = kind.needs, config.teacher.to_dict()
    config.defense = DEFENSES.part(name, kind.after(teacher), changes or {})
    student = teacher | {'load': ''}
    if needs.steps:
        steady = OPTIMIZERS.part('adam', lr=2e-3, schedule='constant')
        student |= {'optim': steady, 'epochs': 0, 'steps': semi_steps, 'batch': 64, 'init_from': ''}
    config.student = student
    if needs.trusted:
        config.trusted = asdict(TrustedSettings(**needs.trusted))
    if needs.dataset:
        config.evaluation = asdict(Evaluation())
    if needs.prior and prior is not None:
        config.prior = prior
