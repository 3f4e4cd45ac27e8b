/* ctl-export - export: the GGUF of a model, byte for byte as it was imported.
 *
 * The file appears complete under its name or not at all: it is filled beside it under a name that
 * begins with a dot, and renamed. The daemon gets its descriptor alone and never sees a path. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "base/mem.h"
#include "client/ctl.h"

/* DIR/.NAME-XXXXXX beside path; NULL: no memory. */
static char *part_name(const char *path)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	size_t size = strlen(path) + sizeof("./.-XXXXXX");
	char *out = mem_alloc(size);

	if (out)
		snprintf(out, size, "%.*s.%s-XXXXXX", (int)(base - path), path, base);
	return out;
}

static int fill(struct ctl *c, int fd, const char *part, const char *path)
{
	struct ctl_reply reply = { .c = c };
	int code = ctl_finish(c, qllm_export(c->q, ctl_arg(c, 0), fd, ctl_on_event, &reply),
	                      &reply);
	mode_t mask = umask(022);

	umask(mask);
	if (code == EXIT_OK && (fchmod(fd, 0666 & ~mask) < 0 || rename(part, path) < 0))
		code = ctl_fail(c, EXIT_FAILED, "%s: %s", path, strerror(errno));
	if (code == EXIT_OK && c->json)
		code = out_json(c, json_pack("{s:s, s:o, s:s}", "name", ctl_arg(c, 0), "path",
		                             out_text(path, strlen(path)), "summary",
		                             reply.data ? reply.data : ""));
	else if (code == EXIT_OK)
		code = ctl_say(c, "summary", reply.data ? reply.data : "ok");
	ctl_reply_deinit(&reply);
	return code;
}

static int run_export(struct ctl *c)
{
	const char *path = ctl_arg(c, 1), *format = ctl_text(c, "format", "gguf");
	_cleanup_mem_ char *part = part_name(path);
	_cleanup_close_ int fd = -1;
	struct stat st;
	int code;

	if (strcmp(format, "gguf") != 0)
		return ctl_fail(c, EXIT_USAGE, "format %.16s is not built yet: only gguf is",
		                format);
	if (lstat(path, &st) == 0)
		return ctl_fail(c, EXIT_FAILED, "%s is there already: choose another name", path);
	fd = part ? mkstemp(part) : -1;
	if (fd < 0)
		return ctl_fail(c, EXIT_FAILED, "%s: %s", path, strerror(part ? errno : ENOMEM));
	code = fill(c, fd, part, path);
	if (code != EXIT_OK)
		unlink(part);
	return code;
}

static const struct ctl_opt export_opts[] = {
	{ "format", 0, CTL_CHOICE, "gguf|gptq|awq", "Format of the file (gguf)" },
	{ 0 },
};
const struct ctl_cmd ctl_cmd_export = {
	.name = "export",
	.args = "M DST",
	.help = "Write the model's GGUF, byte for byte as it came",
	.min_args = 2,
	.max_args = 2,
	.flags = CTL_CONNECT,
	.opts = export_opts,
	.run = run_export,
	.example = "qllmctl export smollm2 SmolLM2.gguf",
};
