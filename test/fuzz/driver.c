/*-------------------------------------------------------------------------
 *
 * driver.c
 *	  The program around a fuzzer.
 *
 *	ROUNDS SEED		random inputs; the number of the last one is in the message
 *					if one fails, and it is in the file fuzz.input
 *	FILE			an input that failed
 *
 * With -DLIBFUZZER (and clang's -fsanitize=fuzzer) it is driven by coverage.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "fuzz.h"

static char input_name[64] = "input";

uint64
fuzz_random(uint64 *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

void
fuzz_fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", input_name, what);
	abort();
}

#ifdef LIBFUZZER

int
LLVMFuzzerTestOneInput(const uint8 *bytes, size_t len)
{
	fuzz_read_input(bytes, len);
	return 0;
}

#else

static size_t
read_file(const char *name, uint8 *bytes)
{
	FILE *file = fopen(name, "rb");
	size_t len;

	if (file == NULL)
	{
		perror(name);
		exit(2);
	}
	len = fread(bytes, 1, FUZZ_MAX_INPUT, file);
	fclose(file);
	return len;
}

int
main(int argc, char **argv)
{
	/* Of the very size of each input, so that reading past its end is seen. */
	uint8 *bytes = malloc(FUZZ_MAX_INPUT);
	uint8 *exact;
	size_t len;
	int kept;

	if (argc == 2)
	{
		len = read_file(argv[1], bytes);
		fuzz_read_input(bytes, len);
		return 0;
	}
	if (argc != 3)
	{
		fprintf(stderr, "usage: %s ROUNDS SEED | FILE\n", argv[0]);
		return 2;
	}
	kept = open("fuzz.input", O_RDWR | O_CREAT, 0644);
	for (long round = 1; round <= atol(argv[1]); round++)
	{
		uint64 random = (atol(argv[2]) * 1000003 + round) *
							UINT64CONST(0x9e3779b97f4a7c15) |
						1;

		len = fuzz_make_input(bytes, &random);
		snprintf(input_name, sizeof(input_name), "seed %s, round %ld", argv[2],
				 round);
		/* Where it is found if it brings the program down. */
		if (pwrite(kept, bytes, len, 0) != (ssize_t) len ||
			ftruncate(kept, len) != 0)
			return 2;

		exact = malloc(len);
		memcpy(exact, bytes, len);
		fuzz_read_input(exact, len);
		free(exact);
	}
	fuzz_end();
	printf("%s inputs\n", argv[1]);
	free(bytes);
	return 0;
}

#endif
