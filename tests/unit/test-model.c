/* Models: what a header says, tensors in their slots, everything that must be refused, and the scan
 * for NaN. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/num.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "tests/lib/ggufgen.h"


static struct model *accept(struct ggufgen *g)
{
	struct model *m = NULL;
	struct err err = { 0 };
	int fd = ggufgen_memfd(g), r = model_load(&m, fd, "tiny.gguf", &err);

	if (r < 0)
		print_message("%s\n", err.text);
	assert_int_equal(r, 0);
	close(fd);
	ggufgen_free(g);
	return m;
}
static void refuse_file(struct ggufgen *g, int code, const char *says)
{
	int64_t blocks = mem_live_blocks();
	struct model *m = NULL;
	struct err err = { 0 };
	int fd = ggufgen_memfd(g), r = model_load(&m, fd, "tiny.gguf", &err);

	if (r != code || !strstr(err.text, says))
		print_message("wanted %d '%s', got %d '%s'\n", code, says, r, err.text);
	assert_int_equal(r, code);
	assert_non_null(strstr(err.text, says));
	assert_int_equal(strncmp(err.text, "tiny.gguf: ", 11), 0);
	assert_null(strstr(err.text + 11, "tiny.gguf"));
	assert_null(m);
	assert_int_equal(mem_live_blocks(), blocks);
	close(fd);
	ggufgen_free(g);
}
static void refuse(struct ggufgen *g, const char *says)
{
	refuse_file(g, -EBADMSG, says);
}
static struct ggufgen *tiny(const char *arch)
{
	return ggufgen_tiny(
		&(struct ggufgen_tiny){ .arch = arch, .spm = strcmp(arch, "gemma3") == 0 });
}

static void test_llama(void **state)
{
	struct ggufgen *g = ggufgen_tiny(&(struct ggufgen_tiny){
		.n_layer = 3, .type = QTYPE_Q4_0, .embd_type = QTYPE_Q8_0, .rope_freqs = true });
	struct footprint fp;
	struct model *m;

	(void)state;
	ggufgen_f32(g, "llama.rope.freq_base", 500000);
	m = accept(g);
	assert_string_equal(m->architecture, "llama");
	assert_string_equal(m->name, "tiny random");
	assert_int_equal(m->hp.n_vocab, GGUFGEN_TINY_VOCAB);
	assert_int_equal(tok_n_vocab(m->tok), GGUFGEN_TINY_VOCAB);
	assert_int_equal(m->hp.n_ctx_train, 512);
	assert_int_equal(m->hp.n_layer, 3);
	assert_int_equal(m->hp.n_head, 4);
	assert_int_equal(m->hp.n_head_kv, 2);
	assert_int_equal(m->hp.head_dim, 16);
	assert_int_equal(m->hp.n_rot, 16);
	assert_int_equal(m->hp.n_ff, 128);
	assert_int_equal(m->hp.rope, ROPE_NORM);
	assert_int_equal(m->hp.ffn, FFN_SILU_GATED);
	assert_int_equal(m->hp.window, 0);
	assert_true(m->hp.rope_base == 500000 && m->hp.rope_scale == 1 && m->hp.embd_scale == 1);
	assert_true(m->hp.attn_scale == .25f && m->hp.attn_softcap == 0 &&
	            m->hp.final_softcap == 0);
	assert_true(m->hp.norm_eps == 1e-5f);
	assert_ptr_equal(m->w[SLOT_OUTPUT].data, m->w[SLOT_TOKEN_EMBD].data);
	assert_int_equal(m->w[SLOT_TOKEN_EMBD].row_bytes, 68);
	assert_int_equal(m->w[SLOT_TOKEN_EMBD].n_out, 320);
	assert_int_equal(m->w[SLOT_ROPE_FREQS].n_in, 8);
	assert_int_equal(m->layers[2].w[SLOT_FFN_DOWN].n_in, 128);
	assert_int_equal(m->layers[2].w[SLOT_FFN_DOWN].row_bytes, 72);
	assert_int_equal(m->layers[2].w[SLOT_FFN_DOWN].type, QTYPE_Q4_0);
	assert_string_equal(m->layers[2].w[SLOT_FFN_DOWN].tensor->name, "blk.2.ffn_down.weight");
	assert_null(m->layers[0].w[SLOT_ATTN_Q_BIAS].data);
	assert_false(m->layers[0].windowed);
	/* q, k, v, out 64 x (64 + 32 + 32 + 64), gate, up, down 3 x 64 x 128, at 18 bytes for 32;
	 * two norms a layer. */
	assert_int_equal(m->bytes_per_token,
	                 3 * ((12288 + 24576) / 32 * 18 + 2 * 256) + 256 + 32 + 320 * 68 + 68);
	assert_int_equal(m->n_params, 3 * (12288 + 24576 + 128) + 64 + 8 + 320 * 64);
	assert_int_equal(m->n_bytes, m->bytes_per_token - 68);
	assert_non_null(m->jinja);
	assert_null(m->jinja_error);
	model_footprint(&m->hp, m->n_bytes, 10, 2, KV_F16, &fp);
	assert_int_equal(fp.weights, m->n_bytes);
	assert_int_equal(fp.kv_per_token, 3 * 2 * 2 * 16 * 2);
	assert_int_equal(fp.kv_page, fp.kv_per_token * KV_PAGE);
	assert_int_equal(fp.activations,
	                 10 * (4 * (3 * 64 + 2 * 64 + 2 * 32 + 2 * 128 + 16) + 128 + 96) +
	                         2 * 320 * 4);
	assert_int_equal(model_verify(m, NULL, NULL), 0);
	model_unref(m);
}
static void test_qwen2(void **state)
{
	struct model *m = accept(ggufgen_tiny(
		&(struct ggufgen_tiny){ .arch = "qwen2", .untied = true, .type = QTYPE_F16 }));

	(void)state;
	assert_int_equal(m->hp.rope, ROPE_NEOX);
	assert_int_equal(m->layers[1].w[SLOT_ATTN_Q_BIAS].n_in, 64);
	assert_int_equal(m->layers[1].w[SLOT_ATTN_K_BIAS].n_in, 32);
	assert_non_null(m->layers[1].w[SLOT_ATTN_V_BIAS].data);
	assert_ptr_not_equal(m->w[SLOT_OUTPUT].data, m->w[SLOT_TOKEN_EMBD].data);
	assert_string_equal(m->w[SLOT_OUTPUT].tensor->name, "output.weight");
	assert_ptr_equal(model_ref(m), m);
	assert_null(model_unref(m));
	assert_int_equal(m->hp.n_embd, 64);
	model_unref(m);
}
static void test_gemma3(void **state)
{
	struct ggufgen *g = ggufgen_tiny(&(struct ggufgen_tiny){
		.arch = "gemma3", .spm = true, .n_layer = 7, .head_dim = 32 });
	struct model *m;

	(void)state;
	ggufgen_drop(g, "gemma3.rope.dimension_count");
	m = accept(g);
	assert_int_equal(m->hp.ffn, FFN_GELU_GATED);
	assert_int_equal(m->hp.window, 16);
	assert_int_equal(m->hp.window_period, 6);
	assert_int_equal(m->hp.n_rot, 32);
	assert_true(m->hp.embd_scale == 8 && m->hp.rope_base_local == 10000);
	assert_true(m->hp.attn_scale == 1 / sqrtf(32));
	for (uint32_t il = 0; il < 7; il++)
		assert_int_equal(m->layers[il].windowed, il != 5);
	assert_int_equal(m->layers[6].w[SLOT_ATTN_Q_NORM].n_in, 32);
	assert_non_null(m->layers[6].w[SLOT_ATTN_POST_NORM].data);
	assert_non_null(m->layers[6].w[SLOT_FFN_POST_NORM].data);
	model_unref(m);
}

