#!/usr/bin/env python3
"""Make tests/golden/tok-strings.json: 150 hard strings and the ids llama.cpp gives them.

usage: mk-tok.py LLAMA_TOKENIZE MODEL_DIR     (smollm2.gguf and gemma3.gguf in it)

Each case holds the bytes in base64, and for each model the ids with special tokens parsed ("special") and as plain
text ("plain"), both without BOS. Strings that are not UTF-8 carry no ids: what is asked of them is the round trip.
The strings stand in this file, fixed before any comparison, so the table can be made again.
"""
import ast, base64, json, os, subprocess, sys, tempfile

TEXT = [
    # words, blanks, line ends
    "", " ", "  ", "   ", "\t", "\t\t\t", "\n", "\n\n", "\n\n\n\n\n", "\r\n", "\r\n\r\n", " \n ", "\n \n", " \t \n\t ",
    "a", " a", "a ", "  a  ", "Hello world", "Hello  world", " Hello   world    !", "Hello\tworld\n", "line one\r\nline two",
    "x" + " " * 40 + "y", " " * 100, "\n" * 64, "\t" * 40, "a\n" * 20, "trailing blanks   \n   leading blanks",
    "if (x) {\n\tfor (int i = 0; i < n; i++) {\n\t\ty += x[i];\n\t}\n}\n",
    "def f(x):\n    return [i ** 2 for i in range(x) if i % 2 == 0]\n\n\nprint(f(10))",
    "<html><body><p>one<br/>two</p><table><tr><td>x</td></tr></table></body></html>",
    "{\"key\": [1, 2.5, null, true], \"nested\": {\"a\\\"b\": \"\\u00e9\"}}",
    # contractions and punctuation
    "I'm you're he's we'll they've I'd can't", "I'M YOU'RE HE'S WE'LL THEY'VE I'D CAN'T", "don't''s'''t 'tis", "'\u017f '\u212a",
    "!!!???...,,,;;;:::", "--- *** ___ === ~~~ ###", "a.b.c,d;e:f!g?h", "\"quoted\" 'single' `tick` \u201ccurly\u201d \u2018s\u2019",
    "#hashtag @mention $100 50% 3^2 a&b a|b a\\b", "https://example.com/path?q=1&r=2#frag", "user.name+tag@mail.example.org",
    "C:\\Users\\name\\file.txt", "$x_1 = \\frac{a}{b}$", "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
    # digits
    "0", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000", "2026-11-22T20:15:00Z", "+1 (555) 010-9999", "0x1F 0b101 1e-5",
    "v1.2.3-rc4", "a1b2c3", "x2y", "\u0661\u0662\u0663", "\u0967\u0968\u0969", "\u2460\u2461\u2462 \u00bd \u00b2 \u2167", "\uff11\uff12\uff13", "\U0001d7d8\U0001d7d9",
    # scripts
    "caf\u00e9 na\u00efve r\u00e9sum\u00e9", "cafe\u0301 nai\u0308ve", "\u00c5ngstr\u00f6m \u212b A\u030a", "Stra\u00dfe \u1e9e", "\u0130stanbul \u0131\u015f\u0131k",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5", "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u6211\u662f\u4e00\u4e2a\u5b66\u751f 123", "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8\u3067\u3059\u3002",
    "\uff8a\uff9d\uff76\uff78 \u30ab\u30bf\u30ab\u30ca", "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8", "\u1112\u1161\u11ab\u1100\u1173\u11af", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\u202babc \u05d0\u05d1\u05d2\u202c",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0", "\u1794\u1793\u17d2\u1791\u17b6\u1793\u17cb", "\u1200\u120e \u12d3\u1208\u121d",
    "\U00010330\U00010331\U00010332", "\U0001d4d0\U0001d4d1\U0001d4d2", "\u0315\u0300\u0301\u0302", "z\u0351\u036b\u0343\u036a\u0302a\u0301\u0301l\u0327\u0327g\u0300o\u0301",
    # emoji and symbols
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\u2764\ufe0f\u200d\U0001f525", "1\ufe0f\u20e3", "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001f680 (normal) \U0001f636\u200d\U0001f32b\ufe0f (multiple emojis concatenated) \u2705", "\u2190\u2191\u2192\u2193 \u2211\u222b\u221a\u221e \u2248\u2260\u2264", "\u2554\u2550\u2557\u2551", "\u20ac\u00a3\u00a5\u20b9",
    # odd blanks and invisibles
    "a\u00a0b", "a\u2003b\u2009c", "\u3000\u3000x", "a\u200bb\u200cc\u200dd", "\ufeffbom", "a\u2028b\u2029c", "a\u0085b", "a\u180eb", "a\x0bb\x0cc", "a\x1cb\x1fc", "soft\u00adhyphen",
    "x\u1680y", " \u00a0 \u00a0 x", "nul\x00byte", "\x01\x02\x03\x07\x08\x1b[0m\x7f", "\ufffd \ufffd\ufffd", "\ufffe\uffff", "\U0010ffff",
    # look-alikes of special tokens
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>", "<|im_start|", "<|im_start|><|im_end|>", "< |im_start|>", "<<|im_end|>>", " <|im_end|> ",
    "<bos><eos>", "<bos>a<bos> b <eos>", "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<s>[INST] x [/INST]</s>", "<0x41>", "<0x0A><0xFF>", "<0x-1>", "<unk>", "<pad>", "<mask>",
    "<|endoftext|>", "<unused0><unused6241><unused99999>", "[multimodal]<start_of_image>", "<file_sep><reponame>x<filename>y", "\u2581", "\u2581\u2581a\u2581b", "<h1>title</h1><h7>", "\u0120word \u010a",
    # long words and runs
    "a" * 300, "ab" * 200, "supercalifragilisticexpialidocious" * 5, "=" * 150, "\u4e00" * 100, "\U0001f600" * 30, "0" * 120, "-" * 77 + ">" + "_" * 33,
    "The quick brown fox jumps over the lazy dog. " * 4, "Donaudampfschifffahrtselektrizit\u00e4tenhauptbetriebswerkbauunterbeamtengesellschaft",
]
BYTES = [
    b"\xff", b"\x80", b"abc\xff\xfedef", b"\xc3", b"\xe4\xbd", b"\xf0\x9f\x98", b"caf\xe9 latin-1", b"\xed\xa0\x80 surrogate", b"\xc0\xaf overlong",
    b"\xf4\x90\x80\x80 too high", b"ok \xe2\x82 cut \xe2\x82\xac whole", b"\x80\x81\x82\xbf" * 8, bytes(range(128, 256)), b"<|im_start|>\xff<bos>\xfe", b" \xc2 \n\xe2\x96 ",
]


def ids(tool, model, raw, special):
    with tempfile.NamedTemporaryFile() as f:
        f.write(raw)
        f.flush()
        cmd = [tool, "-m", model, "-f", f.name, "--ids", "--no-bos", "--no-escape"] + ([] if special else ["--no-parse-special"])
        out = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout.decode()
    return ast.literal_eval(out.strip().splitlines()[-1])


def main():
    tool, models = sys.argv[1:]
    cases = []
    for text in TEXT:
        raw = text.encode()
        case = {"bytes": base64.b64encode(raw).decode()}
        for name in ("smollm2", "gemma3"):
            path = os.path.join(models, name + ".gguf")
            case[name] = {"special": ids(tool, path, raw, True), "plain": ids(tool, path, raw, False)} if raw else {"special": [], "plain": []}
        cases.append(case)
    cases += [{"bytes": base64.b64encode(raw).decode()} for raw in BYTES]
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tok-strings.json"), "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
    print(len(cases), "cases")


main()
