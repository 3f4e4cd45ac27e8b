"""Malformed models and JSON against the daemon as it is installed: a named error, soon, without growth, and it lives."""

import os
import re
import statistics
import struct
import tempfile
import time

from gguf_file import ARR, BOOL, F32, I32, STR, U8, U32, U64, VOCAB, File, Tensor, text, tiny
from harness import FAILED, MODE, OK, SLOW, USAGE, Daemon, Skip, expect
from test_json import HEAD, VALUES

MAX = (1 << 64) - 1


def bent(**fields):
    f = tiny()
    for key, value in fields.items():
        setattr(f, key, value)
    return f.bytes()


def after(change):
    f = tiny()
    change(f)
    return f.bytes()


def raw(payload, key="x"):
    """A right model with one more key, whose kind and payload are these bytes."""
    return after(lambda f: f.raw(key, payload))


def key(name, kind, value):
    return after(lambda f: f.set(name, kind, value))


def claims(tensor="output_norm.weight", **fields):
    """A tensor that claims something else."""
    def change(f):
        for k, v in fields.items():
            setattr(f.tensor(tensor), k, v)
    return after(change)


def kv_of(i):
    return text(f"k{i:07}") + struct.pack("<IB", U8, 0)


def headers():
    good = tiny().bytes()
    yield "G1 empty", b""
    for n in (1, 3, 4, 7, 8, 15, 16, 23):
        yield f"G2 {n} bytes", good[:n]
    yield "G3 magic", b"GGML" + good[4:]
    for v in (0, 1, 4, 3 << 24):
        yield f"G4-7 version {v}", bent(version=v)
    for n in (-1, 1 << 32, 1 << 24):
        yield f"G8 {n} tensors", bent(n_tensors=n)
        yield f"G9 {n} keys", bent(n_kv=n)
    yield "G10 2^32 tensors in 24 bytes", struct.pack("<4sIQQ", b"GGUF", 3, 1 << 32, 0)
    yield "G11 2^24 keys of zeros", struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 24) + bytes(1 << 20)
    yield "G12 header alone", struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)


def keys():
    one = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
    yield "G13 key of 2^63 bytes", one + struct.pack("<Q", 1 << 63)
    yield "G14 key past the end", one + struct.pack("<Q", 9) + b"12345678"
    yield "G15 empty key", raw(struct.pack("<IB", U8, 0), "")
    yield "G16 key twice", after(lambda f: f.kv.append(f.kv[0]))
    yield "G17 key with NUL", raw(struct.pack("<IB", U8, 0), b"a\0b")
    yield "G17 key that is no UTF-8", raw(struct.pack("<IB", U8, 0), b"\xff\xfe")
    yield "G18 kind 13", raw(struct.pack("<IQ", 13, 0))
    yield "G19 kind -1", raw(struct.pack("<iQ", -1, 0))
    yield "G20 bool of 2", raw(struct.pack("<IB", BOOL, 2))
    yield "G21 array of arrays", raw(struct.pack("<IIQ", ARR, ARR, 1) + bytes(16))
    yield "G22 array of kind 13", raw(struct.pack("<IIQ", ARR, 13, 1) + bytes(8))
    yield "G23 array of 2^63", raw(struct.pack("<IIQ", ARR, U8, 1 << 63))
    yield "G24 array whose bytes wrap", raw(struct.pack("<IIQ", ARR, U64, (1 << 61) + 1) + bytes(8))
    yield "G25 second string past the end", one + text("x") + struct.pack("<IIQ", ARR, STR, 2) + text("a") + struct.pack("<Q", 1 << 30)
    n = 1_000_000
    yield "G26 a million keys", struct.pack("<4sIQQ", b"GGUF", 3, 0, n) + b"".join(map(kv_of, range(n)))
    yield "G26 65,000 keys", struct.pack("<4sIQQ", b"GGUF", 3, 0, 65000) + b"".join(map(kv_of, range(65000)))
    for name, value in (("G27 alignment 0", 0), ("G28 alignment 13", 13), ("G29 alignment 2^31", 1 << 31)):
        yield name, key("general.alignment", U32, value)
    yield "G30 alignment as i32", key("general.alignment", I32, 32)
    yield "G30 alignment as text", key("general.alignment", STR, "32")
    yield "G31 no architecture", after(lambda f: f.drop("general.architecture"))
    yield "G31 unknown architecture", key("general.architecture", STR, "hal9000")
    yield "G31 architecture of 1 MiB", key("general.architecture", STR, "a" * (1 << 20))