/* A header alone, changed by one key, read by model_hparams. */
static int hparams_with(const char *arch, void (*bend)(struct ggufgen *, const void *),
                        const void *arg, struct hparams *hp, struct err *err)
{
	struct ggufgen *gen = ggufgen_tiny(&(struct ggufgen_tiny){ .arch = arch, .n_layer = 3 });
	struct gguf *g;
	size_t n;
	uint8_t *p;
	int r;

	bend(gen, arg);
	p = ggufgen_bytes(gen, &n);
	assert_int_equal(gguf_parse(&g, p, n, n, "x", NULL), 0);
	r = model_hparams(hp, g, err);
	gguf_free(g);
	free(p);
	ggufgen_free(gen);
	return r;
}
struct f32_key {
	const char *key;
	float value;
};
static void put_f32(struct ggufgen *g, const void *arg)
{
	const struct f32_key *k = arg;

	ggufgen_f32(g, k->key, k->value);
}
struct u32_key {
	const char *key;
	uint32_t value;
};
static void put_u32(struct ggufgen *g, const void *arg)
{
	const struct u32_key *k = arg;

	ggufgen_u32(g, k->key, k->value);
}
static void put_scaling(struct ggufgen *g, const void *arg)
{
	ggufgen_str(g, "llama.rope.scaling.type", arg);
	ggufgen_f32(g, "llama.rope.scaling.factor", 4);
}
static void put_flags(struct ggufgen *g, const void *arg)
{
	ggufgen_arr(g, "gemma3.attention.sliding_window_pattern", GGUF_BOOL, arg, 3);
}
static void put_heads(struct ggufgen *g, const void *arg)
{
	ggufgen_arr(g, "llama.attention.head_count", GGUF_U32, arg, 3);
}

