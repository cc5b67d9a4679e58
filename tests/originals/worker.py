"""The process behind one (side, mode): reads a scenario's name and arguments, answers with its result.

Messages are pickles preceded by their length. File descriptors 1 and 2 go to a log file, so that nothing that
TensorFlow prints can reach the answers; the log's end comes with an error.
"""

import gc
import importlib
import os
import pickle
import struct
import sys
import tempfile
import traceback
import warnings


def read_message(stream):
    head = stream.read(8)
    if len(head) < 8:
        return None
    return pickle.loads(stream.read(struct.unpack("<q", head)[0]))


def write_message(stream, message):
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(struct.pack("<q", len(body)) + body)
    stream.flush()


def plain(value):
    """A result as plain data: arrays of at least 32 bits, tensors' shapes as lists, no framework object."""
    import numpy as np

    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        # float16 and bfloat16 fit float32 exactly, and the other side need not know bfloat16.
        return array.astype(np.float32) if array.dtype.itemsize < 4 and array.dtype.kind in "fV" else array
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"a scenario returned {value!r} of {type(value)}: return arrays, strings, lists and dicts"
    )


def tail(log, size=4000):
    log.flush()
    with open(log.name, "rb") as reader:
        reader.seek(max(0, os.path.getsize(log.name) - size))
        return reader.read().decode(errors="replace")


def answer(api, request, log):
    module, function, params = request
    try:
        scenario = getattr(importlib.import_module(module), function)
        return {"ok": True, "value": plain(scenario(api, **params))}
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return {
            "ok": False,
            "error": type(error).__name__,
            "message": str(error),
            "traceback": traceback.format_exc(),
            "log": tail(log),
        }


def main(side, mode):
    answers = os.fdopen(os.dup(1), "wb")
    requests = os.fdopen(os.dup(0), "rb")
    with tempfile.NamedTemporaryFile(prefix=f"batchnorm-{side}-{mode}-", suffix=".log") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        warnings.simplefilter("ignore")
        from originals.sides import Api

        api = Api(side, mode)
        # TensorFlow keeps millions of objects, which the garbage collector would walk again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000)
        while (request := read_message(requests)) is not None:
            write_message(answers, answer(api, request, log))


if __name__ == "__main__":
    main(*sys.argv[1:])
