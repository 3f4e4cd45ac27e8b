/* test-json - JSON that a client sends raw: messages and tools of Template and Generate. Nothing
 * but the daemon's own parser stands before it here; qllmctl's is test-ctl's and tests/system's
 * matter.
 *
 * Bad text is refused with exit code 2 and one sentence that names the argument; odd but right text
 * is accepted; and either way the well-behaved client gets its answer afterwards. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/num.h"
#include "proto/hello.h"
#include "tests/lib/raw.h"

#define HEAD "[{\"role\":\"user\",\"content\":\"hi\","
#define WITH(what) HEAD "\"x\":" what "}]"

static struct raw_answer a;

static void ask_template(const char *model, const char *messages, size_t n, const char *tools,
                         size_t n_tools)
{
	Qllm__Frame frame = QLLM__FRAME__INIT;
	Qllm__Template q = QLLM__TEMPLATE__INIT;
	Qllm__Blob blob = QLLM__BLOB__INIT, blob_tools = QLLM__BLOB__INIT;
	struct frame_fds fds = { .n = 0 };

	assert_int_equal(blob_put(&blob, messages, n, &fds), 0);
	q.model = (char *)(uintptr_t)model;
	q.messages = &blob;
	if (tools) {
		assert_int_equal(blob_put(&blob_tools, tools, n_tools, &fds), 0);
		q.tools = &blob_tools;
	}
	frame.body_case = QLLM__FRAME__BODY_TEMPLATE;
	frame.template_ = &q;
	raw_ask_fds(&raw_good, &frame, &fds, &a);
	frame_fds_deinit(&fds);
}

static void ask_generate(const char *messages, size_t n)
{
	Qllm__Frame frame;
	Qllm__Generate g;
	Qllm__Sampling s;
	Qllm__Blob blob, text = QLLM__BLOB__INIT;
	struct frame_fds fds = { .n = 0 };

	raw_fill_generate(&frame, &g, &s, &blob, 4);
	assert_int_equal(blob_put(&text, messages, n, &fds), 0);
	g.prompt = NULL;
	g.raw = g.has_raw = false;
	g.messages = &text;
	raw_ask_fds(&raw_good, &frame, &fds, &a);
	frame_fds_deinit(&fds);
}

/* One sentence on one line that begins with the argument's name; the reader sees no screenful. */
static void check_refused(const char *what, const char *says)
{
	if (a.body != QLLM__FRAME__BODY_ERROR || a.code != EXIT_USAGE)
		fail_msg("%.60s: answered by %d, code %u: %s", what, (int)a.body, a.code, a.text);
	if (!strstr(a.text, says) || strchr(a.text, '\n') || strlen(a.text) > 300)
		fail_msg("%.60s: \"%s\", \"%s\" should be said", what, a.text, says);
}

static void refuse(const char *text, size_t n)
{
	static const char good[] = "[{\"role\":\"user\",\"content\":\"hi\"}]";

	ask_template("tiny", text, n, NULL, 0);
	check_refused(text, "messages");
	ask_generate(text, n);
	check_refused(text, "messages");
	ask_template("tiny", good, strlen(good), text, n);
	check_refused(text, "tools");
}

static void accept(const char *model, const char *text, size_t n)
{
	ask_template(model, text, n, NULL, 0);
	if (a.body != QLLM__FRAME__BODY_TEXT_REPLY)
		fail_msg("%.60s: code %u: %s", text, a.code, a.text);
}

/* --- text that is no JSON --------------------------------------------------------------------- */

