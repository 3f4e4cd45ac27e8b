#!/usr/bin/env python3
"""The float32 oracle: an independent numpy forward pass of llama, qwen2 and gemma3 from a GGUF's dequantized weights.

usage: oracle.py MODEL.gguf --tokens FILE.json --out F.npy
Row t of the output is the logits after token t. One context, no cache; weights are dequantized by the gguf package.
Written from the families' published definitions (transformers' modelling files are the reference):
  llama   RMSNorm, RoPE on interleaved pairs as GGUF permutes q and k, SwiGLU
  qwen2   the same with q, k, v biases and RoPE on halves
  gemma3  norms before and after both blocks, QK norm, sqrt(n_embd) on embeddings, tanh-GELU gate, five windowed layers
          (RoPE base 10,000) for each global one
"""
import argparse
import json
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


def rms(x, w, eps):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(eps)) * w


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)))


def rope(x, pos, base, neox, scale, factors):
    """x [n, heads, d]"""
    n, h, d = x.shape
    inv = base ** (-np.arange(0, d, 2, dtype=np.float64) / d)
    if factors is not None:
        inv = inv / factors
    ang = pos[:, None].astype(np.float64) * scale * inv[None, :]
    c, s = np.cos(ang)[:, None, :].astype(np.float32), np.sin(ang)[:, None, :].astype(np.float32)
    a, b = (x[..., :d // 2], x[..., d // 2:]) if neox else (x[..., 0::2], x[..., 1::2])
    ra, rb = a * c - b * s, a * s + b * c
    out = np.empty_like(x)
    if neox:
        out[..., :d // 2], out[..., d // 2:] = ra, rb
    else:
        out[..., 0::2], out[..., 1::2] = ra, rb
    return out


class Oracle:
    def __init__(self, path):
        r = GGUFReader(path)
        self.f = {k: v.contents() for k, v in r.fields.items() if not k.startswith("tokenizer.ggml.tokens")
                  and not k.startswith("tokenizer.ggml.merges") and not k.startswith("tokenizer.ggml.scores")
                  and not k.startswith("tokenizer.ggml.token_type") and not k.startswith("GGUF.")}
        self.arch = self.f["general.architecture"]
        self.w = {}
        for t in r.tensors:
            self.w[t.name] = dequantize(t.data, t.tensor_type).astype(np.float32).reshape(tuple(reversed(t.shape.tolist())))
        self.n_layer = self.key("block_count")
        self.n_head = self.key("attention.head_count")
        self.n_kv = self.key("attention.head_count_kv", self.n_head)
        self.n_embd = self.key("embedding_length")
        self.hd = self.key("attention.key_length", self.n_embd // self.n_head)
        self.eps = self.key("attention.layer_norm_rms_epsilon")
        self.base = self.key("rope.freq_base", 10000.0)
        self.window = self.key("attention.sliding_window", 0)
        self.add_bos = bool(self.f.get("tokenizer.ggml.add_bos_token", False))
        self.bos = self.f.get("tokenizer.ggml.bos_token_id", -1)
        self.neox = self.arch != "llama"
        self.gemma = self.arch == "gemma3"
        self.rope_scale = 1.0
        if self.f.get(self.arch + ".rope.scaling.type") == "linear":
            self.rope_scale = 1.0 / self.key("rope.scaling.factor")

    def key(self, name, default=None):
        v = self.f.get(self.arch + "." + name, default)
        if v is None:
            raise SystemExit(f"{self.arch}.{name} is missing")
        return v

    def attention(self, i, x, pos):
        n, w, p = len(x), self.w, f"blk.{i}."
        qkv = []
        for name, heads in (("q", self.n_head), ("k", self.n_kv), ("v", self.n_kv)):
            y = x @ w[p + f"attn_{name}.weight"].T
            if p + f"attn_{name}.bias" in w:
                y = y + w[p + f"attn_{name}.bias"]
            qkv.append(y.reshape(n, heads, self.hd))
        q, k, v = qkv
        if p + "attn_q_norm.weight" in w:
            q, k = rms(q, w[p + "attn_q_norm.weight"], self.eps), rms(k, w[p + "attn_k_norm.weight"], self.eps)
        local = self.gemma and (i + 1) % 6 != 0
        base = 10000.0 if local else self.base
        factors = w.get("rope_freqs.weight")
        scale = 1.0 if local else self.rope_scale
        q, k = (rope(t, pos, base, self.neox, scale, factors) for t in (q, k))
        rep = self.n_head // self.n_kv
        k, v = np.repeat(k, rep, axis=1), np.repeat(v, rep, axis=1)
        s = np.einsum("qhd,khd->hqk", q, k, optimize=True) / np.float32(np.sqrt(self.hd))
        hidden = pos[None, :] > pos[:, None]
        if self.window and (local or not self.gemma):
            hidden |= pos[:, None] - pos[None, :] >= self.window
        s = np.where(hidden[None], np.float32(-np.inf), s)
        s = np.exp(s - s.max(axis=-1, keepdims=True))
        s /= s.sum(axis=-1, keepdims=True)
        o = np.einsum("hqk,khd->qhd", s, v, optimize=True).reshape(n, -1)
        return o @ w[p + "attn_output.weight"].T

    def logits(self, ids):
        ids = np.asarray(ids)
        pos = np.arange(len(ids))
        w = self.w
        x = w["token_embd.weight"][ids]
        if self.gemma:
            x = x * np.float32(np.sqrt(self.n_embd))
        for i in range(self.n_layer):
            p = f"blk.{i}."
            a = self.attention(i, rms(x, w[p + "attn_norm.weight"], self.eps), pos)
            if self.gemma:
                a = rms(a, w[p + "post_attention_norm.weight"], self.eps)
            x = x + a
            h = rms(x, w[p + "ffn_norm.weight"], self.eps)
            act = gelu_tanh if self.gemma else silu
            h = (act(h @ w[p + "ffn_gate.weight"].T) * (h @ w[p + "ffn_up.weight"].T)) @ w[p + "ffn_down.weight"].T
            if self.gemma:
                h = rms(h, w[p + "post_ffw_norm.weight"], self.eps)
            x = x + h
        x = rms(x, w["output_norm.weight"], self.eps)
        return x @ w.get("output.weight", w["token_embd.weight"]).T


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("--tokens", required=True)
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    with open(args.tokens) as f:
        ids = json.load(f)
    np.save(args.out, Oracle(args.model).logits(ids).astype(np.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