static void test_optional_numbers(void **state)
{
	struct hparams hp;
	struct err err = { 0 };

	(void)state;
	assert_int_equal(hparams_with("llama", put_scaling, "linear", &hp, NULL), 0);
	assert_true(hp.rope_scale == .25f);
	assert_int_equal(hparams_with("llama", put_scaling, "none", &hp, NULL), 0);
	assert_true(hp.rope_scale == 1);
	assert_int_equal(hparams_with("llama", put_scaling, "yarn", &hp, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "'yarn'"));
	assert_int_equal(hparams_with("llama", put_f32,
	                              &(struct f32_key){ "llama.rope.scale_linear", 2 }, &hp, NULL),
	                 0);
	assert_true(hp.rope_scale == .5f);
	assert_int_equal(hparams_with("llama", put_f32,
	                              &(struct f32_key){ "llama.attention.scale", .5f }, &hp, NULL),
	                 0);
	assert_true(hp.attn_scale == .5f);
	assert_int_equal(hparams_with("llama", put_f32,
	                              &(struct f32_key){ "llama.attention.scale", 0 }, &hp, NULL),
	                 0);
	assert_true(hp.attn_scale == .25f);
	assert_int_equal(hparams_with("llama", put_f32,
	                              &(struct f32_key){ "llama.final_logit_softcapping", 30 }, &hp,
	                              NULL),
	                 0);
	assert_true(hp.final_softcap == 30);
	assert_int_equal(hparams_with("llama", put_u32,
	                              &(struct u32_key){ "llama.rope.dimension_count", 8 }, &hp,
	                              NULL),
	                 0);
	assert_int_equal(hp.n_rot, 8);
	assert_int_equal(hparams_with("llama", put_u32,
	                              &(struct u32_key){ "llama.attention.sliding_window", 9 }, &hp,
	                              NULL),
	                 0);
	assert_int_equal(hp.window, 0);         /* not a feature of the family */
	assert_int_equal(
		hparams_with("gemma3", put_u32,
	                     &(struct u32_key){ "gemma3.attention.sliding_window_pattern", 2 }, &hp,
	                     NULL),
		0);
	assert_int_equal(hp.window_period, 2);
	assert_int_equal(hparams_with("gemma3", put_f32,
	                              &(struct f32_key){ "gemma3.rope.freq_base_swa", 20000 }, &hp,
	                              NULL),
	                 0);
	assert_true(hp.rope_base_local == 20000);
	assert_int_equal(hparams_with("gemma3", put_flags, "\1\0\1", &hp, NULL), 0);
	assert_int_equal(hp.window_period, 2);
	assert_int_equal(hparams_with("gemma3", put_flags, "\1\1\1", &hp, NULL), 0);
	assert_int_equal(hp.window_period, 4);
	err_clear(&err);
	assert_int_equal(hparams_with("gemma3", put_flags, "\1\0\0", &hp, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "alternate"));
	assert_int_equal(hparams_with("gemma3", put_u32,
	                              &(struct u32_key){ "gemma3.block_count", 62 }, &hp, NULL),
	                 0);
	assert_true(hp.attn_scale == 1 / sqrtf(64 / 4));
	assert_int_equal(hparams_with("llama", put_heads, (uint32_t[]){ 4, 4, 4 }, &hp, NULL), 0);
	assert_int_equal(hp.n_head, 4);
	err_clear(&err);
	assert_int_equal(hparams_with("llama", put_heads, (uint32_t[]){ 4, 4, 2 }, &hp, &err),
	                 -ENOTSUP);
	assert_non_null(strstr(err.text, "differs between layers (4 in layer 0, 2 in layer 2)"));
}