static void test_bad_text(void **state)
{
	static const char *const bad[] = {
		/* J2 */
		WITH("1e400"),
		WITH("-1e400"),
		WITH("NaN"),
		WITH("Infinity"),
		WITH("-Infinity"),
		WITH("18446744073709551616"),
		WITH("-9223372036854775809"),
		WITH("01"),
		WITH("+1"),
		WITH("0x1"),
		/* J3 */
		WITH("\"\\ud800\""),
		WITH("\"\\udc00\""),
		WITH("\"\\ud800\\u0041\""),
		WITH("\"\\u0000\""),
		WITH("\"\\u00\""),
		WITH("\"\\x41\""),
		WITH("\"\xc0\xaf\""),
		WITH("\"\xe0\x80\xaf\""),
		WITH("\"\xf0\x80\x80\xaf\""),
		WITH("\"\xed\xa0\x80\""),
		WITH("\"\xf4\x90\x80\x80\""),
		WITH("\"\xff\""),
		WITH("\"\xe2\x82\""),
		WITH("\"a\nb\""),
		HEAD "\"\\u0000\":1}]",
		/* J4 */
		HEAD "\"role\":\"user\"}]",
		WITH("{\"a\":1,\"a\":2}"),
		HEAD "}]",
		WITH("[1,]"),
		WITH("[1 2]"),
		WITH("1") "x",
		WITH("1") "[]",
		WITH("1") ",", /* J5 */
		"[{\"role\":\"user\",\"content\":\"hi\"",
		"[",
		"{",
		"\"",
		"",
		" ",
		"nul",
		"[//\n]",
		"['a']",
		"\xef\xbb\xbf[]",
		"\xff\xfe[",
		"{}",
		"null",
		"\"text\"",
		"1",
	};
	static const char nul[] = "[{\"role\":\"user\",\"content\":\"h\0i\"}]";

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		refuse(bad[i], strlen(bad[i]));
	refuse(nul, sizeof(nul) - 1);
	refuse(WITH("1"), sizeof(WITH("1")));           /* a NUL behind the text is text as well */
	raw_check_good();
}

static char *repeat(const char *head, const char *open, size_t n, const char *middle,
                    const char *close, const char *tail)
{
	size_t n_open = strlen(open), n_close = strlen(close);
	char *text = malloc(strlen(head) + n * (n_open + n_close) + strlen(middle) + strlen(tail) +
	                    1),
	     *p;

	p = stpcpy(text, head);
	for (size_t i = 0; i < n; i++)
		p = stpcpy(p, open);
	p = stpcpy(p, middle);
	for (size_t i = 0; i < n; i++)
		p = stpcpy(p, close);
	strcpy(p, tail);
	return text;
}

static void test_deep_text(void **state)
{
	static const struct { const char *open, *middle, *close; } shapes[] = {
		{ "[", "1", "]" },
		{ "{\"a\":", "1", "}" },
		{ "[{\"a\":", "1", "}]" },
		{ "[", "", "" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++) {       /* J1 */
		char *text = repeat(HEAD "\"x\":", shapes[i].open, 100000, shapes[i].middle,
		                    shapes[i].close, "}]");

		refuse(text, strlen(text));
		free(text);
		text = repeat("", shapes[i].open, 100000, shapes[i].middle, shapes[i].close, "");
		refuse(text, strlen(text));
		free(text);
	}
	raw_check_good();
}

static void test_long_numbers(void **state)
{
	char *text = repeat(HEAD "\"x\":", "7", 1 << 20, "", "", "}]");

	(void)state;
	refuse(text, strlen(text));                             /* J6 */
	free(text);
	text = repeat(HEAD "\"x\":1e", "7", 1 << 20, "", "", "}]");
	refuse(text, strlen(text));
	free(text);
	text = repeat(HEAD "\"x\":0.", "7", 1 << 20, "", "", "}]");
	/* a long way to write a right number */
	accept("tiny", text, strlen(text));
	free(text);
	raw_check_good();
}

/* --- JSON that is no conversation ------------------------------------------------------------- */

static void test_wrong_types(void **state)
{
	static const char *const bad[] = {
		/* J7 */
		"[]",
		"[1]",
		"[null]",
		"[[]]",
		"[\"user\"]",
		"[{}]",
		"[{\"content\":\"hi\"}]",
		"[{\"role\":1,\"content\":\"hi\"}]",
		"[{\"role\":null,\"content\":\"hi\"}]",
		"[{\"role\":[\"user\"],\"content\":\"hi\"}]",
		"[{\"role\":\"user\",\"content\":\"hi\"},7]",
	};
	static const char *const no_text[] = { "null", "7", "true", "{}", "[1]", "1.5" };
	char text[100];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		ask_template("tiny", bad[i], strlen(bad[i]), NULL, 0);
		check_refused(bad[i], "messages");
		ask_generate(bad[i], strlen(bad[i]));
		check_refused(bad[i], "messages");
	}
	/* The template adds content to a string: what it says comes back, with the place. */
	for (size_t i = 0; i < ARRAY_SIZE(no_text); i++) {
		snprintf(text, sizeof(text), "[{\"role\":\"user\",\"content\":%s}]", no_text[i]);
		ask_template("tiny", text, strlen(text), NULL, 0);
		check_refused(text, "line 1");
	}
	ask_template("tiny", "[{\"role\":\"user\"}]", 17, NULL, 0);
	check_refused("no content", "line 1");
	raw_check_good();
}

