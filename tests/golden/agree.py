#!/usr/bin/env python3
"""Teacher-forced agreement with llama.cpp's greedy text.

usage: agree.py QLLMCTL SOCKET MODEL_NAME greedy-NAME.json [--oracle MODEL.gguf]
For each row of the golden file: logits on the decode path along prompt + tokens; argmax against the token. Prints the
share of steps that agree and, with --oracle (needs numpy and gguf), checks every step where the float32 oracle's
top-1 margin is at least 1 nat. Exit 1 below 93 % or on any such step.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    ctl, sock, name, golden = sys.argv[1:5]
    oracle = None
    if "--oracle" in sys.argv:
        sys.path.insert(0, HERE)
        from oracle import Oracle
        oracle = Oracle(sys.argv[sys.argv.index("--oracle") + 1])
    with open(golden) as f:
        rows = json.load(f)
    good = total = wide = wide_bad = 0
    with tempfile.TemporaryDirectory() as d:
        for row in rows:
            ids = row["prompt"] + row["tokens"]
            with open(d + "/t.json", "w") as f:
                json.dump(ids, f)
            subprocess.run([ctl, "--socket", sock, "logits", name, "--tokens", d + "/t.json", "--out", d + "/o.npy",
                            "--path", "decode"], check=True)
            first = len(row["prompt"]) - 1
            logits = np.load(d + "/o.npy")[first:first + len(row["tokens"])]
            pick = logits.argmax(axis=1)
            want = np.array(row["tokens"])
            good += int((pick == want).sum())
            total += len(want)
            if oracle:
                ref = oracle.logits(ids)[first:first + len(want)]
                top = np.sort(ref, axis=1)[:, -2:]
                sure = (top[:, 1] - top[:, 0]) >= 1.0
                wide += int(sure.sum())
                wide_bad += int((sure & (pick != want)).sum())
    print(f"{name}: argmax equals llama.cpp's token on {good} of {total} steps ({100 * good / total:.1f} %)"
          + (f"; of {wide} steps with an oracle margin >= 1 nat {wide_bad} differ" if oracle else ""))
    return 0 if good >= 0.93 * total and not wide_bad else 1


if __name__ == "__main__":
    sys.exit(main())
