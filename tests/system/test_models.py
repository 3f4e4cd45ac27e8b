"""The store: import, ls, show, verify, estimate, load, ps, unload, rm; names, owners and bad files."""

import os
import random
import struct
import tempfile

from harness import (FAILED, OK, STATE, UNKNOWN, USAGE, Daemon, expect, model_file, same_keys, shared)


def test_status():
    d = shared()
    s = d.json("status")
    same_keys(s, "version", "ready", "uptime_s", "budget_bytes", "used_bytes", "free_bytes", "models", "loaded", "running",
              "waiting", "threads", "threads_why", "cpu", "kernels", "socket", "pid")
    assert s["ready"] is True and s["pid"] == d.process.pid and s["socket"] == d.socket and s["threads"] >= 1, s
    assert s["threads_why"], s
    assert d.ctl("is-ready").code == OK
    v = d.json("version")
    assert v["version"] == v["daemon"] == v["libqllm"], v
    assert d.ctl("status").text.startswith("qllmd "), "the text form"


def test_import_ls_rm():
    with Daemon() as d:
        assert d.json("ls") == []
        path = model_file("smollm2")
        m = d.json("import", path)
        rows = d.json("ls")
        assert len(rows) == 1, rows
        row = rows[0]
        same_keys(row, "name", "path", "architecture", "parameters", "bytes", "type", "loaded", "packed", "in_place")
        assert row["name"] == "smollm2" == m["name"] and row["architecture"] == "llama", row
        assert row["bytes"] == os.path.getsize(path) and row["path"] == os.path.realpath(path), row
        assert 134_000_000 < row["parameters"] < 164_000_000 and row["in_place"] is False, row
        assert d.ctl("-q", "ls").out == b"smollm2\n"
        assert b"NAME" in d.ctl("ls").out and b"NAME" not in d.ctl("ls", "--no-legend").out
        # the same name again
        r = expect(d.ctl("import", path), FAILED)
        assert b"smollm2" in r.err, r
        assert d.ctl("import", path, "--name", "second", "-q").out == b""
        assert [x["name"] for x in d.json("ls")] == ["second", "smollm2"]
        expect(d.ctl("is-loaded", "second"), STATE)
        expect(d.ctl("rm", "second"), OK)
        assert d.json("rm", "smollm2") == {"removed": "smollm2"}
        assert d.json("ls") == []
        left = [f for _, _, files in os.walk(d.state) for f in files if f.endswith(".gguf")]
        assert not left, f"the store still holds {left}"


def test_unknown_model():
    d = shared()
    with tempfile.TemporaryDirectory() as t:
        ids, messages, text = t + "/ids", t + "/messages", t + "/text"
        open(ids, "w").write("[1,2,3]")
        open(messages, "w").write('[{"role":"user","content":"hi"}]')
        open(text, "w").write("some text " * 2000)
        for args in (["show", "nope"], ["rm", "nope"], ["verify", "nope"], ["estimate", "nope"], ["load", "nope"],
                     ["unload", "nope"], ["run", "nope", "hi"], ["tokenize", "nope", "hi"], ["detokenize", "nope", "1"],
                     ["template", "nope", "--messages", messages], ["logits", "nope", "--tokens", ids, "--out", t + "/o"],
                     ["eval", "nope", "--text", text], ["bench", "nope"], ["is-loaded", "nope"]):
            r = expect(d.ctl(*args), UNKNOWN)
            assert b"nope" in r.err, r
        assert not os.path.exists(t + "/o")


def test_in_place():
    with Daemon() as d:
        path = model_file("smollm2")
        expect(d.ctl("import", path, "--name", "here", "--in-place"), OK)
        row = d.json("ls")[0]
        assert row["in_place"] is True and row["path"] == os.path.realpath(path), row
        stored = sum(os.path.getsize(os.path.join(p, f)) for p, _, files in os.walk(d.state) for f in files)
        assert stored < 1 << 20, f"an import in place has copied {stored} bytes"
        # the same bytes through the other mapping
        expect(d.ctl("import", path, "--name", "copy"), OK)
        here, copy = (d.json("run", m, "What is the capital of France?", "--temp", "0", "-n", "20")["tokens"]
                      for m in ("here", "copy"))
        assert here == copy and here, (here, copy)
        expect(d.ctl("rm", "here"), OK)
        assert os.path.exists(path)


