from purify.core.files import write_json
from purify.pipelines import run as running
from purify.pipelines.chain import Chain, Input, Stage


def make_chain(folder, **handed):
    """Stages of a method whose benign model, or verdicts, are another step's than the one of that name."""

    def stage(name, inputs=None):
        return Stage(name, lambda work: write_json(work.folder / 'here.json', {}), {}, inputs or {})

    names = ('teacher', 'benign', 'isolated', 'finetuned', 'verdicts', 'student')
    inputs = {role: Input(step) for role, step in handed.items()}
    chain = Chain([*map(stage, names), stage('evaluate', inputs)], folder)
    chain.run(list(chain.stages), {})
    return chain


def links(workdir):
    return {path.name: path.resolve().name.partition('-')[0] for path in workdir.iterdir() if path.is_symlink()}


def test_links_show_what_the_method_hands_over(tmp_path):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    chain = make_chain(tmp_path / 'stages', benign='finetuned', findings='isolated')
    running._link(workdir, chain)
    usual = {'teacher': 'teacher', 'student': 'student'}
    assert links(workdir) == usual | {'benign': 'finetuned', 'verdicts': 'isolated'}
    running._link(workdir, make_chain(tmp_path / 'stages', findings='verdicts'))  # the same folder with other settings
    assert links(workdir) == usual | {'verdicts': 'verdicts'}
