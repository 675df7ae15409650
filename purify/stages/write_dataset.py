"""The stage that writes the dataset as decided: fewer images, other labels, other pictures."""

from collections.abc import Iterator

from purify.data.builders import make_features
from purify.data.loader import Record, Split
from purify.defenses.method import Step
from purify.engine.shards import dataset_sink, write_shards
from purify.engine.stage import Work
from purify.engine.tables import apply_edits
from purify.stages.kind import Kind
from purify.stages.known import Known


def run(work: Work) -> None:
    """Writes the whole dataset as the inputs `edits` and `replaced...` leave it, one image per id.

    Shards are fixed ranges, taken in turn by the hosts; a restart writes the missing ones.
    """
    split = apply_edits(Split(work.inputs['poisoned'], 'train'), work.inputs)
    features = make_features(split.shape[0], split.shape[2], split.class_names)

    def records(rows: range) -> Iterator[Record]:
        return (split[row] for row in rows)

    size = work.settings['shard_size']
    sink = dataset_sink(work.folder, work.name, features, len(split), size)
    write_shards(work, [(sink, records)])


def shape(known: Known, step: Step) -> None:
    """Does nothing: writing a dataset compiles no program."""


KIND = Kind(run, shape, ('shard_size',))
