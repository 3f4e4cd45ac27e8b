/* Tiny models: complete metadata, a vocabulary that can spell any bytes, and random weights. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/ggufgen.h"

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, UNUSED = 5, BYTE = 6 };

struct vocab {
	char *text[GGUFGEN_TINY_VOCAB];
	float score[GGUFGEN_TINY_VOCAB];
	int32_t type[GGUFGEN_TINY_VOCAB];
	uint32_t n;
};
static void add(struct vocab *v, const char *text, int32_t type, float score)
{
	if (v->n == GGUFGEN_TINY_VOCAB)
		abort();
	v->text[v->n] = strdup(text);
	v->type[v->n] = type;
	v->score[v->n++] = score;
}
static void finish(struct vocab *v, struct ggufgen *g)
{
	char name[32];

	while (v->n < GGUFGEN_TINY_VOCAB) {
		snprintf(name, sizeof(name), "[unused%u]", v->n);
		add(v, name, UNUSED, -1000);
	}
	ggufgen_strs(g, "tokenizer.ggml.tokens", (const char *const *)v->text, v->n);
	ggufgen_arr(g, "tokenizer.ggml.token_type", GGUF_I32, v->type, v->n);
	for (uint32_t i = 0; i < v->n; i++)
		free(v->text[i]);
}

/* GPT-2's spelling of bytes: printable Latin-1 as it is, the others in order from U+0100. */
static void byte_spelling(unsigned b, char out[4])
{
	static uint16_t cp[256];

	if (!cp['!'])
		for (unsigned i = 0, n = 256; i < 256; i++)
			cp[i] = (i >= 33 && i <= 126) || (i >= 161 && i != 173) ? (uint16_t)i
			                                                        : (uint16_t)n++;
	if (cp[b] < 0x80)
		snprintf(out, 4, "%c", cp[b]);
	else
		snprintf(out, 4, "%c%c", 0xc0 | cp[b] >> 6, 0x80 | (cp[b] & 0x3f));
}
static void vocab_bpe(struct ggufgen *g)
{
	static const char *const merges[] = {
		"Ġ t",  "h e",  "i n",   "r e",  "o n",  "Ġt he", "e r",   "a t",  "Ġ a",  "Ġ s",
		"o r",  "e n",  "Ġ w",   "i s",  "i t",  "a n",   "Ġ c",   "e s",  "n d",  "o u",
		"in g", "Ġ o",  "Ġ h",   "Ġ f",  "Ġ b",  "Ġ d",   "Ġ p",   "Ġ m",  "e d",  "a l",
		"a r",  "l l",  "Ġ in",  "Ġ l",  "l e",  "Ġt o",  "Ġa nd", "Ġo f", "Ġ n",  "Ġ g",
		"o m",  "Ġ y",  "Ġy ou", "v e",  "Ġ e",  "a s",   "Ġ it",  "Ġw h", "h at", "Ġt hat",
		"Ġ is", "Ġs t", "Ġb e",  "Ġ re", "i on",
	};
	struct vocab v = { 0 };
	char text[32];

	add(&v, "<|endoftext|>", CONTROL, 0);
	add(&v, "<|im_start|>", CONTROL, 0);
	add(&v, "<|im_end|>", CONTROL, 0);
	for (unsigned b = 0; b < 256; b++) {
		byte_spelling(b, text);
		add(&v, text, NORMAL, 0);
	}
	for (size_t i = 0; i < sizeof(merges) / sizeof(merges[0]); i++) {
		const char *space = strchr(merges[i], ' ');

		snprintf(text, sizeof(text), "%.*s%s", (int)(space - merges[i]), merges[i],
		         space + 1);
		add(&v, text, NORMAL, 0);
	}
	ggufgen_str(g, "tokenizer.ggml.model", "gpt2");
	ggufgen_str(g, "tokenizer.ggml.pre", "gpt-2");
	finish(&v, g);
	ggufgen_strs(g, "tokenizer.ggml.merges", merges, sizeof(merges) / sizeof(merges[0]));
	ggufgen_u32(g, "tokenizer.ggml.bos_token_id", 0);
	ggufgen_u32(g, "tokenizer.ggml.eos_token_id", 2);
	ggufgen_bool(g, "tokenizer.ggml.add_bos_token", false);
}
static void vocab_spm(struct ggufgen *g)
{
	static const char *const pieces[] = {
		"▁",  "e",    "t",  "a",  "o",  "i",    "n",  "s",  "r",   "h",  "l",  "d",
		"c",  "u",    "m",  "f",  "p",  "g",    "w",  "y",  "b",   "v",  "k",  "x",
		"j",  "q",    "z",  "▁t", "he", "▁the", "in", "er", "an",  "▁a", "on", "re",
		"nd", "▁and", "or", "▁w", "ou", "▁you", "it", "▁s", "▁is", "▁▁",
	};
	struct vocab v = { 0 };
	char text[32];

	add(&v, "<unk>", UNKNOWN, 0);
	add(&v, "<s>", CONTROL, 0);
	add(&v, "</s>", CONTROL, 0);
	add(&v, "<|im_start|>", CONTROL, 0);
	add(&v, "<|im_end|>", CONTROL, 0);
	for (unsigned b = 0; b < 256; b++) {
		snprintf(text, sizeof(text), "<0x%02X>", b);
		add(&v, text, BYTE, 0);
	}
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
		add(&v, pieces[i], NORMAL, i < 27 ? -100.0f - (float)i : -(float)(i - 26));
	ggufgen_str(g, "tokenizer.ggml.model", "llama");
	ggufgen_str(g, "tokenizer.ggml.pre", "default");
	finish(&v, g);
	ggufgen_arr(g, "tokenizer.ggml.scores", GGUF_F32, v.score, v.n);
	ggufgen_u32(g, "tokenizer.ggml.bos_token_id", 1);
	ggufgen_u32(g, "tokenizer.ggml.eos_token_id", 2);
	ggufgen_u32(g, "tokenizer.ggml.unknown_token_id", 0);
	ggufgen_bool(g, "tokenizer.ggml.add_bos_token", true);
	ggufgen_bool(g, "tokenizer.ggml.add_space_prefix", false);
}

