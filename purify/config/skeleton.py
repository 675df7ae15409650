"""What the config of every run begins with."""

from dataclasses import asdict, dataclass
from typing import Any

from ml_collections import ConfigDict


@dataclass(frozen=True)
class Run:
    """The part `run`: how, not what; nothing here changes a result.

    Attributes:
      inference_batch: images that a classifier looks at at a time on a host.
      batch_per_device: images that a prior varies at a time on a device.
      vae_slice: images that the VAE of a latent prior takes at once, which bounds memory; 0 for all
        of a batch.
      save_every: updates of a training from one checkpoint to the next.
      log_every: updates from one line of numbers to the next.
      resident_mb: MiB of decoded images up to which a training keeps all of them on every device;
        larger sets are read as they are needed. 0: never. The host keeps decoded images up to the
        same size, at most 1,024 MiB, and decodes larger sets on each access.
      steps_together: updates at most that one program makes, where the images are on the device;
        the largest number up to it that divides `save_every` and `log_every`. 0: 16, and 1 on CPUs.
      threads: that read images, in a process.
      workers: processes that read images; 0 for none but this one.
      writers: who else gets the numbers, such as 'tensorboard'.
      report_images: pictures of each kind in a report.
    """

    inference_batch: int = 128
    batch_per_device: int = 128
    vae_slice: int = 0
    save_every: int = 500
    log_every: int = 20
    resident_mb: int = 2048
    steps_together: int = 0
    threads: int = 4
    workers: int = 0
    writers: tuple[str, ...] = ()
    report_images: int = 16


@dataclass(frozen=True)
class Seeds:
    """The part `seeds`: whole numbers from which everything random is drawn.

    Attributes:
      poison: who is poisoned, and what an attack draws.
      model: how networks start; teacher and student start alike where they are the same network.
      data: the order of the images, their augmentation, and noise.
    """

    poison: int
    model: int
    data: int


@dataclass(frozen=True)
class Skeleton:
    """What every run has beside its parts.

    Attributes:
      name: of the run, in its report.
      seeds: equal unless changed.
      run: how, not what.
      shard_size: images of a file of a dataset, and of a piece of work.
      clean_source: whether the source is known to be clean: then what a defence flags where nothing
        was poisoned counts as false alarms. Without it nobody knows (of the embedded digits this
        program does).
    """

    name: str
    seeds: Seeds
    run: Run
    shard_size: int = 1000
    clean_source: bool = False


def skeleton(name: str, seed: int, *, shard_size: int = 1000, **run: Any) -> Any:
    """A ConfigDict with a run's name, seeds, part `run` and images per dataset file, and no more.

    See `Skeleton` and `Run` for what the settings mean.
    """
    return ConfigDict(asdict(Skeleton(name, Seeds(seed, seed, seed), Run(**run), shard_size)))
