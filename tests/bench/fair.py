#!/usr/bin/env python3
"""What one user's stream feels of another user: the time between two of its tokens, by its own clock.

usage: fair.py [--build DIR] [--threads 2] [--rounds 5] [-n 300] [--long TOKENS] [--ctx TOKENS] [--json FILE] [MODEL.gguf]

Arms, alternating: `alone`; beside `one` stream of another uid; beside `many`, 64 connections of it of which 63 generate;
beside `prompt`, one request of the other uid with --long tokens. Printed are the median, p99 and largest gap of each arm (median
of the rounds), the ratio of many to one, and how much longer the largest gap is beside the prompt than the median one:
this is what a chunk of it takes. As root only, since it takes two uids. The other uid's programs run at SCHED_IDLE: it is to
be seen what the daemon gives, not what the system does. Ends with 1 when company changes the answer.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

import benchlib

POLITE, GREEDY = 12001, 12002
MANY = 63                               # streams, and one connection more that started them
PROMPT = "Write a long story about a lighthouse keeper."


class Users:
    """A daemon that every uid may ask."""

    def __init__(self, daemon, args):
        self.daemon, self.args, self.answer = daemon, args, None
        self.bin = os.path.join(daemon.dir, "bin")
        os.chmod(daemon.dir, 0o755)
        os.chmod(daemon.socket, 0o666)
        os.mkdir(self.bin)
        shutil.copy(benchlib.program(args.build, "qllmctl"), self.bin)
        for name in os.listdir(os.path.join(args.build, ".libs")):
            if name.startswith("libqllm.so"):
                shutil.copy(os.path.join(args.build, ".libs", name), self.bin)

    def start(self, uid, *words, **more):
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", os.path.join(self.bin, "qllmctl"),
                "--socket", self.daemon.socket, *map(str, words)]
        return subprocess.Popen(argv, env=dict(self.daemon.env, LD_LIBRARY_PATH=self.bin, HOME="/nonexistent"), cwd="/",
                                stdout=subprocess.PIPE, **more)

    def polite(self):
        """Gaps between its tokens in ms, sorted."""
        p = self.start(POLITE, "--json", "run", "m", "--raw", PROMPT, "--temp", 0, "--ignore-eos", "--no-lookup", "-n",
                       self.args.n, "-v", stdin=subprocess.DEVNULL)
        r = json.loads(p.communicate(timeout=600)[0])
        self.answer = self.answer or r["text"]
        if r["text"] != self.answer:
            raise SystemExit("fair.py: company changed the answer")
        return sorted(1e3 * (b - a) for a, b in zip(r["token_s"], r["token_s"][1:]))

    def beside(self, enough, *words, stdin=None):
        """The gaps while the other uid does that; `enough` of its requests run first."""
        other = self.start(GREEDY, *words, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE)
        os.sched_setscheduler(other.pid, os.SCHED_IDLE, os.sched_param(0))
        try:
            if stdin is not None:
                other.stdin.write(stdin)
                other.stdin.close()
                other.stdin = None
            until = time.monotonic() + 60
            while self.daemon.json("status")["running"] < enough:
                if time.monotonic() > until or other.poll() is not None:
                    raise SystemExit("fair.py: the other uid's requests do not run")
                time.sleep(0.02)
            gaps = self.polite()
            if other.poll() is not None and stdin is None:
                raise SystemExit("fair.py: the other uid's requests ended too early")
            return gaps
        finally:
            other.kill()
            other.communicate()
            until = time.monotonic() + 60
            while self.daemon.json("status")["running"] > 0 and time.monotonic() < until:
                time.sleep(0.02)

    def streams(self, n):
        return self.beside(n, "bench", "m", "-c", n, "-p", 4, "-n", 4000, "--repeat", 1)

    def prompt(self, turn):
        words = b" ".join(b"%d" % (turn * 7919 + i) for i in range(self.args.long))[:self.args.long]
        return self.beside(1, "run", "m", "--raw", "-", "-n", 1, "--temp", 0, stdin=words)


def main():
    ap = benchlib.parser(__doc__)
    ap.add_argument("-n", type=int, default=300)
    ap.add_argument("--long", type=int, default=16384, help="bytes of digits, about a token each")
    ap.add_argument("--ctx", type=int, default=20480)
    ap.add_argument("--json")
    ap.add_argument("model", nargs="?", default=os.path.join(benchlib.MODELS, "gemma3.gguf"))
    args = ap.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("fair.py: run it as root: it takes two uids")
    gaps = {}
    with benchlib.Daemon(args.build, threads=args.threads) as daemon:
        daemon.ctl("import", args.model, "--name", "m", "--shared")
        daemon.ctl("load", "m", "--pin", "--ctx", args.ctx)
        users = Users(daemon, args)
        users.polite()
        arms = {"alone": lambda r: users.polite(), "one": lambda r: users.streams(1), "many": lambda r: users.streams(MANY),
                "prompt": users.prompt}
        for r in range(args.rounds):
            for i in range(len(arms)):
                name = list(arms)[(r + i) % len(arms)]
                gaps.setdefault(name, []).append(arms[name](r))
    result = {name: {"median": statistics.median(g[len(g) // 2] for g in rounds),
                     "p99": statistics.median(g[int(len(g) * 0.99)] for g in rounds),
                     "largest": statistics.median(g[-1] for g in rounds)} for name, rounds in gaps.items()}
    for name, r in result.items():
        print(f"{name:7} gap: median {r['median']:.1f}, p99 {r['p99']:.1f}, largest {r['largest']:.1f} ms")
    print(f"p99 beside {MANY} streams over beside one: {result['many']['p99'] / result['one']['p99']:.2f}")
    prompt = result["prompt"]
    print(f"largest gap beside the prompt over the median: {prompt['largest'] - prompt['median']:.1f} ms")
    if args.json:
        with open(args.json, "w") as f:
            json.dump(result, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
