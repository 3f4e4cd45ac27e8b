"""GGUF files made by hand: right ones of tiny random models, and whatever can be bent about them. Standard library only."""

import array
import random
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
_FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
VOCAB = 320


def text(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def scalar(kind, value):
    return text(value) if kind == STR else struct.pack("<" + _FORMATS[kind], value)


def values(kind, items):
    if kind == STR:
        return b"".join(map(text, items))
    return struct.pack(f"<{len(items)}{_FORMATS[kind]}", *items)


class Tensor:
    """`dims`, `kind` and `offset` are what the file claims; `data` is what it holds."""

    def __init__(self, name, dims, data, kind=0):
        self.name = name if isinstance(name, bytes) else name.encode()
        self.dims, self.kind, self.data = list(dims), kind, data
        self.offset = self.name_len = self.n_dims = None


class File:
    def __init__(self):
        self.magic, self.version = b"GGUF", 3
        self.n_kv = self.n_tensors = None       # what is claimed; None = the truth
        self.kv = []                            # (key, kind and payload as they stand)
        self.tensors = []
        self.alignment, self.gap, self.tail = 32, 0, b""

    def raw(self, key, payload):
        self.kv.append((key if isinstance(key, bytes) else key.encode(), payload))

    def drop(self, key):
        self.kv = [(k, v) for k, v in self.kv if k != key.encode()]

    def set(self, key, kind, value):
        self.drop(key)
        self.raw(key, struct.pack("<I", kind) + scalar(kind, value))

    def array(self, key, kind, items, n=None):
        self.drop(key)
        self.raw(key, struct.pack("<IIQ", ARR, kind, len(items) if n is None else n) + values(kind, items))

    def tensor(self, name):
        return next(t for t in self.tensors if t.name == name.encode())

    def header(self):
        out = bytearray(self.magic + struct.pack(
            "<IQQ", self.version, (len(self.tensors) if self.n_tensors is None else self.n_tensors) % (1 << 64),
            (len(self.kv) if self.n_kv is None else self.n_kv) % (1 << 64)))
        for key, payload in self.kv:
            out += text(key) + payload
        at = 0
        for t in self.tensors:
            out += struct.pack("<Q", len(t.name) if t.name_len is None else t.name_len) + t.name
            out += struct.pack("<I", len(t.dims) if t.n_dims is None else t.n_dims)
            out += b"".join(struct.pack("<Q", d % (1 << 64)) for d in t.dims)
            out += struct.pack("<IQ", t.kind % (1 << 32), (at if t.offset is None else t.offset) % (1 << 64))
            at += -(-len(t.data) // self.alignment) * self.alignment + self.gap
        return bytes(out)

    def bytes(self):
        out = bytearray(self.header())
        for t in self.tensors:
            out += bytes(-len(out) % self.alignment)
            out += t.data + bytes(-len(t.data) % self.alignment) + bytes(self.gap)
        return bytes(out + self.tail)


def _spelling():
    """GPT-2's spelling of bytes: printable Latin-1 as it is, the others in order from U+0100."""
    plain = [b for b in range(256) if 33 <= b <= 126 or (b >= 161 and b != 173)]
    other = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(other)) for b in range(256)]


def tiny(n_embd=64, n_layer=2, n_head=4, n_ff=128, n_ctx=512, seed=1):
    """A complete llama model of random F32 weights over a vocabulary of bytes."""
    f, rng, head = File(), random.Random(seed), n_embd // n_head
    f.set("general.architecture", STR, "llama")
    for key, value in (("context_length", n_ctx), ("embedding_length", n_embd), ("block_count", n_layer),
                       ("feed_forward_length", n_ff), ("attention.head_count", n_head),
                       ("attention.head_count_kv", n_head), ("rope.dimension_count", head)):
        f.set("llama." + key, U32, value)
    f.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    f.set("llama.rope.freq_base", F32, 10000.0)
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + _spelling() + ["he", "th"]
    tokens += [f"[unused{i}]" for i in range(len(tokens), VOCAB)]
    f.set("tokenizer.ggml.model", STR, "gpt2")
    f.set("tokenizer.ggml.pre", STR, "gpt-2")
    f.array("tokenizer.ggml.tokens", STR, tokens)
    f.array("tokenizer.ggml.token_type", I32, [3] * 3 + [1] * 258 + [5] * (VOCAB - 261))
    f.array("tokenizer.ggml.merges", STR, ["h e", "t h"])
    f.set("tokenizer.ggml.bos_token_id", U32, 0)
    f.set("tokenizer.ggml.eos_token_id", U32, 2)

    def add(name, dims, mean, sigma):
        n = 1
        for d in dims:
            n *= d
        # 256 levels of a flat distribution with this deviation
        table = [mean + sigma * 3 ** 0.5 * (b - 127.5) / 127.5 for b in range(256)]
        f.tensors.append(Tensor(name, dims, array.array("f", map(table.__getitem__, rng.randbytes(n))).tobytes()))

    def matrix(name, n_in, n_out):
        add(name, (n_in, n_out), 0, n_in ** -0.5)

    add("token_embd.weight", (n_embd, VOCAB), 0, 0.1)
    for i in range(n_layer):
        for norm in ("attn_norm", "ffn_norm"):
            add(f"blk.{i}.{norm}.weight", (n_embd,), 1, 0.2)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{i}.{name}.weight", n_embd, n_embd)
        matrix(f"blk.{i}.ffn_gate.weight", n_embd, n_ff)
        matrix(f"blk.{i}.ffn_up.weight", n_embd, n_ff)
        matrix(f"blk.{i}.ffn_down.weight", n_ff, n_embd)
    add("output_norm.weight", (n_embd,), 1, 0.2)
    return f
