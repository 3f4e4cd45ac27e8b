/* test-jinja - what jinja2 makes of the same templates (tests/golden/jinja), and hostile templates
 * against the budgets. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "base/num.h"
#include "text/chat.h"
#include "text/tok.h"

enum { STEPS_SECONDS = 20 };            /* generous: sanitizers and a busy machine */

static const char *golden(char *buf, size_t size, const char *name)
{
	const char *src = getenv("QLLM_SRCDIR");

	snprintf(buf, size, "%s/tests/golden/jinja/%s", src ? src : ".", name);
	return buf;
}

static int render(const char *text, size_t n, json_t *vars, const struct jinja_budget *b,
                  struct sbuf *out, struct err *err)
{
	struct jinja *j = NULL;
	int r = jinja_new(&j, text, n, err);

	if (r == 0)
		r = jinja_render(j, vars, b, out, err);
	jinja_free(j);
	return r;
}

static char *read_all(const char *path, size_t *ret_n)
{
	static char text[1 << 17];
	FILE *f = fopen(path, "rb");

	assert_non_null(f);
	*ret_n = fread(text, 1, sizeof(text), f);
	fclose(f);
	return text;
}

static void test_golden(void **state)
{
	char path[4096];
	json_t *cases = json_load_file(golden(path, sizeof(path), "cases.json"), 0, NULL), *c;
	size_t i, bad = 0;

	(void)state;
	assert_true(json_array_size(cases) > 250);
	json_array_foreach(cases, i, c) {
		const char *text = json_string_value(json_object_get(c, "text")), *want;
		const char *name = json_string_value(json_object_get(c, "template"));
		struct sbuf out = { 0 };
		struct err err = { 0 };
		size_t n;
		int r;

		if (name)
			text = read_all(golden(path, sizeof(path), name), &n);
		else
			n = strlen(text);
		want = json_string_value(json_object_get(c, "output"));
		r = render(text, n, json_object_get(c, "vars"), NULL, &out, &err);
		if (want ? r != 0 || strcmp(out.p ? out.p : "", want) != 0
		         : (r != -EINVAL && r != -E2BIG) || !strstr(err.text, "line ")) {
			print_error("%s %s: %d %s\nwant: %s\ngot: %s\n", name ? name : text,
			            name ? json_string_value(json_object_get(c, "talk")) : "", r,
			            err.text, want ? want : "an error", out.p ? out.p : "");
			bad++;
		}
		sbuf_deinit(&out);
	}
	json_decref(cases);
	assert_int_equal(bad, 0);
}

static void expect_spent(const char *what, const char *text, size_t n, const struct jinja_budget *b)
{
	int64_t live = mem_live_blocks();
	json_t *vars = json_object();
	clock_t begin = clock();
	struct sbuf out = { 0 };
	struct err err = { 0 };
	int r = render(text, n, vars, b, &out, &err);

	if (r != -E2BIG || !err.text[0] || out.n)
		fail_msg("%s: %d, \"%s\", %zu bytes of output", what, r, err.text, out.n);
	if ((clock() - begin) / CLOCKS_PER_SEC > STEPS_SECONDS)
		fail_msg("%s took too long", what);
	json_decref(vars);
	sbuf_deinit(&out);
	assert_int_equal(mem_live_blocks(), live);
}

