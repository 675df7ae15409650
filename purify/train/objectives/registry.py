"""The training objectives of classifiers by name."""

from collections.abc import Callable

from purify.core.registry import Fixed, Registry
from purify.train.objectives.adversarial import Adversarial
from purify.train.objectives.attention import AlignAttention
from purify.train.objectives.semi_supervised import FitHead, FitTail, MixMatch
from purify.train.objectives.spread import Spread
from purify.train.objectives.tasks import Classify, Distill, Task
from purify.train.objectives.unlearn import HoldUp, Unlearn

OBJECTIVES: Registry[Callable[..., Task]] = Registry(
    'objective',
    hidden=('graph', 'teacher_graph', 'frozen', 'ema_decay'),
    adversarial=Adversarial,
    attention=AlignAttention,
    classify=Classify,
    distill=Distill,
    flooding=Fixed(HoldUp, rule='flooding'),
    head=FitHead,
    local_ascent=Fixed(HoldUp, rule='local_ascent'),
    mixmatch=MixMatch,
    spread=Spread,
    tail=FitTail,
    unlearn=Unlearn,
)
