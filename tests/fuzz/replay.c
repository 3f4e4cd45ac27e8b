/* replay - main of a fuzz target without libFuzzer: every file given, and every file of every
 * folder given (none: the target's corpus), is one input. Ends with 0 when all of them passed; one
 * that takes more than LIMIT_S seconds ends the program by SIGALRM. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include "tests/fuzz/fuzz.h"

enum { LIMIT_S = 60, INPUT_MAX = 1 << 20 };

#pragma weak LLVMFuzzerInitialize
static unsigned n_inputs;
static char running[4096];              /* path of the input */

/* The path is what is needed to run it alone. */
static void on_death(int signal_number)
{
	(void)!write(STDERR_FILENO, running, strlen(running));
	(void)!write(STDERR_FILENO, ": ended here\n", 13);
	signal(signal_number, SIG_DFL);
	raise(signal_number);
}

static void replay_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *whole = malloc(INPUT_MAX), *exact;
	size_t n;

	if (!f || !whole) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
	n = fread(whole, 1, INPUT_MAX, f);
	fclose(f);
	/* a block of just that size: a read past its end is seen */
	exact = malloc(n ? n : 1);
	if (!exact)
		abort();
	memcpy(exact, whole, n);
	free(whole);
	snprintf(running, sizeof(running), "%s", path);
	alarm(LIMIT_S);
	LLVMFuzzerTestOneInput(exact, n);
	alarm(0);
	free(exact);
	n_inputs++;
}

static int by_name(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

static void replay(const char *path)
{
	struct dirent **names;
	char file[4096];
	struct stat st;
	int n;

	if (stat(path, &st) < 0) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		exit(1);
	}
	if (!S_ISDIR(st.st_mode)) {
		replay_file(path);
		return;
	}
	n = scandir(path, &names, by_name, alphasort);
	for (int i = 0; i < n; i++) {
		snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name);
		replay_file(file);
		free(names[i]);
	}
	free(names);
}

int main(int argc, char **argv)
{
	const char *src = getenv("QLLM_SRCDIR");
	char path[4096];

	signal(SIGABRT, on_death);
	signal(SIGALRM, on_death);
	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++)
		replay(argv[i]);
	if (argc < 2) {
		snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", src ? src : ".", fuzz_name);
		replay(path);
	}
	if (n_inputs == 0) {
		fprintf(stderr, "%s: no inputs\n", fuzz_name);
		return 1;
	}
	printf("%s: %u inputs\n", fuzz_name, n_inputs);
	return 0;
}
