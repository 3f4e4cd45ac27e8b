"""Text and tokens: run, chat, tokenize, detokenize, template, logits, eval, bench, and the examples."""

import array
import json
import os
import signal
import subprocess
import tempfile
import time

from harness import (BAD, BUILD, FAILED, INTERRUPTED, MODE, MODELS, NO_TOKEN, OK, SLOW, TIMEOUT, USAGE, Skip, environment,
                     expect, program, same_keys, shared)

PARIS = "What is the capital of France?"
TRICKY = [b"", b"a", b"Hello, world!", bytes(range(256)), b"\xff\xfe\x00\x01", "grün 日本語 🏳️‍🌈".encode(), b"\xe2\x82", b"\n\n \t  x",
          b"<|im_start|>user\nhi<|im_end|>", b" leading", b"trailing  "]


def read_npy(path):
    with open(path, "rb") as f:
        assert f.read(8) == b"\x93NUMPY\x01\x00"
        head = f.read(int.from_bytes(f.read(2), "little")).decode()
        assert "'descr': '<f4'" in head and "'fortran_order': False" in head, head
        rows, cols = eval(head)["shape"]
        data = array.array("f")
        data.frombytes(f.read())
    assert len(data) == rows * cols, (len(data), rows, cols)
    return rows, cols, data


def argmax(data, row, cols):
    part = data[row * cols:(row + 1) * cols]
    return part.index(max(part))


def test_run_paris():
    r = shared().ctl("run", "smollm2", PARIS, "--temp", "0", "-n", "60")
    assert r.code == OK and b"Paris" in r.out and not r.err, r


def test_run_json():
    d = shared()
    r = d.json("run", "smollm2", PARIS, "--temp", "0", "-n", "12", "--logprobs", "3", "-v")
    same_keys(r, "text", "tokens", "finish_reason", "usage", "timings", "logprobs", "token_s")
    same_keys(r["usage"], "prompt_tokens", "cached_tokens", "completion_tokens", "draft_tokens", "draft_accepted")
    same_keys(r["timings"], "prompt_s", "first_token_s", "decode_s")
    assert r["finish_reason"] in ("stop", "length") and r["usage"]["completion_tokens"] == len(r["tokens"]) <= 12, r
    for i, lp in enumerate(r["logprobs"]):
        assert lp["id"] == r["tokens"][i] == lp["top"][0]["id"] and len(lp["top"]) == 3, lp
        assert lp["logprob"] <= 0 and abs(lp["logprob"] - lp["top"][0]["logprob"]) < 1e-4, lp
    # the streamed text is the same text
    assert d.ctl("run", "smollm2", PARIS, "--temp", "0", "-n", "12").text == r["text"]
    cut = d.json("run", "smollm2", "Count from 1 to 100.", "--temp", "0", "-n", "4", "--ignore-eos")
    assert cut["finish_reason"] == "length" and len(cut["tokens"]) == 4, cut
    timing = d.ctl("run", "smollm2", PARIS, "-n", "4", "-v")
    assert b"tokens/s" in timing.err, timing


def test_run_sampling():
    d = shared()
    args = ("run", "smollm2", "Tell me a story.", "-n", "24", "--temp", "1.2", "--top-k", "0", "--top-p", "1", "--min-p", "0")
    a, b, c = (d.json(*args, "--seed", s)["tokens"] for s in ("1", "1", "2"))
    assert a == b != c, (a, b, c)
    # a stop text is not part of the text
    r = d.json("run", "smollm2", "--raw", "1, 2, 3, 4, 5, 6,", "--temp", "0", "-n", "30", "--stop", " 9")
    assert r["finish_reason"] == "stop" and " 9" not in r["text"] and "8" in r["text"], r
    # a banned token does not come
    first = d.json("run", "smollm2", PARIS, "--temp", "0", "-n", "1")["tokens"][0]
    other = d.json("run", "smollm2", PARIS, "--temp", "0", "-n", "1", "--logit-bias", f"{first}=-inf")["tokens"][0]
    assert first != other
    r = d.ctl("run", "smollm2", PARIS, "-n", "2", "--top-p", "7")
    assert r.code in (FAILED, USAGE) and b"top" in r.err, r
    system = d.json("run", "smollm2", "hi", "-n", "1", "--system", "You are a pirate. " * 20)
    assert system["usage"]["prompt_tokens"] > 60, system


def test_run_stdin():
    d = shared()
    want = d.ctl("run", "smollm2", PARIS, "--temp", "0", "-n", "8").out
    assert d.ctl("run", "smollm2", "-", "--temp", "0", "-n", "8", stdin=PARIS.encode()).out == want
    assert d.ctl("run", "smollm2", "--temp", "0", "-n", "8", stdin=PARIS.encode()).out == want
    # bytes that are no text are no reason to fail
    assert d.ctl("run", "smollm2", "--raw", "-", "-n", "4", stdin=bytes(range(256))).code == OK