/* G12, G31, G51..G54, G64, G65 */
static void test_refuses_senseless_numbers(void **state)
{
	static const struct { const char *key; uint32_t value; const char *says; } numbers[] = {
		{ "llama.attention.head_count", 0, "head_count' is 0" },
		{ "llama.attention.head_count", 5, "5 attention heads are no multiple of 2" },
		{ "llama.attention.head_count_kv", 0, "head_count_kv' is 0" },
		{ "llama.attention.head_count_kv", 3, "4 attention heads are no multiple of 3" },
		{ "llama.attention.head_count_kv", 8, "no multiple of 8" },
		{ "llama.attention.key_length", 0, "key_length' is 0" },
		{ "llama.attention.key_length", 17, "of 17 elements" },
		{ "llama.attention.key_length", 1u << 31, "key_length' is 2147483648" },
		{ "llama.block_count", 0, "block_count' is 0" },
		{ "llama.block_count", 1u << 31, "block_count' is 2147483648" },
		{ "llama.block_count", 3, "tensor 'blk.2.attn_norm.weight' is missing" },
		{ "llama.context_length", 0, "context_length' is 0" },
		{ "llama.embedding_length", 0, "embedding_length' is 0" },
		{ "llama.embedding_length", 32,
		  "'token_embd.weight' is of 64 x 320 x 1 x 1 elements, 32 x 320" },
		{ "llama.feed_forward_length", 0, "feed_forward_length' is 0" },
		{ "llama.feed_forward_length", 130, "'blk.0.ffn_gate.weight' is of 64 x 128" },
		{ "llama.rope.dimension_count", 0, "dimension_count' is 0" },
		{ "llama.rope.dimension_count", 18, "dimension_count' is 18" },
		{ "llama.rope.dimension_count", 15, "even" },
		{ "llama.expert_used_count", 2, "there are only 0 experts" },
	};
	static const struct { const char *key; float value; } floats[] = {
		{ "llama.rope.freq_base", 0 },
		{ "llama.rope.freq_base", -1 },
		{ "llama.rope.freq_base", NAN },
		{ "llama.rope.freq_base", INFINITY },
		{ "llama.attention.layer_norm_rms_epsilon", 0 },
		{ "llama.attention.layer_norm_rms_epsilon", NAN },
		{ "llama.attention.layer_norm_rms_epsilon", -1e-5f },
		{ "llama.attention.scale", NAN },
		{ "llama.attn_logit_softcapping", -1 },
		{ "llama.rope.scaling.factor", NAN },
		{ "llama.rope.scaling.factor", -2 },
		{ "llama.rope.scaling.factor", 1e-30f },
	};
	static const char *const needed[] = {
		"general.architecture",
		"llama.attention.head_count",
		"llama.block_count",
		"llama.context_length",
		"llama.embedding_length",
		"llama.feed_forward_length",
		"llama.attention.layer_norm_rms_epsilon",
		"tokenizer.ggml.tokens",
	};
	char says[128], *big = calloc(1, 1 << 20);
	struct ggufgen *g;

	(void)state;
	refuse(ggufgen_new(1), "'general.architecture' is missing");
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		ggufgen_drop(g = tiny("llama"), needed[i]);
		snprintf(says, sizeof(says), "key '%s' is missing", needed[i]);
		refuse(g, says);
	}
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		ggufgen_u32(g = tiny("llama"), numbers[i].key, numbers[i].value);
		refuse(g, numbers[i].says);
	}
	for (size_t i = 0; i < ARRAY_SIZE(floats); i++) {
		ggufgen_f32(g = tiny("llama"), floats[i].key, floats[i].value);
		refuse(g, floats[i].key);
	}
	memset(big, 'a', 1 << 20);
	ggufgen_strn(g = tiny("llama"), "general.architecture", big, 1 << 20);
	refuse_file(g, -ENOTSUP, "aaaa");
	free(big);
	ggufgen_str(g = tiny("llama"), "general.architecture", "mam\x01""ba");
	refuse_file(g, -ENOTSUP,
	            "architecture 'mam\\x01ba' is not supported; llama, qwen2, gemma3 are");
	ggufgen_u32(g = tiny("llama"), "general.architecture", 7);
	refuse(g, "is of kind u32, a string is needed");
	ggufgen_str(g = tiny("llama"), "llama.block_count", "two");
	refuse(g, "'llama.block_count' is of kind string");
	ggufgen_num(g = tiny("llama"), "llama.embedding_length", GGUF_I32, &(int32_t){ -64 });
	refuse(g, "'llama.embedding_length' is negative");
	ggufgen_arr(g = tiny("llama"), "llama.attention.head_count", GGUF_U32, (uint32_t[]){ 4 },
	            1);
	refuse(g, "has 1 values for 2 layers");
	ggufgen_arr(g = tiny("llama"), "llama.attention.head_count", GGUF_F32, (float[]){ 4, 4 },
	            2);
	refuse(g, "is an array of f32");
	ggufgen_drop(g = tiny("llama"), "llama.attention.key_length");
	ggufgen_u32(g, "llama.attention.head_count", 6);
	refuse(g, "cannot be divided among 6 heads");
	ggufgen_u32(g = tiny("llama"), "llama.expert_count", 8);
	ggufgen_u32(g, "llama.expert_used_count", 9);
	refuse(g, "only 8 experts");
	ggufgen_u32(g = tiny("llama"), "llama.expert_count", 8);
	ggufgen_u32(g, "llama.expert_used_count", 2);
	refuse_file(g, -ENOTSUP, "mixture of 8 experts");
	ggufgen_u32(g = tiny("llama"), "llama.attention.value_length", 8);
	refuse_file(g, -ENOTSUP, "values of 8 elements");
	ggufgen_bool(g = tiny("llama"), "llama.attention.causal", false);
	refuse_file(g, -ENOTSUP, "not causal");
	ggufgen_drop(g = tiny("gemma3"), "gemma3.attention.sliding_window");
	refuse(g, "sliding_window' is missing");
}

