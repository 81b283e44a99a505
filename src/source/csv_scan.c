/*-------------------------------------------------------------------------
 *
 * csv_scan.c
 *	  Where records and fields end, many bytes at a time.
 *
 * Of a piece of the buffer two things are made: for each 64 bytes a word for
 * each kind of byte that counts, with AVX2 where the processor has it, and
 * from these words the places of all delimiters and line feeds that are not
 * quoted.  Which bytes are quoted follows from the parity of the quotes before
 * them, and that is all there is to COPY's framing where the escape is the
 * quote.
 *
 * What RFC 4180 does not allow is marked as odd, and is for the careful code
 * in csv_reader.c and csv_split.c: quotes inside a field that is not quoted,
 * text behind a closing quote, a carriage return that does not end a line, a
 * zero byte.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "etl_patterns.h"
#include "port/pg_bitutils.h"
#include "port/pg_bswap.h"
#include "source/csv_scan.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define ETL_SCAN_AVX2
#include <immintrin.h>
#endif

/* What a block has to know of the one before it. */
typedef struct ScanCarry
{
	uint64 inside;	  /* all bits: it ended in quotes */
	uint64 separator; /* its last byte lets a quoted field begin */
	uint64 closing;	  /* its last byte is a closing quote */
	uint64 cr;		  /* its last byte is an unquoted carriage return */
} ScanCarry;

typedef void (*ScanClassify)(const EtlCsvScan *scan, const char *s, int nblocks,
							 EtlScanBlock *blocks);

/* The bits of eight bytes that are equal to those of pattern. */
static inline uint64
equal_bytes(uint64 word, uint64 pattern)
{
	const uint64 low = UINT64CONST(0x7f7f7f7f7f7f7f7f);
	uint64 diff = word ^ pattern;

	return ~(((diff & low) + low) | diff | low);
}

/* The highest bit of each of eight bytes, side by side. */
static inline uint64
gather_bits(uint64 high_bits)
{
	return ((high_bits >> 7) * UINT64CONST(0x0102040810204080)) >> 56;
}

/* Eight bytes at a time, in any C. */
static void
classify_portable(const EtlCsvScan *scan, const char *s, int nblocks,
				  EtlScanBlock *blocks)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	const uint64 high = UINT64CONST(0x8080808080808080);
	uint64 delimiter = ones * (unsigned char) scan->delimiter;
	uint64 quote = ones * (unsigned char) scan->quote;

	for (int b = 0; b < nblocks; b++, blocks++)
	{
		memset(blocks, 0, sizeof(EtlScanBlock));
		for (int shift = 0; shift < 64; shift += 8, s += 8)
		{
			uint64 word;

			memcpy(&word, s, sizeof(word));
#ifdef WORDS_BIGENDIAN
			word = pg_bswap64(word);
#endif
			blocks->delimiter |= gather_bits(equal_bytes(word, delimiter))
								 << shift;
			blocks->quote |= gather_bits(equal_bytes(word, quote)) << shift;
			blocks->lf |= gather_bits(equal_bytes(word, ones * '\n')) << shift;
			blocks->cr |= gather_bits(equal_bytes(word, ones * '\r')) << shift;
			blocks->nul |= gather_bits(equal_bytes(word, 0)) << shift;
			blocks->high |= gather_bits(word & high) << shift;
		}
	}
}

#ifdef ETL_SCAN_AVX2
/* The bits of 64 bytes that are equal to those of pattern. */
__attribute__((target("avx2"))) static inline uint64
equal_bytes_avx2(__m256i first, __m256i second, __m256i pattern)
{
	uint32 low = _mm256_movemask_epi8(_mm256_cmpeq_epi8(first, pattern));
	uint32 high = _mm256_movemask_epi8(_mm256_cmpeq_epi8(second, pattern));

	return low | (uint64) high << 32;
}

/* The same with vectors of 32 bytes. */
__attribute__((target("avx2"))) static void
classify_avx2(const EtlCsvScan *scan, const char *s, int nblocks,
			  EtlScanBlock *blocks)
{
	const __m256i delimiter = _mm256_set1_epi8(scan->delimiter);
	const __m256i quote = _mm256_set1_epi8(scan->quote);
	const __m256i lf = _mm256_set1_epi8('\n');
	const __m256i cr = _mm256_set1_epi8('\r');
	const __m256i nul = _mm256_setzero_si256();

	for (int b = 0; b < nblocks; b++, blocks++, s += 64)
	{
		__m256i first = _mm256_loadu_si256((const __m256i *) s);
		__m256i second = _mm256_loadu_si256((const __m256i *) (s + 32));

		blocks->delimiter = equal_bytes_avx2(first, second, delimiter);
		blocks->quote = equal_bytes_avx2(first, second, quote);
		blocks->lf = equal_bytes_avx2(first, second, lf);
		blocks->cr = equal_bytes_avx2(first, second, cr);
		blocks->nul = equal_bytes_avx2(first, second, nul);
		blocks->high = (uint32) _mm256_movemask_epi8(first) |
					   (uint64) (uint32) _mm256_movemask_epi8(second) << 32;
	}
}
#endif

