#!/usr/bin/env python3
"""Teacher-forced agreement with llama.cpp's greedy text.

usage: agree.py QLLMCTL SOCKET MODEL_NAME greedy-NAME.json
For each row of the golden file: logits on the decode path along prompt + tokens; argmax against the token. Wants 93 % of
all steps and every step that mk-sure.py marked (float32 oracle's top-1 margin of 1 nat or more). Exit 1 otherwise.
"""
import array
import ast
import json
import subprocess
import sys
import tempfile


def npy_rows(path):
    """Rows of a float32 npy file in C order, one array a row."""
    with open(path, "rb") as f:
        if f.read(6) != b"\x93NUMPY":
            raise SystemExit(f"{path} is no npy file")
        major = f.read(2)[0]
        head = ast.literal_eval(f.read(int.from_bytes(f.read(2 if major == 1 else 4), "little")).decode())
        if head["descr"] != "<f4" or head["fortran_order"]:
            raise SystemExit(f"{path}: {head}")
        for _ in range(head["shape"][0]):
            row = array.array("f")
            row.fromfile(f, head["shape"][1])
            yield row


def picks(ctl, sock, name, ids, first, directory):
    with open(directory + "/t.json", "w") as f:
        json.dump(ids, f)
    subprocess.run([ctl, "--socket", sock, "logits", name, "--tokens", directory + "/t.json", "--out",
                    directory + "/o.npy", "--path", "decode"], check=True)
    return [row.index(max(row)) if i >= first else -1 for i, row in enumerate(npy_rows(directory + "/o.npy"))][first:]


def main():
    ctl, sock, name, golden = sys.argv[1:5]
    with open(golden) as f:
        rows = json.load(f)
    good = total = sure = sure_bad = 0
    with tempfile.TemporaryDirectory() as d:
        for row in rows:
            got = picks(ctl, sock, name, row["prompt"] + row["tokens"], len(row["prompt"]) - 1, d)
            for pick, want, certain in zip(got, row["tokens"], row["sure"]):
                good += pick == want
                total += 1
                sure += certain
                sure_bad += certain and pick != want
    print(f"{name}: argmax equals llama.cpp's token on {good} of {total} steps ({100 * good / total:.1f} %); "
          f"of {sure} steps with an oracle margin of 1 nat {sure_bad} differ")
    return 0 if good >= 0.93 * total and not sure_bad else 1


if __name__ == "__main__":
    sys.exit(main())