/* G54..G57 */
static void test_refuses_tensors_that_do_not_fit(void **state)
{
	static const char *const needed[] = {
		"token_embd.weight",        "output_norm.weight",    "blk.1.attn_norm.weight",
		"blk.0.attn_q.weight",      "blk.1.attn_k.weight",   "blk.1.attn_v.weight",
		"blk.0.attn_output.weight", "blk.1.ffn_norm.weight", "blk.1.ffn_gate.weight",
		"blk.1.ffn_up.weight",      "blk.1.ffn_down.weight",
	};
	struct ggufgen *g;
	char says[128];
	int64_t blocks;

	(void)state;
	blocks = mem_live_blocks();
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		ggufgen_drop_tensor(g = tiny("llama"), needed[i]);
		snprintf(says, sizeof(says), "tensor '%s' is missing", needed[i]);
		refuse(g, says);
	}
	ggufgen_drop_tensor(g = tiny("qwen2"), "blk.1.attn_k.bias");
	refuse(g, "'blk.1.attn_k.bias' is missing");
	ggufgen_drop_tensor(g = tiny("gemma3"), "blk.0.post_ffw_norm.weight");
	refuse(g, "'blk.0.post_ffw_norm.weight' is missing");
	g = tiny("llama");                      /* right size, wrong shape */
	ggufgen_find(g, "blk.0.ffn_up.weight")->dim[0] = 128;
	ggufgen_find(g, "blk.0.ffn_up.weight")->dim[1] = 64;
	refuse(g, "'blk.0.ffn_up.weight' is of 128 x 64 x 1 x 1 elements, 64 x 128 are needed");
	g = tiny("llama");
	ggufgen_find(g, "blk.0.attn_q.weight")->n_dims = 3;
	ggufgen_find(g, "blk.0.attn_q.weight")->dim[1] = 32;
	ggufgen_find(g, "blk.0.attn_q.weight")->dim[2] = 2;
	refuse(g, "64 x 32 x 2 x 1 elements");
	g = tiny("llama");                      /* more of the right shape */
	ggufgen_drop_tensor(g, "blk.0.attn_q.weight");
	ggufgen_tensor(g, "blk.0.attn_q.weight", QTYPE_F32, 64, 128, 0, 1);
	ggufgen_find(g, "blk.0.attn_q.weight")->n_dims = 3;
	ggufgen_find(g, "blk.0.attn_q.weight")->dim[1] = 64;
	ggufgen_find(g, "blk.0.attn_q.weight")->dim[2] = 2;
	refuse(g, "64 x 64 x 2 x 1 elements, 64 x 64 are needed");
	g = tiny("llama");
	ggufgen_drop_tensor(g, "blk.1.attn_norm.weight");
	ggufgen_tensor(g, "blk.1.attn_norm.weight", QTYPE_Q8_0, 64, 0, 0, 1);
	refuse_file(g, -ENOTSUP, "has type Q8_0");
	g = ggufgen_tiny(&(struct ggufgen_tiny){ .n_embd = 256, .type = QTYPE_IQ2_XXS });
	refuse_file(g, -ENOTSUP, "has type IQ2_XXS, for which no kernel is built");
	g = tiny("llama");
	ggufgen_drop_tensor(g, "token_embd.weight");
	ggufgen_tensor(g, "token_embd.weight", QTYPE_I8, 64, 320, 0, 1);
	refuse_file(g, -ENOTSUP, "'token_embd.weight' has type I8");
	ggufgen_tensor(g = tiny("llama"), "blk.0.ffn_up.bias", QTYPE_F32, 128, 0, 0, 1);
	refuse_file(g, -ENOTSUP, "'blk.0.ffn_up.bias'");
	ggufgen_tensor(g = tiny("llama"), "something.else", QTYPE_IQ1_S, 256, 1, 0, 1);
	model_unref(accept(g));
	ggufgen_tensor(g = tiny("llama"), "rope_freqs.weight", QTYPE_F32, 7, 0, 4, 1);
	refuse(g, "'rope_freqs.weight' is of 7");
	ggufgen_tensor(g = tiny("llama"), "rope_freqs.weight", QTYPE_F32, 8, 0, 0, 0);
	refuse(g, "factor 0 is 0");
	ggufgen_tensor(g = tiny("llama"), "output.weight", QTYPE_F32, 64, 319, 0, 1);
	refuse(g, "'output.weight' is of 64 x 319");
	assert_int_equal(mem_live_blocks(), blocks);
}

