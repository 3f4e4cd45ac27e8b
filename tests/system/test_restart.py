"""Restarts of the daemon under load: what clients of libqllm see, and what is left behind."""

import json
import os
import random
import re
import signal
import subprocess
import time

from harness import BUSY, MODE, OK, SLOW, UNREACHABLE, Daemon, environment, expect, model_file, program

PROMPTS = ("What is the capital of France?", "Name three colours.", "Who wrote Hamlet?", "Say hello in German.")


def good(d, i, *more, **popen):
    return subprocess.Popen([program("tests/hostile/good"), "--socket", d.socket, "--model", "m", "--prompt",
                             PROMPTS[i % len(PROMPTS)], "-n", "12", *more], env=environment(), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **popen)


def leftovers(d):
    """Files beside the socket, in the store and in the cache that a running daemon has no use for."""
    found = [f for f in os.listdir(d.dir) if f not in ("s", "log", "state", "cache", "qllmd.conf")]
    for top in (d.state, os.path.join(d.dir, "cache")):
        for at, _, files in os.walk(top):
            found += [os.path.join(at, f) for f in files if f not in (".lock", "m.gguf", "m.json")]
    return found


def shared_memory(pid):
    """Descriptors and mappings of memfds of a process."""
    fds = sum("memfd:" in os.readlink(f"/proc/{pid}/fd/{f}") for f in os.listdir(f"/proc/{pid}/fd"))
    with open(f"/proc/{pid}/maps") as f:
        return fds, sum("memfd:" in line for line in f)


def connected(d, n, tokens=0):
    """Waits until n clients are there beside the one that asks, and as many tokens have been made."""
    until = time.monotonic() + 30 * SLOW
    while True:
        r = d.ctl("--json", "status")
        if r.code == OK and r.json["connections"] >= n + 1 and r.json["decode_tokens"] >= tokens:
            return
        assert time.monotonic() < until, f"the clients are not back: {r}"
        time.sleep(0.1)


def restart(d, how):
    """Ends the daemon, at once or as SIGTERM asks for it, and starts another; seconds without one."""
    if how == "kill":
        d.stop(signal.SIGKILL)
    else:
        d.process.send_signal(signal.SIGTERM)
        if how == "stop now":
            time.sleep(0.05)
            d.stop(signal.SIGTERM)
        assert d.stop() == 0, d.tail()
        assert not os.path.exists(d.socket), "a daemon that ended by request has left its socket"
    gone = time.monotonic()
    time.sleep(random.random() * 0.5)
    d.start()
    return time.monotonic() - gone


def test_under_load():
    """Every client gets one clean error a restart at most, is back without a word, and gets the same texts as before."""
    rounds, n = 4 if SLOW > 1 else {"quick": 4, "full": 10, "long": 100}[MODE], 6
    with Daemon(config="[limits]\ndrain_seconds = 3\n") as d:
        expect(d.ctl("import", model_file("smollm2"), "--name", "m"), OK)
        want = {}
        for i in range(len(PROMPTS)):
            out, _ = good(d, i, "--requests", "1").communicate(timeout=60 * SLOW)
            want[i] = json.loads(out)["texts"]
            assert len(want[i]) == 1, want
        clients = [good(d, i, "--seconds", "100000", "--keep-going") for i in range(n)]
        hows, down = [], 0.0
        try:
            connected(d, n)
            first = [shared_memory(p.pid) for p in clients]
            for i in range(rounds):
                connected(d, n, 8 * n)
                time.sleep(random.random() * 0.5)
                hows.append(("kill", "stop", "kill", "stop now")[i % 4])
                down = max(down, restart(d, hows[-1]))
                connected(d, n)
                assert not leftovers(d), leftovers(d)
                assert all(p.poll() is None for p in clients), [p.communicate() for p in clients if p.poll() is not None]
            last = [shared_memory(p.pid) for p in clients]
            # a client holds the rings of one connection, not those of daemons that are gone
            assert all(b <= a for a, b in zip(first, last)), (first, last)
        finally:
            results = []
            for p in clients:
                p.send_signal(signal.SIGINT)
            for p in clients:
                results.append(p.communicate(timeout=60 * SLOW))
        scores = [json.loads(out) for out, _ in results]
        lost = 0
        for i, s in enumerate(scores):
            assert set(s["texts"]) == set(want[i % len(PROMPTS)]), (s["texts"], want[i % len(PROMPTS)])
            assert s["ok"] > 0, s
            for sentence, times in s["errors"].items():
                code, words = re.fullmatch(r"(\d+): (.*)", sentence, re.S).groups()
                assert int(code) in (UNREACHABLE, BUSY) and len(words) > 30, s["errors"]
                if int(code) == UNREACHABLE:
                    assert "was lost" in words, f"a client was not back by itself: {s['errors']}"
                    assert times <= rounds, s["errors"]
                    lost += times
        assert lost > 0, "nobody noticed any restart"
        assert sum(s["ok"] for s in scores) >= n * rounds / 2, scores
        expect(d.ctl("run", "m", "hi", "-n", "2"), OK)
        d.stop()
        assert not leftovers(d) and not os.path.exists(d.socket), os.listdir(d.dir)
    answers = sum(s["ok"] for s in scores)
    return (f"{rounds} restarts ({hows.count('kill')} SIGKILL), at most {down:.1f} s without a daemon; {n} clients: "
            f"{answers} answers, all as before, {lost} requests lost with a clean error")


def test_daemon_gone_for_good():
    """A client whose daemon does not come back says so after a bounded wait."""
    with Daemon() as d:
        expect(d.ctl("import", model_file("smollm2"), "--name", "m"), OK)
        p = good(d, 0, "--seconds", "3", "--keep-going")
        connected(d, 1)
        d.stop(signal.SIGKILL)
        start = time.monotonic()
        out, _ = p.communicate(timeout=30 * SLOW)
        took = time.monotonic() - start
        s = json.loads(out)
        assert any("went away" in e for e in s["errors"]) and all(e.startswith(f"{UNREACHABLE}: ") for e in s["errors"]), s
        assert took < 10 * SLOW, took
    return f"told after {took:.1f} s"
