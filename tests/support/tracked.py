"""What trackers wrote, read back by their file formats, not by the code that wrote it."""

import json
import struct
import time
from pathlib import Path

BLOCK = 2**15  # of LevelDB's log
HEADER = 7  # of W&B's file, and of every piece of a record
OFFLINE = {'WANDB_MODE': 'offline', 'WANDB_SILENT': 'true', 'WANDB_ERROR_REPORTING': 'false'}
OFFLINE |= {'WANDB_CONSOLE': 'off'}


def read_tensorboard(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    """(tag -> (step, value) in order, tag -> text) of all event files in a folder, as TensorBoard
    shows them.

    A start mark at a step makes it forget the events of earlier files from that step on.
    """
    from tensorboardX.proto import event_pb2

    scalars, texts = {}, {}
    for path in sorted(folder.glob('*tfevents*')):
        for data in _tfrecords(path.read_bytes()):
            event = event_pb2.Event.FromString(data)
            if (
                event.HasField('session_log')
                and event.session_log.status == event_pb2.SessionLog.START
            ):
                scalars = {
                    tag: [row for row in rows if row[0] < event.step]
                    for tag, rows in scalars.items()
                }
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == 'text':
                    texts[value.tag] = value.tensor.string_val[0].decode()
                else:
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return {tag: rows for tag, rows in scalars.items() if rows}, texts


def _tfrecords(data: bytes):
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from('<Q', data, at)
        yield data[at + 12 : at + 12 + length]
        at += 16 + length


def read_wandb(folder: Path, patience_s: float = 20) -> list[dict]:
    """Of every offline run below a work folder, in order: 'id', 'name', 'config', 'rows',
    'summary', 'axes' and 'tables'.

    W&B writes in a process of its own, which under load is not through when the run is finished:
    wait until runs have an id.
    """
    until, found = time.monotonic() + patience_s, _read_runs(folder)
    while not all('id' in run for run in found) and time.monotonic() < until:
        time.sleep(0.2)
        found = _read_runs(folder)
    return found


def _read_runs(folder: Path) -> list[dict]:
    found = []
    for path in sorted(folder.glob('wandb/offline-run-*/*.wandb')):
        run = {'rows': [], 'summary': {}, 'axes': {}, 'tables': {}, 'config': {}}
        for record in _wandb_records(path.read_bytes()):
            kind = record.WhichOneof('record_type')
            if kind == 'run':
                run |= {'id': record.run.run_id, 'name': record.run.display_name}
                run['config'] |= {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
            elif kind == 'history':
                run['rows'].append(
                    {_key(item): json.loads(item.value_json) for item in record.history.item}
                )
            elif kind == 'summary':
                run['summary'] |= {
                    _key(item): json.loads(item.value_json) for item in record.summary.update
                }
            elif kind == 'metric' and record.metric.step_metric:
                run['axes'][record.metric.glob_name] = record.metric.step_metric
        for key in [key for key in run['summary'] if key.endswith('.path')]:
            run['tables'][key.removesuffix('.path')] = json.loads(
                (path.parent / 'files' / run['summary'][key]).read_text()
            )
        found.append(run)
    return found


def _key(item) -> str:
    return item.key or '.'.join(item.nested_key)


def _wandb_records(data: bytes):
    """Protobuf records: after the header pieces of them, in blocks that a piece never crosses."""
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b':W&B'
    at, whole = HEADER, b''
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # filled with zeros
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from('<IHB', data, at)
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b''
