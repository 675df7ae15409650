"""DataElixir (Zhou 2024): its settings and steps."""

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from purify.core.errors import UserError
from purify.core.limits import one_of
from purify.core.types import Facts, Settings
from purify.defenses.dataelixir.candidates import CandidateChain, Candidates
from purify.defenses.dataelixir.target_labels import TARGETS
from purify.defenses.dataelixir.verdicts import LabelTransition, TrueLabels
from purify.defenses.measures import Predictions
from purify.defenses.method import Defense, Look, Method, Step
from purify.defenses.needs import Needs, Presets
from purify.defenses.steps import PURIFIED, student_step
from purify.train.objectives.registry import OBJECTIVES


@dataclass(frozen=True)
class DataElixir(CandidateChain, Defense):
    """Finds poison by how labels change when images are noised and denoised, and purifies it.

    Numbers are the paper's, T = 150, n = 5, m = 10, tau = .1 n m, rank .8, but for the chain: it
    takes a tenth of the steps (the preset 'digits': a twentieth).

    Attributes:
      final: whether the model of the second stage labels the 'rest' of S under the target labels
        (section 3.5), or 'all' of it, what vote and model agreed on before included, and chooses
        their candidates anew (the released code).
      finetune: of the benign model's second stage, `epochs_share` and `lr_share` of the student's
        epochs and learning rate.
      Others: see `CandidateChain`, `LabelTransition` and `Choice`.

    With labels='vote' there is no benign model: `final` and `finetune` have no effect.
    """

    tau: float = 0.1
    rank: float = 0.8
    benign: str = 'given'
    count_raw: bool = False
    choice: str = 'all'
    targets: Settings = field(default_factory=lambda: TARGETS.part('significant'))
    labels: str = 'benign'
    final: Annotated[str, one_of(('rest', 'all'))] = 'rest'
    finetune: Settings = field(default_factory=lambda: {'epochs_share': 1.0, 'lr_share': 0.2})

    needs: ClassVar[Needs] = Needs(prior=True, dataset=True)
    presets: ClassVar[Presets] = {
        # Every step of the chain from `start`, as published, and all of the last `window`, on the
        # levels of the released code.
        'exact': {'steps': 150, 'kept': 10, 'forward': 'released', 'levels': 'truncated'}
        | {'sampler': {'name': 'ddpm', 'variance': 'fixed_large', 'clip_sample': True}},
        # With 7 calls a round as many verdicts are those of exact mode as with 15
        # (docs/results/fast-sampling).
        'digits': {'steps': 7, 'kept': 3},
        # The paper's open points as the released code reads them.
        'released': {'benign': 'predicted', 'count_raw': True, 'choice': 'agreeing'}
        | {'final': 'all', 'targets': TARGETS.part('mad', two_sided=True)},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        LabelTransition(**self._readings())
        shares = self.finetune
        if set(shares) != {'epochs_share', 'lr_share'} or not min(shares.values()) > 0:
            raise UserError(
                f'defense.finetune={self.finetune}: give epochs_share and lr_share, both positive.'
            )

    def method(self, student: Settings) -> Method:
        """The steps: candidates, targets, two of a benign model, verdicts, purified, student."""
        measured = {'poisoned': 'poisoned', 'prior': 'prior', 'classifier': 'teacher'}
        candidates = Step('candidates', 'measure', measured, by=Candidates(**self.chain()))
        first = 'verdicts' if self.labels == 'vote' else 'targets'
        inputs = {'poisoned': 'poisoned', 'candidates': 'candidates'}
        found = Step(first, 'decide', inputs, by=LabelTransition(**self._readings()))
        if self.labels == 'vote':
            middle = (found, self._remake('replaced', 'verdicts'))
            datasets, benign = ('replaced',), None
        else:
            middle = (found, *self._two_stages(student))
            datasets = tuple(step.name for step in middle if step.name.startswith('replaced'))
            benign = 'finetuned'
        inputs = {'poisoned': 'poisoned', 'edits': 'verdicts'} | {name: name for name in datasets}
        last = (Step('purified', 'rewrite', inputs), student_step(student, 'purified'))
        outcome = replace(PURIFIED, benign=benign, candidates='candidates')
        return Method((candidates, *middle, *last), outcome)

    def _two_stages(self, student: Settings) -> tuple[Step, ...]:
        """A model that has not seen S under target labels labels it, and learns what is agreed."""
        data = {'data': 'poisoned', 'edits': 'targets', 'replaced': 'replaced'}
        waits = self.choice == 'agreeing'  # for the labels; else all images were made at first
        agreed = (self._remake('replaced_agreed', 'agreed'),) * waits
        rest = (self._remake('replaced_rest', 'verdicts'),) * waits
        more = data | {'edits': 'agreed', 'init': 'benign'}
        more |= {step.name: step.name for step in agreed}
        benign = benign_recipe(student)
        first = TrueLabels(**self._choice(), agreement=True, again=self.final == 'all')
        second = TrueLabels(**self._choice(), agreement=False, again=False)
        return (
            self._remake('replaced', 'targets'),
            Step('benign', 'classifier', data, benign),
            self._label('agreed', 'targets', 'benign', first),
            *agreed,
            Step('finetuned', 'classifier', more, finetuning_recipe(benign, **self.finetune)),
            self._label('verdicts', 'agreed', 'finetuned', second),
            *rest,
        )

    def _label(self, name: str, edits: str, classifier: str, labels: TrueLabels) -> Step:
        """The step in which a classifier labels what `edits` leaves open."""
        inputs = {'poisoned': 'poisoned', 'classifier': classifier, 'picked': edits}
        inputs |= {'edits': edits, 'candidates': 'candidates'}
        look = Predictions()
        if self.choice == 'agreeing':
            inputs, look = inputs | {'prior': 'prior'}, Candidates(**self.chain())
        return Step(name, 'look', inputs, by=Look(look, labels, 'measured'))

    def _remake(self, name: str, picked: str) -> Step:
        """The step that makes the images which a table's rows become."""
        inputs = {'poisoned': 'poisoned', 'prior': 'prior', 'picked': picked}
        return Step(name, 'purify', inputs, by=self.remake())

    def _choice(self) -> Facts:
        return {'rank': self.rank, 'count_raw': self.count_raw, 'choice': self.choice}

    def _readings(self) -> Facts:
        own = {'tau': self.tau, 'benign': self.benign, 'targets': self.targets}
        return own | {'labels': self.labels} | self._choice()


def benign_recipe(student: Settings) -> Facts:
    """Makes the benign model's recipe: the student's, without a teacher."""
    own, plain = student['objective'], OBJECTIVES.part('classify')
    return student | {'objective': own if own['name'] == 'classify' else plain, 'load': ''}


def finetuning_recipe(benign: Settings, *, epochs_share: float, lr_share: float) -> Facts:
    """Shortens the benign model's recipe for its second stage.

    It has a share of the epochs (or steps) and of the learning rate, and starts from its weights.
    """
    length = {'epochs': epochs_share * benign['epochs']}
    length['steps'] = max(1, round(epochs_share * benign['steps'])) if benign['steps'] else 0
    length['least_steps'] = round(epochs_share * benign.get('least_steps', 0))
    optim = benign['optim'] | {'lr': lr_share * benign['optim']['lr']}
    return benign | length | {'optim': optim, 'init_from': ''}
