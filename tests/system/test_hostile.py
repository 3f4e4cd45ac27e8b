"""Clients that break every rule, alone and beside good ones. tests/hostile/run is the same for as long as one likes."""

import array
import json
import os
import re
import subprocess
import tempfile
import time

from gguf_file import tiny
from harness import MODE, OK, SLOW, Daemon, Skip, environment, expect, model_file, program

PROMPTS = ("What is the capital of France?", "Name three colours.", "Write a haiku about rain.", "What is 2 + 2?",
           "Explain what a compiler does.", "Say hello in German.", "List the planets.", "Who wrote Hamlet?")
N = 8
# Limits and shares are per user: eight people with one good client each, beside two users with four hostile ones each.
GOOD_UIDS, BAD_UIDS = range(61101, 61101 + N), (61002, 61003)
CASES = 30                              # P1 to P18, R1 to R12


def open_to_all(d):
    """Lets other users connect to a daemon of root."""
    os.chmod(d.dir, 0o755)
    os.chmod(d.socket, 0o666)


def as_user(uid):
    return ("--uid", str(uid)) if os.geteuid() == 0 else ()


def start(name, *args):
    return subprocess.Popen([program("tests/hostile/" + name), *map(str, args)], env=environment(), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)


def resources(pid):
    with open(f"/proc/{pid}/status") as f:
        rss = int(re.search(r"^RssAnon:\s+(\d+) kB", f.read(), re.M)[1]) * 1024
    return rss, len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid):
    """Of a process and of those of its children that have ended."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:15])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def all_seconds():
    with open("/proc/stat") as f:
        t = [int(x) for x in f.readline().split()[1:9]]
    return (sum(t) - t[3] - t[4]) / os.sysconf("SC_CLK_TCK")


class Good:
    """The good clients for so many seconds: what they got, how long a token took, how busy the rest of the machine was."""

    def __init__(self, d, seconds, others=()):
        with tempfile.TemporaryDirectory() as t:
            os.chmod(t, 0o777)
            began, own = all_seconds(), sum(map(cpu_seconds, (d.process.pid, *others)))
            clock = time.monotonic()
            clients = [start("good", "--socket", d.socket, "--model", "m", "--prompt", p, "-n", 64, "--seconds", seconds,
                             "--gaps", f"{t}/{i}", *as_user(GOOD_UIDS[i])) for i, p in enumerate(PROMPTS)]
            self.peak, used = 0, {}
            while any(p.poll() is None for p in clients):
                self.peak = max(self.peak, resources(d.process.pid)[0])
                used.update((p.pid, cpu_seconds(p.pid)) for p in clients if p.poll() is None)
                time.sleep(0.5)
            own = sum(map(cpu_seconds, (d.process.pid, *others))) - own + sum(used.values())
            self.others = (all_seconds() - began - own) / (time.monotonic() - clock)
            results = [p.communicate() for p in clients]
            self.scores = [json.loads(out) for out, _ in results]
            gaps = array.array("d")
            for i in range(N):
                with open(f"{t}/{i}", "rb") as f:
                    gaps.frombytes(f.read())
        self.gaps = sorted(gaps)
        self.answers = sum(s["ok"] for s in self.scores)

    def errors(self):
        return {e: n for s in self.scores for e, n in s["errors"].items()}

    def texts(self):
        return [set(s["texts"]) for s in self.scores]

    def p(self, share):
        return self.gaps[min(int(len(self.gaps) * share), len(self.gaps) - 1)] * 1e3

    def __str__(self):
        return (f"{self.answers} answers, {len(self.gaps)} gaps, median {self.p(0.5):.1f}, p99 {self.p(0.99):.1f}, "
                f"longest {self.gaps[-1] * 1e3:.0f} ms, others used {self.others:.2f} CPUs")


def summary(out):
    m = re.search(r"(\d+) steps: (.*); (\d+) wrong; longest refusal ([\d.]+) ms\s*$", out)
    assert m, out[-2000:]
    return int(m[1]), int(m[3]), float(m[4])


def settled(d, fds=None):
    """Waits until descriptors are as few as they were, or as few as they get; anonymous memory, and what they are."""
    until, last, since = time.monotonic() + 20 * SLOW, None, time.monotonic()
    while True:
        rss, n = resources(d.process.pid)
        if n != last:
            last, since = n, time.monotonic()
        rests = time.monotonic() - since > 2 if fds is None else n <= fds
        if rests or time.monotonic() > until:
            return rss, n
        time.sleep(0.2)


def beside(seconds, seed):
    """8 hostile clients at SCHED_IDLE beside 8 good ones, after the good ones were alone."""
    with Daemon() as d:
        open_to_all(d)
        expect(d.ctl("import", model_file("smollm2"), "--name", "m", "--shared"), OK)
        Good(d, 2)                              # warm: memory, page cache
        calm = Good(d, max(8, min(120, seconds / 3)))
        assert not calm.errors() and all(len(t) == 1 for t in calm.texts()), (calm.errors(), calm.texts())
        pid, (rss, fds) = d.process.pid, settled(d)
        bad = [start("hostile", "--socket", d.socket, "--model", "m", "--file", model_file("smollm2"), "--seconds", seconds,
                     "--seed", seed * N + i + 1, "--idle", *as_user(BAD_UIDS[i % 2])) for i in range(N)]
        busy = Good(d, seconds, [p.pid for p in bad])
        told = [p.communicate(timeout=120 * SLOW) for p in bad]
        d.alive()
        steps, wrong, slowest = map(sum, zip(*(summary(out.decode("utf-8", "replace")) for out, _ in told)))
        print(f"     calm: {calm}\n     with: {busy}\n     hostile: {steps} steps, {wrong} answered wrongly", flush=True)
        assert not busy.errors(), busy.errors()
        assert busy.texts() == calm.texts(), (busy.texts(), calm.texts())
        assert steps >= N * min(seconds / 3, CASES), steps
        assert not wrong, [line for out, _ in told for line in out.decode("utf-8", "replace").split("\n") if "WRONG" in line]
        assert d.process.pid == pid and d.json("status")["pid"] == pid
        rss_end, fds_end = settled(d, fds)
        assert fds_end <= fds, f"{fds} descriptors before, {fds_end} after"
        assert SLOW > 1 or rss_end - rss < 64 << 20, f"{(rss_end - rss) / 1e6:.0f} MB more than before, {busy.peak / 1e6:.0f} MB at most"
        note = (f"p99 gap {calm.p(0.99):.1f} ms calm, {busy.p(0.99):.1f} ms beside {N} hostile clients "
                f"({busy.p(0.99) / calm.p(0.99):.2f}x), {busy.answers} answers byte-equal, 0 errors; {steps} hostile steps; "
                f"memory {(rss_end - rss) / 1e6:+.1f} MB (peak {(busy.peak - rss) / 1e6:+.1f}), descriptors {fds_end - fds:+d}")
        if busy.p(0.99) > 2 * calm.p(0.99) and max(calm.others, busy.others) > 0.3:
            raise Skip(f"other programs used {max(calm.others, busy.others):.1f} CPUs, so times mean nothing: {note}")
        assert SLOW > 1 or busy.p(0.99) <= 2 * calm.p(0.99), note
        return note


def test_beside_good_ones():
    return beside({"quick": 8, "full": 20, "long": 600}[MODE], 1)


def test_each_case():
    """Every case once: the answer that is due, in words, within 100 ms, and 16 MiB at most."""
    with Daemon() as d:
        open_to_all(d)
        expect(d.ctl("import", model_file("smollm2"), "--name", "m", "--shared"), OK)
        expect(d.ctl("run", "m", "hi", "-n", "8"), OK)
        args = ("--socket", d.socket, "--model", "m", "--file", model_file("smollm2"))
        out, err = start("hostile", *args, "--once", "all").communicate(timeout=120 * SLOW)     # warm
        rss, fds = settled(d)
        out, err = start("hostile", *args, "--once", "all", *as_user(BAD_UIDS[0])).communicate(timeout=120 * SLOW)
        out = out.decode("utf-8", "replace")
        steps, wrong, slowest = summary(out)
        seen = set(re.findall(r"^([PR]\d+), ", out, re.M))
        # a client that is killed tells nothing
        assert len(seen) == CASES - 1 and "R10" not in seen, sorted(seen)
        assert wrong == 0, [line for line in out.split("\n") if "WRONG" in line]
        d.alive()
        expect(d.ctl("run", "m", "hi", "-n", "2"), OK)
        rss_end, fds_end = settled(d, fds)
        assert fds_end <= fds, f"{fds} descriptors before, {fds_end} after"
        # a sanitizer keeps freed memory for a while
        assert SLOW > 1 or rss_end - rss < 16 << 20, (rss, rss_end)
        note = f"{steps} steps, slowest refusal {slowest:.1f} ms, memory {(rss_end - rss) / 1e6:+.1f} MB"
        load = os.getloadavg()[0]
        if slowest > 100 * SLOW and load > os.cpu_count():
            raise Skip(f"the load is {load:.1f}, so times mean nothing: {note}")
        assert slowest < 100 * SLOW, note
        return note


def test_sources_that_hang():
    """Eight clients of two users offer files whose reads hang; a third user's import takes no longer for it."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        raise Skip("a file system of one's own needs root and /dev/fuse")
    with Daemon() as d, tempfile.TemporaryDirectory() as t:
        open_to_all(d)
        path = t + "/tiny.gguf"
        with open(path, "wb") as f:
            f.write(tiny().bytes())
        expect(d.ctl("import", path, "--name", "m", "--shared"), OK)
        bad = [start("hostile", "--socket", d.socket, "--model", "m", "--once", "P17", *as_user(BAD_UIDS[i % 2]))
               for i in range(N)]
        worst, n = 0.0, 0
        while any(p.poll() is None for p in bad):
            began = time.monotonic()
            expect(d.ctl("import", path, "--name", "other"), OK)
            worst, n = max(worst, time.monotonic() - began), n + 1
            expect(d.ctl("rm", "other"), OK)
            time.sleep(0.05)
        told = [p.communicate()[0].decode("utf-8", "replace") for p in bad]
        hung = sum(len(re.findall(r"FUSE file that hangs as a model: refused", out)) for out in told)
        assert not any(summary(out)[1] for out in told), [line for out in told for line in out.split("\n") if "WRONG" in line]
        assert hung >= 2, told[0]
        assert worst < 2 * SLOW, f"an import took {worst:.1f} s while others hung"
    return f"{hung} hung, {n} imports beside them took at most {worst * 1e3:.0f} ms"
