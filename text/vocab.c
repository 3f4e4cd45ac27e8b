/* vocab - one copy of all spellings, two hash tables of ids.
 *
 * 1. After vocab_new every id that is stored anywhere is < n; every merge names tokens that exist,
 *    and its product does.
 * 2. Of equal spellings the first id wins; the later ones stay printable.
 * 3. The tables are at most half full, so every probe ends, and keyed by a random seed.
 * 4. Every spelling is at most VOCAB_TEXT_MAX bytes, so a piece always fits TOK_PIECE_MAX. */
#include <errno.h>
#include <math.h>
#include <sys/random.h>
#include <xxhash.h>
#include "base/num.h"
#include "text/pretok.h"
#include "text/tok.h"
#include "text/vocab.h"

_Static_assert((int)VOCAB_TEXT_MAX <= (int)TOK_PIECE_MAX, "a piece is no longer than its spelling");

uint32_t vocab_byte_to_cp(uint8_t byte)
{
	/* Printable Latin-1 stands for itself; the 68 others follow from U+0100 in byte order. */
	if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae)
		return byte;
	if (byte <= 0x20)
		return 0x100u + byte;
	if (byte <= 0xa0)
		return 0x100u + 33 + (byte - 0x7fu);
	return 0x100u + 67;             /* 0xad */
}

int vocab_cp_to_byte(uint32_t cp)
{
	if (cp < 0x100)
		return vocab_byte_to_cp((uint8_t)cp) == cp ? (int)cp : -1;
	if (cp <= 0x100 + 32)
		return (int)(cp - 0x100);
	if (cp <= 0x100 + 66)
		return (int)(cp - 0x100 - 33 + 0x7f);
	return cp == 0x100 + 67 ? 0xad : -1;
}

static uint64_t hash_of(const struct vocab *v, const char *p, size_t n)
{
	return XXH3_64bits_withSeed(p, n, v->seed);
}

/* The slot of a spelling, or the free one where it would be. The tag spares looks at spellings,
 * each of which is far away in memory. */
static struct vocab_slot *find_slot(const struct vocab *v, uint64_t hash, const char *p, size_t n)
{
	for (uint32_t i = (uint32_t)hash & v->slot_mask;; i = (i + 1) & v->slot_mask) {
		struct vocab_slot *s = &v->slot[i];

		if (s->next == 0)
			return s;
		if (s->tag == (uint32_t)(hash >> 32) && vocab_text(v, s->next - 1).n == n &&
		    memcmp(vocab_text(v, s->next - 1).p, p, n) == 0)
			return s;
	}
}

static int32_t find_hashed(const struct vocab *v, uint64_t hash, const char *p, size_t n)
{
	return n == 0 || n > v->text_max ? -1 : (int32_t)find_slot(v, hash, p, n)->next - 1;
}

int32_t vocab_find(const struct vocab *v, const char *p, size_t n)
{
	return n == 0 || n > v->text_max ? -1 : find_hashed(v, hash_of(v, p, n), p, n);
}

static uint32_t merge_slot(const struct vocab *v, int32_t left, int32_t right)
{
	uint64_t x = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ v->seed;

	/* Finalizer of splitmix64: every input bit reaches the low bits. */
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)(x ^ x >> 31) & v->merge_mask;
}

/* The pair's slot, or the free one where it would be. */
static struct vocab_merge *find_merge(const struct vocab *v, int32_t left, int32_t right)
{
	for (uint32_t i = merge_slot(v, left, right);; i = (i + 1) & v->merge_mask) {
		struct vocab_merge *m = &v->merge[i];

		if (m->left < 0 || (m->left == left && m->right == right))
			return m;
	}
}

const struct vocab_merge *vocab_merge_find(const struct vocab *v, int32_t left, int32_t right)
{
	const struct vocab_merge *m = v->merge ? find_merge(v, left, right) : NULL;

	return m && m->left >= 0 ? m : NULL;
}

static uint32_t table_size(uint64_t n)
{
	uint32_t size = 16;

	while (size < 2 * n)
		size *= 2;
	return size;
}

/* ---- building ---- */

