#!/usr/bin/env python3
"""Add "sure" to the rows of greedy-NAME.json: the steps whose top-1 margin in the float32 oracle is at least 1 nat.

usage: mk-sure.py MODEL.gguf greedy-NAME.json      (needs numpy and gguf)
"""
import json
import os
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from oracle import Oracle  # noqa: E402


def main():
    oracle = Oracle(sys.argv[1])
    with open(sys.argv[2]) as f:
        rows = json.load(f)
    for row in rows:
        ref = oracle.logits(row["prompt"] + row["tokens"])[len(row["prompt"]) - 1:-1]
        top = np.sort(ref, axis=1)[:, -2:]
        row["sure"] = [int(x) for x in (top[:, 1] - top[:, 0]) >= 1.0]
    with open(sys.argv[2], "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


if __name__ == "__main__":
    main()
