#!/usr/bin/env python3
"""Time to first token of many clients whose prompts begin alike: qllmd and llama-server.

usage: prefix.py [--build DIR] [--llama-server PATH] [--model FILE.gguf] [--clients 8] [--prefix 2000] [--rounds 5]
                 [--uncached] [--json]

Each round has a new prefix, so nobody has seen it, and `--clients` real clients that ask at once: the same prefix, an
end of their own. A client's time runs from its start (qllmctl) or its connection (HTTP) to the first piece of text.
Prints the mean over the clients: medians of the rounds, ratios with spread, and how many tokens were found.
"""
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time

import benchlib

TAIL = 40       # words of a client's own


def words(rng, n):
    letters = "bcdfghjklmnprstvw"
    made = ["".join(rng.choice(letters) + rng.choice("aeiou") for _ in range(rng.randint(1, 2))) for _ in range(200)]
    return " ".join(rng.choice(made) for _ in range(n))


def count(d, text):
    return len(d.json("tokenize", "m", text)["tokens"])


class Prompts:
    """Of one round after the other, the same for all arms: made of about `n` tokens, the last ones each client's own."""

    def __init__(self, d, n, clients):
        self.d, self.n, self.clients = d, n, clients
        self.turn = {}
        sample = words(random.Random(1), 400)
        self.per_word = count(d, sample) / 400

    def next(self, arm):
        turn = self.turn[arm] = self.turn.get(arm, -1) + 1
        rng = random.Random(1000 + turn * 10 + sum(map(ord, arm)) % 7)
        start = words(rng, int(self.n / self.per_word))
        return [start + f" {i} " + words(rng, TAIL) for i in range(self.clients)]


def together(jobs):
    """Runs all at once; seconds that each says, or the first error."""
    results, errors = [None] * len(jobs), []
    gate = threading.Barrier(len(jobs))

    def run(i, job):
        try:
            gate.wait()
            results[i] = job()
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(i, j)) for i, j in enumerate(jobs)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]
    return statistics.mean(results)


def ours(d, text, *options):
    begin = time.monotonic()
    p = subprocess.Popen([benchlib.program(d.build, "qllmctl"), "--socket", d.socket, "run", "m", "-", "--raw", "--temp",
                          "0", "-n", "8", "--ignore-eos", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=d.env)
    p.stdin.write(text.encode())
    p.stdin.close()
    first = os.read(p.stdout.fileno(), 1)
    took = time.monotonic() - begin
    p.stdout.read()
    said = p.stderr.read()
    if p.wait() != 0 or not first:
        raise benchlib.Failed(said.decode("utf-8", "replace"))
    return took


def theirs(port, tokens):
    begin = time.monotonic()
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=900)
    c.request("POST", "/completion", json.dumps({"prompt": tokens, "n_predict": 8, "temperature": 0, "stream": True,
                                                 "ignore_eos": True}), {"Content-Type": "application/json"})
    answer = c.getresponse()
    if answer.status != 200:
        raise benchlib.Failed(f"llama-server: {answer.status} {answer.read()[:300]}")
    while not answer.readline().startswith(b"data:"):
        pass
    took = time.monotonic() - begin
    answer.read()
    c.close()
    return took


def start_llama(args, ctx):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    p = subprocess.Popen([args.llama_server, "-m", args.model, "-t", str(args.threads), "-np", str(args.clients), "-c",
                          str(ctx), "--host", "127.0.0.1", "--port", str(port)], stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while time.monotonic() < end and p.poll() is None:
        try:
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            c.request("GET", "/health")
            if c.getresponse().status == 200:
                return p, port
        except OSError:
            pass
        time.sleep(0.2)
    p.kill()
    raise benchlib.Failed("llama-server does not start")


def main():
    ap = benchlib.parser(__doc__)
    ap.add_argument("--llama-server", help="without it only qllmd's own arms run")
    ap.add_argument("--model", default=os.path.join(benchlib.MODELS, "smollm2.gguf"))
    ap.add_argument("--clients", type=int, default=8)
    ap.add_argument("--prefix", type=int, default=2000, help="tokens that all have in common (default 2000)")
    ap.add_argument("--uncached", action="store_true", help="qllmd without its cache, too")
    ap.add_argument("--json", action="store_true")
    args = ap.parse_args()
    llama = None
    with benchlib.Daemon(args.build, threads=args.threads) as d:
        try:
            d.add("m", args.model, in_place=True)
            prompts = Prompts(d, args.prefix, args.clients)

            def cached():
                return together([lambda t=t: ours(d, t) for t in prompts.next("qllmd")])

            def uncached():
                return together([lambda t=t: ours(d, t, "--no-cache") for t in prompts.next("no cache")])

            arms = {"qllmd": cached}
            if args.uncached:
                arms["no cache"] = uncached
            if args.llama_server:
                llama, port = start_llama(args, args.clients * (args.prefix + 1072))

                def other():
                    ids = [d.json("tokenize", "m", t)["tokens"] for t in prompts.next("llama-server")]
                    return together([lambda i=i: theirs(port, i) for i in ids])

                arms["llama-server"] = other
            got = benchlib.alternate(arms, args.rounds)
            status = d.json("status")
        finally:
            if llama:
                llama.terminate()
                llama.wait(30)
    found = status["cached_tokens"] / args.rounds / args.clients
    if args.json:
        print(json.dumps({"cpu": benchlib.cpu_name(), "clients": args.clients, "prefix": args.prefix, "cached_tokens": found,
                          "first_token_s": {k: v.json() for k, v in got.items()}}))
        return
    print(f"{benchlib.cpu_name()}, {args.threads} threads, {args.clients} clients, {args.prefix} tokens in common, of which "
          f"a client found {found:.0f} on average")
    for name, took in got.items():
        ratio = took.over(got["qllmd"])
        print(f"mean time to first token: {name} {took.median:.2f} s [{took.low:.2f}-{took.high:.2f}], "
              f"{ratio.median:.2f} [{ratio.low:.2f}-{ratio.high:.2f}] times qllmd's")


if __name__ == "__main__":
    try:
        main()
    except benchlib.Failed as e:
        sys.exit(str(e))