def test_greedy_is_what_logits_imply():
    """run --raw --temp 0 gives exactly the tokens that the logits of its own path put first."""
    d = shared()
    with tempfile.TemporaryDirectory() as t:
        for prompt in ("The quick brown fox jumps over the lazy dog. " * 12, "def fibonacci(n):\n"):
            ids = d.json("tokenize", "smollm2", prompt)["tokens"]
            made = d.json("run", "smollm2", "--raw", prompt, "--temp", "0", "-n", "24", "--ignore-eos")["tokens"]
            with open(t + "/ids", "w") as f:
                json.dump(ids + made, f)
            shape = d.json("logits", "smollm2", "--tokens", t + "/ids", "--out", t + "/o.npy", "--prompt-tokens",
                           len(ids))["shape"]
            rows, cols, data = read_npy(t + "/o.npy")
            assert [rows, cols] == shape and rows == len(ids) + len(made), shape
            implied = [argmax(data, len(ids) - 1 + i, cols) for i in range(len(made))]
            assert implied == made, (implied, made)
        # the pure paths, and the errors; so short a prompt is exact as a whole
        pure = {}
        for path in ("prompt", "decode", "exact"):
            expect(d.ctl("logits", "smollm2", "--tokens", t + "/ids", "--out", t + "/p.npy", "--path", path), OK)
            pure[path] = read_npy(t + "/p.npy")
            assert pure[path][0] == rows
        assert pure["prompt"] == pure["exact"] != pure["decode"]
        assert sorted(os.listdir(t)) == ["ids", "o.npy", "p.npy"], "something partial was left behind"
        for bad in ("[999999999]", "[-1]", "[]", "{", "[1,"):
            r = expect(d.ctl("logits", "smollm2", "--tokens", "-", "--out", t + "/q.npy", stdin=bad.encode()), BAD)
            assert not os.path.exists(t + "/q.npy"), r


def test_tokens_round_trip():
    """Any bytes come back as they were, small and larger than a frame."""
    d = shared()
    big = bytes(range(256)) * 400 + "wörter und 日本 ".encode() * 5000
    for text in [*TRICKY, big]:
        text = text.translate(None, NO_TOKEN)
        for more in ([], ["--no-special"]):
            ids = d.json("tokenize", "smollm2", "-", "--no-bos", *more, stdin=text)["tokens"]
            back = d.ctl("detokenize", "smollm2", "-", stdin=json.dumps(ids).encode())
            assert back.code == OK and back.out == text, (text[:40], back)
    plain = d.ctl("tokenize", "smollm2", "one two three")
    ids = [int(x) for x in plain.out.split()]
    assert plain.out == (" ".join(map(str, ids)) + "\n").encode()
    assert d.json("tokenize", "smollm2", "one two three") == {"tokens": ids}
    assert d.ctl("detokenize", "smollm2", *ids).out == b"one two three"
    assert d.json("detokenize", "smollm2", json.dumps(ids)) == {"text": "one two three"}
    special = d.json("tokenize", "smollm2", "<|im_start|>")["tokens"]
    plain = d.json("tokenize", "smollm2", "<|im_start|>", "--no-special")["tokens"]
    assert len(special) == 1 < len(plain), (special, plain)
    r = d.ctl("detokenize", "smollm2", "99999999")
    assert r.code in (FAILED, USAGE) and b"99999999" in r.err, r
    expect(d.ctl("detokenize", "smollm2", "1", "x"), USAGE)


def test_template():
    d = shared()
    with tempfile.TemporaryDirectory() as t:
        with open(t + "/m", "w") as f:
            json.dump([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}], f)
        prompt = d.json("template", "smollm2", "--messages", t + "/m")["prompt"]
        assert prompt == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
                          "<|im_start|>assistant\n"), prompt
        assert d.ctl("template", "smollm2", "--messages", t + "/m").text == prompt
        for bad in ("{", "{}", "[1]", '[{"content":"x"}]'):
            r = d.ctl("template", "smollm2", "--messages", "-", stdin=bad.encode())
            expect(r, BAD)


def test_context_overflow():
    """Too long is an error that names both numbers; nothing is cut."""
    d = shared()
    ctx = d.json("load", "smollm2")["ctx"]
    n = ctx + 100
    r = expect(d.ctl("run", "smollm2", "--raw", "-", "-n", "1", stdin=b" a" * n), FAILED)
    assert str(ctx).encode() in r.err.replace(b",", b""), r
    numbers = [int(x) for x in "".join(c if c.isdigit() else " " for c in r.err.decode()).split()]
    assert any(abs(x - n) < 20 for x in numbers), r


