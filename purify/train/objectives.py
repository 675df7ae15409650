"""The training objectives of classifiers by name."""

from purify.core.registry import Fixed, Registry
from purify.train.adversarial import Adversarial
from purify.train.attention import AlignAttention
from purify.train.semi import FitHead, FitTail, MixMatch
from purify.train.spread import Spread
from purify.train.tasks import Classify, Distill
from purify.train.unlearning import HoldUp, Unlearn

OBJECTIVES = Registry(
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