/* G57..G63 as the whole loader meets them; each in full is test-tok's matter. */
static void test_refuses_bad_vocabularies(void **state)
{
	static const char *const few[] = { "a", "b", "c" };
	static uint8_t bytes[GGUFGEN_TINY_VOCAB];
	static int32_t types[GGUFGEN_TINY_VOCAB - 1];
	struct ggufgen *g;

	(void)state;
	ggufgen_strs(g = tiny("llama"), "tokenizer.ggml.tokens", few, 3);
	refuse(g, "'token_embd.weight' is of 64 x 320 x 1 x 1 elements, 64 x 3 are needed");
	ggufgen_arr(g = tiny("gemma3"), "tokenizer.ggml.scores", GGUF_U8, bytes,
	            GGUFGEN_TINY_VOCAB);
	refuse(g, "tokenizer.ggml.scores");
	ggufgen_arr(g = tiny("llama"), "tokenizer.ggml.token_type", GGUF_I32, types,
	            GGUFGEN_TINY_VOCAB - 1);
	refuse(g, "");
	ggufgen_u32(g = tiny("llama"), "tokenizer.ggml.eos_token_id", GGUFGEN_TINY_VOCAB);
	refuse(g, "eos_token_id is 320");
	ggufgen_u32(g = tiny("llama"), "tokenizer.ggml.bos_token_id", UINT32_MAX);
	refuse(g, "bos_token_id is 4294967295");
	ggufgen_drop(g = tiny("llama"), "tokenizer.ggml.model");
	refuse(g, "tokenizer.ggml.model");
}

static void test_templates(void **state)
{
	struct ggufgen *g = tiny("llama");
	int64_t blocks = mem_live_blocks();
	struct model *m;

	(void)state;
	ggufgen_str(g, "tokenizer.chat_template", "{% for %}");
	m = accept(g);
	assert_null(m->jinja);
	assert_non_null(m->jinja_error);
	assert_true(strlen(m->jinja_error) > 0);
	model_unref(m);
	assert_int_equal(mem_live_blocks(), blocks);
	ggufgen_drop(g = tiny("llama"), "tokenizer.chat_template");
	m = accept(g);
	assert_null(m->jinja);
	assert_null(m->jinja_error);
	model_unref(m);
	ggufgen_u32(g = tiny("llama"), "tokenizer.chat_template", 1);
	refuse(g, "tokenizer.chat_template");
}

