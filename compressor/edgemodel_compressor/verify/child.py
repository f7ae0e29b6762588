"""One file, some requests, on the CPU that runs this. A program of its own: it knows numpy and onnxruntime only.

`python child.py MODEL REQUESTS.npz FOLDER THREADS`: the answers of request i go to FOLDER/i.npz. Each step is a line of
JSON on standard output, so that whoever started this knows how far it came, however it ends.
"""

import json
import os
import sys
from typing import Any

__all__: list[str] = []


def say(**what: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(model: str, requests: str, folder: str, threads: str) -> int:
    """Exit code: 0, or 3 where the runtime refuses something."""
    try:
        import numpy as np
        import onnxruntime as ort
    except BaseException as error:
        say(stage="start", error=f"{type(error).__name__}: {str(error)[:500]}")
        return 3
    say(stage="start", onnxruntime=ort.__version__, numpy=np.__version__)
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    stage = "load"
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        say(stage="load")
        names = [o.name for o in session.get_outputs()]
        stage = "run"
        with np.load(requests, allow_pickle=False) as arrays:
            inputs = json.loads(str(arrays["inputs"]))
            for index in range(int(arrays["count"])):
                feed = {name: arrays[f"{index}/{i}"] for i, name in enumerate(inputs)}
                feed = {n: a.astype(object) if a.dtype.kind == "U" else a for n, a in feed.items()}
                answers = [np.asarray(a) for a in session.run(names, feed)]
                # Strings as fixed-width ones: what is written must be read without pickle.
                plain = [a.astype(str) if a.dtype.kind == "O" else a for a in answers]
                path = os.path.join(folder, f"{index}.npz")
                named: dict[str, Any] = {str(i): a for i, a in enumerate(plain)}
                np.savez(path, **named)
                say(stage="run", done=index + 1, outputs=names)
    except BaseException as error:
        say(stage=stage, error=f"{type(error).__name__}: {str(error)[:2000]}")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
