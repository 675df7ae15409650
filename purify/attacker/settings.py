"""The parts of a config that an attacker trains: `surrogate`, his classifier, and `trigger`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from purify.attacks.settings import attack, attack_class, fit_of
from purify.core.types import Settings
from purify.train.objectives.registry import OBJECTIVES
from purify.train.optim import OPTIMIZERS


@dataclass(frozen=True)
class TriggerSettings:
    """The part `trigger` of a config, which `purify.attacker.fit_trigger` reads.

    Attributes:
      steps: updates.
      objective: weights of the loss, by name (`purify.attacker.trigger_objectives`); of
        `input_aware` also `mask_epochs`, how long its masks are fitted.
      optim: see `purify.train.optim.make_optimizer`.
      epochs: passes over the training images, instead of steps.
      batch: images of an update.
      accumulate: pieces that a batch is worked through in.
      augment: of the images, by name of the augmentation.
      init_from: a finished fit to start from.
      network: beside these where a network makes the trigger: its `width`.
      classifier: beside these where one is fitted with the trigger: its network.
    """

    steps: int
    objective: Settings
    optim: Settings = field(default_factory=lambda: OPTIMIZERS.part('adam', lr=3e-3))
    epochs: float = 0.0
    batch: int = 64
    accumulate: int = 1
    augment: Settings = field(default_factory=dict)
    init_from: str = ''


def set_attack(
    config: Any,
    name: str,
    usual: Mapping[str, Any] | None = None,
    *,
    rate: float | str = 'usual',
    target: int = 0,
    **changes: Any,
) -> None:
    """Sets the part `attack` of a config, and `surrogate` and `trigger` where that needs them.

    Called after `config.teacher` is set: the attacker uses the same architecture and recipe, from
    other seeds. `usual` are the settings of the images at hand, such as a preset of
    `purify.attacks.settings`: a `rate` that is told goes before theirs. `changes` go to the attack,
    those in `fit` to the weights of the loss that fits it; `load`, the folder of a fitted trigger,
    makes the fit unnecessary.
    """
    told = {} if rate == 'usual' else {'rate': rate}
    settings: Settings = {'target': target} | dict(usual or {}) | changes | told
    weights = settings.pop('fit', {})
    config.attack, fit = attack(name, **settings), fit_of(name)
    if config.attack.get('load'):
        return
    teacher = config.teacher.to_dict()
    if attack_class(name).needs_surrogate:  # each of its epochs costs as much as six
        epochs = max(1, teacher['epochs'] // 3)
        config.surrogate = teacher | {'objective': OBJECTIVES.part('adversarial'), 'epochs': epochs}
    if fit is None:
        return
    if fit.surrogate:
        config.surrogate = teacher
    own = {'classifier': teacher['network']} if fit.classifier else {}
    own |= {'network': {'width': fit.width}} if fit.width else {}
    config.trigger = asdict(TriggerSettings(fit.steps, {**fit.objective, **weights})) | own