def tensors():
    good = tiny().bytes()
    for n in (64, 1 << 63):
        yield f"G32 name of {n} bytes", claims(name_len=n)
    yield "G33 name twice", claims(name=b"token_embd.weight")
    for n in (0, 5, (1 << 32) - 1):
        yield f"G34 {n} dimensions", claims(n_dims=n)
    yield "G35 negative dimension", claims(dims=[-64])
    yield "G36 dimension of 0", claims("blk.0.attn_q.weight", dims=[64, 0])
    yield "G37 product of 2^63", claims("blk.0.attn_q.weight", dims=[1 << 32, 1 << 31])
    yield "G38 2^42 + 1", claims("blk.0.attn_q.weight", dims=[(1 << 42) + 1, 1 << 20, 4])
    yield "G39 bytes near 2^64", claims("blk.0.attn_q.weight", dims=[(1 << 62) - 1])
    yield "G40 sum that wraps", after(lambda f: [setattr(t, "dims", [1 << 61]) for t in f.tensors[:2]])
    yield "G41 no whole blocks", claims("blk.0.attn_q.weight", dims=[63, 64], kind=2)
    for kind in (-1, 1000, 4, 5, 31):
        yield f"G42 type {kind}", claims(kind=kind)
    yield "G43 offset not aligned", claims(offset=1)
    yield "G44 overlap", claims(offset=0)
    last = good.rindex(b"output_norm.weight")
    yield "G46 a byte short", good[:-1] if len(good) % 32 == 0 else good
    yield "G47 offset 2^64 - 32", claims(offset=MAX - 31)
    for cut in range(len(good) - 4096, last, -(16384 if MODE == "quick" else 8192)):
        yield f"G48 cut at {cut}", good[:cut]
    f = File()
    f.set("general.architecture", STR, "llama")
    for i in range(100_000):
        f.tensors.append(Tensor(f"t{i}", [1], b"\0\0\0\0"))
    yield "G50 100,000 tensors", f.bytes()


def meanings():
    for value in (0, 3, 1 << 31):
        yield f"G51 {value} heads", key("llama.attention.head_count", U32, value)
    yield "G51 heads missing", after(lambda f: f.drop("llama.attention.head_count"))
    yield "G51 heads of one layer", after(lambda f: f.array("llama.attention.head_count", U32, [4]))
    yield "G52 KV heads", key("llama.attention.head_count_kv", U32, 3)
    for value in (0, 1 << 31):
        yield f"G53 {value} blocks", key("llama.block_count", U32, value)
    yield "G54 embedding's width", key("llama.embedding_length", U32, 128)
    yield "G55 tensor missing", after(lambda f: f.tensors.remove(f.tensor("blk.1.ffn_up.weight")))
    yield "G56 wrong shape", claims("blk.0.ffn_up.weight", dims=[128, 64])
    yield "G57 short vocabulary", after(lambda f: f.array("tokenizer.ggml.tokens", STR, ["a", "b", "c"]))
    spm = tiny()
    spm.set("tokenizer.ggml.model", STR, "llama")
    spm.array("tokenizer.ggml.scores", U8, [0] * VOCAB)
    yield "G58 scores of u8", spm.bytes()
    yield "G59 token types of some", after(lambda f: f.array("tokenizer.ggml.token_type", I32, [1] * (VOCAB - 1)))
    yield "G60 eos past the vocabulary", key("tokenizer.ggml.eos_token_id", U32, VOCAB)
    yield "G60 bos of 2^32 - 1", key("tokenizer.ggml.bos_token_id", U32, (1 << 32) - 1)
    for bad in ("<0x-1>", "<0xZZ>"):
        f = tiny()
        f.set("tokenizer.ggml.model", STR, "llama")
        f.array("tokenizer.ggml.scores", F32, [0.0] * VOCAB)
        f.array("tokenizer.ggml.tokens", STR, [bad] + [f"t{i}" for i in range(VOCAB - 1)])
        f.array("tokenizer.ggml.token_type", I32, [6] + [1] * (VOCAB - 1))
        yield f"G61 {bad}", f.bytes()
    yield "G62 merge without a space", after(lambda f: f.array("tokenizer.ggml.merges", STR, ["he"]))
    yield "G62 merge of unknown tokens", after(lambda f: f.array("tokenizer.ggml.merges", STR, ["qqq zzz"]))
    yield "G63 token twice", after(lambda f: f.array("tokenizer.ggml.tokens", STR, ["a"] * VOCAB))
    for value in (0.0, float("nan"), -1.0):
        yield f"G64 rope base {value}", key("llama.rope.freq_base", F32, value)
    for value in (float("nan"), -1.0):
        yield f"G64 epsilon {value}", key("llama.attention.layer_norm_rms_epsilon", F32, value)
    yield "G65 experts", after(lambda f: (f.set("llama.expert_count", U32, 2), f.set("llama.expert_used_count", U32, 4)))