def test_show():
    d = shared()
    s = d.json("show", "smollm2")
    same_keys(s, "name", "architecture", "parameters", "bytes")
    tensors = d.json("show", "smollm2", "--tensors")["tensors"]
    assert len(tensors) > 200
    same_keys(tensors[0], "name", "type", "bytes")
    assert any(t["name"] == "token_embd.weight" for t in tensors)
    assert "im_start" in d.json("show", "smollm2", "--template")["template"]
    meta = d.json("show", "smollm2", "--metadata")["metadata"]
    assert meta["general.architecture"] == "llama", list(meta)[:5]
    for more in ([], ["--tensors"], ["--template"], ["--metadata"]):
        assert len(expect(d.ctl("show", "smollm2", *more), OK).out) > 40
    assert b"\t" not in d.ctl("show", "smollm2", "--tensors").out


def test_verify_estimate():
    d = shared()
    v = d.json("verify", "smollm2")
    assert v["ok"] is True, v
    e = d.json("estimate", "smollm2", "--ctx", "1024", "--slots", "2")
    same_keys(e, "weights_bytes", "kv_bytes", "kv_bytes_per_token", "activation_bytes", "budget_bytes", "fits")
    assert e["ctx"] == 1024 and e["slots"] == 2 and e["kv_bytes"] >= 2 * 1024 * e["kv_bytes_per_token"], e
    # 30 layers, 3 KV heads of 64, K and V in two bytes
    assert e["kv_bytes_per_token"] == 30 * 3 * 64 * 2 * 2, e
    expect(d.ctl("estimate", "smollm2"), OK)


def test_estimate_windows():
    with Daemon() as d:
        expect(d.ctl("import", model_file("gemma3"), "--name", "m", "--in-place"), OK)
        # 3 layers that see all 128 pages, 15 that keep 21: a window of 512 and a step of 128
        e = d.json("estimate", "m", "--ctx", "4096")
        assert e["kv_bytes"] == (3 * 128 + 15 * 21) * 32 * 256 * 2 * 2, e


def test_load_ps_unload():
    with Daemon() as d:
        expect(d.ctl("import", model_file("smollm2"), "--name", "m"), OK)
        assert d.json("ps") == []
        expect(d.ctl("unload", "m"), STATE)
        loaded = d.json("load", "m", "--pin")
        same_keys(loaded, "name", "seconds", "ctx", "was_loaded")
        assert loaded["was_loaded"] is False
        assert d.ctl("is-loaded", "m").code == OK
        ps = d.json("ps")
        same_keys(ps[0], "name", "bytes", "resident_bytes", "references", "kv_pages", "idle_s", "pinned")
        assert ps[0]["pinned"] is True and ps[0]["name"] == "m", ps
        assert b"m " in d.ctl("ps").out
        assert d.json("load", "m")["was_loaded"] is True
        expect(d.ctl("unload", "m"), OK)
        assert d.ctl("is-loaded", "m").code == STATE
        r = d.ctl("load", "m", "--ctx", "100000000")
        assert r.code in (FAILED, 5), r


def head(n_tensors=0, n_kv=0, version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, n_tensors, n_kv)


def key(name, type_, value):
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", type_) + value


def text(value):
    return struct.pack("<Q", len(value)) + value


def bad_files():
    with open(model_file("smollm2"), "rb") as f:
        good = f.read(4 << 20)
    rng = random.Random(7)
    arch = key(b"general.architecture", 8, text(b"llama"))
    tensor = text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 32, 0, 0)
    yield "empty", b""
    yield "short", b"GGUF\3"
    yield "other", b"not a model at all\n" * 100
    yield "version", head(version=99)
    yield "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 1)
    yield "tensors-huge", head(n_tensors=1 << 62)
    yield "kv-huge", head(n_kv=1 << 62)
    yield "key-huge", head(n_kv=1) + struct.pack("<Q", 1 << 60)
    yield "array-huge", head(n_kv=1) + key(b"a", 9, struct.pack("<IQ", 4, 1 << 61))
    yield "array-nested", head(n_kv=1) + key(b"a", 9, struct.pack("<IQ", 9, 1) * 1000)
    yield "no-arch", head(n_tensors=1) + tensor + bytes(8192)
    yield "arch-unknown", head(n_tensors=1, n_kv=1) + key(b"general.architecture", 8, text(b"nonsense")) + tensor + bytes(8192)
    yield "arch-only", head(n_tensors=1, n_kv=1) + arch + tensor + bytes(8192)
    yield "offset-far", head(n_tensors=1, n_kv=1) + arch + tensor[:-8] + struct.pack("<Q", 1 << 40) + bytes(8192)
    yield "dims-overflow", (head(n_tensors=1, n_kv=1) + arch + text(b"token_embd.weight") +
                            struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0) + bytes(8192))
    yield "type-unknown", (head(n_tensors=1, n_kv=1) + arch + text(b"token_embd.weight") +
                           struct.pack("<IQQIQ", 2, 32, 32, 200, 0) + bytes(8192))
    yield "cut-header", good[:100_000]
    yield "cut-data", good
    for i in range(12):
        b = bytearray(good)
        for _ in range(40):
            b[rng.randrange(4, 2000)] = rng.randrange(256)
        yield f"noise-{i}", bytes(b)


