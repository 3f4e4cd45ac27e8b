#!/usr/bin/env python3
"""Write tests/kernels/golden-dequant.h: one block of every type and its values by the `gguf` Python package.

Run with gguf and numpy installed: mk-dequant.py > tests/kernels/golden-dequant.h
"""
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

# Offsets of the f16 fields, to be kept finite.
F16_AT = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
SIZES = {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "IQ4_NL": (32, 18),
         "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210)}


def rows(values, form, per_line):
    for i in range(0, len(values), per_line):
        print("\t\t" + " ".join(form % v + "," for v in values[i:i + per_line]))


def main():
    rng = np.random.default_rng(20240817)
    print("/* golden-dequant - made by tests/golden/mk-dequant.py with the gguf package; values are float bits. */")
    print("static const struct golden {\n\tenum qtype type;\n\tsize_t n;\n\tuint8_t block[210];\n"
          "\tuint32_t value[256];\n} golden[] = {")
    for name, at in F16_AT.items():
        n, size = SIZES[name]
        block = rng.integers(0, 256, size, dtype=np.uint8)
        for i in at:
            h = np.float16(rng.normal() * 0.1)
            block[i:i + 2] = np.frombuffer(h.tobytes(), dtype=np.uint8)
        value = quants.dequantize(block.reshape(1, size), T[name]).reshape(-1).astype(np.float32)
        assert value.size == n
        print("\t{ QTYPE_%s, %d, {" % (name, n))
        rows(list(block), "0x%02x", 16)
        print("\t}, {")
        rows(list(value.view(np.uint32)), "0x%08x", 8)
        print("\t} },")
    print("};")


main()