def attempt(d, path):
    """Imports, and loads what is a right container: the refusal, and how long qllmctl took for it."""
    start = time.monotonic()
    r = d.ctl("import", path, "--name", "bad")
    took = time.monotonic() - start
    if r.code != OK:
        return r, took
    start = time.monotonic()
    r = d.ctl("load", "bad")
    took = time.monotonic() - start
    expect(d.ctl("rm", "bad"), OK) if r.code != OK else d.ctl("unload", "bad")
    return r, took


def anonymous(d):
    with open(f"/proc/{d.process.pid}/status") as f:
        return int(re.search(r"^RssAnon:\s+(\d+) kB", f.read(), re.M)[1]) * 1024


def own_time(d):
    """What qllmctl takes for an answer that costs the daemon nothing."""
    times = []
    for _ in range(9):
        start = time.monotonic()
        d.ctl("is-loaded", "none")
        times.append(time.monotonic() - start)
    return statistics.median(times)


class Judge:
    def __init__(self, d):
        self.d, self.own, self.slow, self.n = d, own_time(d), [], 0

    def refused(self, name, r, took, again, codes=(FAILED,)):
        lines = r.err.decode("utf-8", "strict").splitlines()
        assert r.code in codes and not r.out, f"{name}: {r}"
        assert len(lines) == 1 and lines[0].startswith("qllmctl: ") and 30 < len(lines[0]) < 600, f"{name}: {r}"
        self.d.alive()
        self.n += 1
        # the machine has other things to do as well: what took long has more chances
        for _ in range(4):
            if took - self.own < 0.05:
                break
            took = min(took, again())
        self.slow.append((took - self.own, name))

    def end(self, base):
        grown = anonymous(self.d) - base
        # a sanitizer keeps freed memory for a while
        assert SLOW > 1 or grown < 16 << 20, f"{grown / 1e6:.1f} MB more than before"
        worst = max(self.slow)
        note = f"{self.n} refused, slowest {worst[0] * 1e3:.0f} ms ({worst[1]}), memory {grown / 1e6:+.1f} MB"
        load = os.getloadavg()[0]
        if worst[0] > 0.1 * SLOW and load > os.cpu_count():
            raise Skip(f"the load is {load:.1f}, so times mean nothing: {note}")
        assert worst[0] <= 0.1 * SLOW, (note, sorted(self.slow)[-5:])
        return note


def test_models():
    """Every G case that something built so far reads, imported and loaded by the daemon as users run it."""
    with Daemon() as d, tempfile.TemporaryDirectory() as t:
        path = t + "/bad.gguf"
        good = tiny()
        with open(path, "wb") as f:
            f.write(good.bytes())
        expect(d.ctl("import", path, "--name", "good"), OK)
        want = expect(d.ctl("run", "good", "--raw", "hello", "--temp", "0", "-n", "8", "--ignore-eos"), OK).out
        judge, base = Judge(d), anonymous(d)
        for part in (headers, keys, tensors, meanings):
            for name, data in part():
                with open(path, "wb") as f:
                    f.write(data)
                r, took = attempt(d, path)
                judge.refused(name, r, took, lambda: attempt(d, path)[1])
        # and these are odd, but right
        for name, data in (("G45 gaps", bent(gap=64)), ("G49 trailing bytes", bent(tail=b"garbage" * 99))):
            with open(path, "wb") as f:
                f.write(data)
            expect(d.ctl("import", path, "--name", "odd"), OK)
            r = d.ctl("run", "odd", "--raw", "hello", "--temp", "0", "-n", "8", "--ignore-eos")
            assert r.code == OK and r.out == want, (name, r)
            expect(d.ctl("unload", "odd"), OK)
            expect(d.ctl("rm", "odd"), OK)
        assert d.ctl("run", "good", "--raw", "hello", "--temp", "0", "-n", "8", "--ignore-eos").out == want
        assert [m["name"] for m in d.json("ls")] == ["good"]
        return judge.end(base)


def test_json():
    """J1 to J7 as messages for the daemon's parser."""
    with Daemon() as d, tempfile.TemporaryDirectory() as t:
        path = t + "/good.gguf"
        f = tiny()
        f.set("tokenizer.chat_template", STR, "{% for m in messages %}{{ m['content'] }}{% endfor %}")
        with open(path, "wb") as out:
            out.write(f.bytes())
        expect(d.ctl("import", path, "--name", "good"), OK)
        ask = ("template", "good", "--messages", "-")
        expect(d.ctl(*ask, stdin=b'[{"role":"user","content":"hi"}]'), OK)
        judge, base = Judge(d), anonymous(d)

        def timed(body):
            start = time.monotonic()
            r = d.ctl(*ask, stdin=body)
            return r, time.monotonic() - start

        for i, value in enumerate(VALUES):
            body = HEAD + value + b"}]"
            r, took = timed(body)
            judge.refused(f"value {i}: {value[:20]!r}", r, took, lambda: timed(body)[1], (FAILED, USAGE))
        return judge.end(base)