static void test_odd_but_right(void **state)
{
	static const char *const fine[] = {
		WITH("-0"),
		WITH("-0.0"),
		WITH("1e-400"),
		WITH("9223372036854775807"),
		WITH("1E2"),
		WITH("\"\\ud83d\\ude00\""),
		WITH("\"\xf4\x8f\xbf\xbf\""),
		WITH("\"\\/\\b\\u007f\""),
		WITH("\"\""),
		" \t\r\n" WITH("null") " \n",
		"[{\"role\":\"\",\"content\":\"\"}]",
		HEAD "\"\":1}]",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fine); i++)
		accept("tiny", fine[i], strlen(fine[i]));
	raw_check_good();
}

/* The parser takes 2,048 levels. A template that looks at all of them meets its own limit of depth,
 * or says what it saw; the stack of the thread that renders it holds either way. */
static void test_deep_values_in_a_template(void **state)
{
	static const char *const templates[] = {
		"{{ messages }}",
		"{{ messages | tojson }}",
		"{{ messages | tojson(indent=2) }}",
		"{{ messages == messages[:] }}",
		"{{ messages[0].x in [messages[1].x] }}",
		"{{ [messages] | string }}",
		"{% set ns = namespace(v=messages[0].x) %}{% for i in range(1990) %}"
		"{% if ns.v is not mapping and ns.v is not number %}{% set ns.v = ns.v[0] %}{% "
		"endif %}{% endfor %}{{ ns.v }}",
	};
	char path[100], *deep = repeat("", "[", 2000, "1", "]", ""), *text = malloc(20000);

	(void)state;
	snprintf(text, 20000,
	         HEAD "\"x\":%s},"
	              "{\"role\":\"user\",\"content\":\"hi\",\"x\":%s}]",
	         deep, deep);
	snprintf(path, sizeof(path), "%s/deep.gguf", raw_dir);
	for (size_t i = 0; i < ARRAY_SIZE(templates); i++) {
		char name[16];
		int fd;

		raw_write_model(path, templates[i]);
		snprintf(name, sizeof(name), "deep%zu", i);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_int_equal(raw_import(&raw_good, name, fd, false, &a), 0);
		assert_int_equal(a.body, QLLM__FRAME__BODY_LIST_REPLY);
		close(fd);
		ask_template(name, text, strlen(text), NULL, 0);
		if (a.body == QLLM__FRAME__BODY_TEXT_REPLY)
			continue;
		if (a.body != QLLM__FRAME__BODY_ERROR || !strstr(a.text, "chat template, line 1"))
			fail_msg("%s: answered by %d: %s", templates[i], (int)a.body, a.text);
	}
	free(deep);
	free(text);
	raw_check_good();
}

static void test_terminate(void **state)
{
	(void)state;
	kill(raw_daemon, SIGTERM);
	raw_wait_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad_text),
		cmocka_unit_test(test_deep_text),
		cmocka_unit_test(test_long_numbers),
		cmocka_unit_test(test_wrong_types),
		cmocka_unit_test(test_odd_but_right),
		cmocka_unit_test(test_deep_values_in_a_template),
		cmocka_unit_test(test_terminate),
	};

	return cmocka_run_group_tests(tests, raw_setup, raw_teardown);
}
