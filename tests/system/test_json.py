"""Bad JSON and bad token ids, as users give them to qllmctl: one sentence, exit 1 or 2, and the daemon goes on."""

import json
import os
import tempfile

from harness import FAILED, OK, USAGE, shared

HEAD = b'[{"role":"user","content":"hi","x":'
DEEP = 100000
# Of any value inside JSON: J1 to J6 of the cases that tests/README.md lists.
VALUES = [b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"1e400", b"-1e400", b"NaN", b"Infinity",
          b"18446744073709551616", b"01", b"+1", b'"\\ud800"', b'"\\udc00"', b'"\\u0000"', b'"\xc0\xaf"',
          b'"\xed\xa0\x80"', b'"\xff"', b'{"a":1,"a":2}', b"[1,]", b"[1 2]", b"7" * (1 << 20), b"1e" + b"7" * (1 << 20), b'"a\nb"',
          b'"a\0b"', b""]


def refused(d, r, left=()):
    """One line for people that is no dump, nothing on stdout, no file left."""
    assert r.code in (FAILED, USAGE) and not r.out, r
    lines = r.err.decode("utf-8", "strict").splitlines()
    assert len(lines) == 1 and 10 < len(lines[0]) < 400 and lines[0].startswith("qllmctl: "), r
    for path in left:
        assert not os.path.exists(path), path
    d.alive()


def serves(d):
    r = d.ctl("run", "smollm2", "--raw", "1, 2, 3,", "-n", "2", "--temp", "0")
    assert r.code == OK and r.out, r


def test_messages_and_tools():
    d = shared()
    good = b'[{"role":"user","content":"hi"}]'
    whole = [b"", b" ", b"[", b"{", b"{}", b"null", b"1", b'"x"', b"\xff\xfe[", b"\xef\xbb\xbf[]", good + b"x", good + b"[]", b"\0"]
    with tempfile.TemporaryDirectory() as t:
        with open(t + "/good", "wb") as f:
            f.write(good)
        texts = whole + [HEAD + v + b"}]" for v in VALUES]
        for text in texts:
            refused(d, d.ctl("template", "smollm2", "--messages", "-", stdin=text))
            with open(t + "/bad", "wb") as f:
                f.write(text)
            refused(d, d.ctl("template", "smollm2", "--messages", t + "/good", "--tools", t + "/bad"))
        for text in (b"[]", b"[1]", b"[null]", b"[[]]", b'[{"content":"x"}]', b'[{"role":7,"content":"x"}]',
                     b'[{"role":"user","content":{}}]', b'[{"role":"user"}]'):
            r = d.ctl("template", "smollm2", "--messages", "-", stdin=text)
            if r.code != OK or b'"role":"user"' not in text:    # a template may print what is no text
                refused(d, r)
        refused(d, d.ctl("template", "smollm2", "--messages", t))           # a directory
        refused(d, d.ctl("template", "smollm2", "--messages", t + "/none"))
        r = d.ctl("template", "smollm2", "--messages", "-", stdin=HEAD + b'[-0, 1e-400, "\\ud83d\\ude00"]}]')
        assert r.code == OK, r
    serves(d)


def test_token_ids():
    d = shared()
    n_vocab = d.json("show", "smollm2", "--metadata")["metadata"]["llama.vocab_size"]
    ids = [b"[-1]", b"[1.5]", b"[1.0]", b'["1"]', b"[null]", b"[true]", b"[[1]]", b"[2147483648]", b"[18446744073709551616]", b"{}",
           b'{"tokens":1}', b'{"tokens":[1],"tokens":[2]}', b"[1]x", b"1 x", b"NaN", b"-1", b"99999999999999999999", b"7" * (1 << 20),
           b"\xff", b"1\0", f"[{n_vocab}]".encode(), b"[2147483647]", b"[1, 2, %d]" % n_vocab]
    with tempfile.TemporaryDirectory() as t:
        out = t + "/o.npy"
        for text in ids + [b"[" + v + b"]" for v in VALUES if v] + VALUES[:1]:
            refused(d, d.ctl("detokenize", "smollm2", "-", stdin=text))
            refused(d, d.ctl("logits", "smollm2", "--tokens", "-", "--out", out, stdin=text), [out, out + ".partial"])
        for word in ("-1", "1.5", "x", "99999999999999999999", str(n_vocab), "[1", "\udcff"):
            refused(d, d.ctl("detokenize", "smollm2", "--", os.fsencode(word)))
        r = d.ctl("detokenize", "smollm2", "-", stdin=json.dumps([n_vocab - 1]).encode())
        assert r.code == OK, r
    serves(d)
