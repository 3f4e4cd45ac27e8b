/* cmd-pack - pack: a GGUF to the store's packed file; export: back to the GGUF's own bytes.
 *
 * By hand the target appears complete under its name or not at all: it is written beside it, as
 * NAME.part, and renamed. For the daemon it is a file without a name, which the daemon links. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/cleanup.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/str.h"
#include "proto/hello.h"
#include "quant/packer.h"

typedef int (*convert_fn)(struct packer_result *ret, int src, int dst, const char *name,
                          enum uring_kind kind, const struct job_io *io, struct err *err);

static void say(struct job_result *ret, const struct packer_result *p, bool packing)
{
	if (packing)
		snprintf(ret->text, sizeof(ret->text),
		         "%llu of %llu tensors packed, %llu bytes written, and unpacked again to "
		         "the bytes that were read (%s%s)",
		         (unsigned long long)p->packed_tensors, (unsigned long long)p->tensors,
		         (unsigned long long)p->bytes_written,
		         p->ring ? "io_uring" : "pread, pwrite", p->direct ? ", O_DIRECT" : "");
	else
		snprintf(ret->text, sizeof(ret->text), "%llu bytes of GGUF written",
		         (unsigned long long)p->bytes_written);
	snprintf(ret->checksum, sizeof(ret->checksum), "%s", p->checksum);
	ret->bytes_read = p->bytes_read;
	ret->bytes_written = p->bytes_written;
}

/* --- for the daemon --------------------------------------------------------------------------- */

static int serve_with(convert_fn convert, bool packing, const struct frame_in *in,
                      const struct job_io *io, struct job_result *ret, struct err *err)
{
	const Qllm__WorkJob *job = in->frame->work_job;
	const char *name = job->name ? job->name : "";
	struct packer_result result;
	struct stat st;
	int r;

	if (!str_is_name(name))
		return err_set(err, -EINVAL, "the job's model name is none");
	r = fd_check_source(in->fds.fd[0], "the model", &st, err);
	if (r == 0)
		r = fd_check_source(in->fds.fd[1], "the target", &st, err);
	if (r < 0)
		return r;
	/* a worker before this one may have left something */
	if (ftruncate(in->fds.fd[1], 0) < 0)
		return err_set(err, -errno, "the target cannot be written: %s", strerror(errno));
	io->progress(io->user, QLLM__WORK_PHASE__WORK_OPENING, 0, 0, 0);
	r = convert(&result, in->fds.fd[0], in->fds.fd[1], name, URING_AUTO, io, err);
	if (r == 0)
		say(ret, &result, packing);
	return r;
}

static int pack_serve(const struct frame_in *in, const struct job_io *io, struct job_result *ret,
                      struct err *err)
{
	return serve_with(packer_pack, true, in, io, ret, err);
}
static int export_serve(const struct frame_in *in, const struct job_io *io, struct job_result *ret,
                        struct err *err)
{
	return serve_with(packer_export, false, in, io, ret, err);
}

/* --- by hand ---------------------------------------------------------------------------------- */

static int convert_files(convert_fn convert, const char *from, const char *to,
                         enum uring_kind kind, const struct job_io *io,
                         struct packer_result *ret, struct err *err)
{
	_cleanup_(sbuf_deinit) struct sbuf part = { 0 };
	_cleanup_close_ int src = open(from, O_RDONLY | O_CLOEXEC | O_NOCTTY), dst = -1;
	struct stat st;
	int r;

	if (src < 0)
		return err_set(err, -errno, "%s: %s", from, strerror(errno));
	r = fd_check_source(src, "the source", &st, err);
	if (r == 0 && sbuf_printf(&part, "%s.part", to) < 0)
		r = -ENOMEM;
	if (r < 0)
		return r;
	dst = open(part.p, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
	if (dst < 0)
		return err_set(err, -errno, "%s: %s%s", part.p, strerror(errno),
		               errno == EEXIST ? ": left by another run; remove it" : "");
	r = convert(ret, src, dst, from, kind, io, err);
	if (r == 0 && rename(part.p, to) < 0)
		r = err_set(err, -errno, "%s: %s", to, strerror(errno));
	if (r < 0)
		unlink(part.p);
	return r;
}

static int by_hand(const struct cmd *cmd, convert_fn convert, bool packing, int argc, char **argv)
{
	static const struct option longs[] = { { "plain", no_argument, NULL, 'n' },
		                               { "progress", no_argument, NULL, 'p' },
		                               { NULL } };
	enum uring_kind kind = URING_AUTO;
	struct job_result result = { .text = "" };
	struct packer_result packed;
	struct err err = { 0 };
	bool progress = false;
	struct job_io io;
	int opt, r;

	while ((opt = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		if (opt == '?')
			return EXIT_USAGE;
		progress |= opt == 'p';
		if (opt == 'n')
			kind = URING_PLAIN;
	}
	if (optind != argc - 2) {
		fprintf(stderr, "qllm-worker: %s wants two files: qllm-worker %s %s\n", cmd->name,
		        cmd->name, cmd->args);
		return EXIT_USAGE;
	}
	io = cmd_io_by_hand(progress);
	r = convert_files(convert, argv[optind], argv[optind + 1], kind, &io, &packed, &err);
	if (r < 0) {
		fprintf(stderr, "qllm-worker: %s: %s\n", argv[optind],
		        err.text[0] ? err.text : strerror(-r));
		return EXIT_FAILED;
	}
	say(&result, &packed, packing);
	printf("%s; %s\n", result.text, result.checksum);
	return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

static int pack_by_hand(int argc, char **argv)
{
	return by_hand(&cmd_pack, packer_pack, true, argc, argv);
}
static int export_by_hand(int argc, char **argv)
{
	return by_hand(&cmd_export, packer_export, false, argc, argv);
}

const struct cmd cmd_pack = {
	.name = "pack",
	.args = "FILE.gguf TARGET [--plain] [--progress]",
	.help = "write a GGUF in the packed form of the store; --plain: without io_uring",
	.kind = QLLM__WORK_KIND__WORK_PACK,
	.n_fds = 2,
	.by_hand = pack_by_hand,
	.serve = pack_serve,
};
const struct cmd cmd_export = {
	.name = "export",
	.args = "FILE TARGET.gguf [--plain] [--progress]",
	.help = "write the GGUF again that a packed file was made of, byte for byte",
	.kind = QLLM__WORK_KIND__WORK_EXPORT,
	.n_fds = 2,
	.by_hand = export_by_hand,
	.serve = export_serve,
};