static void matrix(struct ggufgen *g, const char *name, uint32_t type, uint64_t n_in,
                   uint64_t n_out)
{
	ggufgen_tensor(g, name, type, n_in, n_out, 0, 1 / sqrtf((float)n_in));
}
static void layer(struct ggufgen *g, const struct ggufgen_tiny *t, uint32_t il)
{
	bool gemma = strcmp(t->arch, "gemma3") == 0, qwen = strcmp(t->arch, "qwen2") == 0;
	uint64_t q = (uint64_t)t->n_head * t->head_dim, kv = (uint64_t)t->n_head_kv * t->head_dim;
	const struct {
		bool use, norm;         /* norms are around one, biases around zero */
		const char *name;
		uint64_t n_in, n_out;
	} rows[] = {
		{ true, true, "attn_norm.weight", t->n_embd, 0 },
		{ true, false, "attn_q.weight", t->n_embd, q },
		{ true, false, "attn_k.weight", t->n_embd, kv },
		{ true, false, "attn_v.weight", t->n_embd, kv },
		{ qwen, false, "attn_q.bias", q, 0 },
		{ qwen, false, "attn_k.bias", kv, 0 },
		{ qwen, false, "attn_v.bias", kv, 0 },
		{ gemma, true, "attn_q_norm.weight", t->head_dim, 0 },
		{ gemma, true, "attn_k_norm.weight", t->head_dim, 0 },
		{ true, false, "attn_output.weight", q, t->n_embd },
		{ gemma, true, "post_attention_norm.weight", t->n_embd, 0 },
		{ true, true, "ffn_norm.weight", t->n_embd, 0 },
		{ true, false, "ffn_gate.weight", t->n_embd, t->n_ff },
		{ true, false, "ffn_up.weight", t->n_embd, t->n_ff },
		{ true, false, "ffn_down.weight", t->n_ff, t->n_embd },
		{ gemma, true, "post_ffw_norm.weight", t->n_embd, 0 },
	};
	char name[64];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		snprintf(name, sizeof(name), "blk.%u.%s", il, rows[i].name);
		if (!rows[i].use)
			continue;
		if (rows[i].n_out)
			matrix(g, name, t->type, rows[i].n_in, rows[i].n_out);
		else
			ggufgen_tensor(g, name, QTYPE_F32, rows[i].n_in, 0,
			               rows[i].norm ? 1.0f : 0.0f, .2f);
	}
}
static void hparams(struct ggufgen *g, const struct ggufgen_tiny *t)
{
	const struct { const char *key; uint32_t value; } rows[] = {
		{ "context_length", t->n_ctx },
		{ "embedding_length", t->n_embd },
		{ "block_count", t->n_layer },
		{ "feed_forward_length", t->n_ff },
		{ "attention.head_count", t->n_head },
		{ "attention.head_count_kv", t->n_head_kv },
		{ "attention.key_length", t->head_dim },
		{ "attention.value_length", t->head_dim },
		{ "rope.dimension_count", t->head_dim },
	};
	char key[80];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		snprintf(key, sizeof(key), "%s.%s", t->arch, rows[i].key);
		ggufgen_u32(g, key, rows[i].value);
	}
	snprintf(key, sizeof(key), "%s.attention.layer_norm_rms_epsilon", t->arch);
	ggufgen_f32(g, key, 1e-5f);
	snprintf(key, sizeof(key), "%s.rope.freq_base", t->arch);
	ggufgen_f32(g, key, 10000);
	snprintf(key, sizeof(key), "%s.attention.sliding_window", t->arch);
	if (t->window)
		ggufgen_u32(g, key, t->window);
}
struct ggufgen *ggufgen_tiny(const struct ggufgen_tiny *options)
{
	struct ggufgen_tiny t = *options;
	struct ggufgen *g = ggufgen_new(t.seed);

