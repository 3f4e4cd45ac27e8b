/* cmd-verify - is this model file whole? Extents and shapes, vocabulary, no NaN or infinity in any
 * scale or float, and the checksum of all its bytes, held against the one taken when it came.
 *
 * 1. The values are looked at before the checksum is: damage in a scale can then be named by tensor
 *    and row, where the sum only says that there is some.
 * 2. Reading is exact: a file that ends early, or that is written to meanwhile, is an error and
 *    never a short success. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/str.h"
#include "model/model.h"
#include "proto/hello.h"
#include "quant/packer.h"

struct verify {
	const struct job_io *io;
	uint64_t tensors, size;         /* bytes to look at in each pass */
};

static int on_summed(void *user, uint64_t done)
{
	const struct verify *v = user;

	v->io->progress(v->io->user, QLLM__WORK_PHASE__WORK_SUMMING, v->tensors + done,
	                v->tensors + v->size, v->tensors + done);
	return atomic_load(v->io->cancel) ? -ECANCELED : 0;
}

static void on_unpacked(void *user, Qllm__WorkPhase phase, uint64_t done, uint64_t total,
                        uint64_t bytes_read)
{
	const struct verify *v = user;

	(void)phase;
	(void)total;
	(void)bytes_read;
	(void)on_summed(user, MIN(done, v->size));
}

static void on_line(void *user, const char *text)
{
	const struct verify *v = user;

	v->io->line(v->io->user, text);
}

static int check_values(const struct model *m, const struct verify *v, struct err *err)
{
	uint64_t done = 0;

	for (size_t i = 0; i < m->gguf->n_tensors; i++) {
		int r = model_verify_tensor(m, i, v->io->cancel, err);

		if (r < 0)
			return r;
		done += m->gguf->tensors[i].n_bytes;
		v->io->progress(v->io->user, QLLM__WORK_PHASE__WORK_CHECKING, done,
		                v->tensors + v->size, done);
	}
	return 0;
}

/* Of the GGUF, which a packed file unpacks to: the checksum is the same in either form. */
static int sum_all(char ret[SUM_TEXT_MAX], int fd, const char *name, struct verify *v, bool packed,
                   struct err *err)
{
	struct job_io io = { v->io->cancel, on_unpacked, on_line, v };
	struct packer_result result;
	int r;

	if (!packed)
		return sum_file(ret, fd, v->size, on_summed, v, err);
	r = packer_export(&result, fd, -1, name, URING_AUTO, &io, err);
	if (r == 0)
		memcpy(ret, result.checksum, SUM_TEXT_MAX);
	return r;
}

/* want: the checksum it must have, or "". */
static int verify(int fd, const char *name, const char *want, const struct job_io *io,
                  struct job_result *ret, struct err *err)
{
	struct verify v = { .io = io };
	_cleanup_(model_unrefp) struct model *m = NULL;
	struct stat st;
	char line[160];
	int r = fd_check_source(fd, "the model", &st, err);

	if (r < 0)
		return r;
	v.size = (uint64_t)st.st_size;
	io->progress(io->user, QLLM__WORK_PHASE__WORK_OPENING, 0, 0, 0);
	r = model_load(&m, fd, name, err);
	if (r < 0)
		return r;
	v.tensors = m->n_bytes;
	snprintf(line, sizeof(line), "%zu tensors of %llu bytes within %llu bytes of file: "
	         "extents and vocabulary are sound", m->gguf->n_tensors,
	         (unsigned long long)m->n_bytes, (unsigned long long)v.size);
	io->line(io->user, line);
	r = check_values(m, &v, err);
	if (r < 0)
		return r;
	io->line(io->user, "no scale or float is NaN or infinite");
	r = sum_all(ret->checksum, fd, name, &v, m->pack != NULL, err);
	if (r < 0)
		return r;
	if (weightmap_recheck(m->map))
		return err_set(err, -EIO, "the file was written to or cut while it was read");
	snprintf(line, sizeof(line), "checksum %s", ret->checksum);
	io->line(io->user, line);
	if (want[0] && strcmp(want, ret->checksum) != 0)
		return err_set(err, -EBADMSG,
		               "the file's checksum is %s, at import it was %s: bytes have changed "
		               "since, in codes or metadata that no other check covers; import it "
		               "again", ret->checksum, want);
	snprintf(ret->text, sizeof(ret->text), "extents, vocabulary and all numbers are sound%s",
	         want[0] ? ", the checksum is that of the import" : "");
	ret->bytes_read = v.tensors + v.size;
	return 0;
}

static int verify_serve(const struct frame_in *in, const struct job_io *io, struct job_result *ret,
                        struct err *err)
{
	const Qllm__WorkJob *job = in->frame->work_job;
	const char *name = job->name ? job->name : "", *want = job->checksum ? job->checksum : "";

	if (!str_is_name(name) || strlen(want) >= SUM_TEXT_MAX)
		return err_set(err, -EINVAL, "the job's model name or checksum is none");
	return verify(in->fds.fd[0], name, want, io, ret, err);
}

static int print_result(const char *path, const struct job_result *result, bool as_json)
{
	json_t *json;
	char *text;

	if (!as_json) {
		printf("%s; %s\n", result->text, result->checksum);
		return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
	}
	json = json_pack("{s:s%, s:b, s:s, s:s, s:I}", "path", path, strlen(path), "ok", 1,
	                 "summary", result->text, "checksum", result->checksum, "bytes_read",
	                 (json_int_t)result->bytes_read);
	text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
	json_decref(json);
	if (!text) {
		fprintf(stderr, "qllm-worker: the path is no UTF-8: ask without --json\n");
		return EXIT_FAILED;
	}
	printf("%s\n", text);
	free(text);
	return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

static int verify_by_hand(int argc, char **argv)
{
	static const struct option longs[] = { { "json", no_argument, NULL, 'j' },
		                               { "progress", no_argument, NULL, 'p' },
		                               { NULL } };
	bool as_json = false, progress = false;
	struct job_result result = { .text = "" };
	_cleanup_close_ int fd = -1;
	struct err err = { 0 };
	struct job_io io;
	int opt, r;

	while ((opt = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		if (opt == '?')
			return EXIT_USAGE;
		as_json |= opt == 'j';
		progress |= opt == 'p';
	}
	if (optind != argc - 1) {
		fprintf(stderr, "qllm-worker: verify wants one file: qllm-worker verify %s\n",
		        cmd_verify.args);
		return EXIT_USAGE;
	}
	io = cmd_io_by_hand(progress);
	fd = open(argv[optind], O_RDONLY | O_CLOEXEC | O_NOCTTY);
	r = fd < 0 ? -errno : verify(fd, argv[optind], "", &io, &result, &err);
	if (r < 0) {
		fprintf(stderr, "qllm-worker: %s: %s\n", argv[optind],
		        err.text[0] ? err.text : strerror(-r));
		return EXIT_FAILED;
	}
	return print_result(argv[optind], &result, as_json);
}

const struct cmd cmd_verify = {
	.name = "verify",
	.args = "FILE.gguf [--json] [--progress]",
	.help = "check extents, vocabulary, NaN and Inf, and tell the checksum",
	.kind = QLLM__WORK_KIND__WORK_VERIFY,
	.n_fds = 1,
	.by_hand = verify_by_hand,
	.serve = verify_serve,
};