static void add_text(struct vocab *v, uint32_t id)
{
	struct bytes t = vocab_text(v, id);
	uint64_t hash = hash_of(v, t.p, t.n);
	struct vocab_slot *s = find_slot(v, hash, t.p, t.n);

	if (t.n > 0 && s->next == 0)
		*s = (struct vocab_slot){ (uint32_t)(hash >> 32), id + 1 };
	else
		v->n_repeated++;
}

static int copy_texts(struct vocab *v, const struct vocab_src *src, struct err *err)
{
	size_t total = 0, at = 0;

	for (uint32_t i = 0; i < v->n; i++) {
		if (src->text[i].n > VOCAB_TEXT_MAX)
			return err_set(err, -EBADMSG,
			               "tokenizer.ggml.tokens[%u] has %zu bytes, more than %d: "
			               "the file is damaged or not meant for text",
			               i, src->text[i].n, VOCAB_TEXT_MAX);
		/* at most 4 Mi tokens of 4 KiB: no overflow */
		total += src->text[i].n;
		v->text_max = MAX(v->text_max, (uint32_t)src->text[i].n);
	}
	if (total > UINT32_MAX)
		return err_set(
			err, -EBADMSG,
			"tokenizer.ggml.tokens has %zu bytes of text, more than 32 bits count",
			total);
	v->text_at = mem_allocn((size_t)v->n + 1, sizeof(*v->text_at));
	v->blob = mem_alloc(total + 1);
	v->slot_mask = table_size(v->n) - 1;
	v->slot = mem_allocn((size_t)v->slot_mask + 1, sizeof(*v->slot));
	if (!v->text_at || !v->blob || !v->slot)
		return -ENOMEM;
	for (uint32_t i = 0; i < v->n; i++) {
		size_t n = src->text[i].n;

		if (n)
			memcpy(v->blob + at, src->text[i].p, n);
		at += n;
		v->text_at[i + 1] = (uint32_t)at;
	}
	for (uint32_t i = 0; i < v->n; i++)
		add_text(v, i);
	return 0;
}

static int copy_types(struct vocab *v, const struct vocab_src *src, struct err *err)
{
	v->type = mem_alloc(v->n);
	v->eog = mem_alloc(v->n);
	if (!v->type || !v->eog)
		return -ENOMEM;
	for (uint32_t i = 0; i < v->n; i++) {
		int32_t type = src->type ? src->type[i] : TOK_NORMAL;

		if (type < 0 || type > TOK_BYTE)
			return err_set(err, -EBADMSG,
			               "tokenizer.ggml.token_type[%u] is %d, known are 0 to %d", i,
			               type, TOK_BYTE);
		v->type[i] = type == 0 ? TOK_NORMAL : (uint8_t)type;
		if (type == TOK_UNKNOWN && v->unk < 0)
			v->unk = (int32_t)i;
	}
	return 0;
}

static int copy_scores(struct vocab *v, const struct vocab_src *src, struct err *err)
{
	if (!src->score)
		return err_set(
			err, -EBADMSG,
			"tokenizer.ggml.scores is missing: a vocabulary of kind \"llama\" needs "
			"it");
	v->score = mem_memdup(src->score, v->n * sizeof(*v->score));
	if (!v->score)
		return -ENOMEM;
	for (uint32_t i = 0; i < v->n; i++)
		if (isnan(v->score[i]))
			return err_set(err, -EBADMSG, "tokenizer.ggml.scores[%u] is not a number",
			               i);
	return 0;
}

/* "<0xHH>" and nothing else, or -1. */
static int byte_token(struct bytes t)
{
	int value = 0;

	if (t.n != 6 || memcmp(t.p, "<0x", 3) != 0 || t.p[5] != '>')
		return -1;
	for (int i = 3; i < 5; i++) {
		char c = t.p[i];

		if (c >= '0' && c <= '9')
			value = value * 16 + c - '0';
		else if (c >= 'A' && c <= 'F')
			value = value * 16 + c - 'A' + 10;
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + c - 'a' + 10;
		else
			return -1;
	}
	return value;
}

