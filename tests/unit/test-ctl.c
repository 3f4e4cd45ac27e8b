/* qllmctl without a daemon: the parser against the table, lists of ids, npy heads, JSON text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include "base/num.h"
#include "client/ctl.h"

/* words end with NULL */
static int parse(struct ctl *c, struct err *err, const char *const *words)
{
	int argc = 0;

	while (words[argc])
		argc++;
	memset(c, 0, sizeof(*c));
	err_clear(err);
	return ctl_parse(c, argc, (char **)(uintptr_t)words, err);
}
#define PARSE(c, err, ...) parse(c, err, (const char *const[]){ "qllmctl", __VA_ARGS__, NULL })

static void test_options_before_and_after(void **state)
{
	struct ctl c;
	struct err err;

	(void)state;
	assert_int_equal(
		PARSE(&c, &err, "--json", "run", "m", "hi", "-n5", "--temp=0.5", "--timeout", "3"),
		EXIT_OK);
	assert_true(c.json);
	assert_string_equal(c.cmd->name, "run");
	assert_int_equal(ctl_count(&c, "max-tokens", 0), 5);
	assert_true(ctl_number(&c, "temp", 9) == 0.5);
	assert_true(c.timeout == 3);
	assert_string_equal(ctl_arg(&c, 1), "hi");
	ctl_deinit(&c);

	/* after --, and as values, words may begin with a minus; - alone is an argument */
	assert_int_equal(PARSE(&c, &err, "run", "--presence-penalty", "-1.5", "m", "--", "--json"),
	                 EXIT_OK);
	assert_false(c.json);
	assert_true(ctl_number(&c, "presence-penalty", 0) == -1.5);
	assert_string_equal(ctl_arg(&c, 1), "--json");
	ctl_deinit(&c);
	assert_int_equal(PARSE(&c, &err, "tokenize", "m", "-"), EXIT_OK);
	assert_string_equal(ctl_arg(&c, 1), "-");
	ctl_deinit(&c);

	/* the last one counts; flags may be bundled */
	assert_int_equal(PARSE(&c, &err, "run", "m", "x", "--seed", "1", "--seed", "2", "-vq"),
	                 EXIT_OK);
	assert_int_equal(ctl_count(&c, "seed", 0), 2);
	assert_true(ctl_has(&c, "verbose") && c.quiet);
	ctl_deinit(&c);
}

static void test_wrong_usage(void **state)
{
	static const char *const bad[][6] = {
		{ "qllmctl", "nope" },
		{ "qllmctl", "run" },
		{ "qllmctl", "run", "m", "a", "b" },
		{ "qllmctl", "ls", "extra" },
		{ "qllmctl", "run", "m", "x", "--temp", "warm" },
		{ "qllmctl", "run", "m", "x", "-n", "-5" },
		{ "qllmctl", "run", "m", "x", "--seed" },
		{ "qllmctl", "run", "m", "x", "--no-such" },
		{ "qllmctl", "run", "m", "x", "--json=yes" },
		{ "qllmctl", "load", "m", "--kv", "f17" },
		{ "qllmctl", "run", "m", "x", "--lora", "a" },
		{ "qllmctl", "ls", "--timeout", "-1" },
		{ "qllmctl", "-z", "ls" },
	};
	struct ctl c;
	struct err err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *words[7] = { 0 };

		memcpy(words, bad[i], sizeof(bad[i]));
		assert_int_equal(parse(&c, &err, words), EXIT_USAGE);
		assert_true(err.text[0]);
		ctl_deinit(&c);
	}
	PARSE(&c, &err, "tokenise", "m");
	assert_non_null(strstr(err.text, "did you mean tokenize?"));
	ctl_deinit(&c);
	PARSE(&c, &err, "run", "m", "x", "--tmep", "1");
	assert_non_null(strstr(err.text, "did you mean --temp?"));
	ctl_deinit(&c);
}

/* What is not built accepts any arguments, so that the answer is always the one sentence. */
static void test_later(void **state)
{
	struct ctl c;
	struct err err;

	(void)state;
	assert_int_equal(PARSE(&c, &err, "quantize", "a", "b", "--type", "q4_k_m", "--wild"),
	                 EXIT_OK);
	assert_true(c.cmd->flags & CTL_LATER);
	ctl_deinit(&c);
}

static void test_table(void **state)
{
	(void)state;
	for (unsigned i = 0; ctl_cmds[i]; i++) {
		const struct ctl_cmd *cmd = ctl_cmds[i];

		assert_true(cmd->name && cmd->args && cmd->help);
		assert_true((cmd->run != NULL) != ((cmd->flags & CTL_LATER) != 0));
		assert_true(cmd->min_args <= cmd->max_args);
		assert_ptr_equal(ctl_find(cmd->name), cmd);
		for (const struct ctl_opt *o = cmd->opts; o && o->name; o++)
			assert_true(o->help && (o->kind == CTL_FLAG) == (o->value == NULL));
	}
}