/* The best that this processor can do, unless a test wants less. */
static ScanClassify
choose_classify(void)
{
#ifdef ETL_SCAN_AVX2
	static int has_avx2 = -1;

	if (has_avx2 < 0)
		has_avx2 = __builtin_cpu_supports("avx2") != 0;
	if (has_avx2 && etl_csv_scan_way == ETL_CSV_SCAN_AUTO)
		return classify_avx2;
#endif
	return classify_portable;
}

/* The last block of a piece, which may be shorter; zeros are no part of it. */
static void
classify_rest(EtlCsvScan *scan, ScanClassify classify, const char *s,
			  size_t len, EtlScanBlock *block)
{
	char bytes[64] = {0};

	memcpy(bytes, s, len);
	classify(scan, bytes, 1, block);
	block->nul &= (UINT64CONST(1) << len) - 1;
}

/* Each bit becomes the parity of those up to it. */
static inline uint64
prefix_parity(uint64 bits)
{
	bits ^= bits << 1;
	bits ^= bits << 2;
	bits ^= bits << 4;
	bits ^= bits << 8;
	bits ^= bits << 16;
	bits ^= bits << 32;
	return bits;
}

/* Which bytes of a block are in quotes; notes those that are odd. */
static inline uint64
find_quoted(EtlCsvScan *scan, const EtlScanBlock *block, ScanCarry *carry,
			uint64 *odd)
{
	uint64 inside = carry->inside;
	uint64 separator = block->delimiter | block->lf;
	uint64 cr;

	*odd = block->nul;
	if (block->quote != 0)
	{
		uint64 opening;
		uint64 closing;
		uint64 after_closing;

		scan->has_quote = true;
		inside ^= prefix_parity(block->quote);
		carry->inside = (inside >> 63) ? ~UINT64CONST(0) : 0;
		opening = block->quote & inside;
		closing = block->quote & ~inside;
		after_closing = closing << 1 | carry->closing;

		/* A quote that follows a closing one makes it an escaped quote. */
		*odd |= opening & ~(separator << 1 | carry->separator | after_closing);
		*odd |= after_closing & ~(separator | block->cr | block->quote);
		carry->closing = closing >> 63;
	}
	else if (carry->closing != 0)
	{
		*odd |= carry->closing & ~(separator | block->cr);
		carry->closing = 0;
	}
	carry->separator = separator >> 63;

	cr = block->cr & ~inside;
	if (unlikely((cr | carry->cr) != 0))
	{
		*odd |= (cr << 1 | carry->cr) & ~block->lf;
		carry->cr = cr >> 63;
	}
	return inside;
}

/* Adds the places of the bits, from base on. */
static inline int
add_places(uint16 *places, int n, uint64 bits, int base)
{
	while (bits != 0)
	{
		places[n++] = base + pg_rightmost_one_pos64(bits);
		bits &= bits - 1;
	}
	return n;
}

/*
 * Look at buf[start..len), or the first bytes of it; a record begins at start.
 * False if none ends there.
 */
bool
etl_csv_scan_window(EtlCsvScan *scan, const char *buf, size_t start, size_t len)
{
	ScanClassify classify = choose_classify();
	size_t size = Min(len - start, ETL_SCAN_WINDOW);
	int nblocks = size / 64;
	ScanCarry carry = {.separator = 1};
	uint64 any_odd = 0;
	uint64 any_high = 0;
	uint64 any_inner_lf = 0;
	int n = 0;
	int n_records = 0;

	classify(scan, buf + start, nblocks, scan->blocks);
	if (size % 64 != 0)
	{
		classify_rest(scan, classify, buf + start + nblocks * 64, size % 64,
					  &scan->blocks[nblocks]);
		nblocks++;
	}
	scan->has_quote = false;
	for (int b = 0; b < nblocks; b++)
	{
		const EtlScanBlock *block = &scan->blocks[b];
		uint64 odd;
		uint64 inside = find_quoted(scan, block, &carry, &odd);
		uint64 ends = (block->delimiter | block->lf) & ~inside;
		uint64 lfs = block->lf & ~inside;

		for (; lfs != 0; lfs &= lfs - 1)
		{
			uint64 lf = lfs & -lfs;

			n = add_places(scan->ends, n, ends & (lf - 1), b * 64);
			ends &= ~(lf | (lf - 1));
			scan->records[n_records++] = n;
			scan->ends[n++] = b * 64 + pg_rightmost_one_pos64(lf);
		}
		n = add_places(scan->ends, n, ends, b * 64);
		any_odd |= scan->odd[b] = odd;
		any_high |= scan->high[b] = block->high;
		any_inner_lf |= block->lf & inside;
	}
	scan->start = start;
	scan->len = size;
	scan->n_ends = n;
	scan->n_records = n_records;
	scan->record = 0;
	scan->has_odd = any_odd != 0;
	scan->has_high = any_high != 0;
	scan->has_inner_lf = any_inner_lf != 0;
	return n_records > 0;
}
