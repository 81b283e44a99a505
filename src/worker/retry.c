/*-------------------------------------------------------------------------
 *
 * retry.c
 *	  Whether and when a run that failed is tried again.
 *
 * The delay has full jitter: it is random between nothing and a bound that
 * doubles with each attempt, so that runs that failed together do not come
 * back together.
 * https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/errcodes.h"

#include "worker/job.h"

/*
 * Classes of errors that come back however often one tries: the command, the
 * data or the privileges must change first.
 */
static const char *const hopeless_classes[] = {
	"0A", /* feature not supported */
	"21", /* cardinality violation */
	"22", /* data exception */
	"25", /* invalid transaction state */
	"26", /* invalid statement name */
	"28", /* invalid authorization */
	"2B", /* dependent privileges exist */
	"2D", /* invalid transaction termination */
	"2F", /* SQL routine exception */
	"34", /* invalid cursor name */
	"38", /* external routine exception */
	"39", /* external routine invocation exception */
	"3D", /* invalid catalog name */
	"3F", /* invalid schema name */
	"42", /* syntax error or access rule violation */
	"44", /* WITH CHECK OPTION violation */
	"54", /* program limit exceeded */
	"F0", /* configuration file error */
};

/* Can an error go away by itself?  So can those that nobody knows. */
bool
etl_error_is_retried(int sqlerrcode)
{
	const char *code = unpack_sql_state(sqlerrcode);

	if (sqlerrcode == ERRCODE_DATA_CORRUPTED ||
		sqlerrcode == ERRCODE_INDEX_CORRUPTED)
		return false;
	for (int i = 0; i < (int) lengthof(hopeless_classes); i++)
		if (strncmp(code, hopeless_classes[i], 2) == 0)
			return false;
	return true;
}

/* Microseconds from the end of an attempt to the next one. */
int64
etl_retry_delay(const EtlJob *job, int attempt)
{
	double bound = (double) etl_interval_usec(&job->retry_delay);
	double most = (double) etl_interval_usec(&job->retry_max_delay);

	for (int i = 1; i < attempt && bound < most; i++)
		bound *= 2;
	return (int64) (pg_prng_double(&pg_global_prng_state) * Min(bound, most));
}
