/* jinja - TEMPLATE, NUL, JSON: any template compiles and renders, or is refused with a sentence,
 * within its budgets, and the same twice. The JSON is the variables; when there is none that can be
 * read, a short talk takes its place. */
#include <errno.h>
#include "text/chat.h"
#include "tests/fuzz/fuzz.h"

const char fuzz_name[] = "jinja";
enum { STEPS = 20000, OUTPUT_MAX = 1 << 18 };

static const char talk[] =
	"{\"messages\":[{\"role\":\"system\",\"content\":\"be brief\"},{\"role\":\"user\","
	"\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\"hello\",\"tool_calls\":[{"
	"\"function\":{\"name\":\"f\",\"arguments\":{\"x\":[1,2.5,null,true]}}}]},{\"role\":"
	"\"user\",\"content\":\"\\u00e9\\u4e2d\"}],\"add_generation_prompt\":true,"
	"\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"tools\":[{\"type\":\"function\","
	"\"function\":{\"name\":\"f\",\"parameters\":{\"a\":1}}}],\"n\":3,\"x\":-1.5}";

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const struct jinja_budget budget = { .steps = STEPS, .output = OUTPUT_MAX };
	const char *text = (const char *)p;
	const char *nul = n ? memchr(text, 0, n) : NULL;
	size_t n_text = nul ? (size_t)(nul - text) : n;
	struct jinja *j = NULL;
	struct sbuf out = { 0 }, again = { 0 };
	struct err err = { 0 };
	json_t *vars = NULL;
	int r;

	if (nul)
		vars = json_loadb(nul + 1, n - n_text - 1, 0, NULL);
	if (!json_is_object(vars)) {
		json_decref(vars);
		vars = json_loads(talk, 0, NULL);
	}
	r = jinja_new(&j, text, n_text, &err);
	FUZZ_CHECK(r == 0 || ((r == -EINVAL || r == -E2BIG) && err.text[0]), "%d %s", r, err.text);
	if (r == 0) {
		r = jinja_render(j, vars, &budget, &out, &err);
		FUZZ_CHECK(r == 0 || ((r == -EINVAL || r == -E2BIG) && err.text[0]), "%d %s", r,
		           err.text);
		FUZZ_CHECK(out.n <= OUTPUT_MAX, "%zu bytes", out.n);
		FUZZ_CHECK(jinja_render(j, vars, &budget, &again, NULL) == r, "not the same twice");
	}
	jinja_free(j);
	json_decref(vars);
	sbuf_deinit(&out);
	sbuf_deinit(&again);
	return 0;
}