def test_bad_files():
    """One sentence and exit code 1 for each, in the copy and in place; the daemon goes on."""
    d = shared()
    n = 0
    with tempfile.TemporaryDirectory() as t:
        for name, data in bad_files():
            path = f"{t}/{name}.gguf"
            with open(path, "wb") as f:
                f.write(data)
            for more in ([], ["--in-place"]):
                r = d.ctl("import", path, "--name", "bad", *more)
                if r.code == OK:
                    # a sound container of something that cannot run: it may be kept and shown, but says why it does not load
                    r = d.ctl("run", "bad", "hi", "-n", "1")
                    expect(d.ctl("rm", "bad"), OK)
                expect(r, FAILED)
                assert r.err.count(b"\n") == 1, r
                n += 1
            d.alive()
        os.mkfifo(t + "/fifo.gguf")
        expect(d.ctl("import", t + "/fifo.gguf", timeout=10), FAILED)
        expect(d.ctl("import", "/dev/zero", "--name", "z"), FAILED)
        expect(d.ctl("import", t + "/nowhere.gguf"), FAILED)
        assert b"not built yet" in expect(d.ctl("import", t), USAGE).err
    assert [m["name"] for m in d.json("ls")] == ["smollm2"]
    assert d.ctl("run", "smollm2", "hi", "-n", "2").code == OK
    return f"{n} refused"


def test_kv_types():
    """Keys and values in fewer bits: answers, less memory for a page, the type in ps, refusals."""
    with Daemon() as d:
        d.json("import", model_file("smollm2"))
        f16 = d.json("estimate", "smollm2", "--ctx", "4096")
        for kv, most in (("kv8", 0.55), ("kv4", 0.35)):         # kv4: and a sequence's last pages in 8 bits
            d.ctl("load", "smollm2", "--kv", kv)
            assert d.json("ps")[0]["kv"] == kv
            small = d.json("estimate", "smollm2", "--ctx", "4096", "--kv", kv)
            assert small["kv_bytes"] < most * f16["kv_bytes"], (small, f16)
            assert d.json("estimate", "smollm2", "--ctx", "4096") == small, "as it is loaded"
            a = d.json("run", "smollm2", "--raw", "--temp", "0", "-n", "48", "The capital of France is")
            b = d.json("run", "smollm2", "--raw", "--temp", "0", "-n", "48", "The capital of France is")
            assert a["text"] == b["text"] and "Paris" in a["text"], (a, b)
            row = d.json("ps")[0]
            assert row["kv"] == kv and row["kv_pages_max"] > 0, row
        assert b" kv4 " in d.ctl("ps").out
        # an unused model is loaded again with what is asked for; nothing asked keeps it
        assert d.json("load", "smollm2")["was_loaded"] is True
        assert d.json("load", "smollm2", "--kv", "f16")["was_loaded"] is False
        assert d.json("ps")[0]["kv"] == "f16"
        d.ctl("load", "smollm2", "--pin")
        r = expect(d.ctl("load", "smollm2", "--kv", "kv8"), 75)
        assert b"in use with KV type f16" in r.err, r
        r = expect(d.ctl("load", "smollm2", "--kv", "tok3"), USAGE)
        assert b"tok3 is not built" in r.err and b"kv8" in r.err, r
        assert d.ctl("load", "smollm2", "--kv", "kv9").code == USAGE
