#!/usr/bin/env python3
"""KL divergence of qllmd's logits to the float32 oracle of the dequantized weights.

usage: kl.py QLLMCTL SOCKET MODEL_NAME MODEL.gguf TEXT_FILE [--path decode|prompt|exact|all] [--chunks 20] [--limit X]
Takes consecutive 512-token chunks of the text (BOS where the vocabulary adds it), prints the mean of
KL(oracle || qllmd) over all positions, its 99th percentile and the top-1 agreement. Exit 1 above --limit.
Needs numpy and gguf.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from oracle import Oracle  # noqa: E402


def lse(x):
    top = x.max(axis=1)
    return top + np.log(np.exp(x - top[:, None]).sum(axis=1, dtype=np.float64))


def kl_rows(ref, mine):
    """Differences in float32, sums in float64: good to about 1e-6 nats."""
    la = lse(ref)
    p = np.exp(ref - la[:, None].astype(np.float32))
    return (p * (ref - mine)).sum(axis=1, dtype=np.float64) - la + lse(mine)


def main():
    ap = argparse.ArgumentParser()
    for a in ("qllmctl", "socket", "name", "model", "text"):
        ap.add_argument(a)
    ap.add_argument("--path", default="all")
    ap.add_argument("--chunks", type=int, default=20)
    ap.add_argument("--limit", type=float, default=float("inf"))
    args = ap.parse_args()
    base = [args.qllmctl, "--socket", args.socket]
    with open(args.text, "rb") as f:
        text = f.read(12 * 512 * args.chunks)
    out = subprocess.run(base + ["tokenize", args.name, "-", "--json"], input=text, stdout=subprocess.PIPE, check=True).stdout
    ids = json.loads(out)["tokens"]
    paths = ["decode", "prompt", "exact"] if args.path == "all" else [args.path]
    oracle = Oracle(args.model)
    kl = {p: [] for p in paths}
    top = {p: [] for p in paths}
    with tempfile.TemporaryDirectory() as d:
        for c in range(args.chunks):
            chunk = ids[c * 512:(c + 1) * 512]
            if len(chunk) < 512:
                break
            if oracle.add_bos:
                chunk = [oracle.bos] + chunk[1:]
            with open(d + "/t.json", "w") as f:
                json.dump(chunk, f)
            ref = oracle.logits(chunk)
            for p in paths:
                subprocess.run(base + ["logits", args.name, "--tokens", d + "/t.json", "--out", d + "/o.npy", "--path", p],
                               check=True)
                mine = np.load(d + "/o.npy", mmap_mode="r")
                for t in range(0, len(chunk), 64):
                    a, b = ref[t:t + 64], np.array(mine[t:t + 64])
                    kl[p].append(kl_rows(a, b))
                    top[p].append(a.argmax(axis=1) == b.argmax(axis=1))
    bad = False
    for p in paths:
        k, t = np.concatenate(kl[p]), np.concatenate(top[p])
        print(f"{args.name} {p}: KL mean {k.mean():.3e} p99 {np.percentile(k, 99):.3e} max {k.max():.3e}, "
              f"top-1 {100 * t.mean():.2f} %, {len(k)} tokens", flush=True)
        bad |= k.mean() > args.limit
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