	t.arch = t.arch ? t.arch : "llama";
	t.n_embd = t.n_embd ? t.n_embd : 64;
	t.n_layer = t.n_layer ? t.n_layer : 2;
	t.n_head = t.n_head ? t.n_head : 4;
	t.n_head_kv = t.n_head_kv ? t.n_head_kv : t.n_head % 2 ? 1 : t.n_head / 2;
	t.head_dim = t.head_dim ? t.head_dim : t.n_embd / t.n_head;
	t.n_ff = t.n_ff ? t.n_ff : 2 * t.n_embd;
	t.n_ctx = t.n_ctx ? t.n_ctx : 512;
	if (strcmp(t.arch, "gemma3") == 0 && !t.window)
		t.window = 16;

	ggufgen_str(g, "general.architecture", t.arch);
	ggufgen_str(g, "general.name", "tiny random");
	hparams(g, &t);
	if (t.spm)
		vocab_spm(g);
	else
		vocab_bpe(g);
	if (!t.no_template)
		ggufgen_str(
			g, "tokenizer.chat_template",
			"{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + "
			"m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if "
			"add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
	/* Small beside what the layers add; else a tied model would only repeat its last token. */
	ggufgen_tensor(g, "token_embd.weight", t.embd_type, t.n_embd, GGUFGEN_TINY_VOCAB, 0,
	               strcmp(t.arch, "gemma3") == 0 ? .2f / sqrtf((float)t.n_embd) : .1f);
	for (uint32_t il = 0; il < t.n_layer; il++)
		layer(g, &t, il);
	ggufgen_tensor(g, "output_norm.weight", QTYPE_F32, t.n_embd, 0, 1, .2f);
	if (t.untied)
		matrix(g, "output.weight", t.embd_type, t.n_embd, GGUFGEN_TINY_VOCAB);
	if (t.rope_freqs)
		ggufgen_tensor(g, "rope_freqs.weight", QTYPE_F32, t.head_dim / 2, 0, 4, 1.5f);
	return g;
}
int ggufgen_tiny_model(const struct ggufgen_tiny *t)
{
	struct ggufgen *g = ggufgen_tiny(t);
	int fd = ggufgen_memfd(g);

	ggufgen_free(g);
	return fd;
}