static void test_ids(void **state)
{
	static const struct {
		const char *text;
		int r;
		size_t n;
		int32_t last;
	} rows[] = {
		{ "[1, 2,3]", 0, 3, 3 },
		{ "{\"tokens\":[7]}", 0, 1, 7 },
		{ " 1 2,3\n4 ", 0, 4, 4 },
		{ "", 0, 0, 0 },
		{ "[]", 0, 0, 0 },
		{ "2147483647", 0, 1, INT32_MAX },
		{ "2147483648", -EINVAL, 0, 0 },
		{ "-1", -EINVAL, 0, 0 },
		{ "[-1]", -EINVAL, 0, 0 },
		{ "[1.5]", -EINVAL, 0, 0 },
		{ "[1", -EINVAL, 0, 0 },
		{ "{\"a\":1}", -EINVAL, 0, 0 },
		{ "1 x", -EINVAL, 0, 0 },
		{ "99999999999999999999", -EINVAL, 0, 0 },
		/* J2..J7 */
		{ "[18446744073709551616]", -EINVAL, 0, 0 },
		{ "[9223372036854775807]", -EINVAL, 0, 0 },
		{ "[1e400]", -EINVAL, 0, 0 },
		{ "[NaN]", -EINVAL, 0, 0 },
		{ "[-0]", 0, 1, 0 },
		{ "[1.0]", -EINVAL, 0, 0 },
		{ "[\"1\"]", -EINVAL, 0, 0 },
		{ "[null]", -EINVAL, 0, 0 },
		{ "[true]", -EINVAL, 0, 0 },
		{ "[[1]]", -EINVAL, 0, 0 },
		{ "[1,]", -EINVAL, 0, 0 },
		{ "[1]x", -EINVAL, 0, 0 },
		{ "[1][2]", -EINVAL, 0, 0 },
		{ "{}", -EINVAL, 0, 0 },
		{ "{\"tokens\":1}", -EINVAL, 0, 0 },
		{ "{\"tokens\":[1],\"tokens\":[2]}", -EINVAL, 0, 0 },
		{ "[\"\\ud800\"]", -EINVAL, 0, 0 },
		{ "[\"\xc0\xaf\"]", -EINVAL, 0, 0 },
		{ "{\"\\u0000\":1}", -EINVAL, 0, 0 },
		{ "NaN", -EINVAL, 0, 0 },
		{ "1e3", -EINVAL, 0, 0 },
		{ "0x10", -EINVAL, 0, 0 },
		{ "+1", -EINVAL, 0, 0 },
		{ "\xff", -EINVAL, 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct ctl_ids ids = { 0 };
		struct err err = { 0 };

		assert_int_equal(ctl_ids_parse(&ids, rows[i].text, strlen(rows[i].text), &err),
		                 rows[i].r);
		if (rows[i].r == 0) {
			assert_int_equal(ids.n, rows[i].n);
			if (ids.n)
				assert_int_equal(ids.data[ids.n - 1], rows[i].last);
		} else {
			assert_true(err.text[0]);
		}
		vec_deinit(&ids);
	}
}

/* J1, J6: what would be deep or long ends with one short sentence. */
static void test_ids_at_length(void **state)
{
	static const struct { const char *head, *unit; } rows[] = {
		{ "", "[" }, { "", "{\"tokens\":" }, { "[", "7" },
		{ "", "7" }, { "[1e", "7" },         { "[0.", "7" },
	};
	enum { N = 1 << 20 };
	char *text = malloc(20 + 10 * N);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct ctl_ids ids = { 0 };
		struct err err = { 0 };
		size_t n = strlen(rows[i].head), len = strlen(rows[i].unit);

		memcpy(text, rows[i].head, n);
		for (size_t k = 0; k < N; k++, n += len)
			memcpy(text + n, rows[i].unit, len);
		assert_int_equal(ctl_ids_parse(&ids, text, n, &err), -EINVAL);
		assert_in_range(strlen(err.text), 1, 200);
		assert_null(strchr(err.text, '\n'));
		vec_deinit(&ids);
	}
	free(text);
}

static void test_npy(void **state)
{
	char head[NPY_HEAD_MAX];
	size_t n = npy_head(head, 48, 49152), max = npy_head(head, UINT64_MAX, UINT64_MAX);

	(void)state;
	assert_true(max <= NPY_HEAD_MAX && max % 64 == 0);
	n = npy_head(head, 48, 49152);
	assert_int_equal(n % 64, 0);
	assert_memory_equal(head, "\x93NUMPY\x01\x00", 8);
	assert_int_equal((unsigned char)head[8] | (unsigned char)head[9] << 8, n - 10);
	assert_int_equal(head[n - 1], '\n');
	head[n - 1] = 0;
	assert_non_null(strstr(head + 10, "'shape': (48, 49152), }"));
	assert_non_null(strstr(head + 10, "'descr': '<f4'"));
}

static void test_text(void **state)
{
	json_t *j = out_text("a\xff\0b\xe2\x82", 6);

	(void)state;
	/* the cut sequence at the end is two bad bytes */
	assert_int_equal(json_string_length(j), 1 + 3 + 1 + 1 + 6);
	assert_memory_equal(json_string_value(j), "a\xef\xbf\xbd\0b\xef\xbf\xbd\xef\xbf\xbd", 12);
	json_decref(j);
	j = out_text("gr\xc3\xbc\xc3\x9f", 6);
	assert_string_equal(json_string_value(j), "gr\xc3\xbc\xc3\x9f");
	json_decref(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options_before_and_after),
		cmocka_unit_test(test_wrong_usage),
		cmocka_unit_test(test_later),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_ids),
		cmocka_unit_test(test_ids_at_length),
		cmocka_unit_test(test_npy),
		cmocka_unit_test(test_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