static int find_bytes(struct vocab *v, struct err *err)
{
	char text[8];

	for (int b = 0; b < 256; b++)
		v->byte_id[b] = -1;
	for (uint32_t i = 0; i < v->n; i++) {
		int b;

		if (v->type[i] != TOK_BYTE)
			continue;
		b = byte_token(vocab_text(v, i));
		if (b < 0)
			return err_set(
				err, -EBADMSG,
				"tokenizer.ggml.tokens[%u] \"%s\" is marked as a byte but is not "
				"of the form <0xHH>",
				i,
				str_escape((char[64]){ 0 }, 64, vocab_text(v, i).p,
			                   vocab_text(v, i).n));
		if (v->byte_id[b] < 0)
			v->byte_id[b] = (int32_t)i;
	}
	for (int b = 0; b < 256; b++) {
		if (v->model == VOCAB_BPE) {
			v->byte_id[b] = vocab_find(v, text,
			                           utf8_encode(vocab_byte_to_cp((uint8_t)b), text));
		} else if (v->byte_id[b] < 0) {
			/* Vocabularies without kinds still spell them; some have the bare byte
			 * only. */
			snprintf(text, sizeof(text), "<0x%02X>", (unsigned)b);
			v->byte_id[b] = vocab_find(v, text, 6);
			if (v->byte_id[b] < 0)
				v->byte_id[b] = vocab_find(v, &(char){ (char)b }, 1);
		}
	}
	return 0;
}

/* A rule on its way into the table. */
struct rule {
	struct bytes left, right;
	uint64_t left_hash, right_hash;
	struct vocab_merge merge;
};

static int split_rule(const struct vocab *v, struct rule *ret, uint32_t rank, struct bytes m,
                      struct err *err)
{
	const char *space = m.n > 1 ? memchr(m.p + 1, ' ', m.n - 1) : NULL;
	char shown[64];

	if (!space)
		return err_set(err, -EBADMSG,
		               "tokenizer.ggml.merges[%u] \"%s\" has no space between two tokens",
		               rank, str_escape(shown, sizeof(shown), m.p, m.n));
	ret->left = (struct bytes){ m.p, (size_t)(space - m.p) };
	ret->right = (struct bytes){ space + 1, m.n - ret->left.n - 1 };
	ret->left_hash = hash_of(v, ret->left.p, ret->left.n);
	ret->right_hash = hash_of(v, ret->right.p, ret->right.n);
	__builtin_prefetch(&v->slot[(uint32_t)ret->left_hash & v->slot_mask]);
	__builtin_prefetch(&v->slot[(uint32_t)ret->right_hash & v->slot_mask]);
	return 0;
}

/* The token that both together spell. Most vocabularies number their tokens in the order of the
 * rules, so `guess` is it; where spellings repeat, the first id counts, which only the table
 * knows. */
static int32_t find_union(const struct vocab *v, const struct rule *r, int32_t guess,
                          char joined[2 * VOCAB_TEXT_MAX])
{
	size_t n = r->left.n + r->right.n;

	if (v->n_repeated == 0 && guess > 0 && (uint32_t)guess < v->n) {
		struct bytes t = vocab_text(v, (uint32_t)guess);

		if (t.n == n && memcmp(t.p, r->left.p, r->left.n) == 0 &&
		    memcmp(t.p + r->left.n, r->right.p, r->right.n) == 0)
			return guess;
	}
	/* both were found: they are at most VOCAB_TEXT_MAX long */
	memcpy(joined, r->left.p, r->left.n);
	memcpy(joined + r->left.n, r->right.p, r->right.n);
	return vocab_find(v, joined, n);
}

/* Who the two are and what they become. *guess: see above; comes back one further. */
static int resolve_rule(const struct vocab *v, struct rule *rule, uint32_t rank, struct bytes m,
                        int32_t *guess, char joined[2 * VOCAB_TEXT_MAX], struct err *err)
{
	int32_t l = find_hashed(v, rule->left_hash, rule->left.p, rule->left.n),
		r = find_hashed(v, rule->right_hash, rule->right.p, rule->right.n), id = -1;
	char shown[64];

	if (l >= 0 && r >= 0)
		id = find_union(v, rule, *guess, joined);
	if (id < 0)
		return err_set(
			err, -EBADMSG,
			"tokenizer.ggml.merges[%u] \"%s\" names %s that is not in the vocabulary",
			rank, str_escape(shown, sizeof(shown), m.p, m.n),
			l < 0 || r < 0 ? "a token" : "a pair whose union");
	*guess = id + 1;
	rule->merge = (struct vocab_merge){ l, r, rank, id };
	__builtin_prefetch(&v->merge[merge_slot(v, l, r)], 1);
	return 0;
}