def test_timeout_and_interrupt():
    d = shared()
    args = ("run", "smollm2", "Write a very long story.", "--ignore-eos", "--temp", "0")
    start = time.monotonic()
    r = d.ctl("--timeout", "1.5", *args)
    assert r.code == TIMEOUT and r.out and b"timeout" in r.err, r
    assert time.monotonic() - start < 4.5 * SLOW
    for signo, extra in ((signal.SIGINT, ()), (signal.SIGTERM, ("--json",))):
        p = d.popen(*args, *extra)
        time.sleep(1)
        p.send_signal(signo)
        out, err = p.communicate(timeout=10 * SLOW)
        assert p.returncode == INTERRUPTED, (p.returncode, out, err)
        if extra:
            assert json.loads(out)["finish_reason"] == "cancelled"
    until = time.monotonic() + 5 * SLOW
    while d.json("status")["running"] and time.monotonic() < until:
        time.sleep(0.1)
    assert d.json("status")["running"] == 0, "a cancelled request goes on"


def test_chat():
    d = shared()
    lines = f"/system Be brief.\n{PARIS}\n/help\nAnd of Italy?\n/reset\n/quit\nnever reached\n"
    r = d.ctl("chat", "smollm2", "--temp", "0", "-n", "40", stdin=lines.encode())
    assert r.code == OK and b"Paris" in r.out and b"Rome" in r.out and b"/reset" in r.err, r


def test_eval():
    d = shared()
    with tempfile.TemporaryDirectory() as t:
        with open(t + "/text", "w") as f:
            f.write("The cat sat on the mat, and the dog lay beside the fire while it rained. " * 60)
        r = d.json("eval", "smollm2", "--text", t + "/text", "--ctx", "128", "--chunks", "2")
        same_keys(r, "ppl", "ppl_stderr", "tokens")
        assert 1 < r["ppl"] < 20 and r["tokens"] > 60, r
        r = d.json("eval", "smollm2", "--text", t + "/text", "--ctx", "128", "--chunks", "2", "--ref", "smollm2")
        same_keys(r, "kld_mean", "kld_p99", "kld_max", "top1")
        assert abs(r["kld_mean"]) < 1e-6 and r["top1"] == 1, r
        expect(d.ctl("eval", "smollm2", "--text", "-", stdin=b"too short"), BAD)


def test_bench():
    d = shared()
    r = d.json("bench", "smollm2", "-p", "64", "-n", "16", "--repeat", "2")
    same_keys(r, "pp", "tg", "flops_per_token", "tflops", "latency_ms", "cpu", "kernels", "threads")
    same_keys(r["tg"], "tokens", "tok_s", "full_tok_s", "bytes_per_token", "read_bw_gb_s", "fraction")
    for name in ("first_token", "per_token", "end_to_end"):
        same_keys(r["latency_ms"][name], "p50", "p99")
    assert r["pp"]["tokens"] == 64 and r["tg"]["tokens"] == 16 and r["pp"]["tok_s"] > 0 and r["tg"]["tok_s"] > 0, r
    assert r["tg"]["read_bw_gb_s"] > 0 and 0 < r["tg"]["fraction"] < 2, r
    both = d.json("bench", "smollm2", "-p", "32", "-n", "8", "--repeat", "1", "-c", "3", "-d", "16")
    assert both["clients"] == 3 and both["pp"]["tok_s"] > 0 and both["tg"]["full_tok_s"] > 0, both
    return f"pp64 {r['pp']['tok_s']:.0f}, tg16 {r['tg']['tok_s']:.0f} tokens/s"


def test_gemma_has_no_template():
    """A base model says so and goes on; its vocabulary has every byte."""
    path = os.path.join(MODELS, "gemma3.gguf")
    if MODE == "quick" or not os.path.exists(path):
        raise Skip("gemma3 is not here")
    d = shared()
    expect(d.ctl("import", path, "--name", "gemma"), OK)
    try:
        r = d.ctl("run", "gemma", "The capital of France is", "--temp", "0", "-n", "8")
        assert r.code == OK and r.out and b"template" in r.err, r
        quiet = d.ctl("-q", "run", "gemma", "The capital of France is", "--temp", "0", "-n", "8")
        assert quiet.out == r.out and not quiet.err, quiet
        for text in TRICKY:
            ids = d.json("tokenize", "gemma", "-", "--no-bos", stdin=text)["tokens"]
            back = d.ctl("detokenize", "gemma", "-", stdin=json.dumps(ids).encode())
            assert back.out == text, (text, back)
    finally:
        d.ctl("rm", "gemma")


def test_examples():
    d = shared()
    env = environment(QLLM_SOCKET=d.socket)
    for name, prompts in (("blocking", [PARIS]), ("poll", [PARIS]), ("glib", [PARIS, "What is the capital of Italy?"])):
        path = program("examples/" + name)
        if not os.path.exists(path):
            if name == "glib" and not os.path.exists(os.path.join(BUILD, "examples", "glib")):
                continue
            raise AssertionError(f"{path} is not built: make check builds it")
        p = subprocess.run([path, "smollm2", *prompts], stdin=subprocess.DEVNULL, capture_output=True, env=env, timeout=120 * SLOW)
        assert p.returncode == 0 and len(p.stdout) > 10, (name, p)
        bad = subprocess.run([path, "nope", *prompts], stdin=subprocess.DEVNULL, capture_output=True, env=env)
        assert bad.returncode != 0 and b"nope" in bad.stderr, (name, bad)
