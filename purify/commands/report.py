"""The command `report`: a finished run's report once more, or one table of all runs below a folder."""

from purify.commands.call import Call
from purify.commands.plan import make_stages
from purify.commands.results import collect_runs, conclude
from purify.commands.run import read_record
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.engine.chain import Chain


def command(call: Call) -> int:
    """Writes a finished run's report again, or one table of all runs below the folder."""
    workdir = user_path(call.workdir).absolute()
    if not (workdir / 'config.json').exists():
        print(collect_runs(workdir))
        return 0
    config, environment = read_record(workdir)
    chain = Chain(make_stages(config), user_path(environment['store']))
    if strange := [name for name in chain.stages if name not in environment['fingerprints']]:
        raise UserError(
            f'{workdir / "environment.json"}: knows no stage {", ".join(strange)}, which the config has. Start the run '
            f'again with its own command: {environment["command"]}'
        )
    if gone := [name for name in environment['fingerprints'] if name not in chain.stages]:
        raise UserError(
            f'{workdir / "environment.json"}: knows the stages {", ".join(gone)}, which this version does not make of the config. '
            'Write the report with the version that ran it.'
        )
    chain.recall(environment['fingerprints'])
    if missing := chain.unfinished():
        raise UserError(
            f'{workdir}: the run is not finished: {chain.store} holds no finished {", ".join(missing)} of it. Start its command '
            f'again, without --stages: {environment["command"]}'
        )
    chain.check()
    conclude(workdir, config, chain, environment)
    return 0
