#!/usr/bin/env python3
"""Lookup decoding against none: alternating arms on one daemon, the same answers required.

usage: lookup.py --qllmd PATH --qllmctl PATH [--rounds 3] [--threads 2] [-n 120] [--temp 0] [--cpu] [--in-place]
                 [--json FILE] MODEL.gguf

Prompts are those of lookup-prompts.json: `quoting`, whose answers stand in the prompt for the most part, and `free`.
Prints for each prompt both arms' tokens a second (median of the rounds, of the decoding alone) and their ratio, with
--cpu from the daemon's CPU time instead, less that of a request for one token: for machines that are busy with other
things (then take one thread: the pool's waiting counts as well); the share of the answer's tokens that stand in the prompt together with the token before them, and the share of guesses that
held; then the mean of each set. Ends with 1 when an answer differs.
"""
import argparse
import array
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ARMS = ("--no-lookup", "--lookup")


class Bench:
    def __init__(self, args, folder):
        self.args, self.socket, self.first_s = args, os.path.join(folder, "s"), 0
        self.daemon = subprocess.Popen([args.qllmd, "--socket", self.socket, "--state-dir", folder + "/state",
                                        "--cache-dir", folder + "/cache", "--threads", str(args.threads),
                                        "--log-level", "warning"])

    def ctl(self, *words, stdin=None):
        out = subprocess.run([self.args.qllmctl, "--socket", self.socket, "--json", *words], check=True, input=stdin,
                             stdout=subprocess.PIPE, timeout=600).stdout
        return json.loads(out) if out else None

    def start(self):
        for _ in range(200):
            if subprocess.run([self.args.qllmctl, "--socket", self.socket, "is-ready"], capture_output=True).returncode == 0:
                break
            time.sleep(0.05)
        self.ctl("import", self.args.model, "--name", "m", *(["--in-place"] if self.args.in_place else []))
        self.ctl("load", "m", "--pin")

    def cpu_s(self):
        """CPU time of the daemon so far, in seconds: user and system."""
        total = 0
        with os.scandir(f"/proc/{self.daemon.pid}/task") as tasks:
            for task in tasks:
                with open(os.path.join(task.path, "schedstat")) as f:
                    total += int(f.read().split()[0])
        return total * 1e-9

    def run(self, prompt, arm, n=None):
        before = self.cpu_s()
        r = self.ctl("run", "m", "-", "-n", str(n or self.args.n), "--temp", str(self.args.temp), "--seed", "7", arm,
                     stdin=prompt.encode())
        n = r["usage"]["completion_tokens"]
        took = self.cpu_s() - before - self.first_s if self.args.cpu else r["timings"]["decode_s"]
        return r, (n - 1) / took if n > 1 else 0

    def share(self, prompt, answer):
        """Of the answer's tokens, those that follow the same token in the prompt."""
        ids = self.ctl("tokenize", "m", "-", "--no-bos", stdin=prompt.encode())["tokens"]
        pairs = set(zip(ids, ids[1:]))
        return sum(p in pairs for p in zip(answer, answer[1:])) / max(len(answer) - 1, 1)

    def compare(self, prompt):
        if self.args.cpu:
            self.first_s = 0
            self.run(prompt, ARMS[0], 1)        # what the prompt leaves for the next request is there from now on
            before = self.cpu_s()
            self.run(prompt, ARMS[0], 1)
            self.first_s = self.cpu_s() - before
        rates, answers, used = {arm: array.array("d") for arm in ARMS}, {}, None
        for i in range(self.args.rounds):
            for arm in ARMS if i % 2 else reversed(ARMS):
                r, rate = self.run(prompt, arm)
                rates[arm].append(rate)
                answers.setdefault(arm, (r["tokens"], r["text"], r["finish_reason"]))
                if answers[arm] != (r["tokens"], r["text"], r["finish_reason"]):
                    raise SystemExit(f"two answers of one arm, {arm}: {prompt[:60]!r}")
                used = r["usage"] if arm == "--lookup" else used
        if answers[ARMS[0]] != answers[ARMS[1]]:
            raise SystemExit(f"different answers: {prompt[:60]!r}")
        without, with_ = (statistics.median(rates[arm]) for arm in ARMS)
        return {"prompt": prompt, "tokens": used["completion_tokens"], "without": without, "with": with_,
                "ratio": with_ / without if without else 1.0, "share": self.share(prompt, answers[ARMS[0]][0]),
                "guesses": used["draft_tokens"], "held": used["draft_accepted"]}


def main():
    ap = argparse.ArgumentParser(usage=__doc__)
    ap.add_argument("--qllmd", required=True)
    ap.add_argument("--qllmctl", required=True)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("-n", type=int, default=120)
    ap.add_argument("--temp", type=float, default=0)
    ap.add_argument("--sets", nargs="*", default=["quoting", "free"])
    ap.add_argument("--cpu", action="store_true")
    ap.add_argument("--in-place", action="store_true")
    ap.add_argument("--json")
    ap.add_argument("model")
    args = ap.parse_args()
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lookup-prompts.json")) as f:
        prompts = json.load(f)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, folder)
        try:
            bench.start()
            bench.run("warm up", ARMS[1])
            for name in args.sets:
                results[name] = []
                for prompt in prompts[name]:
                    r = bench.compare(prompt)
                    results[name].append(r)
                    print(f"{name:8} {r['tokens']:4} tokens  {r['without']:7.1f} {r['with']:7.1f} t/s  x{r['ratio']:.2f}"
                          f"  {r['share']:4.0%} in the prompt  {r['held']:3}/{r['guesses']:3} held"
                          f"  {prompt.splitlines()[0][:40]}", flush=True)
                ratios = [r["ratio"] for r in results[name]]
                print(f"{name}: mean x{statistics.mean(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}", flush=True)
        finally:
            bench.daemon.terminate()
            bench.daemon.wait(30)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(results, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
