"""`purify.poison`: a poisoned dataset from Python."""

from collections.abc import Sequence
from pathlib import Path

from purify.attacker.poisoned import PoisonedDataset, open_poisoned
from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.engine.chain import Chain


def poison(spec: str, store: str | Path, overrides: Sequence[str] = ()) -> PoisonedDataset:
    """Makes the poisoned dataset of a config, or opens it where it is there already.

    `poison('attacks:attack=warp,rate=0.05', 'runs/stages')`. A trigger that is learned
    is fitted first.

    Args:
      spec: a config by name or file, and its words.
      store: of stage folders, shared with runs.
      overrides: flags like '--config.attack.strength=1.0'.

    Raises:
      UserError: for bad input.
    """
    try:
        config = load_config(spec, overrides)
    except ValueError as error:
        raise UserError(str(error)) from error
    chain = Chain(make_stages(config), user_path(store))
    names = list(chain.stages)
    chain.run(names[: names.index('prepare') + 1], config['run'])
    chain.check(['prepare'])
    return open_poisoned(chain.folder('prepare'))
