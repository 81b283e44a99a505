/*-------------------------------------------------------------------------
 *
 * watermark.c
 *	  Watermarks by hand: get, set, reset.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"

#include "flow/flow.h"

PG_FUNCTION_INFO_V1(etl_watermark_get);
PG_FUNCTION_INFO_V1(etl_watermark_set);
PG_FUNCTION_INFO_V1(etl_watermark_reset);

/* The value that a pipeline has reached, or null if it has none. */
Datum
etl_watermark_get(PG_FUNCTION_ARGS)
{
	EtlWatermark watermark;

	etl_watermark_read(&watermark, etl_arg_text(fcinfo, 0), false);
	if (watermark.value == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(watermark.value));
}

/* Set a pipeline's value; what it reads, and with which cursor, stays. */
Datum
etl_watermark_set(PG_FUNCTION_ARGS)
{
	EtlWatermark watermark;

	PreventCommandIfReadOnly("etl_watermark_set()");
	etl_watermark_read(&watermark, etl_arg_text(fcinfo, 0), true);
	watermark.value = etl_arg_text(fcinfo, 1);
	watermark.run_id = 0;
	etl_watermark_move(&watermark);
	PG_RETURN_VOID();
}

/* Forget a pipeline; tells whether there was something to forget. */
Datum
etl_watermark_reset(PG_FUNCTION_ARGS)
{
	EtlWatermark watermark;

	PreventCommandIfReadOnly("etl_watermark_reset()");
	etl_watermark_read(&watermark, etl_arg_text(fcinfo, 0), true);
	etl_watermark_forget(&watermark);
	PG_RETURN_BOOL(watermark.exists);
}
