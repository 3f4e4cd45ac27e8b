/* packold FROM TO - see packold.h, for tests that are no C. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include "tests/lib/packold.h"

int main(int argc, char **argv)
{
	int from = argc == 3 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1,
	    to = argc == 3 ? open(argv[2], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : -1;

	if (from < 0 || to < 0) {
		fprintf(stderr, "packold FROM TO\n");
		return 2;
	}
	packold_make(to, from, PACK_R16);
	return close(to) == 0 ? 0 : 1;
}