static void add_merge(struct vocab *v, const struct vocab_merge *merge)
{
	struct vocab_merge *slot = find_merge(v, merge->left, merge->right);

	if (slot->left < 0)                             /* else the earlier rank stands */
		*slot = *merge;
}

static int build_merges(struct vocab *v, const struct vocab_src *src, struct err *err)
{
	enum { RULES = 16 };
	/* out here, since the compiler clears it each time that it comes into being */
	char joined[2 * VOCAB_TEXT_MAX];
	struct rule rules[RULES];
	int32_t guess = -1;
	int r;

	if (!src->merge)
		return err_set(
			err, -EBADMSG,
			"tokenizer.ggml.merges is missing: a vocabulary of kind \"gpt2\" needs it");
	if (src->n_merge > VOCAB_MAX)
		return err_set(err, -EBADMSG,
		               "tokenizer.ggml.merges has %llu entries, more than %d",
		               (unsigned long long)src->n_merge, VOCAB_MAX);
	v->merge_mask = table_size(src->n_merge) - 1;
	v->merge = mem_allocn((size_t)v->merge_mask + 1, sizeof(*v->merge));
	if (!v->merge)
		return -ENOMEM;
	for (uint32_t i = 0; i <= v->merge_mask; i++)
		v->merge[i].left = -1;
	/* Some rules at a time, so that memory answers while the next ones are hashed. */
	for (uint32_t i = 0; i < src->n_merge; i += RULES) {
		uint32_t n = MIN((uint32_t)src->n_merge - i, (uint32_t)RULES);

		for (uint32_t j = 0; j < n; j++)
			if ((r = split_rule(v, &rules[j], i + j, src->merge[i + j], err)) < 0)
				return r;
		for (uint32_t j = 0; j < n; j++)
			if ((r = resolve_rule(v, &rules[j], i + j, src->merge[i + j], &guess,
			                      joined, err)) < 0)
				return r;
		for (uint32_t j = 0; j < n; j++)
			add_merge(v, &rules[j].merge);
	}
	return 0;
}

static int set_roles(struct vocab *v, const struct vocab_src *src, struct err *err)
{
	/* Spellings that end a turn or a text wherever they occur. Files that call them ordinary
	 * words are common; they are control tokens all the same. The repository and padding marks
	 * of fill-in-the-middle end it too. */
	static const char *const ends[] = {
		"<|eot_id|>",
		"<|im_end|>",
		"<|end|>",
		"<|return|>",
		"<|call|>",
		"<|flush|>",
		"<|calls|>",
		"<end_of_turn>",
		"<|endoftext|>",
		"</s>",
		"<|eom_id|>",
		"<EOT>",
		"_<EOT>",
		"< EOT >",
		"[EOT]",
		"[EOS]",
		"<|end_of_text|>",
		"<end_of_utterance>",
		"<eos>",
		"<|end_of_turn|>",
		("<\xef\xbd\x9c"
		 "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"),
		"<|fim_pad|>",
		"<fim-pad>",
		"<fim_pad>",
		"<PAD>",
		"<|fim_repo|>",
		"<|repo_name|>",
		"<fim-repo>",
		"<REPO>",
		"<reponame>",
		"<|file_sep|>",
	};
	const int32_t ids[] = { src->bos,    src->eos,    src->eog[0],
		                src->eog[1], src->eog[2], src->eog[3] };

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		if (ids[i] >= 0 && (uint32_t)ids[i] >= v->n)
			return err_set(
				err, -EBADMSG,
				"tokenizer.ggml: special token id %d is beyond the %u tokens",
				ids[i], v->n);
		if (ids[i] >= 0 && i > 0)
			v->eog[ids[i]] = 1;
	}
	v->bos = src->bos;
	v->eos = src->eos;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
		int32_t id = vocab_find(v, ends[i], strlen(ends[i]));

		if (id < 0)
			continue;
		v->eog[id] = 1;
		v->type[id] = TOK_CONTROL;
	}
	return 0;
}

static int special_order(const void *a, const void *b, void *arg)
{
	const struct vocab *v = arg;
	const struct bytes x = vocab_text(v, *(const uint32_t *)a),
			   y = vocab_text(v, *(const uint32_t *)b);
	int r = memcmp(x.p, y.p, MIN(x.n, y.n));

	return r ? r : (x.n > y.n) - (x.n < y.n);
}