static void test_hostile_templates_spend_their_budget(void **state)
{
	static const char *const texts[] = {
		"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
		"{% macro f(n) %}{{ g(n) }}{% endmacro %}{% macro g(n) %}{{ f(n) }}{% endmacro "
		"%}{{ f(1) }}",
		"{{ range(1000000000) | list | length }}",
		"{% for i in range(1000000000) %}x{% endfor %}",
		"{% for i in range(999) %}{% for j in range(999) %}{% for k in range(999) %}{% "
		"endfor %}{% endfor %}{% endfor %}",
		"{{ 'x' * 1000000000 }}",
		"{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s "
		"%}{% endfor %}",
		"{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l "
		"%}{% endfor %}",
		"{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% "
		"endfor %}{{ ns.l | tojson }}",
		"{% set ns = namespace(s='x' * 100000) %}{% for i in range(99999) %}{% set q = "
		"ns.s | upper | lower %}{% endfor %}",
		"{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
		"{% set s = 'a b ' * 100000 %}{% for i in range(99999) %}{% set q = s.split() %}{% "
		"endfor %}",
		"{% set s = 'ab' * 100000 %}{% for i in range(99999) %}{% set q = s | replace('a', "
		"'bb') %}{% endfor %}",
		"{% set s = 'a' * 100000 %}{% set t = 'a' * 50000 ~ 'b' %}{% for i in range(99999) "
		"%}{% set q = s.rfind(t) %}{% endfor %}",
		"{% set s = 'a' * 60000000 %}{% set q = s.split('a') %}",
		"{% set a = range(50000) | list %}{{ a | map('string') | unique | list | length }}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		expect_spent(texts[i], texts[i], strlen(texts[i]), NULL);
	expect_spent("output", "{% for i in range(100) %}0123456789{% endfor %}", 47,
	             &(struct jinja_budget){ .output = 999 });
	expect_spent("steps", "{% for i in range(100) %}0{% endfor %}", 38,
	             &(struct jinja_budget){ .steps = 50 });
}

static void repeat_into(struct sbuf *s, const char *what, size_t times)
{
	for (size_t i = 0; i < times; i++)
		assert_int_equal(sbuf_append(s, what, strlen(what)), 0);
}

static void test_deep_and_huge_texts(void **state)
{
	static const struct { const char *open, *middle, *close; } shapes[] = {
		{ "(", "1", ")" },  { "[", "1", "]" },           { "{1:", "1", "}" },
		{ "- ", "1", "" },  { "not ", "1", "" },         { "f(", "1", ")" },
		{ "a[", "1", "]" }, { "1 if 1 else ", "1", "" }, { "a|default(", "1", ")" },
	};
	static const char *const blocks[][2] = { { "{% if 1 %}", "{% endif %}" },
		                                 { "{% for i in [1] %}", "{% endfor %}" },
		                                 { "{% set x %}", "{% endset %}" },
		                                 { "{% filter upper %}", "{% endfilter %}" } };
	struct sbuf s = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {
		s.n = 0;
		repeat_into(&s, "{{ ", 1);
		repeat_into(&s, shapes[i].open, 50000);
		repeat_into(&s, shapes[i].middle, 1);
		repeat_into(&s, shapes[i].close, 50000);
		repeat_into(&s, " }}", 1);
		expect_spent(shapes[i].open, s.p, s.n, NULL);
	}
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
		s.n = 0;
		repeat_into(&s, blocks[i][0], 20000);
		repeat_into(&s, blocks[i][1], 20000);
		expect_spent(blocks[i][0], s.p, s.n, NULL);
	}
	s.n = 0;
	repeat_into(&s, "x", (1 << 20) + 1);
	expect_spent("1 MiB and a byte", s.p, s.n, NULL);

	/* Long is not deep: these are fine, or fail for what they are, without a crash. */
	struct sbuf out = { 0 };
	json_t *vars = json_object();
	struct err err = { 0 };

	s.n = 0;
	repeat_into(&s, "{{ 1", 1);
	repeat_into(&s, " + 1", 20000);
	repeat_into(&s, " }}", 1);
	assert_int_equal(render(s.p, s.n, vars, NULL, &out, &err), 0);
	assert_string_equal(out.p, "20001");
	s.n = out.n = 0;
	repeat_into(&s, "x", 1 << 20);
	assert_int_equal(render(s.p, s.n, vars, NULL, &out, &err), 0);
	assert_int_equal(out.n, 1 << 20);
	s.n = 0;
	repeat_into(&s, "{{ a", 1);
	repeat_into(&s, ".b", 100000);
	repeat_into(&s, " }}", 1);
	assert_true(render(s.p, s.n, vars, NULL, &out, &err) < 0);
	s.n = 0;
	repeat_into(&s, "{{ 'a' | upper", 1);
	repeat_into(&s, " | upper", 100000);
	repeat_into(&s, " }}", 1);
	assert_true(render(s.p, s.n, vars, NULL, &out, &err) < 0);
	json_decref(vars);
	sbuf_deinit(&out);
	sbuf_deinit(&s);
}

