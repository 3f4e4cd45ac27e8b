"""Model files that are cut, punched, written to or replaced while they are mapped and used."""

import ctypes
import os
import random
import tempfile
import threading
import time

from gguf_file import tiny
from harness import FAILED, MODE, OK, SLOW, Daemon, expect, model_file

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
libc = ctypes.CDLL(None, use_errno=True)
PROMPT = ("--raw", "once upon a time", "--temp", "0", "--ignore-eos")


def cut(path, data, rng):
    os.truncate(path, rng.choice((0, 4096, len(data) // 2, len(data) - 4096)))


def punch(path, data, rng):
    """The whole of the weights, or a part of them that every step reads."""
    start = 65536 if rng.random() < 0.5 else len(data) // 2
    fd = os.open(path, os.O_RDWR)
    try:
        if libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, ctypes.c_long(start), ctypes.c_long(len(data) // 3)):
            raise OSError(ctypes.get_errno(), "punching a hole")
    finally:
        os.close(fd)


def write(path, data, rng):
    with open(path, "r+b") as f:
        f.seek(len(data) // 3)
        f.write(bytes(len(data) // 3))


def copy_over(path, data, rng):
    """What `cp` does: truncate, then write."""
    with open(path, "wb") as f:
        f.write(data[: len(data) // 2] + bytes(len(data) // 2))


def replace(path, data, rng):
    with open(path + ".new", "wb") as f:
        f.write(data[:4096] + bytes(len(data) - 4096))
    os.rename(path + ".new", path)


def delete(path, data, rng):
    os.unlink(path)


CHANGES, REMOVALS = (cut, punch, write, copy_over), (replace, delete)


class Steady:
    """The other model: one client after another, each text that of a calm run."""

    def __init__(self, d):
        self.d, self.job = d, ("run", "steady", "What is the capital of France?", "--temp", "0", "-n", "48")
        self.want = expect(d.ctl(*self.job), OK).out
        self.n, self.bad, self.stop = 0, [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stop.is_set():
            r = self.d.ctl(*self.job, timeout=300)
            self.n += 1
            if r.code != OK or r.out != self.want:
                self.bad.append(r)

    def end(self):
        self.stop.set()
        self.thread.join()


def first_output(p):
    """Blocks until the client has printed something; what it was."""
    return os.read(p.stdout.fileno(), 65536)


def one_round(d, path, data, want, n, change, rng):
    with open(path, "wb") as f:
        f.write(data)
    expect(d.ctl("import", path, "--name", "victim", "--in-place"), OK)
    assert d.ctl("run", "victim", *PROMPT, "-n", "8").out == want[8], "the file that was imported again says something else"
    clients = [d.popen("run", "victim", *PROMPT, "-n", str(n)) for _ in range(2)]
    began = [first_output(p) for p in clients]
    time.sleep(rng.random() * 0.1)
    change(path, data, rng)
    for p, start in zip(clients, began):
        out, err = p.communicate(timeout=120 * SLOW)
        out = start + out
        if change in REMOVALS:          # the bytes are still there: nothing is lost
            assert p.returncode == OK and out == want[n], (change, p.returncode, err)
            continue
        assert p.returncode == FAILED, (change.__name__, p.returncode, err)
        assert err.startswith(b"qllmctl: ") and b"cut, written to" in err and err.count(b"\n") == 1, (change.__name__, err)
        # not a single byte that was computed from other weights
        assert want[n].startswith(out), (change.__name__, out[-40:])
    r = d.ctl("run", "victim", *PROMPT, "-n", "8")
    expect(r, FAILED)
    row = next(m for m in d.json("ls") if m["name"] == "victim")
    assert row["fault"] and not row["loaded"], row
    expect(d.ctl("show", "victim"), FAILED)
    expect(d.ctl("rm", "victim"), OK)
    if os.path.exists(path):
        os.unlink(path)


def test_changed_files():
    """Rounds of each kind while two models generate: only the requests of the file that changed fail, and all of those."""
    rounds = 6 if SLOW > 1 else {"quick": 6, "full": 20, "long": 200}[MODE]
    data = tiny(n_embd=256, n_layer=6, n_ff=512, n_ctx=4096, seed=5).bytes()
    rng, counts = random.Random(4), {}
    with Daemon() as d, tempfile.TemporaryDirectory() as t:
        expect(d.ctl("import", model_file("smollm2"), "--name", "steady"), OK)
        path = t + "/victim.gguf"
        with open(path, "wb") as f:
            f.write(data)
        expect(d.ctl("import", path, "--name", "victim"), OK)
        # as many tokens as take a second or more beside the other model
        start = time.monotonic()
        expect(d.ctl("run", "victim", *PROMPT, "-n", "100"), OK)
        start = time.monotonic()
        expect(d.ctl("run", "victim", *PROMPT, "-n", "200"), OK)
        n = max(100, min(3500, int(200 * 0.6 / (time.monotonic() - start))))
        want = {k: expect(d.ctl("run", "victim", *PROMPT, "-n", str(k), timeout=300), OK).out for k in (8, n)}
        expect(d.ctl("rm", "victim"), OK)
        pid, steady = d.process.pid, Steady(d)
        try:
            for i in range(rounds):
                change = (CHANGES + REMOVALS)[i % 6]
                one_round(d, path, data, want, n, change, rng)
                counts[change.__name__] = counts.get(change.__name__, 0) + 1
                d.alive()
        finally:
            steady.end()
        assert not steady.bad, f"{len(steady.bad)} of {steady.n}: {steady.bad[:3]}"
        assert steady.n >= 2, steady.n
        assert d.process.pid == pid and d.json("status")["pid"] == pid
        expect(d.ctl("run", "steady", "hi", "-n", "2"), OK)
    return (f"{rounds} rounds ({', '.join(f'{v} {k}' for k, v in counts.items())}), {n} tokens each; "
            f"{steady.n} answers of the other model were byte-equal")
