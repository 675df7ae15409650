"""Stages: functions from finished folders to one folder, run once, resumed, locked and blind."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import purify
from purify.core import devices
from purify.core.errors import Preempted, UserError
from purify.core.files import AGAIN, explain_os_errors, fingerprint, read_json, write_json
from purify.core.locks import locked
from purify.core.progress import say
from purify.core.seal import sealed
from purify.core.types import Facts
from purify.core.writers import Writer
from purify.engine.finished import DONE, PRINT, Done, check_files, hash_folder, read_done
from purify.engine.stage import Input, Stage, Work
from purify.train.cost import COST_FILE, Cost, Totals, summarize

FORGET = 'Delete it and run again: the stage goes on, and what it cost so far is not counted.'


class Chain:
    """A list of stages over one store of stage folders."""

    def __init__(self, stages: Sequence[Stage], store: Path):
        self.stages: dict[str, Stage] = {}
        self.store = Path(store).absolute()
        self.prints: dict[str, str] = {}
        self._checked: set[str] = set()  # stages whose files this chain has written or looked at
        self._older: set[str] = set()  # stages that another version of this program may have run
        for stage in stages:
            self._add(stage)

    def _add(self, stage: Stage) -> None:
        """One more stage at the end.

        Raises `UserError` for a name that is there already, and for inputs that it may not have.
        """
        if stage.name in self.stages:
            raise UserError(
                f'two stages of this run are called {stage.name!r}. Rename a step of the defence.'
            )
        inputs = {}
        for role, source in stage.inputs.items():
            if source.stage and source.stage not in self.stages:
                raise UserError(
                    f'stage {stage.name!r} needs {source.stage!r}, which is no earlier stage.'
                )
            shut = source.stage and self.stages[source.stage].shuts(source.sub)
            if shut and role not in stage.sees:
                raise UserError(
                    f'stage {stage.name!r} may not open {source.stage}/{source.sub}, its input'
                    f' {role!r}: that tells more than a defence may know. A stage of the attacker'
                    ' or of the evaluation says so where it is made: Stage(sees=...).'
                )
            inputs[role] = [self.prints.get(source.stage, source.digest), source.sub]
        whole = {'stage': stage.name, 'settings': stage.settings, 'inputs': inputs}
        self.prints[stage.name] = fingerprint(whole | {'version': purify.__version__})
        self.stages[stage.name] = stage

    def recall(self, prints: Mapping[str, str]) -> None:
        """Takes over the fingerprints that a run recorded; the source may have moved since."""
        self._older = {name for name in self.stages if prints[name] != self.prints[name]}
        self.prints = dict(prints)

    def folder(self, name: str) -> Path:
        """A stage's folder; its name carries the fingerprint."""
        return self.store / f'{name}-{self.prints[name]}'

    def finished(self, name: str) -> bool:
        """Whether there is such a stage and its folder is complete."""
        return name in self.stages and (self.folder(name) / DONE).exists()

    def unfinished(self) -> list[str]:
        """Stages whose folders are missing or not complete."""
        return [name for name in self.stages if not self.finished(name)]

    def path(self, source: Input) -> Path:
        """The folder that an input stands for."""
        return source.outside or self.folder(source.stage) / source.sub

    def confined(self, name: str) -> contextlib.AbstractContextManager[None]:
        """While open, this process opens no folder of a stage but that stage's own and its inputs.

        No other run's either, whatever it is called, and none that is still to be made.
        """
        there = [at for at in self.store.iterdir() if PRINT.fullmatch(at.name) or is_stage(at)]
        still = [folder for folder in map(self.folder, self.stages) if not folder.exists()]
        sources = self.stages[name].inputs.values()
        given = [self.path(source) for source in sources if source.stage or source.outside]
        return sealed(*there, *still, but=[self.folder(name), *given])

    def done(self, name: str) -> Done:
        """What a finished stage says of itself: settings, inputs, cost, its files.

        Raises `UserError` where that is damaged or of another stage.
        """
        folder = self.folder(name)
        done = read_done(folder, older=name in self._older)
        if done['stage'] != name:
            raise UserError(
                f'{folder / DONE}: is of the stage {done["stage"]!r}, not of {name!r}. {AGAIN}'
            )
        return done

    def check(self, names: Iterable[str] | None = None) -> None:
        """Makes sure that files of finished stages are as they were written, before they are read.

        Host 0 hashes every file, once for each stage in the life of this chain; all hosts call this
        together. `run` does it for the inputs of a stage; who opens the folders of stages
        afterwards does it for them.

        Args:
          names: of stages; None for all that are finished.

        Raises:
          UserError: naming the file and the folder to delete, when one is missing or changed.
          Preempted: when SIGTERM came meanwhile.
        """
        wanted = self.stages if names is None else dict.fromkeys(names)

        def look() -> None:
            for name in wanted:
                if name not in self._checked and (names is not None or self.finished(name)):
                    folder = self.folder(name)
                    check_files(folder, self.done(name), f'Delete {folder} and run again.')
                    self._checked.add(name)

        on_lead(look)

    def run(
        self, names: Sequence[str], run: Facts, writers: Sequence[Writer] = ()
    ) -> dict[str, bool]:
        """Runs the named stages in order, and says of each whether it was there already.

        Raises:
          UserError: when an input is missing, or from the stage itself.
          Preempted: between stages or from within one, when SIGTERM came.
        """
        reused = {}
        for stage in (stage for stage in self.stages.values() if stage.name in names):
            devices.leave_together()
            reused[stage.name] = self._run_one(stage, run, writers)
        return reused

    def _run_one(self, stage: Stage, run: Facts, writers: Sequence[Writer]) -> bool:
        folder, lead = self.folder(stage.name), devices.is_lead()
        for source in stage.inputs.values():
            if source.stage and not self.finished(source.stage):
                raise UserError(
                    f'stage {stage.name!r} needs {source.stage!r}, unfinished; add it to --stages.'
                )
        waiting = f'{stage.name}: another run is working on {folder.name}; waiting for it'
        lock = locked(folder.with_name(folder.name + '.lock'), lambda: say(waiting, passing=True))
        inputs = {
            role: self.path(at) for role, at in stage.inputs.items() if at.stage or at.outside
        }
        with lock if lead else contextlib.nullcontext():
            if devices.lead_says(lead and self.finished(stage.name)):
                say(f'{stage.name}: done before ({folder.name})', shown=lead, passing=True)
                return True
            self.check(source.stage for source in stage.inputs.values() if source.stage)
            with explain_os_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            cost = Cost()
            if (folder / COST_FILE).exists():
                cost.resume(read_json(folder / COST_FILE, Totals, cure=FORGET))
            try:
                with self.confined(stage.name):
                    stage.run(Work(stage.name, folder, inputs, stage.settings, run, writers, cost))
                devices.barrier(f'{folder.name} finished')
                on_lead(lambda: self._mark_done(stage, cost))
            except BaseException:
                if lead:
                    write_json(folder / COST_FILE, cost.totals())
                raise
        return False

    def _mark_done(self, stage: Stage, cost: Cost) -> None:
        folder, totals, names = self.folder(stage.name), summarize(cost.totals()), {}
        for role, source in stage.inputs.items():
            inside = source.stage and f'{self.folder(source.stage).name}/{source.sub}'
            names[role] = inside or str(source.outside or source.digest)
        done: Done = {
            'stage': stage.name,
            'fingerprint': self.prints[stage.name],
            'settings': stage.settings,
            'cost': totals,
            'inputs': names,
            'files': hash_folder(folder),
        }
        write_json(folder / DONE, done)
        (folder / COST_FILE).unlink(missing_ok=True)
        self._checked.add(stage.name)
        per_s = totals.get('images_per_s')
        rate = f', {per_s:,.0f} images/s' if per_s else ''
        say(f'{stage.name}: done in {totals["seconds"]:.1f} s{rate}', passing=True)


def is_stage(folder: Path) -> bool:
    """Whether a stage wrote this folder, be it unfinished or a copy under another name."""
    return (folder / DONE).exists() or (folder / COST_FILE).exists()


def on_lead(act: Callable[[], None]) -> None:
    """Does something on host 0 while others wait; where it fails or is stopped there, all leave."""
    trouble: BaseException | None = None
    if devices.is_lead():
        try:
            act()
        except (Exception, Preempted) as error:
            trouble = error
    told = devices.lead_says(0 if trouble is None else 2 if isinstance(trouble, Preempted) else 1)
    if trouble is not None:
        raise trouble
    if told:
        raise (
            Preempted if told == 2 else UserError('host 0 could not go on: do what it says there.')
        )