static void test_messages_name_line_and_construct(void **state)
{
	static const struct { const char *text, *says; } cases[] = {
		{ "a\n\n{% nosuch %}", "line 3" },
		{ "a\n{{ 1 | nosuch }}", "line 2: the filter \"nosuch\"" },
		{ "{% if 1 %}\n\nx", "endif" },
		{ "\n{{ 'abc", "line 2: a string has no end" },
		{ "{# x", "comment" },
		{ "{{ raise_exception('No tools\n!') }}", "No tools\\x0a!" },
		{ "\n\n{{ a.b }}", "line 3" },
		{ "{{ f(1) }}", "\"f\" cannot be called" },
		{ "\xff", "UTF-8" },
	};
	json_t *vars = json_object();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct sbuf out = { 0 };
		struct err err = { 0 };

		assert_int_equal(
			render(cases[i].text, strlen(cases[i].text), vars, NULL, &out, &err),
			-EINVAL);
		if (!strstr(err.text, cases[i].says))
			fail_msg("\"%s\" does not say \"%s\"", err.text, cases[i].says);
		assert_int_equal(out.n, 0);
		sbuf_deinit(&out);
	}
	json_decref(vars);
}

/* Every prefix and every single-byte change of a real template parses or fails; nothing crashes or
 * leaks. */
static void test_damaged_templates(void **state)
{
	static const char junk[] = "{}%#'\"([|.-\n\\";
	static char copy[4096];
	json_t *vars = json_pack("{s:[{s:s,s:s}]}", "messages", "role", "user", "content", "hi");
	const struct jinja_budget small = { .steps = 2000 };
	char path[4096];
	size_t n;
	char *text = read_all(golden(path, sizeof(path), "gemma-3.jinja"), &n);
	int64_t live = mem_live_blocks();

	(void)state;
	assert_true(n < sizeof(copy));
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; k < sizeof(junk); k++) {
			struct sbuf out = { 0 };
			struct err err = { 0 };
			int r;

			memcpy(copy, text, n);
			copy[i] = junk[k];
			r = render(copy, k ? n : i, vars, &small, &out, &err);
			assert_true(r == 0 || ((r == -EINVAL || r == -E2BIG) && err.text[0]));
			sbuf_deinit(&out);
		}
	}
	json_decref(vars);
	assert_int_equal(mem_live_blocks(), live);
}

static void test_every_allocation_may_fail(void **state)
{
	static const char text[] =
		"{% macro f(a, b=1) %}{{ a ~ b }}{% endmacro %}{% for m in messages if m.x %}{{ "
		"f(m.x | upper) }}{{ m | tojson }}{{ [1, 2][::-1] }}{% endfor %}{% set ns = "
		"namespace(a='b') %}{{ ns.a.split('b') | length }}";
	json_t *vars = json_pack("{s:[{s:s}]}", "messages", "x", "y");
	bool done = false;

	(void)state;
	for (unsigned nth = 0; !done; nth++) {
		int64_t live = mem_live_blocks();
		struct sbuf out = { 0 };
		int r;

		mem_fault_arm(nth, false);
		r = render(text, sizeof(text) - 1, vars, NULL, &out, NULL);
		done = !mem_fault_fired();
		assert_int_equal(r, done ? 0 : -ENOMEM);
		sbuf_deinit(&out);
		assert_int_equal(mem_live_blocks(), live);
	}
	json_decref(vars);
}

static void test_clock(void **state)
{
	json_t *vars = json_object();
	struct sbuf out = { 0 };
	char want[2][64];
	time_t now = time(NULL);
	struct tm tm;

	(void)state;
	strftime(want[0], sizeof(want[0]), "%d %b %Y", localtime_r(&now, &tm));
	assert_int_equal(render("{{ strftime_now('%d %b %Y') }}", 30, vars, NULL, &out, NULL), 0);
	now = time(NULL);
	strftime(want[1], sizeof(want[1]), "%d %b %Y", localtime_r(&now, &tm));
	assert_true(strcmp(out.p, want[0]) == 0 || strcmp(out.p, want[1]) == 0);
	json_decref(vars);
	sbuf_deinit(&out);
}

static void test_chat_without_template(void **state)
{
	json_t *messages = json_array();
	struct sbuf out = { 0 };
	struct err err = { 0 };

	(void)state;
	assert_int_equal(chat_render(NULL, NULL, messages, NULL, &out, &err), -ENOENT);
	assert_non_null(strstr(err.text, "no chat template"));
	json_decref(messages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_golden),
		cmocka_unit_test(test_hostile_templates_spend_their_budget),
		cmocka_unit_test(test_deep_and_huge_texts),
		cmocka_unit_test(test_messages_name_line_and_construct),
		cmocka_unit_test(test_damaged_templates),
		cmocka_unit_test(test_every_allocation_may_fail),
		cmocka_unit_test(test_clock),
		cmocka_unit_test(test_chat_without_template),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