/* Of equal spellings only the one that vocab_find answers takes part. */
static bool is_special(const struct vocab *v, uint32_t id)
{
	uint8_t type = v->type[id];

	return (type == TOK_CONTROL || type == TOK_USER_DEFINED || type == TOK_UNKNOWN) &&
	       vocab_find(v, vocab_text(v, id).p, vocab_text(v, id).n) == (int32_t)id;
}

static int collect_special(struct vocab *v)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < v->n; i++)
		n += is_special(v, i);
	v->special = mem_allocn(n, sizeof(*v->special));
	if (!v->special)
		return -ENOMEM;
	for (uint32_t i = 0; i < v->n; i++)
		if (is_special(v, i))
			v->special[v->n_special++] = i;
	qsort_r(v->special, v->n_special, sizeof(*v->special), special_order, v);
	return 0;
}

static int check_source(const struct vocab_src *src, enum vocab_model *ret, struct err *err)
{
	char shown[64];

	if (strcmp(src->model, "gpt2") == 0)
		*ret = VOCAB_BPE;
	else if (strcmp(src->model, "llama") == 0)
		*ret = VOCAB_SPM;
	else
		return err_set(
			err, -ENOTSUP,
			"tokenizer.ggml.model \"%s\" is not supported; known are gpt2 and llama",
			str_escape(shown, sizeof(shown), src->model, strlen(src->model)));
	if (src->n_text == 0 || src->n_text > VOCAB_MAX)
		return err_set(err, -EBADMSG,
		               "tokenizer.ggml.tokens has %llu tokens, allowed are 1 to %d",
		               (unsigned long long)src->n_text, VOCAB_MAX);
	if (src->score && src->n_score != src->n_text)
		return err_set(err, -EBADMSG,
		               "tokenizer.ggml.scores has %llu entries for %llu tokens",
		               (unsigned long long)src->n_score, (unsigned long long)src->n_text);
	if (src->type && src->n_type != src->n_text)
		return err_set(err, -EBADMSG,
		               "tokenizer.ggml.token_type has %llu entries for %llu tokens",
		               (unsigned long long)src->n_type, (unsigned long long)src->n_text);
	return 0;
}

static int build_bpe(struct vocab *v, const struct vocab_src *src, struct err *err)
{
	const struct pretok_row *row;
	int r = pretok_new(&v->pre, &row, src->pre, err);

	if (r < 0)
		return r;
	v->add_bos = row->add_bos;
	v->ignore_merges = row->ignore_merges;
	return build_merges(v, src, err);
}

int vocab_new(struct vocab **ret, const struct vocab_src *src, struct err *err)
{
	_cleanup_(vocab_freep) struct vocab *v = NULL;
	enum vocab_model model = VOCAB_BPE;
	int r = check_source(src, &model, err);

	if (r < 0)
		return r;
	v = mem_alloc(sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->model = model;
	v->n = (uint32_t)src->n_text;
	v->unk = -1;
	if (getrandom(&v->seed, sizeof(v->seed), 0) != (ssize_t)sizeof(v->seed))
		return err_set(err, -EIO, "vocabulary: no random seed from the kernel");
	if ((r = copy_texts(v, src, err)) < 0 || (r = copy_types(v, src, err)) < 0 ||
	    (r = find_bytes(v, err)) < 0 || (r = set_roles(v, src, err)) < 0)
		return r;
	if (model == VOCAB_SPM) {
		v->add_bos = v->add_space_prefix = true;
		r = copy_scores(v, src, err);
	} else {
		r = build_bpe(v, src, err);
	}
	if (r < 0 || (r = collect_special(v)) < 0)
		return r;
	if (src->add_bos >= 0)
		v->add_bos = src->add_bos;
	if (src->add_space_prefix >= 0 && model == VOCAB_SPM)
		v->add_space_prefix = src->add_space_prefix;
	*ret = STEAL(v);
	return 0;
}

struct vocab *vocab_free(struct vocab *v)
{
	if (!v)
		return NULL;
	mem_free(v->text_at);
	mem_free(v->blob);
	mem_free(v->score);
	mem_free(v->type);
	mem_free(v->eog);
	mem_free(v->slot);
	mem_free(v->merge);
	mem_free(v->special);
	pretok_free(v->pre);
	return mem_free(v);
}