/* G67: the scan knows every type. A block of all ones has a NaN in whatever float field it has. */
static void test_verify_knows_every_type(void **state)
{
	(void)state;
	for (uint32_t type = 0; type < QTYPE_COUNT; type++) {
		struct ggufgen *g;
		struct ggufgen_tensor *t;
		struct model *m;
		struct err err = { 0 };
		char says[64];

		if (!qtype_info(type))
			continue;
		g = tiny("llama");
		t = ggufgen_tensor(g, "extra", type, (uint64_t)3 * qtype_info(type)->block, 4, 0,
		                   .5f);
		if (qtype_info(type)->integer)
			memset(t->data, 0xff, t->n_bytes);
		m = accept(g);
		assert_int_equal(model_verify(m, NULL, &err), 0);
		model_unref(m);
		if (qtype_info(type)->integer)
			continue;
		g = tiny("llama");
		t = ggufgen_tensor(g, "extra", type, (uint64_t)3 * qtype_info(type)->block, 4, 0,
		                   .5f);
		memset(t->data + (size_t)8 * qtype_info(type)->bytes, 0xff,
		       qtype_info(type)->bytes);
		m = accept(g);
		assert_int_equal(model_verify(m, NULL, &err), -EBADMSG);
		snprintf(says, sizeof(says), "tensor 'extra', row 2: a %s is NaN",
		         qtype_info(type)->block == 1 ? "value" : "scale");
		assert_non_null(strstr(err.text, says));
		model_unref(m);
	}
}
/* Infinity and NaN in each scale that the kernels read, by the layouts of the format. */
static void test_verify_finds_each_scale(void **state)
{
	static const struct { uint8_t type; uint16_t offset; } places[] = {
		{ QTYPE_F32, 2 },    { QTYPE_F16, 0 },   { QTYPE_BF16, 0 },  { QTYPE_Q4_0, 0 },
		{ QTYPE_Q4_1, 0 },   { QTYPE_Q4_1, 2 },  { QTYPE_Q5_0, 0 },  { QTYPE_Q5_1, 2 },
		{ QTYPE_Q8_0, 0 },   { QTYPE_Q2_K, 80 }, { QTYPE_Q2_K, 82 }, { QTYPE_Q3_K, 108 },
		{ QTYPE_Q4_K, 0 },   { QTYPE_Q4_K, 2 },  { QTYPE_Q5_K, 2 },  { QTYPE_Q6_K, 208 },
		{ QTYPE_IQ4_NL, 0 },
	};
	static const uint16_t bad[] = { 0x7c00, 0xfc00, 0x7e01 },
			      bad_wide[] = { 0x7f80, 0xff80, 0x7fc1 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(places) * ARRAY_SIZE(bad); i++) {
		uint32_t type = places[i / ARRAY_SIZE(bad)].type;
		bool wide = type == QTYPE_F32 || type == QTYPE_BF16;
		uint16_t value = (wide ? bad_wide : bad)[i % ARRAY_SIZE(bad)];
		struct ggufgen *g = tiny("llama");
		struct ggufgen_tensor *t = ggufgen_tensor(g, "extra", type, 512, 3, 0, .5f);
		struct err err = { 0 };
		struct model *m;

		memcpy(t->data + t->n_bytes - qtype_info(type)->bytes +
		               places[i / ARRAY_SIZE(bad)].offset,
		       &value, 2);
		m = accept(g);
		assert_int_equal(model_verify(m, NULL, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "tensor 'extra', row 2"));
		model_unref(m);
	}
}
static void test_verify_stops(void **state)
{
	struct ggufgen *g = tiny("llama");
	struct model *m;
	struct err err = { 0 };
	atomic_bool cancel = true;
	int fd = ggufgen_memfd(g);

	(void)state;
	assert_int_equal(model_load(&m, fd, "x", NULL), 0);
	assert_int_equal(model_verify(m, &cancel, &err), -ECANCELED);
	cancel = false;
	assert_int_equal(model_verify(m, &cancel, &err), 0);
	model_unref(m);
	close(fd);
	ggufgen_free(g);
}

static void test_every_allocation_may_fail(void **state)
{
	int fd = ggufgen_tiny_model(&(struct ggufgen_tiny){ .arch = "gemma3", .spm = true });
	int64_t blocks = mem_live_blocks();
	unsigned nth;

	(void)state;
	for (nth = 0;; nth++) {
		struct err err = { 0 };
		struct model *m = NULL;
		int r;

		mem_fault_arm(nth, false);
		r = model_load(&m, fd, "x", &err);
		if (!mem_fault_fired()) {
			assert_int_equal(r, 0);
			model_unref(m);
			break;
		}
		if (r != -ENOMEM)
			print_message("allocation %u: %d '%s'\n", nth, r, err.text);
		assert_int_equal(r, -ENOMEM);
		assert_null(m);
		assert_int_equal(mem_live_blocks(), blocks);
	}
	assert_true(nth > 20);
	assert_int_equal(mem_live_blocks(), blocks);
	close(fd);
}

static void test_real_models(void **state)
{
	static const struct {
		const char *file;
		struct hparams hp;
		uint64_t n_params;
		bool chat;
	} models[] = {
		{ "smollm2.gguf",
		  { .n_vocab = 49152,
		    .n_ctx_train = 8192,
		    .n_embd = 576,
		    .n_layer = 30,
		    .n_head = 9,
		    .n_head_kv = 3,
		    .head_dim = 64,
		    .n_ff = 1536,
		    .n_rot = 64,
		    .rope_base = 100000,
		    .attn_scale = .125f,
		    .rope = ROPE_NORM },
		  134515008,
		  true },
		{ "gemma3.gguf",
		  { .n_vocab = 262144,
		    .n_ctx_train = 32768,
		    .n_embd = 640,
		    .n_layer = 18,
		    .n_head = 4,
		    .n_head_kv = 1,
		    .head_dim = 256,
		    .n_ff = 2048,
		    .n_rot = 256,
		    .rope_base = 1000000,
		    .attn_scale = .0625f,
		    .rope = ROPE_NEOX,
		    .window = 512,
		    .window_period = 6 },
		  268098176,
		  false },
	};
	const char *dir = getenv("QLLM_MODELS");
	char path[4096];

	(void)state;
	if (!dir)
		skip();
	for (size_t i = 0; i < ARRAY_SIZE(models); i++) {
		const struct hparams *want = &models[i].hp, *hp;
		struct timespec a, b;
		struct err err = { 0 };
		struct model *m;
		int fd, r;

		snprintf(path, sizeof(path), "%s/%s", dir, models[i].file);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		clock_gettime(CLOCK_MONOTONIC, &a);
		r = model_load(&m, fd, models[i].file, &err);
		clock_gettime(CLOCK_MONOTONIC, &b);
		if (r < 0)
			print_message("%s\n", err.text);
		assert_int_equal(r, 0);
		print_message("%s: loaded in %.1f ms, %llu bytes a token\n", models[i].file,
		              (double)(b.tv_sec - a.tv_sec) * 1e3 +
		                      (double)(b.tv_nsec - a.tv_nsec) / 1e6,
		              (unsigned long long)m->bytes_per_token);
		hp = &m->hp;
		assert_int_equal(hp->n_vocab, want->n_vocab);
		assert_int_equal(hp->n_ctx_train, want->n_ctx_train);
		assert_int_equal(hp->n_embd, want->n_embd);
		assert_int_equal(hp->n_layer, want->n_layer);
		assert_int_equal(hp->n_head, want->n_head);
		assert_int_equal(hp->n_head_kv, want->n_head_kv);
		assert_int_equal(hp->head_dim, want->head_dim);
		assert_int_equal(hp->n_ff, want->n_ff);
		assert_int_equal(hp->n_rot, want->n_rot);
		assert_int_equal(hp->rope, want->rope);
		assert_int_equal(hp->window, want->window);
		assert_int_equal(hp->window_period, want->window_period);
		assert_true(hp->rope_base == want->rope_base && hp->attn_scale == want->attn_scale);
		assert_int_equal(m->n_params, models[i].n_params);
		assert_int_equal(m->jinja != NULL, models[i].chat);
		assert_null(m->jinja_error);
		assert_int_equal(model_verify(m, NULL, &err), 0);
		model_unref(m);
		close(fd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_llama),
		cmocka_unit_test(test_qwen2),
		cmocka_unit_test(test_gemma3),
		cmocka_unit_test(test_optional_numbers),
		cmocka_unit_test(test_refuses_senseless_numbers),
		cmocka_unit_test(test_refuses_tensors_that_do_not_fit),
		cmocka_unit_test(test_refuses_bad_vocabularies),
		cmocka_unit_test(test_templates),
		cmocka_unit_test(test_verify_knows_every_type),
		cmocka_unit_test(test_verify_finds_each_scale),
		cmocka_unit_test(test_verify_stops),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_real_models),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
